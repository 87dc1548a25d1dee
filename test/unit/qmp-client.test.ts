import { createServer, type Server, type Socket } from 'node:net';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { QmpClient, QmpError, type QmpEvent } from '../../src/qemu/qmp.js';

interface Request {
  execute?: string;
  'exec-oob'?: string;
  arguments?: unknown;
  id: number;
}

/** A stand-in for QEMU's end of the monitor; each test scripts what it says. */
interface Monitor {
  path: string;
  folder: string;
  server: Server;
  sockets: Socket[];
  /** Everything read after the negotiation. */
  requests: Request[];
  greeting: string;
  onRequest: (request: Request, say: (message: object) => void, socket: Socket) => void;
}

const VERSION = { qemu: { major: 11, minor: 1, micro: 2 }, package: '' };
const greet = (capabilities: string[]) =>
  `${JSON.stringify({ QMP: { version: VERSION, capabilities } })}\r\n`;
const event = (name: string, data?: object, timestampUs = Date.now() * 1000) => ({
  event: name,
  ...(data && { data }),
  timestamp: {
    seconds: Math.floor(timestampUs / 1e6),
    microseconds: Math.floor(timestampUs % 1e6),
  },
});

const qmp = suite<Monitor>('qmp client');

qmp.before.each(async (monitor) => {
  monitor.folder = mkdtempSync(join(tmpdir(), 'colopp-qmp-'));
  monitor.path = join(monitor.folder, 'qmp');
  monitor.sockets = [];
  monitor.requests = [];
  monitor.greeting = greet(['oob']);
  monitor.onRequest = (request, say) => say({ return: {}, id: request.id });
  monitor.server = createServer((socket) => {
    monitor.sockets.push(socket);
    socket.on('error', () => {});
    socket.write(monitor.greeting);
    let held = '';
    socket.on('data', (chunk: Buffer) => {
      const lines = (held + chunk.toString()).split('\n');
      held = lines.pop() ?? '';
      for (const line of lines) {
        const request = JSON.parse(line) as Request;
        const say = (message: object) => void socket.write(`${JSON.stringify(message)}\r\n`);
        if (request.execute === 'qmp_capabilities') {
          say({ return: {}, id: request.id });
        } else {
          monitor.requests.push(request);
          monitor.onRequest(request, say, socket);
        }
      }
    });
  });
  await new Promise<void>((resolve) => monitor.server.listen(monitor.path, resolve));
});

qmp.after.each((monitor) => {
  for (const socket of monitor.sockets) socket.destroy();
  monitor.server.close();
  rmSync(monitor.folder, { recursive: true, force: true });
});

async function failure(promise: Promise<unknown>): Promise<QmpError> {
  try {
    await promise;
  } catch (error) {
    assert.instance(error, QmpError);
    return error as QmpError;
  }
  throw new Error('it was expected to fail');
}

qmp('greets, negotiates out-of-band commands, and checks answers', async (monitor) => {
  monitor.onRequest = ({ id }, say) =>
    say({ return: { running: true, status: 'running', extra: 1 }, id });
  const client = await QmpClient.connect(monitor.path);
  assert.is(client.version.qemu.major, 11);
  assert.ok(client.oob);
  assert.equal(await client.execute('query-status'), { running: true, status: 'running' });
  client.close();
});

qmp('takes a QEMU without out-of-band commands, and says so when one is wanted', async (monitor) => {
  monitor.greeting = greet([]);
  const client = await QmpClient.connect(monitor.path);
  assert.not(client.oob);
  const error = await failure(client.execute('stop', undefined, { oob: true }));
  assert.is(error.code, 'QMP_PROTOCOL');
  client.close();
});

qmp('an out-of-band answer overtakes, and each answer finds its command', async (monitor) => {
  let sayLater: (() => void) | undefined;
  monitor.onRequest = (request, say) => {
    if (request.execute === 'stop') sayLater = () => say({ return: {}, id: request.id });
    else say({ return: {}, id: request.id });
  };
  const client = await QmpClient.connect(monitor.path);
  const order: string[] = [];
  const slow = client.execute('stop').then(() => order.push('stop'));
  const fast = client
    .execute('yank', { instances: [{ type: 'migration' }] }, { oob: true })
    .then(() => order.push('yank'));
  await fast;
  sayLater?.();
  await slow;
  assert.equal(order, ['yank', 'stop']);
  assert.is(monitor.requests[1]?.['exec-oob'], 'yank');
  client.close();
});

