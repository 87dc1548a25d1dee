/** Bad neighbours: whatever comes to the peer port or the control socket, the protected VM goes on. */
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';
import { createConnection } from 'node:net';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { AgentNews } from '../../src/agent/agent.js';
import { watchAgent } from '../../src/agent/control.js';
import type { ClientProcess } from '../../src/drill/client-process.js';
import { addresses, type HostName } from '../../src/lab/topology.js';
import { assertUnharmed, colopp, ownLab, protectTimeoutMs, startClients, until, untilProtected } from './lab-harness.js';

const lab = ownLab('t-hostile');
const mib = 1024 * 1024;
/** What an attack may cost an agent at most, ever. */
const mostGrowthBytes = 64 * mib;
const agents = {} as Record<HostName, { pid: number; peakBytes: number }>;
const watching = new AbortController();
const phases: string[] = [];
const notes: string[] = [];
let clients: ClientProcess;
let sinceNs: bigint;

test.before(async () => {
  await lab.down();
  await lab.up();
  await untilProtected(lab, 'a');
  await lab.waitForGuest(protectTimeoutMs);
  clients = await startClients(lab);
  sinceNs = process.hrtime.bigint();
  for (const host of ['a', 'b'] as const) {
    const { pid } = await lab.status(host);
    agents[host] = { pid, peakBytes: peakBytes(pid) };
    void followPhases(host);
  }
});
test.after(async () => {
  watching.abort();
  clients?.kill();
  await lab.down();
});

/** The most memory a process has ever had resident. */
function peakBytes(pid: number): number {
  return Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) * 1024;
}

async function followPhases(host: HostName): Promise<void> {
  for await (const news of watchAgent(lab.socket(host), watching.signal)) {
    const told = news as AgentNews;
    if (told.event === 'phase') phases.push(told.phase);
    if (told.event === 'note') notes.push(told.code);
  }
}

/** Nobody was harmed: same agents, protected all the time, memory within bounds. */
async function assertUntouched(): Promise<void> {
  for (const host of ['a', 'b'] as const) {
    const status = await lab.status(host);
    assert.is(status.pid, agents[host].pid);
    assert.ok(status.protected, `${host}: ${status.reason}`);
    const growth = peakBytes(status.pid) - agents[host].peakBytes;
    assert.ok(growth < mostGrowthBytes, `the agent of ${host} grew by ${(growth / mib).toFixed(0)} MiB`);
  }
  assert.equal(phases.filter((phase) => phase !== 'protected' && phase !== 'checkpointing'), [], 'protected without a break');
}

/** Attacks the primary's peer port from where its peer is. */
async function attack(what: string): Promise<unknown> {
  const script = fileURLToPath(new URL('hostile-peer.js', import.meta.url));
  const { stdout } = await promisify(execFile)('ip', [
    'netns', 'exec', lab.topology.hosts.b, process.execPath, script, what, addresses.replication.a, '7749',
  ], { timeout: 30_000 });
  return JSON.parse(stdout) as unknown;
}

const agentLog = (): string => readFileSync(lab.log('a', 'agent'), 'utf8');

test('a peer of another version is refused, and the log says which', async () => {
  const { refusedConnections } = await lab.status('a');
  assert.match(await attack('version') as string, /^434c5003/, 'it hears our magic and version, to know why');
  assert.is((await lab.status('a')).refusedConnections, refusedConnections + 1);
  await until('whoever watches hears of it', async () => notes.includes('PEER_REFUSED'));
  assert.match(agentLog(), /refused the connection from 10\.78\.0\.2:\d+: it speaks version 99 of the peer protocol and this host version 3; install the same colopp on both hosts/);
  await assertUntouched();
});

test('a caller without the secret, or of another pair, is refused', async () => {
  assert.equal(await attack('secret'), ['PEER_SECRET', 'PEER_SECRET', 'PEER_PAIR']);
  await assertUntouched();
});

test('garbage on the peer port is refused', async () => {
  assert.is(await attack('garbage'), 200, 'every connection was closed');
  await assertUntouched();
});

test('a greeting that announces four gigabytes is refused', async () => {
  assert.ok(await attack('endless') as number < 2000);
  await assertUntouched();
});

test('a port scan, and idlers, keep nobody out', async () => {
  assert.ok(await attack('scan') as number >= 44, 'all but 16 idlers are dropped');
  const end = await colopp('checkpoint', '--lab', lab.name);
  assert.is(end.code, 0, end.stderr);
  await assertUntouched();
});

/** Writes to an agent's control socket until it hangs up, or `giveUpMs` have passed. */
function tell(chunk: Buffer, times: number, { read = true, giveUpMs = 20_000 } = {}): Promise<{ answer: string; writtenBytes: number }> {
  return new Promise((resolve) => {
    const socket = createConnection(lab.socket('a'));
    let answer = '';
    let left = times;
    const write = (): void => {
      while (left-- > 0 && socket.write(chunk));
    };
    if (read) socket.setEncoding('utf8').on('data', (text: string) => { answer = (answer + text).slice(0, 10_000); });
    const timer = setTimeout(() => socket.destroy(), giveUpMs);
    socket.on('error', () => {});
    socket.on('drain', write).once('connect', write).once('end', () => socket.destroy());
    socket.on('close', () => {
      clearTimeout(timer);
      resolve({ answer, writtenBytes: socket.bytesWritten });
    });
  });
}

test('a control message of one gigabyte is refused', async () => {
  const { answer, writtenBytes } = await tell(Buffer.alloc(mib, 'x'), 1024);
  assert.equal(JSON.parse(answer), { ok: false, code: 'CONTROL_REQUEST', error: 'A line longer than 65536 bytes is refused.' });
  assert.ok(writtenBytes < 64 * mib, `it read ${writtenBytes} bytes of it`);
  await assertUntouched();
});

test('control messages that are none get an answer each', async () => {
  for (const line of ['', '{}', 'status', '{"command":"format"}', '{"command":"status","more":1}', '[]', 'null', '"\\u0000"', '\x00\xff']) {
    const socket = createConnection(lab.socket('a')).setEncoding('utf8');
    socket.write(`${line}\n`);
    const [answer] = await new Promise<string[]>((resolve) => socket.once('data', (text: string) => resolve([text])));
    socket.destroy();
    assert.is((JSON.parse(answer!) as { code: string }).code, 'CONTROL_REQUEST');
  }
  await assertUntouched();
});

test('a flood of control messages costs neither memory nor heartbeats', async () => {
  const flood = Buffer.from('{"command":"status"}\n'.repeat(2000));
  await tell(flood, 1000, { giveUpMs: 1500 });
  await tell(flood, 1000, { giveUpMs: 500, read: false });
  await tell(randomBytes(mib), 32, { giveUpMs: 500, read: false });
  await assertUntouched();
});

test('a crowd at the control socket leaves room again when it goes', async () => {
  const crowd = Array.from({ length: 200 }, () => createConnection(lab.socket('a')).on('error', () => {}));
  await Promise.all(crowd.map((socket) => new Promise((resolve) => socket.once('connect', resolve).once('close', resolve))));
  for (const socket of crowd) socket.destroy();
  assert.is((await colopp('status', '--lab', lab.name)).code, 0);
  await assertUntouched();
});

test('only root may use the control socket', () => {
  assert.is(statSync(lab.socket('a')).mode & 0o777, 0o600);
  assert.is(statSync(lab.dir).mode & 0o777, 0o700);
});

test('through all of it, the clients were served', async () => {
  const outcome = await assertUnharmed(clients, sinceNs);
  assert.ok(outcome.acknowledged > 100);
});

test.run();
