import { connect as netConnect, createServer, type AddressInfo, type Socket } from 'node:net';
import { once } from 'node:events';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ControlChannel } from '../../src/peer/control.js';
import { PeerError } from '../../src/peer/errors.js';
import { encodeFrame, encodePreamble, FrameType } from '../../src/peer/frame.js';
import {
  PeerClient,
  PeerServer,
  type PeerClientOptions,
  type PeerConnection,
  type PeerServerOptions,
} from '../../src/peer/link.js';

interface Context {
  servers: PeerServer[];
  sockets: Socket[];
}

const link = suite<Context>('peer link');

link.before.each((context) => {
  context.servers = [];
  context.sockets = [];
});
link.after.each(async (context) => {
  for (const socket of context.sockets) socket.destroy();
  for (const server of context.servers) await server.close();
});

interface Refusal {
  error: PeerError;
  suppressed: number;
}

async function serve(context: Context, options: Partial<PeerServerOptions> = {}) {
  const connections: PeerConnection[] = [];
  const refusals: Refusal[] = [];
  const server = await PeerServer.listen({
    address: '127.0.0.1',
    port: 0,
    pairId: 'blue',
    hostName: 'host-b',
    incarnation: 'b-1',
    onConnection: (connection) => connections.push(connection),
    onRefused: (error, _remote, suppressed) => refusals.push({ error, suppressed }),
    ...options,
  });
  context.servers.push(server);
  return { server, connections, refusals };
}

async function dial(context: Context, port: number, options: Partial<PeerClientOptions> = {}) {
  const connection = await PeerClient.connect({
    address: '127.0.0.1',
    port,
    kind: 'control',
    pairId: 'blue',
    hostName: 'host-a',
    incarnation: 'a-1',
    ...options,
  });
  context.sockets.push(connection.socket);
  return connection;
}

async function failure(promise: Promise<unknown>): Promise<PeerError> {
  try {
    await promise;
  } catch (error) {
    assert.instance(error, PeerError);
    return error as PeerError;
  }
  throw new Error('it was expected to fail');
}

/** A bare TCP connection that says what it likes. */
async function raw(context: Context, port: number): Promise<Socket> {
  const socket = netConnect({ host: '127.0.0.1', port });
  context.sockets.push(socket);
  socket.on('error', () => {});
  await once(socket, 'connect');
  return socket;
}

async function allOf(socket: Socket): Promise<Buffer> {
  const chunks: Buffer[] = [];
  socket.on('data', (chunk: Buffer) => chunks.push(chunk));
  if (!socket.destroyed) {
    await new Promise((resolve) => socket.once('end', resolve).once('close', resolve));
  }
  return Buffer.concat(chunks);
}

async function until(condition: () => boolean): Promise<void> {
  const deadline = performance.now() + 3000;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error('it did not happen within 3 s');
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

const hello = (fields: object = {}) =>
  encodeFrame(
    FrameType.hello,
    Buffer.from(
      JSON.stringify({
        kind: 'control',
        pair: 'blue',
        host: 'host-a',
        incarnation: 'a-1',
        ...fields,
      }),
    ),
  );

const SECRET = Buffer.from('the secret of pair blue');

link('both sides learn who the other is and what the connection is for', async (context) => {
  const { server, connections } = await serve(context);
  for (const kind of ['control', 'heartbeat', 'checkpoint'] as const) {
    const mine = await dial(context, server.port, { kind });
    assert.is(mine.hostName, 'host-b');
    assert.is(mine.incarnation, 'b-1');
    await until(() => connections.some((connection) => connection.kind === kind));
  }
  assert.is(connections[0]?.hostName, 'host-a');
  assert.is(connections[0]?.incarnation, 'a-1');
  assert.match(connections[0]!.remote, /^127\.0\.0\.1:\d+$/);
});

link('messages go both ways, the first one even in the segment of the greeting', async (context) => {
  const parse = (value: unknown) => value as { n: number };
  const server = await PeerServer.listen({
    address: '127.0.0.1',
    port: 0,
    pairId: 'blue',
    hostName: 'host-b',
    incarnation: 'b-1',
    onConnection: (connection) => {
      const channel = new ControlChannel<{ n: number }, { n: number }>({
        connection,
        parse,
        onMessage: ({ n }) => channel.send({ n: n + 1 }),
        onClose: () => {},
      });
      channel.send({ n: 0 }); // at once, behind the welcome
    },
  });
  context.servers.push(server);
  const connection = await dial(context, server.port);
  await new Promise((resolve) => setTimeout(resolve, 20)); // nothing may be lost while we wait
  const got: number[] = [];
  const channel = new ControlChannel<{ n: number }, { n: number }>({
    connection,
    parse,
    onMessage: ({ n }) => {
      got.push(n);
      if (n < 6) channel.send({ n: n + 1 });
    },
    onClose: () => {},
  });
  await until(() => got.length === 4);
  assert.equal(got, [0, 2, 4, 6]);
  channel.close();
});

link('a version mismatch is told to both sides', async (context) => {
  const { server, connections, refusals } = await serve(context);
  const stranger = await raw(context, server.port);
  stranger.write(Buffer.concat([encodePreamble(9), Buffer.from('whatever version 9 says')]));
  const answer = await allOf(stranger);
  assert.equal(answer, encodePreamble(), 'our version, for the other side to compare');
  assert.is(refusals[0]?.error.code, 'PEER_VERSION');
  assert.match(refusals[0]!.error.message, /version 9 .* version 3; install the same/);
  assert.is(connections.length, 0);

  const other = createServer((socket) => {
    context.sockets.push(socket);
    socket.end(encodePreamble(9));
  });
  await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve));
  const error = await failure(dial(context, (other.address() as AddressInfo).port));
  other.close();
  assert.is(error.code, 'PEER_VERSION');
  assert.match(error.message, /version 9 .* version 3; install the same/);
});

