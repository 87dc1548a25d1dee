import { execFileSync, fork } from 'node:child_process';
import { once } from 'node:events';
import {
  appendFileSync,
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import {
  locateQemu,
  probeKvm,
  probeQemu,
  qemuArguments,
  QemuError,
  QemuProcess,
  QmpClient,
  QmpError,
  type QemuRuntime,
  type QmpEvent,
  type StartOptions,
} from '../../src/qemu/index.js';

interface Context {
  runtime: QemuRuntime;
  folder: string;
  started: QemuProcess[];
}

const SELF = fileURLToPath(import.meta.url);
const qemu = suite<Context>('qemu process');

qemu.before(async (context) => {
  context.runtime = await locateQemu();
});
qemu.before.each((context) => {
  context.folder = mkdtempSync(join(tmpdir(), 'colopp-qemu-'));
  context.started = [];
});
qemu.after.each(async ({ folder, started }) => {
  for (const vm of started) await vm.kill();
  rmSync(folder, { recursive: true, force: true });
});

/** A QEMU without a machine: up in some 50 ms, and everything around it is real. */
function bare({ runtime, folder }: Context, extra: string[] = []): StartOptions {
  const qmpSocket = join(folder, 'qmp');
  return {
    runtime,
    args: [
      ...['-nodefaults', '-no-user-config', '-display', 'none', '-machine', 'none'],
      ...['-chardev', `socket,id=qmp,path=${qmpSocket},server=on,wait=off`],
      ...['-qmp', 'chardev:qmp'],
      ...extra,
    ],
    qmpSocket,
    pidFile: join(folder, 'pid'),
    logFile: join(folder, 'log'),
  };
}

async function start(context: Context, options: StartOptions): Promise<QemuProcess> {
  const vm = await QemuProcess.start(options);
  context.started.push(vm);
  return vm;
}

async function failure(promise: Promise<unknown>): Promise<QemuError | QmpError> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof QemuError || error instanceof QmpError) return error;
    throw error;
  }
  throw new Error('it was expected to fail');
}

qemu('the probe finds a version and COLO, and decides on KVM with a reason', async ({ runtime }) => {
  const probe = await probeQemu(runtime);
  assert.ok(Number.parseInt(probe.version, 10) >= 11);
  assert.ok(probe.colo);
  assert.match(probe.kvm.reason, /^(KVM|QEMU) /);
});

qemu('the probe leaves nothing behind', async ({ runtime }) => {
  const count = () => execFileSync('ps', ['-eo', 'args']).toString().split('colopp-probe-').length;
  const before = count();
  await probeQemu(runtime);
  await probeKvm(runtime, {}, { device: '/nonexistent' });
  assert.is(count(), before);
});

qemu('it starts, answers, and stops on request', async (context) => {
  const options = bare(context);
  const vm = await start(context, options);
  assert.ok(vm.running);
  assert.is(vm.qmp.version.qemu.major, (await vm.qmp.execute('query-version')).qemu.major);
  assert.ok(vm.qmp.oob);
  assert.is((await vm.qmp.execute('query-migrate')).status, undefined);
  assert.is((await vm.qmp.execute('query-colo-status')).mode, 'none');
  assert.is(statSync(options.qmpSocket).mode & 0o777, 0o600);
  assert.is(statSync(options.pidFile).mode & 0o777, 0o600);
  await vm.stop();
  await vm.ended;
  assert.not(vm.running);
  assert.not(existsSync(options.pidFile));
  assert.not(existsSync(options.qmpSocket));
  assert.is((await vm.qmp.closed).code, 'QMP_CLOSED');
});

