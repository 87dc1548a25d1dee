import { access, constants, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { QemuError } from './errors.js';
import { QemuProcess } from './process.js';
import { requireVersion, type QemuRuntime } from './runtime.js';

/** What a QEMU on this host can do. */
export interface QemuProbe {
  /** `major.minor.micro` */
  version: string;
  /** Whether COLO was compiled in. */
  colo: boolean;
  kvm: KvmProbe;
}

/** Whether guests can run on KVM here; `reason` is a sentence either way. */
export interface KvmProbe {
  usable: boolean;
  reason: string;
}

/** Where to look, for tests. */
export interface KvmPaths {
  device?: string;
  cpuinfo?: string;
}

/**
 * Starts the QEMU without a machine and asks it. Takes some 200 ms. Throws QemuError with the
 * remedy where it cannot replicate a VM at all: `QEMU_VERSION`, `QEMU_COLO`, `QEMU_START`.
 */
export async function probeQemu(
  runtime: QemuRuntime,
  options: { signal?: AbortSignal } = {},
): Promise<QemuProbe> {
  const { version, capabilities } = await withBareQemu(runtime, [], options, async ({ qmp }) => ({
    version: qmp.version.qemu,
    capabilities: await qmp.execute('query-migrate-capabilities'),
  }));
  const text = `${version.major}.${version.minor}.${version.micro}`;
  requireVersion(text, runtime.origin);
  const colo = capabilities.some(({ capability }) => capability === 'x-colo');
  if (!colo) {
    throw new QemuError(
      'QEMU_COLO',
      `QEMU ${text} (${runtime.origin}) was built without COLO, so it cannot replicate a VM; run \`npm run setup\` to get one that can`,
    );
  }
  return { version: text, colo, kvm: await probeKvm(runtime, options) };
}

/** Asks the host, then QEMU itself, whether KVM can run a guest here. */
export async function probeKvm(
  runtime: QemuRuntime,
  options: { signal?: AbortSignal } = {},
  paths: KvmPaths = {},
): Promise<KvmProbe> {
  const obstacle = await kvmObstacle(paths);
  if (obstacle !== undefined) return { usable: false, reason: obstacle };
  try {
    const { enabled } = await withBareQemu(runtime, ['-accel', 'kvm'], options, ({ qmp }) =>
      qmp.execute('query-kvm'),
    );
    return enabled
      ? { usable: true, reason: 'KVM works: QEMU opened /dev/kvm' }
      : { usable: false, reason: 'QEMU accepted -accel kvm but reports KVM as off' };
  } catch (error) {
    if (!(error instanceof QemuError)) throw error;
    return { usable: false, reason: `QEMU could not use KVM: ${error.message}` };
  }
}

/** What keeps KVM from working, as far as files of the host show it; undefined if nothing does. */
export async function kvmObstacle(paths: KvmPaths = {}): Promise<string | undefined> {
  const { device = '/dev/kvm', cpuinfo = '/proc/cpuinfo' } = paths;
  try {
    await access(device, constants.R_OK | constants.W_OK);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    return code === 'ENOENT'
      ? `KVM is off: there is no ${device} (load kvm_intel or kvm_amd)`
      : `KVM is off: no permission to open ${device} (${code}); run as root`;
  }
  // The device alone proves nothing: it may belong to a hypervisor that runs only its own guests.
  const flags = /^flags\s*:(.*)$/m.exec(await readFile(cpuinfo, 'utf8'))?.[1]?.split(' ') ?? [];
  if (!flags.includes('vmx') && !flags.includes('svm')) {
    return `KVM is off: ${device} exists, but ${cpuinfo} shows neither vmx nor svm, so it cannot run an ordinary guest`;
  }
  return undefined;
}

/** The accelerator to use. Throws QemuError `QEMU_KVM` if KVM was asked for and cannot work. */
export function chooseAccel(
  wanted: 'auto' | 'kvm' | 'tcg',
  kvm: KvmProbe,
): { accel: 'kvm' | 'tcg'; reason: string } {
  if (wanted === 'tcg') return { accel: 'tcg', reason: 'TCG, as configured' };
  if (kvm.usable) return { accel: 'kvm', reason: kvm.reason };
  if (wanted === 'auto') return { accel: 'tcg', reason: `TCG, since ${kvm.reason}` };
  throw new QemuError(
    'QEMU_KVM',
    `the configuration asks for KVM, but ${kvm.reason}; set accel to auto or tcg to emulate`,
  );
}

async function withBareQemu<T>(
  runtime: QemuRuntime,
  args: string[],
  { signal }: { signal?: AbortSignal },
  ask: (qemu: QemuProcess) => Promise<T>,
): Promise<T> {
  const folder = await mkdtemp(join(tmpdir(), 'colopp-probe-')); // made 0700
  const qmpSocket = join(folder, 'qmp');
  try {
    const qemu = await QemuProcess.start({
      runtime,
      args: [
        ...['-nodefaults', '-no-user-config', '-display', 'none', '-machine', 'none', ...args],
        ...['-chardev', `socket,id=qmp,path=${qmpSocket},server=on,wait=off`],
        ...['-qmp', 'chardev:qmp'],
      ],
      qmpSocket,
      pidFile: join(folder, 'pid'),
      logFile: join(folder, 'log'),
      signal,
    });
    try {
      return await ask(qemu);
    } finally {
      await qemu.stop();
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
