import { isAbsolute } from 'node:path';
import { QemuError } from './errors.js';
import type { Plugin } from './plugins.js';

/** One network interface of the guest: a virtio-net device on an existing tap of the host. */
export interface VmNet {
  /** Names the pair netdev `net-ID` and device `nic-ID`; the same on both hosts. */
  id: string;
  /** The host's tap interface, made beforehand. May differ between the hosts. */
  tap: string;
  /** The guest's address; the same on both hosts. */
  mac: string;
}

/**
 * A virtual machine as QEMU is to run it. Everything the guest can see must be the same on both
 * hosts, or the secondary cannot load the primary's checkpoints: only taps, sockets, files of the
 * host and `incoming` may differ.
 */
export interface VmDescription {
  name: string;
  memoryMiB: number;
  vcpus: number;
  accel: 'kvm' | 'tcg';
  plugins?: readonly Plugin[];
  /** Absolute paths on the host. */
  kernel: string;
  initrd?: string | undefined;
  append?: string | undefined;
  nets: readonly VmNet[];
  /** Where the guest's first serial port goes: a log file, or a unix socket to talk on. */
  serial: { file: string } | { socket: string };
  /** The unix socket on which QEMU serves its monitor, in a directory that only we can enter. */
  qmpSocket: string;
  /** The secondary: QEMU starts empty and waits for `migrate-incoming`. */
  incoming: boolean;
  /** A fixed, versioned machine; the default is the newest that every QEMU >= 11 has. */
  machine?: string | undefined;
  /** A CPU model that does not depend on the host. */
  cpu?: string | undefined;
  /** Further QEMU arguments, the same on both hosts: disks, say. */
  extraArgs?: readonly string[] | undefined;
}

export const DEFAULT_MACHINE = 'pc-q35-11.0';

/**
 * x86-64-v2 without what a host may lack or what would leak the host into the guest. The named
 * models of Intel and AMD parts bring the maker with them; this one takes the host's.
 */
export const DEFAULT_CPU = 'qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,-svm';

/** Options that this builder decides; given twice, QEMU would obey the later one or refuse. */
const OWNED_OPTIONS = new Set(
  (
    'accel M machine cpu m smp name kernel initrd append incoming qmp qmp-pretty mon monitor ' +
    'daemonize pidfile S rtc nodefaults no-user-config display nographic sandbox msg serial ' +
    'enable-kvm only-migratable runas run-with'
  ).split(' '),
);

const LIMITS = { memoryMiB: [16, 1 << 20], vcpus: [1, 255] } as const;

/** sockaddr_un.sun_path holds 108 bytes, the final zero among them. */
const MAX_SOCKET_PATH_BYTES = 107;

/** Linux's IFNAMSIZ is 16 bytes, the final zero among them. */
const INTERFACE_NAME = /^[^\s/:]{1,15}$/u;
const ID = /^[A-Za-z][A-Za-z0-9-]{0,30}$/;
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/;
const UNICAST_MAC = /^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$/i;

/**
 * The arguments for QEMU, in an order that depends on the description alone. Nothing passes
 * through a shell. Throws QemuError `QEMU_CONFIG` for a description that cannot work.
 */