link('a host of another pair is refused, with a sentence on both sides', async (context) => {
  const { server, refusals } = await serve(context);
  const error = await failure(dial(context, server.port, { pairId: 'green' }));
  assert.is(error.code, 'PEER_PAIR');
  assert.match(error.message, /host-a belongs to pair green/);
  assert.not.match(error.message, /blue/, "our own pair's name is not for strangers");
  await until(() => refusals.length > 0);
  assert.is(refusals[0]?.error.code, 'PEER_PAIR');
  assert.is(server.refusals.get('PEER_PAIR'), 1);
});

link('the caller may refuse a sound peer', async (context) => {
  const { server } = await serve(context, {
    admit: ({ kind }) => {
      if (kind === 'checkpoint') throw new PeerError('PEER_REFUSED', 'no checkpoint is expected');
    },
  });
  await dial(context, server.port);
  const error = await failure(dial(context, server.port, { kind: 'checkpoint' }));
  assert.is(error.code, 'PEER_REFUSED');
  assert.match(error.message, /no checkpoint is expected/);
});

link('garbage is closed and counted, and the log is told once a second', async (context) => {
  const { server, connections, refusals } = await serve(context);
  for (const bytes of ['GET / HTTP/1.1\r\n\r\n', '\0\0\0\0', 'CLQ\x01', 'x'.repeat(100_000)]) {
    const stranger = await raw(context, server.port);
    stranger.write(bytes, 'latin1');
    const answer = await allOf(stranger);
    assert.ok(answer.length <= 4, 'nothing is answered but the preamble');
  }
  assert.is(server.refusals.get('PEER_GARBAGE'), 4);
  assert.is(refusals.length, 1);
  assert.match(refusals[0]!.error.message, /^refused the connection from 127\.0\.0\.1:\d+: /);
  assert.is(connections.length, 0);
  await dial(context, server.port); // and it still works
});

link('malformed greetings are refused', async (context) => {
  const { server, connections } = await serve(context);
  const bad = [
    encodeFrame(FrameType.hello, Buffer.from('{')),
    encodeFrame(FrameType.hello, Buffer.from('null')),
    hello({ kind: 'root' }),
    hello({ host: 'a\nforged line of log' }),
    hello({ host: 'x'.repeat(65) }),
    hello({ extra: true }),
    hello({ nonce: 'zz' }),
    encodeFrame(FrameType.control, Buffer.from('{}')),
    encodeFrame(FrameType.proof, Buffer.from('{}')),
  ];
  for (const frame of bad) {
    const stranger = await raw(context, server.port);
    stranger.write(Buffer.concat([encodePreamble(), frame]));
    await allOf(stranger);
  }
  assert.is(server.refusals.get('PEER_GARBAGE'), bad.length);
  assert.is(connections.length, 0);
});

link('a greeting that announces a gigabyte is refused at its header', async (context) => {
  const { server } = await serve(context);
  const stranger = await raw(context, server.port);
  const header = Buffer.from(encodeFrame(FrameType.hello, Buffer.alloc(0)));
  header.writeUInt32BE(2 ** 30, 0);
  stranger.write(Buffer.concat([encodePreamble(), header]));
  const answer = (await allOf(stranger)).toString('latin1');
  assert.match(answer, /PEER_LIMIT.*1073741824 bytes/);
});

