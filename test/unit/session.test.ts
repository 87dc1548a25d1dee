/** Two real sessions over loopback: when they are up, and when a peer counts as lost. */

import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { parseConfig, type AgentConfig } from '../../src/agent/config.js';
import { Session } from '../../src/agent/session.js';
import { ControlChannel } from '../../src/peer/control.js';
import { encodePreamble } from '../../src/peer/frame.js';
import { PeerClient, type PeerClientOptions, type PeerConnection } from '../../src/peer/link.js';
import type { PeerMessage } from '../../src/protocol/messages.js';

const intervalMs = 50;
const silenceMs = 3 * intervalMs;
const secret = Buffer.from('sixteen bytes or more');
const ready: PeerMessage = { type: 'ready' };

const ports = new Map<Half, number>();
const portOf = (half: Half): number => ports.get(half)!;

const endings: (() => unknown)[] = [];
test.after.each(async () => {
  for (const end of endings.splice(0).reverse()) await end();
});

function configOf(host: string, listen: number, address: number): AgentConfig {
  return parseConfig(`{host: ${host}, role: primary, runDir: /r, stateDir: /s, vm: {name: web, memoryMiB: 64, kernel: /k, mac: "52:54:00:00:00:01"},
    network: {bridge: b, tap: t, holdTap: h}, peer: {listen: "127.0.0.1:${listen}", address: "127.0.0.1:${address}"}, heartbeat: {intervalMs: ${intervalMs}, missed: 3}}`, 'test');
}

/** A session, and what it has told. */
class Half {
  readonly session: Session;
  ups = 0;
  readonly messages: PeerMessage[] = [];
  readonly lost: { reason: string; atMs: number }[] = [];
  readonly unreached: string[] = [];
  readonly refused: string[] = [];
  readonly checkpoints: PeerConnection[] = [];
  acks = 0;
  lastAckMs = 0;

  constructor(config: AgentConfig, key: Buffer | undefined = secret) {
    this.session = new Session(config, 'web', key, {
      onUp: () => { this.ups++; },
      onMessage: (message) => this.messages.push(message),
      onLost: (reason) => this.lost.push({ reason, atMs: performance.now() }),
      onUnreached: (sign) => this.unreached.push(sign),
      onAck: (sentNs) => {
        assert.ok(sentNs <= process.hrtime.bigint());
        this.acks++;
        this.lastAckMs = performance.now();
      },
      onCheckpointConnection: (connection) => this.checkpoints.push(connection),
      onRefused: (reason) => this.refused.push(reason),
    });
    endings.push(() => this.session.close());
  }
}

async function freePorts(count: number): Promise<number[]> {
  const servers = await Promise.all(Array.from({ length: count }, async () => {
    const server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    return server;
  }));
  const ports = servers.map((server) => (server.address() as AddressInfo).port);
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  return ports;
}

/** Two halves that listen, `a` reaching `b` through a wire that can be cut or stopped. */
async function pair(options: { keyB?: Buffer | undefined } = {}): Promise<{ a: Half; b: Half; wire: Wire }> {
  const [portA, portB] = await freePorts(2) as [number, number];
  const wire = await Wire.to(portB);
  const a = new Half(configOf('alpha', portA, wire.port));
  const b = new Half(configOf('beta', portB, portA), 'keyB' in options ? options.keyB : secret);
  ports.set(b, portB);
  await a.session.listen();
  await b.session.listen();
  return { a, b, wire };
}

/** Carries connections on to a port. */
class Wire {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();

