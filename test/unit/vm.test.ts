/** The commands that a VM's QEMU is given, by a stand-in for its monitor. */
import { spawn } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { parseConfig } from '../../src/agent/config.js';
import { Vm } from '../../src/agent/vm.js';
import { identify, writePidFile } from '../../src/qemu/process-identity.js';
import type { QemuRuntime } from '../../src/qemu/index.js';

interface Context {
  vm: Vm;
  /** What the monitor was asked to do. */
  commands: string[];
  /** Called before a command is answered. */
  onCommand: (command: string) => void;
  fd: number;
  end: () => void;
}

const vms = suite<Context>('vm');

vms.before.each(async (context) => {
  const folder = mkdtempSync(join(tmpdir(), 'colopp-vm-'));
  const process = spawn('sleep', ['60']);
  const sockets: Socket[] = [];
  context.commands = [];
  context.onCommand = () => {};
  const monitor: Server = createServer((socket) => {
    sockets.push(socket);
    const say = (message: object): void => void socket.write(`${JSON.stringify(message)}\r\n`);
    say({ QMP: { version: { qemu: { major: 11, minor: 1, micro: 0 }, package: '' }, capabilities: ['oob'] } });
    socket.on('data', (chunk) => {
      for (const line of chunk.toString().trim().split('\n')) {
        const { id, ...request } = JSON.parse(line) as { id: number; execute?: string; 'exec-oob'?: string };
        const command = (request.execute ?? request['exec-oob'])!;
        if (command !== 'qmp_capabilities') context.commands.push(command);
        context.onCommand(command);
        say({ id, return: command === 'query-migrate' ? { status: 'none' } : {} });
      }
    });
  }).listen(join(folder, 'qmp.sock'));
  await writePidFile(join(folder, 'qemu.pid'), identify(process.pid!)!);
  context.fd = openSync('/dev/null', 'r');
  context.vm = new Vm(parseConfig(`{host: a, role: primary, runDir: ${folder}, stateDir: /s, vm: {name: web, memoryMiB: 64, kernel: /k, mac: "52:54:00:00:00:01"},
    network: {bridge: b, tap: t, holdTap: h}, peer: {listen: "127.0.0.1:1", address: "127.0.0.1:2"}}`, 'test'), {} as QemuRuntime, 'tcg', () => {});
  await context.vm.adopt();
  context.end = () => {
    context.vm.detach();
    for (const socket of sockets) socket.destroy();
    monitor.close();
    process.kill('SIGKILL');
    closeSync(context.fd);
    rmSync(folder, { recursive: true });
  };
});
vms.after.each(({ end }) => end());

const preparing = ['migrate-set-capabilities', 'getfd', 'migrate-set-parameters'];
const dropping = ['yank', 'query-migrate'];

vms('an emulated VM is copied while it stands still, and goes on when the copy is given up', async ({ vm, fd, commands }) => {
  await vm.migrate({ fd }, new AbortController().signal);
  assert.equal(commands.splice(0), [...preparing, 'stop', 'migrate']);
  await vm.dropSecondary();
  assert.equal(commands, [...dropping, 'cont']);
});

for (const last of preparing) {
  vms(`a copy that is given up at ${last} does not stop the VM any more`, async (context) => {
    const { vm, fd, commands } = context;
    const copying = new AbortController();
    let dropped: Promise<void> | undefined;
    context.onCommand = (command) => {
      if (command !== last) return;
      copying.abort();
      dropped = vm.dropSecondary();
    };
    await vm.migrate({ fd }, copying.signal).then(() => assert.unreachable(), () => {});
    await dropped;
    assert.equal(commands, [...preparing.slice(0, preparing.indexOf(last) + 1), ...dropping]);
  });
}

vms('a copy that is given up while the VM is being stopped lets it go on', async (context) => {
  const { vm, fd, commands } = context;
  const copying = new AbortController();
  let dropped: Promise<void> | undefined;
  context.onCommand = (command) => {
    if (command !== 'stop') return;
    copying.abort();
    dropped = vm.dropSecondary();
  };
  await vm.migrate({ fd }, copying.signal).then(() => assert.unreachable(), () => {});
  await dropped;
  assert.equal(commands, [...preparing, 'stop', ...dropping, 'cont']);
});

vms('a connection that has ended meanwhile is not given to QEMU', async ({ vm, commands }) => {
  const ended = { get fd(): number { throw new Error('it has ended'); } };
  const error = await vm.migrate(ended, new AbortController().signal).then(() => undefined, (reason: Error) => reason);
  assert.is(error?.message, 'it has ended');
  assert.equal(commands, ['migrate-set-capabilities']);
});

vms.run();