qemu('real refusals and events come through as they are', async (context) => {
  const events: QmpEvent[] = [];
  const vm = await start(context, { ...bare(context), onEvent: (event) => events.push(event) });
  const refused = (await failure(vm.qmp.execute('x-colo-lost-heartbeat'))) as QmpError;
  assert.is(refused.code, 'QMP_COMMAND');
  assert.is(refused.class, 'GenericError');
  const unknown = (await failure(vm.qmp.executeUntyped('no-such-command'))) as QmpError;
  assert.is(unknown.class, 'CommandNotFound');
  const yankable = await vm.qmp.execute('query-yank', undefined, { oob: true });
  assert.equal(yankable, [{ type: 'chardev', id: 'qmp' }]);

  await vm.qmp.execute('cont');
  const beforeNs = process.hrtime.bigint();
  await vm.qmp.execute('stop');
  const afterNs = process.hrtime.bigint();
  const stop = events.find(({ name }) => name === 'STOP')!;
  // QEMU's wall-clock stamp, converted, falls between our own two readings: to 50 us.
  assert.ok(stop.monotonicNs > beforeNs - 50_000n, `${beforeNs - stop.monotonicNs} ns early`);
  assert.ok(stop.monotonicNs < afterNs + 50_000n, `${stop.monotonicNs - afterNs} ns late`);
  assert.ok(stop.receivedNs >= beforeNs && stop.receivedNs <= afterNs);
  await vm.stop();
  assert.is(events.at(-1)?.name, 'SHUTDOWN');
});

qemu('a QEMU that does not come up says why', async (context) => {
  const options = bare(context, ['-no-such-option']);
  const error = await failure(QemuProcess.start(options));
  assert.is(error.code, 'QEMU_START');
  assert.match(error.message, /it ended with exit code 1; its log .*no-such-option/s);
  assert.not(existsSync(options.pidFile));

  const runtime = { argv: ['/nonexistent/qemu'] as const, env: {}, origin: 'test' };
  const missing = await failure(QemuProcess.start({ ...bare(context), runtime }));
  assert.is(missing.code, 'QEMU_START');
  assert.match(missing.message, /could not be run: .*ENOENT/);
});

qemu('a QEMU that never serves its monitor is ended', async (context) => {
  const options = bare(context);
  const elsewhere = options.args.map((arg) => arg.replace('/qmp,', '/other,'));
  const error = await failure(QemuProcess.start({ ...options, args: elsewhere, timeoutMs: 300 }));
  assert.match(error.message, 'its monitor said nothing for 300 ms');
  const processes = execFileSync('ps', ['-eo', 'args']).toString();
  assert.not.match(processes, context.folder);
});

qemu('a start that is given up leaves no process', async (context) => {
  const options = bare(context);
  const elsewhere = options.args.map((arg) => arg.replace('/qmp,', '/other,'));
  const controller = new AbortController();
  setTimeout(() => controller.abort(new Error('never mind')), 100);
  const { signal } = controller;
  await QemuProcess.start({ ...options, args: elsewhere, signal }).then(
    () => assert.unreachable(),
    (error: Error) => assert.is(error.message, 'never mind'),
  );
  assert.not.match(execFileSync('ps', ['-eo', 'args']).toString(), context.folder);
});

qemu('a second one for the same VM is refused, the first goes on', async (context) => {
  const options = bare(context);
  const first = await start(context, options);
  const error = await failure(QemuProcess.start(options));
  assert.is(error.code, 'QEMU_RUNNING');
  assert.match(error.message, `process ${first.pid}`);
  await first.qmp.execute('query-version');
});

qemu('it survives whoever started it, and is adopted', async (context) => {
  const child = fork(SELF, ['start', context.folder]);
  const [pid] = (await once(child, 'message')) as [number];
  child.kill('SIGKILL');
  await once(child, 'exit');
  const { pidFile, qmpSocket } = bare(context);
  const vm = await QemuProcess.adopt({ pidFile, qmpSocket });
  context.started.push(vm);
  assert.is(vm.pid, pid);
  // It has a session of its own and no parent of ours.
  const sid = execFileSync('ps', ['-o', 'sid=', '-p', String(pid)]).toString().trim();
  assert.is(sid, String(pid));
  await vm.qmp.execute('query-version');
  process.kill(pid, 'SIGKILL');
  await vm.ended;
  assert.not(vm.running);
  assert.is((await failure(QemuProcess.adopt({ pidFile, qmpSocket }))).code, 'QEMU_GONE');
});

qemu('an unresponsive one is ended all the same', async (context) => {
  const vm = await start(context, bare(context));
  process.kill(vm.pid, 'SIGSTOP');
  await vm.stop(200);
  assert.not(vm.running);
});

