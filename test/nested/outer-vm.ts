/** The outer VM: QEMU with a kernel of our choice, KVM for its own guests, and the checkout shared with it. */
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import type { NestedProbe } from '../../src/qemu/nested.js';
import type { QemuRuntime } from '../../src/qemu/runtime.js';
import { qemuEnvironment } from '../../src/qemu/runtime.js';
import { NewsReader, PORT_NAME, type News, type Order } from './messages.js';

export interface OuterVmOptions {
  runtime: QemuRuntime;
  accel: NestedProbe['accel'];
  /** The checkout; it appears in the VM at the same path, writable there, unchanged here. */
  project: string;
  /** What set-up made: `root.squashfs`, and per kernel a folder. */
  images: string;
  suite: string;
  memoryMiB: number;
  consoleFile: string;
  order: Order;
  /** From the start until the first word; and beyond the limit of a step, until it is cut. */
  startLimitMs: number;
  graceMs: number;
  signal: AbortSignal;
  onNews: (news: News) => void;
}

/** How it went: undefined if the tests ended by themselves, else what cut them off. */
export type CutOff = string | undefined;

/** Runs the VM to its end. @throws if QEMU cannot be started at all */
export async function runOuterVm(options: OuterVmOptions): Promise<CutOff> {
  const { runtime, order, signal, onNews } = options;
  const folder = mkdtempSync(join(tmpdir(), 'colopp-nested-')); // made 0700
  const portSocket = join(folder, 'port');
  const server = createServer();
  try {
    await new Promise<void>((resolve, reject) => server.once('error', reject).listen(portSocket, resolve));
    const [program, ...prefix] = runtime.argv;
    const qemu = spawn(program, [...prefix, ...qemuArguments(options, portSocket)], { env: qemuEnvironment(runtime), stdio: ['ignore', 'ignore', 'pipe'] });
    let said = '';
    qemu.stderr.setEncoding('utf8').on('data', (text: string) => { said = (said + text).slice(-4096); });

    let cutOff: CutOff;
    let ended = false;
    const cut = (reason: string): void => {
      cutOff ??= reason;
      qemu.kill('SIGKILL');
    };
    const onAbort = (): void => cut('It was interrupted.');
    signal.addEventListener('abort', onAbort, { once: true });
    if (signal.aborted) onAbort();
    let watchdog = setTimeout(() => cut(`The outer VM did not come up within ${options.startLimitMs / 1000} s.`), options.startLimitMs);
    const expect = (what: string, limitMs: number): void => {
      clearTimeout(watchdog);
      watchdog = setTimeout(() => cut(`${what} hung: no sign of it for ${Math.round(limitMs / 1000)} s.`), limitMs);
    };
    const reader = new NewsReader((news) => {
      if (news.type === 'step') expect(`The step "${news.name}"`, news.limitMs + options.graceMs);
      if (news.type === 'begin' || news.type === 'verdict' || news.type === 'end') expect('The outer VM', options.graceMs);
      ended ||= news.type === 'end';
      onNews(news);
    }, () => {});
    server.once('connection', (socket) => {
      socket.on('error', () => {}); // QEMU's end is seen below
      socket.setEncoding('utf8').on('data', (text: string) => reader.feed(text));
      socket.write(`${JSON.stringify(order)}\n`);
    });

    const how = await new Promise<string>((resolve) => {
      qemu.once('error', (error) => resolve(error.message));
      qemu.once('close', (status, killer) => resolve(killer ? `ended by ${killer}` : `status ${status}`));
    });
    clearTimeout(watchdog);
    signal.removeEventListener('abort', onAbort);
    if (cutOff === undefined && !ended) cutOff = `The outer VM ended before the tests did (QEMU: ${how}).${said === '' ? '' : `\n${said.trimEnd()}`}`;
    return cutOff;
  } finally {
    server.close();
    rmSync(folder, { recursive: true, force: true });
  }
}

function qemuArguments({ accel, project, images, suite, memoryMiB, consoleFile }: OuterVmOptions, portSocket: string): string[] {
  const escape = (path: string): string => path.replaceAll(',', ',,');
  const kernel = join(images, suite);
  return [
    ['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot'],
    ['-machine', 'q35'],
    // TCG translates our code again and again if it has little room; it emulates AMD's SVM by itself. With two CPUs that
    // goes wrong now and then: guests inside fault or hang, or the kernel finds its stacks overwritten (seen in QEMU 11.1).
    ...accel === 'kvm' ? [['-accel', 'kvm'], ['-cpu', 'host']] : [['-accel', 'tcg,tb-size=1024'], ['-cpu', 'max']],
    ['-smp', accel === 'kvm' ? String(Math.min(4, Math.max(2, cpus().length))) : '1'],
    ['-m', `${memoryMiB}M`],
    ['-kernel', join(kernel, 'vmlinuz'), '-initrd', join(kernel, 'initrd.img')],
    // No watchdog may take emulation for a hang; an oops must end the VM, not leave it half alive.
    ['-append', `console=ttyS0 panic=-1 oops=panic tsc=reliable no_timer_check nowatchdog nosoftlockup rcupdate.rcu_cpu_stall_suppress=1 mitigations=off random.trust_cpu=on colopp.project=${project}`],
    ['-drive', `file=${escape(join(images, 'root.squashfs'))},format=raw,readonly=on,if=none,id=root`, '-device', 'virtio-blk-pci,drive=root'],
    ['-fsdev', `local,id=project,path=${escape(project)},security_model=none,readonly=on,multidevs=remap`, '-device', 'virtio-9p-pci,fsdev=project,mount_tag=project'],
    ['-device', 'virtio-rng-pci', '-device', 'virtio-serial-pci'],
    ['-chardev', `socket,id=port,path=${escape(portSocket)}`, '-device', `virtserialport,chardev=port,name=${PORT_NAME}`],
    ['-chardev', `file,id=console,path=${escape(consoleFile)}`, '-serial', 'chardev:console'],
  ].flat();
}

/** The last lines of a console's file. */
export function lastLines(file: string, count: number): string {
  try {
    return readFileSync(file, 'latin1').replaceAll('\r', '').trimEnd().split('\n').slice(-count).join('\n');
  } catch {
    return '(none: it never spoke)';
  }
}
