/**
 * What clients do to the guest while it is measured: closed loops over connections that stay,
 * from the client namespace, the same for every mode.
 */

import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';

/** What came of a load: throughput, and how long a request took. */
export interface Figures {
  rps: number;
  p50Ms: number;
  p99Ms: number;
}

/** Where a load is to run, against whom, and for how long. */
export interface Target {
  /** The network namespace of the clients. */
  netns: string;
  host: string;
  port: number;
  /** So many at a time, each with one request under way. */
  connections: number;
  /** Of measurement; warming up takes about a second more. */
  seconds: number;
  signal: AbortSignal;
}

/** A load that could not be measured, with what its generator said. */
export class LoadError extends Error {
  readonly code = 'LOAD';

  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'LoadError';
  }
}

/** Keys there are, and bytes of each value. */
const KEYS = 1000;
const VALUE_BYTES = 64;
const WARM_UP_SECONDS = 1;
/** A calibration run shorter than this says little about the rate. */
const CALIBRATED_SECONDS = 0.7;
/** What a load may take beyond its time before it counts as stuck. */
const GRACE_SECONDS = 20;

const RESP_LOAD = fileURLToPath(new URL('resp-load-main.js', import.meta.url));
const WRK_FIGURES = fileURLToPath(new URL('../../../test/bench/wrk-figures.lua', import.meta.url));

const figures = z.object({ rps: z.number().positive(), p50Ms: z.number().positive(), p99Ms: z.number().positive() });
const wrkFigures = z.object({
  requests: z.number(), durationUs: z.number().positive(), p50Us: z.number(), p99Us: z.number(), errors: z.record(z.string(), z.number()),
});

/** Gives every key its first value, so that each GET finds one. */
export async function fillRedis(target: Target): Promise<void> {
  await runIn(target, [process.execPath, RESP_LOAD, 'fill', target.host, String(target.port), String(KEYS), String(VALUE_BYTES)]);
}

/** One command by Redis's own load generator. It counts requests, not time: how many, short runs tell first. */
export async function redisBenchmark(target: Target, test: 'get' | 'set'): Promise<Figures> {
  let requests = Math.max(20, 2 * target.connections);
  for (;;) {
    const { rps } = await redisRequests(target, test, requests);
    const tookSeconds = requests / rps;
    if (tookSeconds >= CALIBRATED_SECONDS) return await redisRequests(target, test, Math.max(target.connections, Math.round(rps * target.seconds)));
    requests = Math.ceil(Math.max(2 * requests, Math.min(20 * requests, rps * WARM_UP_SECONDS)));
  }
}

async function redisRequests(target: Target, test: 'get' | 'set', requests: number): Promise<Figures> {
  const csv = await runIn(target, [
    'redis-benchmark', '-h', target.host, '-p', String(target.port), '-t', test, '-c', String(target.connections),
    '-n', String(requests), '-r', String(KEYS), '-d', String(VALUE_BYTES), '--csv',
  ]);
  // A header and one row, every field in quotes.
  const [header = [], row = []] = csv.trim().split('\n').slice(-2).map((line) => line.split(',').map((field) => field.replaceAll('"', '')));
  const field = (name: string): number => Number(row[header.indexOf(name)]);
  return expect(figures, 'redis-benchmark', { rps: field('rps'), p50Ms: field('p50_latency_ms'), p99Ms: field('p99_latency_ms') });
}

/**
 * Reads and writes mixed at random on every connection, which redis-benchmark cannot do.
 * @param writeShare of all requests
 * @param mostPerSecond of requests; undefined: the next one follows each reply at once
 */
export async function redisMix(target: Target, writeShare: number, mostPerSecond?: number): Promise<Figures> {
  const out = await runIn(target, [
    process.execPath, RESP_LOAD, 'mix', target.host, String(target.port), String(KEYS), String(VALUE_BYTES),
    String(target.connections), String(writeShare), String(WARM_UP_SECONDS), String(target.seconds),
    ...(mostPerSecond === undefined ? [] : [String(mostPerSecond)]),
  ]);
  return expect(figures, 'the mixed load', JSON.parse(out));
}

/** One page over and over, on connections that are kept alive. */
export async function httpPage(target: Target, path: string): Promise<Figures> {
  await wrk({ ...target, seconds: WARM_UP_SECONDS }, path);
  const { requests, durationUs, p50Us, p99Us, errors } = await wrk(target, path);
  const [what, count] = Object.entries(errors).find(([, errorCount]) => errorCount > 0) ?? [];
  if (what !== undefined) throw new LoadError(`wrk met ${count} errors of the kind "${what}" in ${requests} requests of ${path}`);
  return expect(figures, 'wrk', { rps: requests / (durationUs / 1e6), p50Ms: p50Us / 1000, p99Ms: p99Us / 1000 });
}

async function wrk(target: Target, path: string): Promise<z.infer<typeof wrkFigures>> {
  const out = await runIn(target, [
    'wrk', '--threads', '1', '--connections', String(target.connections), '--duration', `${target.seconds}s`, '--timeout', '10s',
    '--script', WRK_FIGURES, `http://${target.host}:${target.port}${path}`,
  ]);
  return expect(wrkFigures, 'wrk', JSON.parse(out.trim().split('\n').at(-1) ?? ''));
}

/**
 * Runs a program in a namespace.
 * @returns its standard output
 * @throws LoadError if it fails or is stuck; the signal's reason
 */
async function runIn({ netns, seconds, signal }: Target, argv: readonly string[]): Promise<string> {
  const timeoutSeconds = seconds + GRACE_SECONDS;
  return await new Promise((resolve, reject) => {
    execFile('ip', ['netns', 'exec', netns, ...argv], { signal, timeout: timeoutSeconds * 1000, killSignal: 'SIGKILL' }, (error, stdout, stderr) => {
      if (!error) return resolve(stdout);
      if (signal.aborted) return reject(signal.reason as Error);
      const said = stderr.trim().split('\n').slice(-3).join('; ');
      const why = error.killed ? `it had not ended after ${timeoutSeconds} s` : said || error.message;
      reject(new LoadError(`${argv[0] === process.execPath ? 'the Redis clients' : argv[0]} failed: ${why}`, { cause: error }));
    });
  });
}

/** @throws LoadError if the generator's figures are not figures: nothing may have been measured */
function expect<T>(schema: z.ZodType<T>, who: string, value: unknown): T {
  const { success, data } = schema.safeParse(value);
  if (!success) throw new LoadError(`${who} reported no usable figures: ${JSON.stringify(value)}`);
  return data;
}
