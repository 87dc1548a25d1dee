/** The drill's Redis client: what it understands, and what it takes for the end. */

import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { parseReply, RespConnection } from '../../src/drill/resp.js';

let server: Server;
let serverSocket: Promise<Socket>;
let connection: RespConnection;
/** What the client has sent. */
let heard = '';

test.before.each(async () => {
  heard = '';
  server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  serverSocket = once(server, 'connection').then(([socket]) => {
    (socket as Socket).on('data', (data) => { heard += String(data); }).on('error', () => {});
    return socket as Socket;
  });
  connection = await RespConnection.connect('127.0.0.1', (server.address() as AddressInfo).port, 1000);
});
test.after.each(async () => {
  connection.close();
  (await serverSocket).destroy();
  server.close();
});

const failure = (promise: Promise<unknown>): Promise<Error> => promise.then(() => { throw new Error('it was answered'); }, (error: Error) => error);

test('every kind of reply', () => {
  const cases: [string, unknown][] = [
    ['+OK\r\n', 'OK'], ['+\r\n', ''], [':42\r\n', 42], [':-1\r\n', -1], ['$5\r\nhello\r\n', 'hello'], ['$0\r\n\r\n', ''],
    ['$-1\r\n', null], ['*-1\r\n', null], ['*0\r\n', []], ['$4\r\na\r\nb\r\n', 'a\r\nb'], ['$4\r\n\u00e9\u00e8\r\n', '\u00e9\u00e8'],
    ['*3\r\n:1\r\n$1\r\nx\r\n*1\r\n+y\r\n', [1, 'x', ['y']]],
  ];
  for (const [text, reply] of cases) {
    const input = Buffer.from(text);
    assert.equal(parseReply(input), { reply, end: input.length });
    for (let cut = 0; cut < input.length; cut++) assert.is(parseReply(input.subarray(0, cut)), undefined, `${text} cut at ${cut}`);
  }
  const error = parseReply(Buffer.from('-ERR no such thing\r\n'));
  assert.instance(error?.reply, Error);
  assert.is((error?.reply as Error).message, 'ERR no such thing');
});

test('what is no reply is refused', () => {
  for (const text of ['hello\r\n', '\r\n', ':\r\n', ':1.5\r\n', ':x\r\n', '$x\r\n', '$-2\r\n', '*-2\r\n', '$3\r\nabcde\r\n', '$99999999999\r\n', '*9999999999\r\n', '*1\r\n'.repeat(100)]) {
    assert.throws(() => parseReply(Buffer.from(text)), /is not a/, text);
  }
});

test('commands are sent as arrays of counted strings, in bytes', async () => {
  void connection.command('SET', 'k\u00e9y', 'a\r\nb').catch(() => {});
  await serverSocket;
  await sleep(20);
  assert.is(heard, '*3\r\n$3\r\nSET\r\n$4\r\nk\u00e9y\r\n$4\r\na\r\nb\r\n');
});

test('replies go to their commands in order, in whatever pieces they come', async () => {
  const replies = Promise.all([connection.command('A'), connection.command('B'), connection.command('C')]);
  const socket = await serverSocket;
  for (const byte of '+one\r\n$3\r\ntwo\r\n*2\r\n:3\r\n$-1\r\n') {
    socket.write(byte);
    await sleep(1);
  }
  assert.equal(await replies, ['one', 'two', [3, null]]);
});

test('an error reply is a reply', async () => {
  const reply = connection.command('NONSENSE');
  (await serverSocket).write('-ERR unknown command\r\n+OK\r\n'.slice(0, 22));
  assert.is((await reply as Error).message, 'ERR unknown command');
});

test('the end of the connection ends every command, and later ones at once', async () => {
  const first = failure(connection.command('A'));
  const second = failure(connection.command('B'));
  (await serverSocket).destroy();
  assert.match((await first).message, /closed|ECONNRESET/);
  assert.is(await second, await first);
  assert.is(await failure(connection.command('C')), await first);
});

test('garbage ends the connection, not the process', async () => {
  const reply = failure(connection.command('A'));
  (await serverSocket).write('HTTP/1.1 400 Bad Request\r\n\r\n');
  assert.match((await reply).message, 'not a Redis reply: HTTP/1.1');
});

test('a reply that nobody asked for is a finding', async () => {
  const reply = connection.command('A');
  (await serverSocket).write('+one\r\n+one\r\n');
  assert.is(await reply, 'one');
  await sleep(20);
  assert.match((await failure(connection.command('B'))).message, 'more than was asked');
});

test('nobody there is an error at once', async () => {
  const { port } = server.address() as AddressInfo;
  (await serverSocket).destroy();
  await new Promise((resolve) => server.close(resolve));
  assert.match((await failure(RespConnection.connect('127.0.0.1', port, 5000))).message, 'ECONNREFUSED');
});

test.run();
