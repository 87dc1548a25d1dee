import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { createConnection, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { PeerError } from '../../src/peer/errors.js';
import { PeerClient, PeerServer } from '../../src/peer/link.js';
import { CheckpointRelay } from '../../src/peer/relay.js';

const IDENTITY = { pairId: 'blue', hostName: 'host-a', incarnation: '1' };

/** Both relay ends over TCP, with stand-ins for the two QEMUs at their unix sockets. */
interface Context {
  folder: string;
  server: PeerServer;
  /** The checkpoint connection as the primary and as the secondary hold it. */
  primaryPeer: Socket;
  secondaryPeer: Socket;
  incoming: Server;
  listening: string;
  incomingPath: string;
}

const relay = suite<Context>('checkpoint relay');

relay.before.each(async (context) => {
  context.folder = mkdtempSync(join(tmpdir(), 'colopp-relay-'));
  context.listening = join(context.folder, 'out');
  context.incomingPath = join(context.folder, 'in');
  let resolveArrived!: (socket: Socket) => void;
  const arrived = new Promise<Socket>((resolve) => (resolveArrived = resolve));
  context.server = await PeerServer.listen({
    ...IDENTITY,
    address: '127.0.0.1',
    port: 0,
    onConnection: ({ socket }) => resolveArrived(socket),
  });
  const { port } = context.server;
  const options = { ...IDENTITY, address: '127.0.0.1', port, kind: 'checkpoint' } as const;
  context.primaryPeer = (await PeerClient.connect(options)).socket;
  context.secondaryPeer = await arrived;
  context.incoming = createServer({ allowHalfOpen: true });
  await new Promise<void>((resolve) => context.incoming.listen(context.incomingPath, resolve));
});

relay.after.each(async (context) => {
  context.primaryPeer.destroy();
  context.secondaryPeer.destroy();
  context.incoming.close();
  await context.server.close();
  rmSync(context.folder, { recursive: true, force: true });
});

async function connectAll(context: Context) {
  const listening = await CheckpointRelay.listen({
    socketPath: context.listening,
    peer: context.primaryPeer,
  });
  const source = createConnection({ path: context.listening, allowHalfOpen: true });
  const arrived = once(context.incoming, 'connection') as Promise<[Socket]>;
  const far = await CheckpointRelay.connect({
    socketPath: context.incomingPath,
    peer: context.secondaryPeer,
  });
  const near = await listening.relay;
  const [target] = await arrived;
  source.on('error', () => {});
  target.on('error', () => {});
  return { near, far, source, target };
}

async function digest(socket: Socket): Promise<string> {
  const hash = createHash('sha256');
  socket.on('data', (chunk: Buffer) => hash.update(chunk));
  await once(socket, 'end');
  return hash.digest('hex');
}

relay('carries bytes both ways, whole and in order, and counts them', async (context) => {
  const { near, far, source, target } = await connectAll(context);
  const forth = randomBytes(20_000_000);
  const back = randomBytes(3_000_000);
  const received = digest(target);
  const returned = digest(source);
  source.end(forth);
  target.end(back);
  assert.is(await received, createHash('sha256').update(forth).digest('hex'));
  assert.is(await returned, createHash('sha256').update(back).digest('hex'));
  for (const end of [await near.ended, await far.ended]) assert.ok(end.completed, end.reason);
  assert.is(near.toPeerBytes, forth.length);
  assert.is(near.fromPeerBytes, back.length);
  assert.is(far.fromPeerBytes, forth.length);
  assert.is(far.toPeerBytes, back.length);
});

relay('one direction may end long before the other', async (context) => {
  const { near, source, target } = await connectAll(context);
  source.end('the last of the primary');
  const got: Buffer[] = [];
  target.on('data', (chunk: Buffer) => got.push(chunk));
  await once(target, 'end');
  assert.is(Buffer.concat(got).toString(), 'the last of the primary');
  for (const word of ['still', 'talking']) {
    target.write(word);
    const [chunk] = (await once(source, 'data')) as [Buffer];
    assert.is(chunk.toString(), word);
  }
  target.end();
  assert.ok((await near.ended).completed);
});

relay('small messages pass without delay', async (context) => {
  const { near, source, target } = await connectAll(context);
  target.on('data', (chunk: Buffer) => target.write(chunk));
  const tookMs: number[] = [];
  for (let i = 0; i < 200; i++) {
    const start = performance.now();
    // Two writes without waiting in between are what Nagle would hold back.
    source.write(Buffer.alloc(8));
    source.write(Buffer.alloc(8));
    let got = 0;
    while (got < 16) got += ((await once(source, 'data')) as [Buffer])[0].length;
    tookMs.push(performance.now() - start);
  }
  tookMs.sort((a, b) => a - b);
  assert.ok(tookMs[100]! < 10, `a round trip takes ${tookMs[100]} ms; with Nagle it is 40`);
  near.close();
});

relay('a QEMU that does not read holds the other back, not our memory', async (context) => {
  const { near, source, target } = await connectAll(context);
  target.pause();
  let acceptedBytes = 0;
  const block = Buffer.alloc(1024 * 1024);
  const pump = () => {
    while (acceptedBytes < 256 * block.length) {
      acceptedBytes += block.length;
      if (!source.write(block)) return;
    }
  };
  source.on('drain', pump);
  pump();
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.ok(acceptedBytes < 64 * block.length, `${acceptedBytes} bytes were taken`);
  const stuckBytes = near.toPeerBytes;
  target.resume();
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.ok(near.toPeerBytes > stuckBytes, 'and it goes on when it reads again');
  near.close();
});

relay('a QEMU that dies ends the whole chain, with a reason', async (context) => {
  const { near, far, source, target } = await connectAll(context);
  source.resume();
  target.destroy();
  // To us a dead process and a finished direction look alike, until the next checkpoint.
  await once(source, 'end');
  const checkpoints = setInterval(() => source.write('the next checkpoint'), 5);
  const end = await far.ended;
  assert.not(end.completed);
  assert.match(end.reason, /the connection to QEMU failed: .*EPIPE/);
  assert.not((await near.ended).completed);
  clearInterval(checkpoints);
});

relay('a network that breaks ends the whole chain, with a reason', async (context) => {
  const { near, far, source, target } = await connectAll(context);
  source.resume();
  target.resume();
  const over = [once(source, 'end'), once(target, 'end')];
  context.primaryPeer.resetAndDestroy();
  const end = await far.ended;
  assert.not(end.completed);
  assert.match(end.reason, /the connection to the other host failed: .*ECONNRESET/);
  assert.match((await near.ended).reason, /the connection to the other host broke off/);
  await Promise.all(over);
});

relay('closing it ends every connection', async (context) => {
  const { near, far, source, target } = await connectAll(context);
  source.resume();
  target.resume();
  const over = Promise.all([once(source, 'end'), once(target, 'end')]);
  near.close('the drill is over');
  assert.equal(await near.ended, { completed: false, reason: 'the drill is over' });
  await over;
  await far.ended;
});

relay('the socket for QEMU is ours alone, and gone once QEMU came', async (context) => {
  const { relay: waiting } = await CheckpointRelay.listen({
    socketPath: context.listening,
    peer: context.primaryPeer,
  });
  assert.is(statSync(context.listening).mode & 0o777, 0o600);
  const source = createConnection(context.listening);
  const running = await waiting;
  assert.not(existsSync(context.listening), 'nobody else can come');
  running.close();
  source.destroy();
});

relay('nobody comes, or nobody is there: one sentence each', async (context) => {
  const { relay: waiting } = await CheckpointRelay.listen({
    socketPath: context.listening,
    peer: context.primaryPeer,
    timeoutMs: 30,
  });
  await waiting.then(
    () => assert.unreachable(),
    (error: PeerError) => {
      assert.is(error.code, 'PEER_TIMEOUT');
      assert.match(error.message, /QEMU did not connect to .*out within 30 ms/);
    },
  );
  assert.not(existsSync(context.listening));
  await CheckpointRelay.connect({
    socketPath: join(context.folder, 'none'),
    peer: context.secondaryPeer,
  }).then(
    () => assert.unreachable(),
    (error: PeerError) => assert.is(error.code, 'PEER_CONNECT'),
  );
});

relay('a peer that leaves before QEMU comes ends the wait', async (context) => {
  const { relay: waiting } = await CheckpointRelay.listen({
    socketPath: context.listening,
    peer: context.primaryPeer,
  });
  context.primaryPeer.destroy();
  await waiting.then(
    () => assert.unreachable(),
    (error: PeerError) => assert.is(error.code, 'PEER_CLOSED'),
  );
});

relay.run();
