/** Request classifiers on packets as the kernel's TCP makes them: up to 128 KiB, in fragments. */
import { once } from 'node:events';
import { createServer, connect, type AddressInfo } from 'node:net';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { bytesOf, loadClassifier, type Protocol } from './services-support.js';

const classifier = await loadClassifier();
// Looks only at packets to the one port that this test listens on, and lets all of them pass.
const link = classifier.program('feed_live').attachTcx({ ifname: 'lo', direction: 'egress' });
process.on('exit', () => link.close());

/** Sends all of `text` through a connection of its own; what was seen once it has arrived. */
async function send(protocol: Protocol, text: string): Promise<{ flags: string; longestBytes: number }> {
  const payload = bytesOf(text);
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  classifier.beginLive(protocol, port);
  const accepted = once(server, 'connection');
  const client = connect(port, '127.0.0.1');
  try {
    const [peer] = (await accepted) as [import('node:net').Socket];
    client.write(payload);
    let arrived = 0;
    for await (const chunk of peer) {
      arrived += (chunk as Buffer).byteLength;
      if (arrived >= payload.byteLength) break;
    }
    return classifier.live;
  } finally {
    client.destroy();
    server.close();
  }
}

// The loopback device carries packets of up to 128 KiB, twice what a tap does: keys of 64 bytes, not of one.
const get = `*2\r\n$3\r\nGET\r\n$64\r\n${'k'.repeat(64)}\r\n`;

test('pipelined reads in the longest packets', async () => {
  const { flags, longestBytes } = await send('resp', get.repeat(10_000));
  assert.is(flags, 'read');
  assert.ok(longestBytes > 30_000, `the longest packet had ${longestBytes} bytes`);
});

test('a write among them, larger than any packet', async () => {
  const set = `*3\r\n$3\r\nSET\r\n$1\r\na\r\n$300000\r\n${'*'.repeat(300_000)}\r\n`;
  assert.is((await send('resp', get.repeat(100) + set + get.repeat(5000))).flags, 'read write');
});

test('HTTP', async () => {
  const page = 'GET /index.html HTTP/1.1\r\nHost: example.org\r\nAccept: */*\r\n\r\n';
  const put = `PUT /a HTTP/1.1\r\nContent-Length: 200000\r\n\r\n${page.repeat(4000).slice(0, 200_000)}`;
  assert.is((await send('http', page.repeat(5000))).flags, 'read');
  assert.is((await send('http', page + put + page)).flags, 'read write');
});

test('memcached', async () => {
  const set = `set key 0 0 200000\r\n${'get a\r\n'.repeat(30_000).slice(0, 200_000)}\r\n`;
  assert.is((await send('memcached', 'get some:key\r\n'.repeat(10_000))).flags, 'read');
  assert.is((await send('memcached', `get a\r\n${set}get b\r\n`)).flags, 'read write');
});

test('a packet of more parts than are worth the time loses the stream', async () => {
  const { flags, longestBytes } = await send('resp', `*30001\r\n$4\r\nMGET\r\n${'$0\r\n\r\n'.repeat(30_000)}`);
  assert.ok(longestBytes > 30_000);
  assert.is(flags, 'write lost');
});

test.run();
