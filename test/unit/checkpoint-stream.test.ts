import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import type { Socket } from 'node:net';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { CheckpointStream } from '../../src/peer/checkpoint-stream.js';
import type { PeerError } from '../../src/peer/errors.js';
import { PeerClient, PeerServer } from '../../src/peer/link.js';

const IDENTITY = { pairId: 'blue', hostName: 'host-a', incarnation: '1' };
/** Stand-ins for the QEMUs: processes that have the connection as descriptor 3. */
const echo = `const s = new (require('node:net').Socket)({ fd: 3 }); s.on('data', (chunk) => s.write(chunk)).on('end', () => process.exit(0)).on('error', () => process.exit(0));`;

interface Context {
  server: PeerServer;
  /** The checkpoint connection as the primary and as the secondary hold it. */
  primary: Socket;
  secondary: Socket;
  children: ChildProcess[];
}

const stream = suite<Context>('checkpoint stream');

stream.before.each(async (context) => {
  context.children = [];
  let arrive!: (socket: Socket) => void;
  const arrived = new Promise<Socket>((resolve) => (arrive = resolve));
  context.server = await PeerServer.listen({ ...IDENTITY, address: '127.0.0.1', port: 0, onConnection: ({ socket }) => arrive(socket) });
  context.primary = (await PeerClient.connect({ ...IDENTITY, address: '127.0.0.1', port: context.server.port, kind: 'checkpoint' })).socket;
  context.secondary = await arrived;
});

stream.after.each(async ({ primary, secondary, server, children }) => {
  for (const child of children) child.kill('SIGKILL');
  primary.destroy();
  secondary.destroy();
  await server.close();
});

/** Both ends, each known to us alone. */
async function openBoth({ primary, secondary }: Context): Promise<{ near: CheckpointStream; far: CheckpointStream }> {
  const far = CheckpointStream.incoming(secondary);
  far.taken();
  return { near: await CheckpointStream.outgoing(primary), far };
}

/** Gives an end to a process of its own. */
function give(context: Context, end: CheckpointStream, program: string): ChildProcess {
  const child = spawn(process.execPath, ['-e', program], { stdio: ['ignore', 'pipe', 'inherit', end.fd] });
  context.children.push(child);
  return child;
}

stream('another process goes on with it, whole, without Nagle, and its bytes are counted', async (context) => {
  const { near, far } = await openBoth(context);
  assert.ok(context.primary.destroyed && context.secondary.destroyed, 'our event loop has nothing of it any more');
  const greetingBytes = near.sentBytes;
  give(context, far, echo);
  // Small messages one after the other are what Nagle would hold back: 40 ms each.
  const asker = give(context, near, `
    const s = new (require('node:net').Socket)({ fd: 3 }); let got = 0, round = 0; const tookMs = []; let start;
    const ask = () => { start = performance.now(); s.write(Buffer.alloc(8)); s.write(Buffer.alloc(8)); };
    s.on('data', (chunk) => {
      if ((got += chunk.length) % 16 !== 0) return;
      tookMs.push(performance.now() - start);
      if (++round < 100) ask(); else { console.log(tookMs.sort((a, b) => a - b)[50]); process.exit(0); }
    });
    ask();`);
  const [median] = await once(asker.stdout!, 'data') as [Buffer];
  assert.ok(Number(median) < 20, `a round trip takes ${median} ms`);
  assert.is(near.sentBytes - greetingBytes, 1600);
  assert.ok(near.receivedBytes >= 1600 && far.receivedBytes >= 1600 && far.sentBytes >= 1600);
  const { sentBytes } = near;
  near.close();
  far.close();
  assert.is(near.sentBytes, sentBytes, 'also when it is over');
});

stream('what has ended is given to nobody: another file may have its number', async (context) => {
  const { near, far } = await openBoth(context);
  near.close();
  far.close();
  assert.throws(() => near.fd, /connection that was ended/);
  assert.throws(() => far.taken(), /connection that was ended/);
});

for (const side of ['near', 'far'] as const) {
  stream(`closing the ${side} end ends it for both processes`, async (context) => {
    const both = await openBoth(context);
    const children = [give(context, both.near, echo), give(context, both.far, echo)];
    const ended = children.map((child) => once(child, 'exit'));
    both[side].close();
    for (const [code] of await Promise.all(ended)) assert.is(code, 0);
    both.near.close();
    both.far.close();
  });
}

stream('the primary has it only when the secondary has given its end away', async (context) => {
  const far = CheckpointStream.incoming(context.secondary);
  let open = false;
  const opening = CheckpointStream.outgoing(context.primary).then((near) => {
    open = true;
    return near;
  });
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.not(open);
  far.taken();
  (await opening).close();
  far.close();
});

stream('a secondary that does not take it in time ends the wait', async (context) => {
  await CheckpointStream.outgoing(context.primary, 30).then(() => assert.unreachable(), (error: PeerError) => {
    assert.is(error.code, 'PEER_TIMEOUT');
    assert.match(error.message, /did not take the checkpoint connection within 30 ms/);
  });
  assert.ok(context.primary.destroyed);
});

stream('a secondary that leaves before it has taken it ends the wait', async (context) => {
  const opening = CheckpointStream.outgoing(context.primary);
  CheckpointStream.incoming(context.secondary).close();
  await opening.then(() => assert.unreachable(), (error: PeerError) => assert.is(error.code, 'PEER_CLOSED'));
});

stream.run();
