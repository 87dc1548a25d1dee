/**
 * The clients' own process, which runs in the client namespace of a lab. Takes
 * orders from its parent: connect and run; say how far the download is; stop,
 * read everything back, report.
 */

import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { slowdown } from '../lab/slowdown.js';
import { HttpReader, Newcomer, RedisReader, RedisWriter, type Client } from './clients.js';
import type { ClientOrder, ClientNews } from './client-process.js';

const finishMs = 15_000;
/** Tells the keys of this load from those of any other. */
const run = randomUUID().slice(0, 8);

let clients: Client[] = [];
let writers: RedisWriter[] = [];
let download: HttpReader | undefined;
let running: Promise<unknown> = Promise.resolve();
let startedNs = 0n;

function tell(news: ClientNews): void {
  process.send!(news);
}

async function start(order: Extract<ClientOrder, { type: 'start' }>): Promise<void> {
  const redis = { host: order.guest, port: order.redisPort };
  const http = { host: order.guest, port: order.httpPort };
  writers = Array.from({ length: order.writers }, (_, i) => new RedisWriter(run, i, redis));
  const readers = Array.from({ length: order.readers }, (_, i) => new HttpReader(`http ${i}`, '/1k', http));
  const stampReaders = Array.from({ length: order.stampReaders ?? 0 }, (_, i) => new HttpReader(`stamp ${i}`, '/stamp', http));
  download = order.download === false ? undefined : new HttpReader('download', '/1m', http, 0);
  const redisReaders = Array.from({ length: order.redisReaders ?? 0 }, (_, i) => new RedisReader(i, writers, redis));
  const newcomers = Array.from({ length: order.newcomers ?? 0 }, (_, i) => new Newcomer(run, i, redis));
  clients = [...writers, ...readers, ...redisReaders, ...stampReaders, ...newcomers, ...(download ? [download] : [])];
  for (const client of clients) await client.connect();
  startedNs = process.hrtime.bigint();
  running = Promise.all(clients.map((client) => client.run()));
  tell({ type: 'started', connections: clients.length });
}

/** The longest time in which no client had a reply. */
function longestSilence(nowNs: bigint): number {
  const times = [startedNs, ...clients.flatMap((client) => client.replyTimesNs), nowNs].sort((one, other) => Number(one - other));
  return times.reduce((longest, time, i) => Math.max(longest, Number(time - (times[i - 1] ?? time)) / 1e6), 0);
}

async function stop(sinceNs: bigint): Promise<void> {
  const longestSilenceMs = longestSilence(process.hrtime.bigint());
  for (const client of clients) client.stop();
  await Promise.race([running, sleep(finishMs * slowdown())]);
  const reports = clients.map((client) => client.report(sinceNs));
  for (const client of clients) client.close();
  const lost = await Promise.all(writers.map((writer) => writer.countLost()));
  await forget();
  tell({
    type: 'stopped',
    reports: reports.map((report) => ({ ...report, firstReplyNs: report.firstReplyNs.toString() })),
    acknowledged: writers.reduce((sum, writer) => sum + writer.acknowledged, 0),
    lost: lost.reduce((sum, count) => sum + count, 0),
    longestSilenceMs,
  });
}

/** What was found is not lost with a guest that does not answer here; its keys are told of. */
async function forget(): Promise<void> {
  const late = sleep(finishMs * slowdown()).then(() => { throw new Error('it did not answer in time'); });
  try {
    await Promise.race([Promise.all(clients.map((client) => client.forget())), late]);
  } catch (error) {
    process.stderr.write(`The keys "drill:${run}:*" of this load stay in the guest's Redis: ${(error as Error).message}.\n`);
  }
}

async function obey(order: ClientOrder): Promise<void> {
  switch (order.type) {
    case 'start': return start(order);
    case 'progress': return tell({
      type: 'progress', downloadBytes: download?.partialBytes ?? 0,
      acknowledged: writers.reduce((sum, writer) => sum + writer.acknowledged, 0),
      waiting: clients.filter((client) => !((client.replyTimesNs.at(-1) ?? -1n) >= BigInt(order.sinceNs))).length,
    });
    case 'stop': return stop(BigInt(order.sinceNs));
  }
}

process.on('message', (order: ClientOrder) => {
  obey(order).catch((error: unknown) => tell({ type: 'failed', reason: (error as Error).message }));
});
// The parent's end is ours.
process.on('disconnect', () => process.exit(0));