qmp('an out-of-band command leaves at once though the queue is full', async (monitor) => {
  const held: (() => void)[] = [];
  monitor.onRequest = (request, say) => {
    const answer = () => say({ return: {}, id: request.id });
    if (request['exec-oob']) answer();
    else held.push(answer);
  };
  const client = await QmpClient.connect(monitor.path);
  const queued = Array.from({ length: 20 }, () => client.execute('cont'));
  await client.execute('yank', { instances: [] }, { oob: true });
  assert.is(held.length, 6, 'never more than QEMU takes without blocking its monitor');
  const drain = setInterval(() => held.shift()?.(), 1);
  await Promise.all(queued);
  clearInterval(drain);
  assert.is(monitor.requests.filter((request) => request.execute === 'cont').length, 20);
  client.close();
});

qmp('what was given up before it was sent is never sent', async (monitor) => {
  const answers: (() => void)[] = [];
  monitor.onRequest = ({ id }, say) => answers.push(() => say({ return: {}, id }));
  const client = await QmpClient.connect(monitor.path);
  const all = Array.from({ length: 10 }, () =>
    failure(client.execute('stop', undefined, { timeoutMs: 30 })),
  );
  for (const error of await Promise.all(all)) assert.is(error.code, 'QMP_TIMEOUT');
  for (const answer of answers) answer();
  monitor.onRequest = ({ id }, say) => say({ return: {}, id });
  await client.execute('cont');
  assert.is(monitor.requests.filter(({ execute }) => execute === 'stop').length, 6);
  client.close();
});

qmp("QEMU's error arrives with its class, its words and the command", async (monitor) => {
  monitor.onRequest = ({ id }, say) =>
    say({ error: { class: 'GenericError', desc: 'COLO is off' }, id });
  const client = await QmpClient.connect(monitor.path);
  const error = await failure(client.execute('x-colo-lost-heartbeat'));
  assert.is(error.code, 'QMP_COMMAND');
  assert.is(error.class, 'GenericError');
  assert.is(error.desc, 'COLO is off');
  assert.is(error.command, 'x-colo-lost-heartbeat');
  client.close();
});

qmp('an answer of an unknown shape is refused, and the connection goes on', async (monitor) => {
  monitor.onRequest = ({ id }, say) => say({ return: { running: 'perhaps' }, id });
  const client = await QmpClient.connect(monitor.path);
  assert.is((await failure(client.execute('query-status'))).code, 'QMP_PROTOCOL');
  monitor.onRequest = ({ id }, say) => say({ return: { enabled: true, present: true }, id });
  assert.ok((await client.execute('query-kvm')).enabled);
  client.close();
});

qmp('a late answer harms nobody: the next command gets its own', async (monitor) => {
  const answers: (() => void)[] = [];
  monitor.onRequest = (request, say) => {
    answers.push(() => say({ return: { running: request.id > 2, status: 'x' }, id: request.id }));
    if (answers.length === 2) for (const answer of answers) answer();
  };
  const client = await QmpClient.connect(monitor.path);
  const error = await failure(client.execute('query-status', undefined, { timeoutMs: 20 }));
  assert.is(error.code, 'QMP_TIMEOUT');
  assert.match(error.message, /query-status within 20 ms/);
  assert.ok((await client.execute('query-status')).running);
  client.close();
});

qmp('a signal ends the wait with its own reason', async (monitor) => {
  monitor.onRequest = () => {};
  const client = await QmpClient.connect(monitor.path);
  const controller = new AbortController();
  const waiting = client.execute('stop', undefined, { signal: controller.signal });
  controller.abort(new Error('enough'));
  await waiting.then(
    () => assert.unreachable(),
    (error: Error) => assert.is(error.message, 'enough'),
  );
  client.close();
});

qmp('when the socket ends, everything pending and everything later rejects', async (monitor) => {
  monitor.onRequest = (_request, _say, socket) => {
    if (monitor.requests.length === 2) socket.destroy();
  };
  const client = await QmpClient.connect(monitor.path);
  const both = await Promise.all([
    failure(client.execute('stop')),
    failure(client.execute('query-status', undefined, { timeoutMs: Infinity })),
  ]);
  for (const error of both) {
    assert.is(error.code, 'QMP_CLOSED');
    assert.match(error.message, /was not answered: QEMU closed the QMP connection/);
  }
  assert.is((await failure(client.execute('cont'))).code, 'QMP_CLOSED');
  assert.is((await client.closed).code, 'QMP_CLOSED');
});