export function qemuArguments(vm: VmDescription): string[] {
  check(vm);
  const args = [
    // Only the devices named here exist: a default one could differ between two QEMU builds.
    ['-nodefaults', '-no-user-config'],
    ['-display', 'none'],
    ['-name', option(`guest=${escape(vm.name)}`, 'debug-threads=on')],
    ['-machine', option(vm.machine ?? DEFAULT_MACHINE, ...machineOptions(vm))],
    ['-accel', vm.accel === 'tcg' ? 'tcg,thread=multi' : 'kvm'],
    ...(vm.plugins ?? []).map(plugin),
    ['-cpu', cpu(vm)],
    ['-smp', option(`cpus=${vm.vcpus}`, 'sockets=1', `cores=${vm.vcpus}`, 'threads=1')],
    ['-m', `size=${vm.memoryMiB}M`],
    // The guest's clock stops with its vCPUs and travels in the checkpoint: were it the host's,
    // a takeover would show the guest another host's time in mid-flight.
    ['-rtc', 'base=utc,clock=vm'],
    ['-only-migratable'],
    // A guest that breaks out of QEMU finds no way to start a program or change user.
    ['-sandbox', 'on,obsolete=deny,elevateprivileges=deny,spawn=deny'],
    ['-msg', 'timestamp=on,guest-name=on'],
    ['-chardev', option('socket', 'id=qmp', pathOption(vm.qmpSocket), 'server=on', 'wait=off')],
    ['-qmp', 'chardev:qmp'],
    ...serial(vm),
    ...vm.nets.flatMap(net),
    ['-kernel', vm.kernel],
    vm.initrd === undefined ? [] : ['-initrd', vm.initrd],
    vm.append === undefined ? [] : ['-append', vm.append],
    vm.incoming ? ['-incoming', 'defer'] : [],
    [...(vm.extraArgs ?? [])],
  ];
  return args.flat();
}

/** In an option list QEMU reads `,,` as one comma of a value. */
function escape(value: string): string {
  return value.replaceAll(',', ',,');
}

function option(...parts: string[]): string {
  return parts.join(',');
}

function pathOption(path: string): string {
  return `path=${escape(path)}`;
}

function machineOptions(vm: VmDescription): string[] {
  // What no guest of ours uses costs state in every checkpoint and timers in between.
  // Without SMM there are fewer address spaces, which QEMU builds anew some twenty times per load.
  const common = ['usb=off', 'vmport=off', 'dump-guest-core=off'];
  if (!(vm.machine ?? DEFAULT_MACHINE).startsWith('pc-')) return common;
  const q35 = (vm.machine ?? DEFAULT_MACHINE).startsWith('pc-q35');
  return [...common, 'hpet=off', 'smm=off', ...(q35 ? ['sata=off', 'smbus=off'] : [])];
}

function plugin({ file, options }: Plugin): string[] {
  return ['-plugin', option(`file=${escape(file)}`, ...Object.entries(options ?? {}).map(([key, value]) => `${key}=${escape(value)}`))];
}

function cpu(vm: VmDescription): string {
  const model = vm.cpu ?? DEFAULT_CPU;
  // `enforce` makes QEMU refuse to start where the host lacks a feature, instead of hiding it.
  return vm.accel === 'kvm' ? option(model, 'enforce') : model;
}

function serial(vm: VmDescription): string[][] {
  const target =
    'file' in vm.serial
      ? option('file', 'id=serial', pathOption(vm.serial.file), 'append=on')
      : option('socket', 'id=serial', pathOption(vm.serial.socket), 'server=on', 'wait=off');
  return [
    ['-chardev', target],
    ['-serial', 'chardev:serial'],
  ];
}

function net({ id, tap, mac }: VmNet): string[][] {
  return [
    [
      '-netdev',
      option(
        'tap',
        `id=net-${id}`,
        `ifname=${escape(tap)}`,
        'script=no',
        'downscript=no',
        // Packets must pass through QEMU itself: a paused guest's device must be still, and the
        // kernel's own virtio back end (vhost) knows nothing of checkpoints.
        'vhost=off',
        'vnet_hdr=on',
      ),
    ],
    [
      '-device',
      // No option ROM: a guest that starts from a given kernel never boots from the network.
      option('virtio-net-pci', `id=nic-${id}`, `netdev=net-${id}`, `mac=${mac}`, 'romfile='),
    ],
  ];
}