  static async to(port: number): Promise<Wire> {
    const wire = new Wire(port);
    wire.#server.listen(0, '127.0.0.1');
    await once(wire.#server, 'listening');
    endings.push(() => wire.close());
    return wire;
  }

  private constructor(port: number) {
    this.#server = createServer({ allowHalfOpen: true, noDelay: true }, (near) => {
      const far = connect({ port, host: '127.0.0.1', allowHalfOpen: true, noDelay: true });
      for (const [from, to] of [[near, far], [far, near]] as const) {
        this.#sockets.add(from);
        from.pipe(to);
        from.on('error', () => to.destroy());
        from.on('close', () => to.destroy());
      }
    });
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** Nothing passes any more, and nobody is told. */
  stop(): void {
    for (const socket of this.#sockets) socket.unpipe().pause();
  }

  cut(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  close(): void {
    this.cut();
    this.#server.close();
  }
}

async function until(what: string, holds: () => boolean, limitMs = 5000): Promise<void> {
  const endMs = performance.now() + limitMs;
  while (!holds()) {
    if (performance.now() > endMs) throw new Error(`${what}: not within ${limitMs} ms`);
    await sleep(2);
  }
}

async function up(): Promise<{ a: Half; b: Half; wire: Wire }> {
  const all = await pair();
  all.a.session.dial();
  await until('both are up', () => all.a.ups === 1 && all.b.ups === 1);
  return all;
}

test('one calls, both are up, and talk', async () => {
  const { a, b } = await up();
  a.session.send({ type: 'unprotect', reason: 'hello' });
  b.session.send(ready);
  await until('both have heard', () => a.messages.length === 1 && b.messages.length === 1);
  assert.equal(b.messages, [{ type: 'unprotect', reason: 'hello' }]);
  assert.equal(a.messages, [ready]);
  await until('heartbeats are acknowledged both ways', () => a.acks > 2 && b.acks > 2);
  assert.ok(a.session.up && b.session.up);
  assert.ok(a.session.pulse!.silentMs < silenceMs);
  assert.ok(a.session.pulse!.rttUs! > 0);
  a.session.dial();
  await sleep(50);
  assert.is(a.ups, 1, 'a further dial changes nothing');
});

test('both call at once: one session comes of it', async () => {
  for (let round = 0; round < 5; round++) {
    const { a, b } = await pair();
    a.session.dial();
    b.session.dial();
    await until('both are up', () => a.session.up && b.session.up);
    await sleep(30);
    assert.is(a.ups, 1);
    assert.is(b.ups, 1);
    a.session.send(ready);
    await until('it carries', () => b.messages.length === 1);
    assert.equal([a.lost, b.lost], [[], []]);
  }
});

test('checkpoints have connections of their own', async () => {
  const { a, b } = await up();
  const { socket } = await a.session.openCheckpointConnection();
  await until('it arrives', () => b.checkpoints.length === 1);
  socket.write('bulk');
  const [data] = await once(b.checkpoints[0]!.socket, 'data') as [Buffer];
  assert.is(String(data), 'bulk');
  socket.destroy();
  b.checkpoints[0]!.socket.destroy();
});

test('without a session there is no checkpoint connection', async () => {
  const { a } = await pair();
  const error = await a.session.openCheckpointConnection().then(() => undefined, (reason: Error) => reason);
  assert.match(String(error?.message), 'no session it could belong to');
});

test('a broken connection is no loss before the silence has passed', async () => {
  const { a, b, wire } = await up();
  await until('acknowledged', () => a.acks > 1 && b.acks > 1);
  wire.cut();
  const cutMs = performance.now();
  await until('both have lost', () => a.lost.length === 1 && b.lost.length === 1);
  for (const half of [a, b]) {
    // What the other's lease is counted from was read before its acknowledgement left.
    assert.ok(half.lost[0]!.atMs >= (half === a ? b : a).lastAckMs + silenceMs - intervalMs, 'not too early');
    assert.ok(half.lost[0]!.atMs <= cutMs + silenceMs + 200, 'not too late');
    assert.not(half.session.up);
  }
  await sleep(2 * silenceMs);
  assert.is(a.lost.length, 1, 'said once');
});

test('while it waits for the silence to pass, a new session is refused and none is dialled', async () => {
  const { a, b, wire } = await up();
  wire.cut();
  await until('both notice', () => !a.session.up && !b.session.up);
  a.session.dial();
  await sleep(20);
  assert.equal([a.lost.length, a.ups], [0, 1]);
  const control = PeerClient.connect(callerOf(b, 'control', 'gamma')).then(() => undefined, (reason: Error) => reason);
  assert.match(String((await control)?.message), /has not ended yet|is open already/);
  await until('both have lost', () => a.lost.length === 1 && b.lost.length === 1);
  a.session.dial();
  await until('they meet again', () => a.ups === 2 && b.ups === 2);
});

test('a silent peer is lost after the silence, not before', async () => {
  const { a, b, wire } = await up();
  await until('acknowledged', () => a.acks > 1);
  wire.stop();
  const stopMs = performance.now();
  await until('both have lost', () => a.lost.length === 1 && b.lost.length === 1);
  for (const half of [a, b]) {
    assert.match(half.lost[0]!.reason, /no heartbeat for \d+ ms/);
    assert.ok(half.lost[0]!.atMs - stopMs > silenceMs - intervalMs - 20);
    assert.ok(half.lost[0]!.atMs - stopMs < silenceMs + 200);
  }
});

test('hanging up is no loss of the own, but one of the other', async () => {
  const { a, b } = await up();
  a.session.hangUp('enough');
  await until('the other has lost', () => b.lost.length === 1);
  assert.match(b.lost[0]!.reason, 'hung up');
  assert.equal(a.lost, []);
  a.session.send(ready); // to nobody
  a.session.dial();
  await until('they meet again', () => a.ups === 2 && b.ups === 2);
});

test('a dial says what it found: nobody, a refusal, or silence', async () => {
  const [portA, nowhere] = await freePorts(2) as [number, number];
  const absent = new Half(configOf('alpha', portA, nowhere));
  absent.session.dial();
  await until('nobody', () => absent.unreached.length === 1);
  assert.equal(absent.unreached, ['absent']);

  const { a, b } = await pair({ keyB: Buffer.from('another secret of the other host') });
  a.session.dial();
  await until('refused', () => a.unreached.length === 1);
  assert.equal(a.unreached, ['refused']);
  await until('the other notes it', () => b.refused.length === 1);
  assert.is(b.session.refusals, 1);

  const mute = createServer(() => {}).listen(0, '127.0.0.1');
  await once(mute, 'listening');
  endings.push(() => mute.close());
  const patient = new Half(configOf('alpha', portA, (mute.address() as AddressInfo).port));
  patient.session.dial();
  patient.session.dial();
  await until('silence', () => patient.unreached.length === 1, 4000);
  assert.equal(patient.unreached, ['silent'], 'once');
});

test('a dial can be given up', async () => {
  const mute = createServer(() => {}).listen(0, '127.0.0.1');
  await once(mute, 'listening');
  endings.push(() => mute.close());
  const half = new Half(configOf('alpha', 1, (mute.address() as AddressInfo).port));
  half.session.dial();
  await sleep(20);
  half.session.hangUp('no more');
  await sleep(50);
  assert.equal(half.unreached, []);
});

/** How a stranger with the right secret calls a half. */
function callerOf(half: Half, kind: PeerClientOptions['kind'], hostName: string): PeerClientOptions {
  return { address: '127.0.0.1', port: portOf(half), kind, pairId: 'web', hostName, incarnation: `${hostName}-1`, secret };
}

/** One half that listens, and is called by hand. */
async function alone(): Promise<Half> {
  const [port, nowhere] = await freePorts(2) as [number, number];
  const half = new Half(configOf('beta', port, nowhere));
  ports.set(half, port);
  await half.session.listen();
  return half;
}

test('a caller that never brings its heartbeat blocks nobody for long', async () => {
  const half = await alone();
  const { socket } = await PeerClient.connect(callerOf(half, 'control', 'lazy'));
  endings.push(() => socket.destroy());
  const refused = await PeerClient.connect(callerOf(half, 'control', 'alpha')).then(() => undefined, (reason: Error) => reason);
  assert.match(String(refused?.message), 'a session with lazy is open already');
  await until('it is dropped', () => half.lost.length === 1, 4000);
  assert.match(half.lost[0]!.reason, 'no heartbeat connection came');
  const control = await PeerClient.connect(callerOf(half, 'control', 'alpha'));
  const heartbeat = await PeerClient.connect(callerOf(half, 'heartbeat', 'alpha'));
  endings.push(() => control.socket.destroy(), () => heartbeat.socket.destroy());
  await until('the real one is up', () => half.ups === 1);
});

test('a caller that goes before it has brought its heartbeat blocks nobody', async () => {
  const half = await alone();
  const { socket } = await PeerClient.connect(callerOf(half, 'control', 'hasty'));
  socket.destroy();
  await until('it is lost', () => half.lost.length === 1);
  half.session.dial();
  await until('the next dial is made', () => half.unreached.length === 1);
  const control = await PeerClient.connect(callerOf(half, 'control', 'alpha'));
  const heartbeat = await PeerClient.connect(callerOf(half, 'heartbeat', 'alpha'));
  endings.push(() => control.socket.destroy(), () => heartbeat.socket.destroy());
  await until('the real one is up', () => half.ups === 1);
});

test('a heartbeat or checkpoint connection that belongs to no session is refused', async () => {
  const half = await alone();
  for (const kind of ['heartbeat', 'checkpoint'] as const) {
    const error = await PeerClient.connect(callerOf(half, kind, 'alpha')).then(() => undefined, (reason: Error) => reason);
    assert.match(String(error?.message), 'no session it could belong to');
  }
});

test('a host of the same name is refused', async () => {
  const half = await alone();
  const error = await PeerClient.connect(callerOf(half, 'control', 'beta')).then(() => undefined, (reason: Error) => reason);
  assert.match(String(error?.message), 'both hosts are named beta');
});

test('strangers change nothing: garbage, another version, an empty connection', async () => {
  const half = await alone();
  for (const bytes of [Buffer.from('GET / HTTP/1.1\r\n\r\n'), encodePreamble(99), Buffer.alloc(1024, 0xff), Buffer.alloc(0)]) {
    const socket = connect({ port: portOf(half), host: '127.0.0.1' });
    socket.on('error', () => {}).resume();
    socket.end(bytes);
    await once(socket, 'close');
  }
  await until('all are refused', () => half.session.refusals === 4);
  assert.ok(half.refused.length >= 1);
  assert.equal([half.ups, half.lost], [0, []]);
});

test('a peer that talks nonsense after the greeting loses its session', async () => {
  const half = await alone();
  const connection = await PeerClient.connect(callerOf(half, 'control', 'alpha'));
  const heartbeat = await PeerClient.connect(callerOf(half, 'heartbeat', 'alpha'));
  endings.push(() => heartbeat.socket.destroy());
  await until('up', () => half.ups === 1);
  const control = new ControlChannel<unknown, unknown>({ connection, parse: (value) => value, onMessage: () => {}, onClose: () => {} });
  control.send({ type: 'ready' });
  control.send({ type: 'protected', generation: -1 });
  await until('lost', () => half.lost.length === 1);
  assert.equal(half.messages, [ready], 'what was sound was heard');
  assert.match(half.lost[0]!.reason, 'does not know');
});

test('a port that is taken is an error that names it', async () => {
  const half = await alone();
  const second = new Half(configOf('alpha', portOf(half), 1));
  const error = await second.session.listen().then(() => undefined, (reason: Error) => reason);
  assert.match(String(error?.message), `127.0.0.1:${portOf(half)}`);
});

test.run();