qmp('events come in the turn they are read, typed, in order, with their times', async (monitor) => {
  const seen: QmpEvent[] = [];
  const client = await QmpClient.connect(monitor.path, { onEvent: (e) => seen.push(e) });
  const order: string[] = [];
  client.on('STOP', () => order.push('STOP'));
  const off = client.on('RESUME', () => order.push('RESUME'));
  client.on('COLO_EXIT', ({ data }) => order.push(`COLO_EXIT ${data.mode} ${data.reason}`));
  const beforeNs = process.hrtime.bigint();
  monitor.onRequest = ({ id }, say) => {
    say(event('STOP'));
    say(event('RESUME'));
    say(event('NEVER_HEARD_OF', { anything: true }));
    say(event('COLO_EXIT', { mode: 'primary', reason: 'error' }));
    say({ return: {}, id });
  };
  await client.execute('stop');
  assert.equal(order, ['STOP', 'RESUME', 'COLO_EXIT primary error'], 'ahead of the answer');
  off();
  await client.execute('stop');
  assert.equal(order.slice(3), ['STOP', 'COLO_EXIT primary error'], 'RESUME is no longer heard');
  const names = seen.map(({ name }) => name);
  assert.equal(names.slice(0, 4), ['STOP', 'RESUME', 'NEVER_HEARD_OF', 'COLO_EXIT']);
  const first = seen[0]!;
  assert.ok(first.receivedNs > beforeNs && first.receivedNs < process.hrtime.bigint());
  // The stand-in stamps whole milliseconds, rounded down.
  assert.ok(first.monotonicNs > beforeNs - 2_000_000n && first.monotonicNs <= first.receivedNs);
  client.close();
});

qmp('an event of a known name and a foreign shape ends the connection', async (monitor) => {
  const client = await QmpClient.connect(monitor.path);
  monitor.sockets[0]?.write(`${JSON.stringify(event('COLO_EXIT', { mode: 'purple' }))}\n`);
  assert.is((await client.closed).code, 'QMP_PROTOCOL');
});

qmp('what is no JSON, no object, no message, or answers nothing asked ends it', async (monitor) => {
  for (const line of ['{"return": ', '42', '{"hello": 1}', '{"return": {}, "id": 77}']) {
    const client = await QmpClient.connect(monitor.path);
    monitor.onRequest = (_request, _say, socket) => void socket.write(`${line}\n`);
    const error = await failure(client.execute('stop'));
    assert.is(error.code, 'QMP_PROTOCOL', line);
    assert.match(error.message, /sent something that is not QMP/);
  }
});

qmp('a line of 1 GB is refused, not buffered', async (monitor) => {
  const client = await QmpClient.connect(monitor.path);
  const block = Buffer.alloc(1024 * 1024, 0x78);
  const before = process.memoryUsage();
  let peakBytes = 0;
  let sentBlocks = 0;
  const socket = monitor.sockets[0]!;
  const pump = () => {
    while (sentBlocks < 1024 && !socket.destroyed) {
      sentBlocks++;
      const { arrayBuffers, rss } = process.memoryUsage();
      peakBytes = Math.max(peakBytes, arrayBuffers - before.arrayBuffers, rss - before.rss);
      if (!socket.write(block)) break;
    }
  };
  socket.on('drain', pump);
  pump();
  const reason = await client.closed;
  assert.is(reason.code, 'QMP_PROTOCOL');
  assert.match(reason.message, /a line longer than 8388608 bytes/);
  assert.ok(sentBlocks < 64, `${sentBlocks} MiB were taken before it was refused`);
  assert.ok(peakBytes < 64 * 1024 * 1024, `memory grew by ${peakBytes} bytes`);
});

qmp('messages may arrive in any pieces', async (monitor) => {
  const client = await QmpClient.connect(monitor.path);
  monitor.onRequest = ({ id }, _say, socket) => {
    const bytes = Buffer.from(
      `${JSON.stringify(event('STOP'))}\r\n${JSON.stringify({ return: { running: false, status: 'späť' }, id })}\r\n`,
    );
    let at = 0;
    const drip = setInterval(() => {
      socket.write(bytes.subarray(at, (at += 7)));
      if (at >= bytes.length) clearInterval(drip);
    }, 1);
  };
  assert.is((await client.execute('query-status')).status, 'späť');
  client.close();
});

qmp('a monitor that another client holds is told apart from a missing one', async (monitor) => {
  monitor.greeting = '';
  const mute = await failure(QmpClient.connect(monitor.path, { timeoutMs: 50 }));
  assert.is(mute.code, 'QMP_CONNECT');
  assert.match(mute.message, /no QMP greeting .* another client/);
  const missing = await failure(QmpClient.connect(join(monitor.folder, 'none')));
  assert.is(missing.code, 'QMP_CONNECT');
  assert.match(missing.message, /ENOENT/);
});

qmp.run();
