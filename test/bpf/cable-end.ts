/** Runs in a namespace of a lab and sends and receives what a test tells it to, over UDP and TCP. */
import { createSocket } from 'node:dgram';
import { createConnection, createServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

export type EndOrder =
  | { type: 'listen'; port: number }
  /** Answers when the first was sent. */
  | { type: 'datagrams'; address: string; port: number; hex: string; count: number }
  | { type: 'stream'; address: string; port: number; chunks: string[] }
  /** Answers with all that has come since the last time, once it is so much or the time is over. */
  | { type: 'received'; atLeast: number; withinMs: number };

/** Times are milliseconds since 1970, comparable between processes. */
export interface Arrival { text: string; atMs: number }


const received: Arrival[] = [];
const note = (data: Buffer): void => void received.push({ text: data.toString('hex'), atMs: performance.timeOrigin + performance.now() });

async function obey(order: EndOrder): Promise<unknown> {
  switch (order.type) {
    case 'listen': {
      const udp = createSocket('udp4').on('message', note);
      await new Promise<void>((resolve) => udp.bind(order.port, resolve));
      const tcp = createServer((socket) => socket.on('data', note));
      await new Promise<void>((resolve) => tcp.listen(order.port, resolve));
      return;
    }
    case 'datagrams': {
      const udp = createSocket('udp4');
      const atMs = performance.timeOrigin + performance.now();
      for (let i = 0; i < order.count; i++) {
        await new Promise((resolve) => udp.send(Buffer.from(order.hex, 'hex'), order.port, order.address, resolve));
      }
      udp.close();
      return atMs;
    }
    case 'stream': {
      const tcp = createConnection({ host: order.address, port: order.port, noDelay: true });
      await new Promise((resolve, reject) => tcp.once('connect', resolve).once('error', reject));
      for (const hex of order.chunks) {
        tcp.write(Buffer.from(hex, 'hex'));
        await sleep(20);
      }
      await new Promise<void>((resolve) => tcp.end(resolve));
      return;
    }
    case 'received': {
      const deadlineMs = performance.now() + order.withinMs;
      while (received.length < order.atLeast && performance.now() < deadlineMs) await sleep(5);
      return received.splice(0);
    }
  }
}

process.on('message', (order: EndOrder) => void obey(order).then((value) => process.send!({ value }), (error: Error) => process.send!({ error: error.message })));
process.on('disconnect', () => process.exit(0));
