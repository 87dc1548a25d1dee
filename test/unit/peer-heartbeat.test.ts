import { fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { Heartbeat, type HeartbeatOptions } from '../../src/peer/heartbeat.js';
import { PeerClient, PeerServer, type PeerConnection } from '../../src/peer/link.js';
import type { PeerError } from '../../src/peer/errors.js';

const SELF = fileURLToPath(import.meta.url);
const IDENTITY = { pairId: 'blue', hostName: 'host-a', incarnation: '1' };
const CHILD_PORT = process.env['COLOPP_TEST_PEER_PORT'];

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

async function until(condition: () => boolean): Promise<void> {
  const deadline = performance.now() + 5000;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error('it did not happen within 5 s');
    await sleep(2);
  }
}

/** The other host, in a process of its own: beats until it is killed. */
async function beInTheChild(port: number): Promise<void> {
  const connection = await PeerClient.connect({
    ...IDENTITY,
    hostName: 'host-b',
    address: '127.0.0.1',
    port,
    kind: 'heartbeat',
  });
  const end = () => process.exit(0);
  new Heartbeat({ connection, intervalMs: 20, missed: 5, onSilence: () => {}, onClose: end });
}

interface Ends {
  server: PeerServer;
  near: PeerConnection;
  far: PeerConnection;
}

async function ends(run: (ends: Ends) => Promise<void>): Promise<void> {
  const far: PeerConnection[] = [];
  const server = await PeerServer.listen({
    ...IDENTITY,
    address: '127.0.0.1',
    port: 0,
    onConnection: (connection) => far.push(connection),
  });
  const near = await PeerClient.connect({
    ...IDENTITY,
    address: '127.0.0.1',
    port: server.port,
    kind: 'heartbeat',
  });
  await until(() => far.length === 1);
  try {
    await run({ server, near, far: far[0]! });
  } finally {
    near.socket.destroy();
    await server.close();
  }
}

function beat(connection: PeerConnection, options: Partial<HeartbeatOptions> = {}) {
  const silences: bigint[] = [];
  const closed: PeerError[] = [];
  const acked: bigint[] = [];
  const heartbeat = new Heartbeat({
    connection,
    intervalMs: 20,
    missed: 5,
    onSilence: (silentNs) => silences.push(silentNs),
    onClose: (reason) => closed.push(reason),
    onAck: (sentNs) => acked.push(sentNs),
    ...options,
  });
  return { heartbeat, silences, closed, acked };
}

test('both sides hear each other and know when their beats were acknowledged', async () => {
  await ends(async ({ near, far }) => {
    const startNs = process.hrtime.bigint();
    const a = beat(near);
    const b = beat(far);
    await until(() => a.acked.length >= 5 && b.acked.length >= 5);
    for (const { heartbeat, acked, silences } of [a, b]) {
      assert.equal(silences, []);
      assert.is(heartbeat.lastAckedSentNs, acked.at(-1));
      for (const [i, sentNs] of acked.entries()) assert.ok(sentNs > (acked[i - 1] ?? startNs));
      assert.ok(heartbeat.lastHeardNs > startNs);
      assert.ok(heartbeat.rttUs! > 0 && heartbeat.rttUs! < 50_000);
      heartbeat.close();
    }
  });
});

test('a silent peer is declared once, after the agreed time and soon after it', async () => {
  await ends(async ({ near }) => {
    const { heartbeat, silences } = beat(near); // the far end never beats
    const startMs = performance.now();
    await until(() => silences.length > 0);
    const tookMs = performance.now() - startMs;
    assert.ok(silences[0]! >= 100_000_000n, `declared after ${silences[0]} ns`);
    assert.ok(tookMs < 250, `it took ${tookMs} ms`);
    await sleep(150);
    assert.is(silences.length, 1);
    assert.not(heartbeat.closed, 'what to do about it is the caller’s decision');
    heartbeat.close();
  });
});

test('a stall of our own event loop is not taken for silence of the peer', async () => {
  const far: PeerConnection[] = [];
  const server = await PeerServer.listen({
    ...IDENTITY,
    address: '127.0.0.1',
    port: 0,
    onConnection: (connection) => far.push(connection),
  });
  const child = fork(SELF, { env: { ...process.env, COLOPP_TEST_PEER_PORT: String(server.port) } });
  try {
    await until(() => far.length === 1);
    const { heartbeat, silences, acked } = beat(far[0]!);
    await until(() => acked.length > 3);
    for (let round = 0; round < 3; round++) {
      const stallUntil = performance.now() + 400; // four times the silence
      while (performance.now() < stallUntil);
      await sleep(60);
    }
    assert.equal(silences, []);

    child.kill('SIGSTOP'); // now it is the peer's fault
    await until(() => silences.length === 1);
    child.kill('SIGCONT');
    const before = acked.length;
    await until(() => acked.length > before + 2);
    heartbeat.close();
  } finally {
    child.kill('SIGKILL');
    await once(child, 'exit');
    await server.close();
  }
});

test('a killed peer is noticed at once, by the end of its connection', async () => {
  const far: PeerConnection[] = [];
  const server = await PeerServer.listen({
    ...IDENTITY,
    address: '127.0.0.1',
    port: 0,
    onConnection: (connection) => far.push(connection),
  });
  const child = fork(SELF, { env: { ...process.env, COLOPP_TEST_PEER_PORT: String(server.port) } });
  await until(() => far.length === 1);
  const { closed, acked, silences } = beat(far[0]!);
  await until(() => acked.length > 0);
  child.kill('SIGKILL');
  await once(child, 'exit');
  await until(() => closed.length === 1);
  assert.is(closed[0]?.code, 'PEER_CLOSED');
  assert.equal(silences, []);
  await server.close();
});

test('frames that are no heartbeat end the connection', async () => {
  for (const bytes of [
    Buffer.from([0, 0, 0, 3, 17, 1, 2, 3]), // too short a beat
    Buffer.from([0, 0, 0, 5, 17, 1, 2, 3, 4, 5]), // too long
    Buffer.from([0, 0, 0, 4, 16, 1, 2, 3, 4]), // a control frame
    Buffer.from([64, 0, 0, 0, 17]), // a gigabyte
  ]) {
    await ends(async ({ near, far }) => {
      const { closed } = beat(near);
      far.socket.write(bytes);
      await until(() => closed.length === 1);
      assert.ok(['PEER_GARBAGE', 'PEER_LIMIT'].includes(closed[0]!.code));
    });
  }
});

test('a lease longer than the silence is refused: the promise could not be kept', async () => {
  await ends(async ({ near }) => {
    assert.throws(() => beat(near, { leaseMs: 101 }), /a lease of 101 ms needs/);
    const { heartbeat, silences } = beat(near, { leaseMs: 100 });
    await until(() => silences.length === 1);
    assert.is(heartbeat.silenceNs, 101_000_000n, 'clocks of two hosts never run quite alike');
    assert.ok(silences[0]! >= heartbeat.silenceNs);
    heartbeat.close();
  });
});

if (CHILD_PORT !== undefined) void beInTheChild(Number(CHILD_PORT));
else test.run();
