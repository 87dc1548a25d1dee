/** The agent's control socket against everything a local program may do to it. */

import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createConnection, type Socket } from 'node:net';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { callAgent, ControlError, ControlServer, watchAgent, type ControlHandler, type ControlRequest } from '../../src/agent/control.js';

let folder: string;
let path: string;
let server: ControlServer | undefined;
const sockets: Socket[] = [];

test.before.each(() => {
  folder = mkdtempSync(join(tmpdir(), 'colopp-control-'));
  path = join(folder, 'agent.sock');
});
test.after.each(() => {
  for (const socket of sockets.splice(0)) socket.destroy();
  server?.close();
  server = undefined;
  rmSync(folder, { recursive: true });
});

async function serve(handle: ControlHandler = async ({ command }) => ({ did: command })): Promise<void> {
  server = await ControlServer.listen(path, handle);
}

async function dial(): Promise<Socket> {
  const socket = createConnection(path);
  sockets.push(socket);
  socket.on('error', () => {});
  await once(socket, 'connect');
  return socket;
}

/** The next line that comes, or undefined if the connection ends first. */
async function line(socket: Socket): Promise<unknown> {
  let text = '';
  return new Promise((resolve) => {
    const onClose = (): void => resolve(undefined);
    const onData = (chunk: Buffer): void => {
      text += String(chunk);
      if (!text.includes('\n')) return;
      socket.off('data', onData).off('close', onClose);
      resolve(JSON.parse(text.slice(0, text.indexOf('\n'))));
    };
    socket.on('data', onData);
    socket.once('close', onClose);
  });
}

const fails = async (promise: Promise<unknown>): Promise<ControlError> => {
  const error: unknown = await promise.then(() => undefined, (reason: unknown) => reason);
  assert.instance(error, ControlError);
  return error as ControlError;
};

test('only its owner may talk to it', async () => {
  await serve();
  assert.is(statSync(path).mode & 0o777, 0o600);
});

test('a request gets its answer', async () => {
  await serve();
  assert.equal(await callAgent(path, { command: 'status' }), { did: 'status' });
});

test('64-bit times arrive as text', async () => {
  await serve(async () => ({ atNs: 12345678901234567890n }));
  assert.equal(await callAgent(path, { command: 'status' }), { atNs: '12345678901234567890' });
});

test('several requests on one connection are each answered, the last line unfinished or not', async () => {
  await serve();
  const socket = await dial();
  socket.write('{"command":"status"}\n{"command":"failover"}\n{"comm');
  let text = '';
  socket.on('data', (chunk) => { text += String(chunk); });
  await sleep(50);
  socket.write('and":"stop"}\n');
  await sleep(50);
  assert.equal(text.trim().split('\n').map((answer) => JSON.parse(answer).result.did), ['status', 'failover', 'stop']);
});

test('the agent\'s errors keep their code and sentence', async () => {
  await serve(async () => { throw new ControlError('NOT_PROTECTED', 'The VM is not protected.'); });
  const error = await fails(callAgent(path, { command: 'failover' }));
  assert.is(error.code, 'NOT_PROTECTED');
  assert.is(error.message, 'The VM is not protected.');
});

test('malformed requests are refused and the next one is answered', async () => {
  const asked: ControlRequest[] = [];
  await serve(async (request) => { asked.push(request); return 1; });
  const socket = await dial();
  for (const text of ['', 'hello', '{', '[]', 'null', '{"command":"rm -rf"}', '{"command":"status","more":1}', '{"command":["status"]}', '\0\x01\x02', '{"command":"status"} x']) {
    socket.write(`${text}\n`);
    const answer = await line(socket) as { ok: boolean; code: string; error: string };
    assert.is(answer.ok, false, text);
    assert.is(answer.code, 'CONTROL_REQUEST');
    assert.ok(answer.error.length < 200);
  }
  socket.write('{"command":"status"}\n');
  assert.equal(await line(socket), { ok: true, result: 1 });
  assert.is(asked.length, 1);
});

test('a line that is too long is refused', async () => {
  await serve();
  const socket = await dial();
  socket.write('x'.repeat(65 * 1024));
  assert.equal(await line(socket), { ok: false, code: 'CONTROL_REQUEST', error: 'A line longer than 65536 bytes is refused.' });
  await once(socket, 'close');
});

