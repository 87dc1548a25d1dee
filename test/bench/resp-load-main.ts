/**
 * Redis clients in a process of their own, inside the client namespace:
 *
 *     resp-load-main.js fill HOST PORT KEYS VALUE-BYTES
 *     resp-load-main.js mix HOST PORT KEYS VALUE-BYTES CONNECTIONS WRITE-SHARE WARM-UP-SECONDS SECONDS [MOST-PER-SECOND]
 *
 * `mix` prints its figures as JSON. It asks again as soon as it has its reply, or so often at most that all
 * connections together keep to the last figure. A wrong reply ends it with an error: it would measure something else.
 */

import { setTimeout as sleep } from 'node:timers/promises';
import { quantile } from '../../src/agent/pause-history.js';
import { seededRandom } from '../../src/drill/random.js';
import { RespConnection, type Reply } from '../../src/drill/resp.js';

const CONNECT_TIMEOUT_MS = 10_000;
const MS_PER_SECOND = 1000;

const [task, host = '', ...rest] = process.argv.slice(2);
const [port = 0, keys = 0, valueBytes = 0, connections = 0, writeShare = 0, warmUpSeconds = 0, seconds = 0, mostPerSecond = Infinity] = rest.map(Number);
const value = 'v'.repeat(valueBytes);

/** Named as redis-benchmark names them: all loads share the same keys. */
function key(index: number): string {
  return `key:${String(index).padStart(12, '0')}`;
}

async function fill(): Promise<void> {
  const connection = await RespConnection.connect(host, port, CONNECT_TIMEOUT_MS);
  const pairs = Array.from({ length: keys }, (_, index) => [key(index), value]).flat();
  expectOk(await connection.command('MSET', ...pairs));
  connection.close();
}

async function mix(): Promise<void> {
  const clients = await Promise.all(Array.from({ length: connections }, () => RespConnection.connect(host, port, CONNECT_TIMEOUT_MS)));
  const fromMs = performance.now() + warmUpSeconds * MS_PER_SECOND;
  const untilMs = fromMs + seconds * MS_PER_SECOND;
  const latenciesMs: number[] = [];
  const intervalMs = MS_PER_SECOND * connections / mostPerSecond;
  await Promise.all(clients.map(async (client, index) => {
    const random = seededRandom(index);
    // The connections take turns.
    for (let nextMs = performance.now() + intervalMs * index / connections; ; nextMs = Math.max(nextMs + intervalMs, performance.now())) {
      if (nextMs > performance.now()) await sleep(nextMs - performance.now());
      const name = key(Math.floor(random() * keys));
      const write = random() < writeShare;
      const askedMs = performance.now();
      const reply = await (write ? client.command('SET', name, value) : client.command('GET', name));
      const nowMs = performance.now();
      if (write) expectOk(reply);
      else if (typeof reply !== 'string' || reply.length !== valueBytes) throw wrong(reply); // whoever wrote it
      if (nowMs > untilMs) return client.close();
      if (nowMs >= fromMs) latenciesMs.push(nowMs - askedMs);
    }
  }));
  console.log(JSON.stringify({ rps: latenciesMs.length / seconds, p50Ms: quantile(latenciesMs, 0.5), p99Ms: quantile(latenciesMs, 0.99) }));
}

function expectOk(reply: Reply): void {
  if (reply !== 'OK') throw wrong(reply);
}

function wrong(reply: Reply): Error {
  return new Error(`Redis answered ${String(reply).slice(0, 80)}`);
}

try {
  await (task === 'fill' ? fill() : mix());
} catch (error) {
  process.stderr.write(`${(error as Error).message}\n`);
  process.exit(1);
}
