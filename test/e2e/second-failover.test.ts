/**
 * A connection that was opened after the last checkpoint has other sequence numbers in the VM that
 * takes over, which translates them from then on. It must live through the next takeover too.
 */
import { spawn, type ChildProcessByStdio } from 'node:child_process';
import { once } from 'node:events';
import { createInterface, type Interface } from 'node:readline';
import type { Readable, Writable } from 'node:stream';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { demoGuest } from '../../src/lab/lab.js';
import { addresses, setCables, type HostName } from '../../src/lab/topology.js';
import { other, ownLab, protectTimeoutMs, until, untilProtected, vmPid } from './lab-harness.js';

const lab = ownLab('t-second');
/** No checkpoint that nobody asks for. */
const checkpoint = { holdMs: 5000, periodMs: 600_000 };
const connections: Connection[] = [];

/** One connection to redis from the client's namespace; never opened anew. */
class Connection {
  readonly #child: ChildProcessByStdio<Writable, Readable, null>;
  readonly #lines: Interface;

  static async open(): Promise<Connection> {
    const script = `const s = require('net').connect(${demoGuest().ports.redis}, '${addresses.guest}', () => console.log('connected'));
      s.setNoDelay(true);
      s.on('data', (d) => console.log(JSON.stringify(String(d))));
      for (const e of ['error', 'close']) s.on(e, (why) => { console.log(e + ' ' + why); process.exit(); });
      process.stdin.on('data', (d) => s.write(d)).on('end', () => process.exit());`;
    const connection = new Connection(spawn('ip', ['netns', 'exec', lab.topology.client, process.execPath, '-e', script], { stdio: ['pipe', 'pipe', 'inherit'] }));
    connections.push(connection);
    assert.is(await connection.#line(), 'connected');
    return connection;
  }

  constructor(child: ChildProcessByStdio<Writable, Readable, null>) {
    this.#child = child;
    this.#lines = createInterface(child.stdout);
  }

  async get(key: string): Promise<string> {
    const line = this.#line();
    this.#child.stdin.write(`*2\r\n$3\r\nGET\r\n$${key.length}\r\n${key}\r\n`);
    return JSON.parse(await line) as string;
  }

  async #line(): Promise<string> {
    const [line] = await once(this.#lines, 'line', { signal: AbortSignal.timeout(10_000) }) as [string];
    return line;
  }

  close(): void {
    this.#child.kill('SIGKILL');
  }
}

/** The primary's host dies and comes back, as the secondary. */
async function fail(primary: HostName): Promise<void> {
  const doomed = await lab.status(primary);
  const down = setCables(lab.topology, primary, 'down');
  for (const pid of [doomed.pid, vmPid(doomed)]) process.kill(pid, 'SIGKILL');
  await down;
  await lab.waitFor(other(primary), 'active', (s) => s.active, 10_000);
}

async function comeBack(host: HostName): Promise<void> {
  await setCables(lab.topology, host, 'up');
  await lab.startAgent(host);
  await untilProtected(lab, other(host), 60_000);
}

const learned = async (host: HostName): Promise<number> => (await lab.status(host)).inputLog!.learnedFlows;

test.before(async () => {
  await lab.down();
  await lab.up({ preRelease: true, overrides: { a: { checkpoint }, b: { checkpoint } } });
  await untilProtected(lab, 'a');
  await lab.waitForGuest(protectTimeoutMs);
});
test.after(async () => {
  for (const connection of connections) connection.close();
  await lab.down();
});

test('a connection without a checkpoint behind it lives through two takeovers, and others beside it', async () => {
  await until('nothing is held', async () => (await lab.status('a')).output.heldPackets === 0, 20_000);
  // On a busy machine the log may lag, and want a checkpoint: then the next one is tried.
  let first!: Connection;
  await until('no checkpoint has a connection', async () => {
    const { commits } = (await lab.status('a')).checkpoints;
    first = await Connection.open();
    for (let i = 0; i < 5; i++) assert.is(await first.get('none'), '$-1\r\n');
    return (await lab.status('a')).checkpoints.commits === commits;
  }, 60_000);

  await fail('a');
  assert.is(await first.get('none'), '$-1\r\n');
  await until('its numbers are translated', async () => await learned('b') >= 1);
  const second = await Connection.open();
  assert.is(await second.get('none'), '$-1\r\n');
  await comeBack('a');
  for (const connection of [first, second]) assert.is(await connection.get('none'), '$-1\r\n');

  await fail('b');
  for (let i = 0; i < 5; i++) {
    for (const connection of [first, second]) assert.is(await connection.get('none'), '$-1\r\n');
  }
  const third = await Connection.open();
  assert.is(await third.get('none'), '$-1\r\n');

  // And once more, handed on by one that had it handed on.
  await comeBack('b');
  await fail('a');
  for (const connection of [first, second, third]) assert.is(await connection.get('none'), '$-1\r\n');
});

test.run();
