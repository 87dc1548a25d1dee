/** The drill's HTTP client: pages in pieces, and everything that is no page. */

import { createHash } from 'node:crypto';
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { HttpConnection } from '../../src/drill/http.js';

let server: Server;
let serverSocket: Promise<Socket>;
let connection: HttpConnection;
let heard = '';

test.before.each(async () => {
  heard = '';
  server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  serverSocket = once(server, 'connection').then(([socket]) => {
    (socket as Socket).on('data', (data) => { heard += String(data); }).on('error', () => {});
    return socket as Socket;
  });
  connection = await HttpConnection.connect('127.0.0.1', (server.address() as AddressInfo).port, 1000);
});
test.after.each(async () => {
  connection.close();
  (await serverSocket).destroy();
  server.close();
});

const page = (body: string, head = 'HTTP/1.1 200 OK\r\nServer: test\r\n'): string => `${head}Content-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`;
const digest = (body: string): string => createHash('sha256').update(body).digest('hex');
const failure = (promise: Promise<unknown>): Promise<Error> => promise.then(() => { throw new Error('it was answered'); }, (error: Error) => error);

test('a page is its status, its length and its digest', async () => {
  const got = connection.get('/1k');
  await once(await serverSocket, 'data');
  (await serverSocket).write(page('hello'));
  assert.equal(await got, { status: 200, bodyBytes: 5, digest: digest('hello') });
  assert.is(heard, 'GET /1k HTTP/1.1\r\nHost: guest\r\n\r\n');
});

test('pages follow each other on one connection, errors and empty ones too', async () => {
  const socket = await serverSocket;
  for (const [body, head] of [['a', undefined], ['', undefined], ['gone', 'HTTP/1.1 404 Not Found\r\n']] as const) {
    const got = connection.get('/');
    socket.write(page(body, head));
    assert.equal(await got, { status: head ? 404 : 200, bodyBytes: body.length, digest: digest(body) });
    assert.is(connection.partialBytes, 0);
  }
});

test('a page may come byte by byte, and its part is known', async () => {
  const got = connection.get('/');
  const socket = await serverSocket;
  const text = page('0123456789');
  for (const byte of text.slice(0, -1)) {
    socket.write(byte);
    await sleep(1);
  }
  await sleep(20);
  assert.is(connection.partialBytes, text.length - 1);
  socket.write(text.slice(-1));
  assert.is((await got).digest, digest('0123456789'));
});

test('header names in any case, values with or without space', async () => {
  for (const line of ['content-length:3', 'CONTENT-LENGTH:   3', 'Content-Length: 3']) {
    const got = connection.get('/');
    (await serverSocket).write(`HTTP/1.1 200 OK\r\n${line}\r\nX: y\r\n\r\nabc`);
    assert.is((await got).bodyBytes, 3);
  }
});

for (const [what, answer] of [
  ['no HTTP', 'SSH-2.0-OpenSSH\r\n\r\n'],
  ['no length', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n'],
  ['a length that is none', 'HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n'],
  ['an absurd length', 'HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n'],
] as const) {
  test(`${what} cannot be used`, async () => {
    const got = failure(connection.get('/'));
    (await serverSocket).write(answer);
    assert.match((await got).message, 'cannot be used');
  });
}

test('a header without end is cut off', async () => {
  const got = failure(connection.get('/'));
  const socket = await serverSocket;
  for (let i = 0; i < 20; i++) socket.write(`X-${i}: ${'x'.repeat(1000)}\r\n`);
  assert.match((await got).message, 'endless header');
});

test('more than was asked for is a finding', async () => {
  const got = failure(connection.get('/'));
  (await serverSocket).write(`${page('a')}more`);
  assert.match((await got).message, 'more than was asked');
});

test('an answer that nobody asked for is one too', async () => {
  (await serverSocket).write(page('a'));
  await sleep(20);
  assert.match((await failure(connection.get('/'))).message, 'more than was asked');
});

test('one page at a time', async () => {
  const first = connection.get('/');
  assert.match((await failure(connection.get('/'))).message, 'being fetched already');
  (await serverSocket).write(page('a'));
  await first;
});

test('the end in the middle of a page is its failure', async () => {
  const got = failure(connection.get('/'));
  const socket = await serverSocket;
  socket.end(page('0123456789').slice(0, -3));
  assert.match((await got).message, 'closed');
  assert.match((await failure(connection.get('/'))).message, 'closed');
});

test.run();