function check(vm: VmDescription): void {
  if (!NAME.test(vm.name)) {
    throw refused(`name ${JSON.stringify(vm.name)} must be 1 to 63 letters, digits or . _ -`);
  }
  for (const key of ['memoryMiB', 'vcpus'] as const) {
    const [low, high] = LIMITS[key];
    if (!Number.isInteger(vm[key]) || vm[key] < low || vm[key] > high) {
      throw refused(`${key} is ${vm[key]}, but must be a whole number from ${low} to ${high}`);
    }
  }
  checkPath('kernel', vm.kernel);
  if (vm.initrd !== undefined) checkPath('initrd', vm.initrd);
  if (vm.append?.includes('\0')) throw refused('append holds a zero byte');
  checkSocket('qmpSocket', vm.qmpSocket);
  if ('file' in vm.serial) checkPath('serial.file', vm.serial.file);
  else checkSocket('serial.socket', vm.serial.socket);
  checkNets(vm.nets);
  checkMachine(vm.machine ?? DEFAULT_MACHINE);
  checkCpu(vm.cpu ?? DEFAULT_CPU);
  for (const arg of vm.extraArgs ?? []) checkExtra(arg);
}

function checkNets(nets: readonly VmNet[]): void {
  const seen = new Set<string>();
  for (const { id, tap, mac } of nets) {
    if (!ID.test(id)) throw refused(`net id ${JSON.stringify(id)} must be letters, digits or -`);
    if (!INTERFACE_NAME.test(tap)) {
      throw refused(`net ${id}: ${JSON.stringify(tap)} is no name of a network interface`);
    }
    if (!UNICAST_MAC.test(mac)) {
      throw refused(`net ${id}: ${JSON.stringify(mac)} is no unicast MAC address`);
    }
    for (const key of [`id ${id}`, `tap ${tap}`, `MAC address ${mac.toLowerCase()}`]) {
      if (seen.has(key)) throw refused(`two nets share the ${key}`);
      seen.add(key);
    }
  }
}

function checkMachine(machine: string): void {
  if (!/^[a-z0-9]+(-[a-z0-9]+)*-\d+\.\d+$/.test(machine)) {
    throw refused(
      `machine ${JSON.stringify(machine)} must carry a version, as ${DEFAULT_MACHINE} does, so that both hosts mean the same`,
    );
  }
}

function checkCpu(model: string): void {
  if (/^(host|max)(,|$)/.test(model)) {
    throw refused(
      `cpu model ${JSON.stringify(model)} depends on the host, so a checkpoint of one host might not load on the other; name a model`,
    );
  }
  if (!/^[A-Za-z0-9_.,+=-]+$/.test(model)) {
    throw refused(`cpu model ${JSON.stringify(model)} holds characters that no model has`);
  }
}

function checkExtra(arg: string): void {
  if (arg.includes('\0')) throw refused('an extra argument holds a zero byte');
  const name = /^--?([A-Za-z][A-Za-z0-9-]*)$/.exec(arg)?.[1];
  if (name !== undefined && OWNED_OPTIONS.has(name)) {
    throw refused(`extra argument ${arg} contradicts what the description already decides`);
  }
  if (/(^|,)vhost=on(,|$)/.test(arg)) {
    throw refused(`extra argument ${JSON.stringify(arg)} would let packets bypass QEMU`);
  }
}

function checkPath(what: string, path: string): void {
  if (!isAbsolute(path)) throw refused(`${what} ${JSON.stringify(path)} is not an absolute path`);
  if (path.includes('\0')) throw refused(`${what} holds a zero byte`);
}

function checkSocket(what: string, path: string): void {
  checkPath(what, path);
  const lengthBytes = Buffer.byteLength(path);
  if (lengthBytes > MAX_SOCKET_PATH_BYTES) {
    throw refused(
      `${what} ${JSON.stringify(path)} is ${lengthBytes} bytes long; a unix socket's path may have ${MAX_SOCKET_PATH_BYTES}`,
    );
  }
}

function refused(why: string): QemuError {
  return new QemuError('QEMU_CONFIG', `the VM description cannot be used: ${why}`);
}