link('whoever greets too slowly is dropped', async (context) => {
  const { server, refusals } = await serve(context, { helloTimeoutMs: 60 });
  const stranger = await raw(context, server.port);
  const start = performance.now();
  const bytes = Buffer.concat([encodePreamble(), hello()]);
  let at = 0;
  const drip = setInterval(() => stranger.write(bytes.subarray(at, ++at)), 10);
  await allOf(stranger);
  clearInterval(drip);
  assert.ok(performance.now() - start < 1000);
  await until(() => refusals.length === 1);
  assert.is(refusals[0]?.error.code, 'PEER_TIMEOUT');
});

link('idlers cannot keep the peer out: the oldest of them goes', async (context) => {
  const { server } = await serve(context, { maxGreeting: 4 });
  const idlers: Socket[] = [];
  for (let i = 0; i < 12; i++) idlers.push(await raw(context, server.port));
  await dial(context, server.port);
  await until(() => server.refusals.get('PEER_LIMIT') === 9);
  const open = idlers.map((socket) => !socket.destroyed && !socket.readableEnded);
  for (const socket of idlers) socket.resume();
  await until(() => idlers.slice(0, 9).every((socket) => socket.destroyed));
  assert.ok(open.at(-1), 'the newest idler is still there');
});

link('who calls a server that is not ready waits, and is greeted then', async (context) => {
  let open = (): void => {};
  const ready = new Promise<void>((resolve) => { open = resolve; });
  const { server, connections } = await serve(context, { ready });
  const calling = dial(context, server.port);
  const gone = await raw(context, server.port);
  gone.destroy();
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.equal([connections.length, server.refusals.size], [0, 0]);
  open();
  await calling;
  await until(() => connections.length === 1 && server.refusals.get('PEER_CLOSED') === 1);
});

link('the number of connections is bounded', async (context) => {
  const { server, connections } = await serve(context, { maxConnections: 2 });
  await dial(context, server.port);
  await dial(context, server.port);
  assert.is((await failure(dial(context, server.port))).code, 'PEER_LIMIT');
  const [first] = connections;
  first?.socket.destroy();
  await once(first!.socket, 'close');
  await dial(context, server.port); // a place came free
});

link('a shared secret is proven by both sides', async (context) => {
  const { server, connections } = await serve(context, { secret: SECRET });
  await dial(context, server.port, { secret: SECRET });
  await until(() => connections.length === 1);
});