qemu('a pid that now belongs to another process is left alone', async (context) => {
  const { pidFile, qmpSocket } = bare(context);
  const other = fork(SELF, ['idle']);
  await once(other, 'message');
  const identity = { pid: other.pid, startTicks: 1, bootId: 'of another boot' };
  writeFileSync(pidFile, JSON.stringify(identity));
  assert.is((await failure(QemuProcess.adopt({ pidFile, qmpSocket }))).code, 'QEMU_GONE');
  const vm = await start(context, bare(context)); // a stale file is no obstacle
  await vm.stop();
  assert.is(other.exitCode, null);
  other.kill('SIGKILL');
  await once(other, 'exit');
});

qemu('a damaged pid file names no process', async (context) => {
  const { pidFile, qmpSocket } = bare(context);
  for (const text of ['', '{', '{"pid":1}', '{"pid":-1,"startTicks":0,"bootId":""}']) {
    writeFileSync(pidFile, text);
    assert.is((await failure(QemuProcess.adopt({ pidFile, qmpSocket }))).code, 'QEMU_GONE');
  }
});

qemu('its monitor is never put where others can enter', async (context) => {
  chmodSync(context.folder, 0o755);
  const error = await failure(QemuProcess.start(bare(context)));
  assert.is(error.code, 'QEMU_CONFIG');
  assert.match(error.message, /open to other users .*mode 755.*chmod 700/);
});

qemu('its log is kept and appended to', async (context) => {
  const options = bare(context);
  appendFileSync(options.logFile, 'from before\n');
  await failure(QemuProcess.start({ ...options, args: ['-bogus'] }));
  const log = readFileSync(options.logFile, 'utf8');
  assert.match(log, /^from before\n.*-bogus/s);
});

qemu('a real QEMU takes our whole command line, with a tap and commas in paths', async (context) => {
  const tap = `clq${process.pid}`;
  execFileSync('ip', ['tuntap', 'add', tap, 'mode', 'tap', 'vnet_hdr']);
  try {
    const home = join(context.folder, 'a,b');
    mkdirSync(home, { mode: 0o700 });
    const qmpSocket = join(home, 'qmp');
    const logFile = join(home, 'log');
    const vm = await start(context, {
      runtime: context.runtime,
      args: qemuArguments({
        name: 'test',
        memoryMiB: 64,
        vcpus: 2,
        accel: 'tcg',
        kernel: '/nonexistent/kernel',
        nets: [{ id: 'lan', tap, mac: '52:54:00:c0:10:01' }],
        serial: { file: join(home, 'serial') },
        qmpSocket,
        incoming: true,
      }).filter((arg, i, args) => arg !== '-kernel' && args[i - 1] !== '-kernel'),
      qmpSocket,
      pidFile: join(home, 'pid'),
      logFile,
    });
    assert.is((await vm.qmp.execute('query-status')).status, 'inmigrate');
    const vcpus = await vm.qmp.execute('query-cpus-fast');
    for (const vcpu of vcpus) {
      assert.ok(existsSync(`/proc/${vm.pid}/task/${vcpu['thread-id']}`), 'a thread of this QEMU');
    }
    assert.is(vcpus.length, 2);
    assert.ok(existsSync(join(home, 'serial')));
    await vm.qmp.execute('set_link', { name: 'nic-lan', up: false });
    assert.is(readFileSync(logFile, 'utf8'), '', 'no warning, and nothing deprecated');
  } finally {
    for (const vm of context.started) await vm.kill();
    execFileSync('ip', ['link', 'del', tap]);
  }
});

qemu('a monitor serves one client at a time', async (context) => {
  const options = bare(context);
  const vm = await start(context, options);
  const error = await failure(QmpClient.connect(options.qmpSocket, { timeoutMs: 100 }));
  assert.is(error.code, 'QMP_CONNECT');
  assert.match(error.message, 'another client holds its monitor');
  vm.detach();
  const again = await QmpClient.connect(options.qmpSocket);
  again.close();
  assert.ok(vm.running);
});

const [role, folder = ''] = process.argv.slice(2);
if (role === 'start') {
  const runtime = await locateQemu();
  const vm = await QemuProcess.start(bare({ runtime, folder, started: [] }));
  process.send?.(vm.pid);
  setInterval(() => {}, 1000); // until we are killed
} else if (role === 'idle') {
  process.send?.('idling');
  setInterval(() => {}, 1000);
} else {
  qemu.run();
}
