/** The runtime and the guest image that set-up built: a real boot, reached over QEMU's user-mode network. */
import { spawn, type ChildProcess } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createServer, connect, type AddressInfo } from 'node:net';
import { once } from 'node:events';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';

const BOOT_LIMIT_MS = 90_000;

interface Description {
  readonly kernel: string;
  readonly initrd: string;
  readonly append: string;
  readonly mac: string;
  readonly memoryMiB: number;
  readonly ports: { readonly redis: number; readonly http: number };
}

const read = <T>(path: string): T => JSON.parse(readFileSync(new URL(`../../../build/${path}`, import.meta.url), 'utf8')) as T;

interface Context {
  qemu: ChildProcess;
  redisPort: number;
  httpPort: number;
}

const test = suite<Context>('guest image');

test.before(async (context) => {
  const runtime = read<{ argvPrefix: string[]; env: Record<string, string> }>('qemu/runtime.json');
  const guest = read<Description>('guest/guest.json');
  [context.redisPort, context.httpPort] = [await freePort(), await freePort()];
  const forwards = `hostfwd=tcp:127.0.0.1:${context.redisPort}-:${guest.ports.redis},hostfwd=tcp:127.0.0.1:${context.httpPort}-:${guest.ports.http}`;
  const [program = '', ...prefix] = runtime.argvPrefix;
  context.qemu = spawn(program, [
    ...prefix, '-nodefaults', '-display', 'none', '-no-reboot', '-serial', 'stdio',
    '-M', 'q35', '-accel', 'tcg', '-cpu', 'max', '-smp', '2', '-m', String(guest.memoryMiB),
    '-kernel', guest.kernel, '-initrd', guest.initrd, '-append', `${guest.append} colopp.ip=10.0.2.15/24 colopp.gw=10.0.2.2`,
    '-netdev', `user,id=net,restrict=on,${forwards}`, '-device', `virtio-net-pci,netdev=net,mac=${guest.mac}`,
  ], { env: { ...process.env, ...runtime.env }, stdio: ['ignore', 'pipe', 'inherit'] });
  await banner(context.qemu);
});

test.after(async ({ qemu }) => {
  if (qemu.exitCode === null && qemu.signalCode === null) {
    qemu.kill('SIGKILL');
    await once(qemu, 'exit');
  }
});

/** Resolves when the guest says on its console that both services answer. */
async function banner(qemu: ChildProcess): Promise<void> {
  let console = '';
  await new Promise<void>((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`The guest was not ready in time: ${console.slice(-2000)}`)), BOOT_LIMIT_MS);
    qemu.once('exit', (status) => {
      clearTimeout(timer);
      reject(new Error(`QEMU ended with status ${status}: ${console.slice(-2000)}`));
    });
    qemu.stdout?.setEncoding('utf8').on('data', (text: string) => {
      console += text;
      if (!console.includes('COLOPP-GUEST-READY')) return;
      clearTimeout(timer);
      resolve();
    });
  });
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

/** Send Redis commands in the inline form; it must answer exactly `expected`. */
async function redis(port: number, commands: readonly string[], expected: string): Promise<void> {
  const socket = connect(port, '127.0.0.1');
  socket.setEncoding('utf8').setTimeout(10_000, () => socket.destroy());
  socket.write(commands.map((command) => `${command}\r\n`).join(''));
  let reply = '';
  for await (const text of socket) {
    reply += text as string;
    if (reply.length >= expected.length) break;
  }
  assert.is(reply, expected);
}

test('redis keeps what it is told, and saves nothing', async ({ redisPort }) => {
  await redis(redisPort, ['SET key value', 'GET key', 'INCR n', 'INCR n'], '+OK\r\n$5\r\nvalue\r\n:1\r\n:2\r\n');
  await redis(redisPort, ['CONFIG GET save'], '*2\r\n$4\r\nsave\r\n$0\r\n\r\n');
});

test('nginx serves pages of 1 KiB and 1 MiB in which every line says where it stands', async ({ httpPort }) => {
  for (const [path, size] of [['1k', 1024], ['1m', 1024 * 1024]] as const) {
    const response = await fetch(`http://127.0.0.1:${httpPort}/${path}`, { signal: AbortSignal.timeout(30_000) });
    assert.is(response.status, 200);
    assert.is(response.headers.get('connection'), 'keep-alive');
    const body = await response.text();
    assert.is(body.length, size);
    for (let at = 0; at < size; at += 16) {
      if (Number.parseInt(body.slice(at, at + 15), 16) !== at) assert.unreachable(`/${path} is wrong at ${at}`);
    }
  }
});

test.run();