test('a line of 1 GB is cut off early, and costs no memory', async () => {
  await serve();
  const socket = await dial();
  socket.resume();
  const chunk = Buffer.alloc(64 * 1024, 'x');
  const before = process.memoryUsage().rss;
  let sentBytes = 0;
  let wake = (): void => {};
  socket.on('drain', () => wake()).on('close', () => wake());
  while (!socket.destroyed && sentBytes < 1024 ** 3) {
    sentBytes += chunk.length;
    if (!socket.write(chunk)) await new Promise<void>((resolve) => { wake = resolve; });
  }
  assert.ok(socket.destroyed);
  assert.ok(sentBytes < 16 * 1024 ** 2, `${sentBytes} bytes were taken`);
  assert.ok(process.memoryUsage().rss - before < 64 * 1024 ** 2);
  assert.equal(await callAgent(path, { command: 'status' }), { did: 'status' });
});

test('64 may be connected; one more is turned away, and another is served when one leaves', async () => {
  await serve();
  const open = [];
  for (let i = 0; i < 64; i++) open.push(await dial());
  await sleep(50);
  const late = await dial();
  late.write('{"command":"status"}\n');
  assert.is(await line(late), undefined);
  open[0]!.write('{"command":"status"}\n');
  assert.equal(await line(open[0]!), { ok: true, result: { did: 'status' } });
  open[1]!.destroy();
  await sleep(50);
  assert.equal(await callAgent(path, { command: 'status' }), { did: 'status' });
});

test('a watcher is told everything until it leaves', async () => {
  let tell: (value: unknown) => void = () => {};
  let gone = false;
  await serve(async (_request, push, ended) => {
    tell = push;
    ended.addEventListener('abort', () => { gone = true; });
    return 'first';
  });
  const leaving = new AbortController();
  const seen: unknown[] = [];
  for await (const value of watchAgent(path, leaving.signal)) {
    seen.push(value);
    if (seen.length === 1) for (const number of [1, 2, 3]) tell({ number });
    if (seen.length === 4) leaving.abort();
  }
  assert.equal(seen, ['first', { number: 1 }, { number: 2 }, { number: 3 }]);
  await sleep(50);
  assert.ok(gone);
});

test('a watcher that does not read is cut off before it costs memory', async () => {
  let tell: (value: unknown) => void = () => {};
  let gone = false;
  await serve(async (_request, push, ended) => {
    tell = push;
    ended.addEventListener('abort', () => { gone = true; });
    return 1;
  });
  const socket = await dial();
  socket.pause();
  socket.write('{"command":"watch"}\n');
  await sleep(50);
  const news = { text: 'x'.repeat(10_000) };
  let told = 0;
  for (; !gone && told < 10_000; told++) {
    tell(news);
    if (told % 100 === 0) await sleep(1);
  }
  assert.ok(gone, 'it was cut off');
  assert.ok(told * 10_000 < 16 * 1024 ** 2, `after ${told} news`);
});

test('an agent that is not there is named, with what to do', async () => {
  const missing = await fails(callAgent(path, { command: 'status' }));
  assert.is(missing.code, 'AGENT_UNREACHABLE');
  assert.match(missing.message, 'no agent listens there');
  writeFileSync(path, '');
  assert.is((await fails(callAgent(path, { command: 'status' }))).code, 'AGENT_UNREACHABLE');
});

test('a dead agent\'s socket is replaced, and removed at the end', async () => {
  writeFileSync(path, 'left over');
  await serve();
  assert.equal(await callAgent(path, { command: 'status' }), { did: 'status' });
  server!.close();
  assert.throws(() => statSync(path), /ENOENT/);
});

test('an agent that ends without an answer, or gives none in time, is an error', async () => {
  await serve(() => new Promise(() => {}));
  assert.is((await fails(callAgent(path, { command: 'status' }, { timeoutMs: 50 }))).code, 'AGENT_TIMEOUT');
  const call = fails(callAgent(path, { command: 'status' }));
  await sleep(50);
  server!.close();
  assert.is((await call).code, 'AGENT_GONE');
});

test.run();