link('without the secret, or with another, nobody gets in', async (context) => {
  const { server, connections } = await serve(context, { secret: SECRET });
  const other = await failure(
    dial(context, server.port, { secret: Buffer.from('some other secret!') }),
  );
  assert.is(other.code, 'PEER_SECRET');
  assert.match(other.message, /does not know this pair's secret/);
  const none = await failure(dial(context, server.port));
  assert.is(none.code, 'PEER_SECRET');
  assert.match(none.message, /lacks a secret for pair blue, this host has one/);
  assert.is(connections.length, 0);

  const open = await serve(context);
  const lonely = await failure(dial(context, open.server.port, { secret: SECRET }));
  assert.is(lonely.code, 'PEER_SECRET');
  assert.match(lonely.message, /has a secret for pair blue, this host lacks one/);
});

link('a proof cannot be replayed, forged, or reflected', async (context) => {
  const { server, connections } = await serve(context, { secret: SECRET });
  // Listen in on a good greeting, by carrying it through.
  const heard: Buffer[] = [];
  const middle = createServer((near) => {
    const far = netConnect({ host: '127.0.0.1', port: server.port });
    context.sockets.push(near, far);
    near.on('data', (chunk: Buffer) => {
      heard.push(chunk);
      far.write(chunk);
    });
    far.on('data', (chunk: Buffer) => near.write(chunk));
    near.on('error', () => {});
    far.on('error', () => {});
  });
  await new Promise<void>((resolve) => middle.listen(0, '127.0.0.1', resolve));
  await dial(context, (middle.address() as AddressInfo).port, { secret: SECRET });
  middle.close();
  await until(() => connections.length === 1);

  const replay = await raw(context, server.port);
  replay.write(Buffer.concat(heard));
  assert.match((await allOf(replay)).toString('latin1'), /PEER_SECRET/);

  // The server's own proof, sent back to it as ours.
  const reflect = await raw(context, server.port);
  reflect.write(Buffer.concat([encodePreamble(), hello({ nonce: '00'.repeat(32) })]));
  const [answer] = (await once(reflect, 'data').then(async ([chunk]) => {
    let bytes = chunk as Buffer;
    while (!bytes.includes('}')) bytes = Buffer.concat([bytes, (await once(reflect, 'data'))[0]]);
    return [bytes];
  })) as [Buffer];
  const { proof } = JSON.parse(answer.subarray(answer.indexOf('{')).toString()) as { proof: string };
  reflect.write(encodeFrame(FrameType.proof, Buffer.from(JSON.stringify({ proof }))));
  assert.match((await allOf(reflect)).toString('latin1'), /PEER_SECRET/);
  assert.is(connections.length, 1);
});

link('no greeting with a single bit changed on its way is accepted', async (context) => {
  const { server } = await serve(context, { secret: SECRET, helloTimeoutMs: 40 });
  /** Dials through a middle that flips one bit of the nth byte in one direction. */
  const tamper = async (direction: 'toServer' | 'toClient', at: number, bit: number) => {
    let bytes = 0;
    let flipped = false;
    const pass = (from: Socket, to: Socket, tampered: boolean) => {
      from.on('error', () => {}).on('end', () => to.end());
      from.on('data', (chunk: Buffer) => {
        const offset = at - bytes;
        if (tampered) bytes += chunk.length;
        if (tampered && offset >= 0 && offset < chunk.length) {
          chunk.writeUInt8(chunk.readUInt8(offset) ^ (1 << bit), offset);
          flipped = true;
        }
        to.write(chunk);
      });
    };
    const middle = createServer((near) => {
      const far = netConnect({ host: '127.0.0.1', port: server.port });
      context.sockets.push(near, far);
      pass(near, far, direction === 'toServer');
      pass(far, near, direction === 'toClient');
    });
    await new Promise<void>((resolve) => middle.listen(0, '127.0.0.1', resolve));
    const { port } = middle.address() as AddressInfo;
    const outcome = await dial(context, port, { secret: SECRET, timeoutMs: 40 }).then(
      () => 'accepted',
      (error: PeerError) => error.code,
    );
    middle.close();
    return { flipped, outcome };
  };
  for (const direction of ['toServer', 'toClient'] as const) {
    let tried = 0;
    for (let at = 0; ; at += 7) {
      const { flipped, outcome } = await tamper(direction, at, at % 8);
      if (!flipped) {
        assert.is(outcome, 'accepted', 'past the end of the greeting, nothing was changed');
        break;
      }
      assert.is.not(outcome, 'accepted', `byte ${at} ${direction}`);
      tried++;
    }
    assert.ok(tried > 25, `only ${tried} bytes were tried`);
  }
});

link('an impostor server without the secret is found out', async (context) => {
  const impostor = createServer((socket) => {
    context.sockets.push(socket);
    socket.on('error', () => {});
    const answer = { host: 'host-b', incarnation: 'b-1', nonce: '11'.repeat(32) };
    socket.write(
      Buffer.concat([
        encodePreamble(),
        encodeFrame(
          FrameType.answer,
          Buffer.from(JSON.stringify({ ...answer, proof: '22'.repeat(32) })),
        ),
        encodeFrame(FrameType.welcome, Buffer.from('{}')),
      ]),
    );
  });
  await new Promise<void>((resolve) => impostor.listen(0, '127.0.0.1', resolve));
  const { port } = impostor.address() as AddressInfo;
  const error = await failure(dial(context, port, { secret: SECRET }));
  impostor.close();
  assert.is(error.code, 'PEER_SECRET');
});

link('a peer that is not there, or says nothing, is one clear sentence', async (context) => {
  const mute = createServer((socket) => void context.sockets.push(socket));
  await new Promise<void>((resolve) => mute.listen(0, '127.0.0.1', resolve));
  const { port } = mute.address() as AddressInfo;
  const slow = await failure(dial(context, port, { timeoutMs: 50 }));
  assert.is(slow.code, 'PEER_TIMEOUT');
  assert.match(slow.message, /no control connection to the peer at .*: it did not greet within 50/);
  mute.close();
  for (const socket of context.sockets) socket.destroy();
  await once(mute, 'close');
  const gone = await failure(dial(context, port));
  assert.is(gone.code, 'PEER_CONNECT');
  assert.match(gone.message, /ECONNREFUSED/);
});

link('addresses of IPv6 are written as such', async (context) => {
  const { server, connections } = await serve(context, { address: '::1' });
  const mine = await dial(context, server.port, { address: '::1' });
  assert.is(mine.remote, `[::1]:${server.port}`);
  await until(() => connections.length === 1);
  assert.match(connections[0]!.remote, /^\[::1\]:\d+$/);
});

link('a port in use is one clear sentence', async (context) => {
  const { server } = await serve(context);
  const error = await failure(serve(context, { port: server.port }));
  assert.is(error.code, 'PEER_LISTEN');
  assert.match(error.message, /cannot listen for the peer on 127\.0\.0\.1:\d+: .*EADDRINUSE/);
});

link('identities that could forge a log line are refused at home', async (context) => {
  const attempt = serve(context, { pairId: 'two\nlines' });
  await attempt.then(
    () => assert.unreachable(),
    (error: Error) => assert.match(error.message, /pairId "two\\nlines" must be/),
  );
  await serve(context, { secret: Buffer.from('short') }).then(
    () => assert.unreachable(),
    (error: Error) => assert.match(error.message, /5 bytes, but needs at least 16/),
  );
});

async function pairOfChannels(context: Context, then = (): void => {}) {
  const { server, connections } = await serve(context);
  const near = await dial(context, server.port);
  await until(() => connections.length === 1);
  const closed: PeerError[] = [];
  const messages: unknown[] = [];
  const channel = new ControlChannel<unknown, unknown>({
    connection: connections[0]!,
    parse: (value) => {
      if (typeof value !== 'object') throw new Error('an object is wanted');
      return value;
    },
    onMessage: (message) => {
      messages.push(message);
      then();
    },
    onClose: (reason) => closed.push(reason),
  });
  return { near: near.socket, channel, closed, messages, socket: connections[0]!.socket };
}

link('a control message of a gigabyte ends the connection at its header', async (context) => {
  const { near, closed } = await pairOfChannels(context);
  const header = Buffer.from(encodeFrame(FrameType.control, Buffer.alloc(0)));
  header.writeUInt32BE(2 ** 30, 0);
  near.write(header);
  await until(() => closed.length === 1);
  assert.is(closed[0]?.code, 'PEER_LIMIT');
  assert.match(closed[0]!.message, /control connection to host-a .* 1073741824 bytes, but at most/);
});

link('a message that does not parse ends the connection', async (context) => {
  for (const text of ['{', '"a string"']) {
    const { near, closed, messages } = await pairOfChannels(context);
    near.write(encodeFrame(FrameType.control, Buffer.from('{"fine": 1}')));
    near.write(encodeFrame(FrameType.control, Buffer.from(text)));
    near.write(encodeFrame(FrameType.control, Buffer.from('{"late": 1}')));
    await until(() => closed.length === 1);
    assert.is(closed[0]?.code, 'PEER_MESSAGE');
    assert.equal(messages, [{ fine: 1 }]);
  }
});

link('a message that fails at its receiver ends the connection, and nothing else', async (context) => {
  const { near, closed, messages } = await pairOfChannels(context, () => { throw new RangeError('no such number'); });
  near.write(encodeFrame(FrameType.control, Buffer.from('{"fine": 1}')));
  near.write(encodeFrame(FrameType.control, Buffer.from('{"late": 1}')));
  await until(() => closed.length === 1);
  assert.is(closed[0]?.code, 'PEER_MESSAGE');
  assert.match(closed[0]!.message, 'no such number');
  assert.equal(messages, [{ fine: 1 }]);
});

link('our own message over the limit is refused before it leaves', async (context) => {
  const { channel } = await pairOfChannels(context);
  assert.throws(() => channel.send({ text: 'x'.repeat(70_000) }), /longer than 65536/);
  assert.not(channel.closed);
});

link('a peer that stops reading is given up before it fills our memory', async (context) => {
  const { near, channel, closed } = await pairOfChannels(context);
  near.pause();
  let sent = 0;
  while (channel.send({ text: 'x'.repeat(60_000) }) && sent < 1000) sent++;
  assert.ok(sent < 1000);
  assert.is(closed[0]?.code, 'PEER_SLOW');
});

link('closing does not wait for a peer that has stopped reading', async (context) => {
  const { near, channel, closed, socket } = await pairOfChannels(context);
  near.pause();
  for (let i = 0; i < 10; i++) channel.send({ text: 'x'.repeat(60_000) });
  channel.close();
  assert.is(closed.length, 1);
  await until(() => socket.destroyed);
});

link('a hang-up is told once, with a sentence, and later sends are refused', async (context) => {
  const { near, channel, closed } = await pairOfChannels(context);
  near.end();
  await until(() => closed.length > 0);
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.is(closed.length, 1);
  assert.match(closed[0]!.message, /the control connection to host-a .* ended: it hung up/);
  assert.not(channel.send({}));
});

link('what was sent before closing still arrives', async (context) => {
  const { near, channel } = await pairOfChannels(context);
  channel.send({ last: 'words' });
  channel.close();
  assert.match((await allOf(near)).toString('latin1'), /"last":"words"/);
});

link.run();
