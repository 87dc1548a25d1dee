/**
 * Runs in a host's namespace and does to a peer port what no peer should. Prints one line of JSON.
 *
 *     node hostile-peer.js WHAT ADDRESS PORT
 */
import { randomBytes } from 'node:crypto';
import { createConnection, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { PeerClient } from '../../src/peer/index.js';
import { encodePreamble, FrameType } from '../../src/peer/frame.js';

const [what, address = '', portText] = process.argv.slice(2);
const port = Number(portText);

function open(): Promise<Socket> {
  return new Promise((resolve) => {
    const socket: Socket = createConnection({ host: address, port }, () => resolve(socket.resume()));
    socket.on('error', () => {});
  });
}

/** What the port answers until it hangs up. */
async function answerTo(bytes: Buffer): Promise<Buffer> {
  const socket = await open();
  const parts: Buffer[] = [];
  socket.on('data', (part: Buffer) => parts.push(part));
  const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()));
  socket.write(bytes);
  await closed;
  return Buffer.concat(parts);
}

/** A client that knows everything but the secret, or is of another pair. */
async function refusalOf(pairId: string, secret: Buffer | undefined): Promise<string> {
  const identity = { pairId, hostName: 'mallory', incarnation: 'one', secret };
  return PeerClient.connect({ ...identity, address, port, kind: 'control' }).then(
    () => 'admitted',
    (error: unknown) => (error as { code: string }).code,
  );
}

async function attack(): Promise<unknown> {
  switch (what) {
    case 'version':
      return (await answerTo(encodePreamble(99))).toString('hex');
    case 'secret':
      return [await refusalOf('guest', randomBytes(32)), await refusalOf('guest', undefined), await refusalOf('other', randomBytes(32))];
    case 'endless': {
      const header = Buffer.from([0xff, 0xff, 0xff, 0xff, FrameType.hello]);
      return (await answerTo(Buffer.concat([encodePreamble(), header, randomBytes(1 << 20)]))).length;
    }
    case 'garbage': {
      const answers = await Promise.all(Array.from({ length: 200 }, () => answerTo(randomBytes(64 * 1024))));
      return answers.length;
    }
    case 'scan': {
      for (let i = 0; i < 300; i++) (await open()).destroy();
      const idle = await Promise.all(Array.from({ length: 60 }, open));
      await sleep(1000);
      const dropped = idle.filter((socket) => socket.destroyed || socket.readyState !== 'open').length;
      for (const socket of idle) socket.destroy();
      return dropped;
    }
    default:
      throw new Error(`no such attack: ${what}`);
  }
}

process.stdout.write(`${JSON.stringify(await attack())}\n`);
process.exit(0);
