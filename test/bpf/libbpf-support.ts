/**
 * What the tests of libbpf-napi share: C compiled on the spot, and devices, mounts and directories
 * that go away with the process.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, rmdirSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import * as assert from 'uvu/assert';
import { type BpfError, Btf, ifIndex } from 'libbpf-napi';

const undo: (() => void)[] = [];

/** Runs when the process ends, however the test went; last in, first out. */
export function atExit(action: () => void): void {
  undo.push(action);
}

process.on('exit', () => {
  for (const action of undo.reverse()) attempt(action);
});
// A signal ends the process without an exit event, unless it is turned into one.
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(1));

// What is to be removed may be gone already: the test itself may have removed it.
function attempt(action: () => void): void {
  try {
    action();
  } catch {
    // Nothing is left to do about it.
  }
}

const ended = (pid: string | undefined): boolean => pid !== undefined && !existsSync(`/proc/${pid}`);

/** Removes what earlier runs left that could not clean up after themselves (SIGKILL, a crash). */
function sweep(): void {
  for (const name of readdirSync(tmpdir())) {
    if (!ended(/^colopp-libbpf-(\d+)-/.exec(name)?.[1])) continue;
    attempt(() => execFileSync('umount', [join(tmpdir(), name, 'bpffs')], { stdio: 'ignore' }));
    attempt(() => rmSync(join(tmpdir(), name), { recursive: true, force: true }));
  }
  for (const name of readdirSync('/sys/class/net')) {
    if (ended(/^clnb(\d+)[a-z]$/.exec(name)?.[1])) attempt(() => removeDevice(name));
  }
}
sweep();

/** A directory of this process alone. */
export const scratch = mkdtempSync(join(tmpdir(), `colopp-libbpf-${process.pid}-`));
atExit(() => rmSync(scratch, { recursive: true, force: true }));

function newestClang(): string {
  const versions = readdirSync('/usr/bin')
    .map((name) => /^clang-(\d+)$/.exec(name)?.[1])
    .filter((version) => version !== undefined)
    .map(Number);
  if (versions.includes(19)) return 'clang-19';
  return versions.length > 0 ? `clang-${Math.max(...versions)}` : 'clang';
}

let vmlinuxWritten = false;
let compiled = 0;

/** Compiles BPF C, with the running kernel's vmlinux.h and libbpf's headers included; returns the object's path. */
export function compile(source: string, name = `test${++compiled}`): string {
  if (!vmlinuxWritten) {
    writeFileSync(join(scratch, 'vmlinux.h'), Btf.load('/sys/kernel/btf/vmlinux').dumpC());
    vmlinuxWritten = true;
  }
  const from = join(scratch, `${name}.bpf.c`);
  const to = join(scratch, `${name}.bpf.o`);
  const prelude = `
    #include "vmlinux.h"
    #include <bpf/bpf_helpers.h>
    #include <bpf/bpf_tracing.h>
    #include <bpf/bpf_core_read.h>
    char LICENSE[] SEC("license") = "Dual MIT/GPL";
  `;
  writeFileSync(from, prelude + source);
  const warnings = ['-Wall', '-Wno-unused-function'];
  // Debian keeps <asm/...> apart by architecture; clang does not look there for this target.
  const include = ['-I', scratch, '-idirafter', `/usr/include/${process.arch === 'arm64' ? 'aarch64' : 'x86_64'}-linux-gnu`];
  const target = ['-target', 'bpf', `-D__TARGET_ARCH_${process.arch === 'arm64' ? 'arm64' : 'x86'}`];
  execFileSync(newestClang(), [...target, '-g', '-O2', ...warnings, ...include, '-c', from, '-o', to], { stdio: 'inherit' });
  return to;
}

/** Compiles a C program for this machine; returns its path. */
export function compileHost(source: string, name: string, ...flags: string[]): string {
  const from = join(scratch, `${name}.c`);
  const to = join(scratch, name);
  writeFileSync(from, source);
  execFileSync('gcc', ['-O1', '-fno-inline', ...flags, from, '-o', to], { stdio: 'inherit' });
  return to;
}

/** A pair of connected interfaces, both up. */
export interface VethPair {
  name: string;
  ifindex: number;
  peer: string;
  peerIndex: number;
}

let devices = 0;

export function vethPair(): VethPair {
  const name = `clnb${process.pid}${String.fromCharCode(97 + devices++)}`;
  const peer = `${name}p`;
  execFileSync('ip', ['link', 'add', name, 'type', 'veth', 'peer', 'name', peer]);
  atExit(() => removeDevice(name));
  for (const device of [name, peer]) {
    writeFileSync(`/proc/sys/net/ipv6/conf/${device}/disable_ipv6`, '1');
    execFileSync('ip', ['link', 'set', device, 'up']);
  }
  return { name, ifindex: ifIndex(name), peer, peerIndex: ifIndex(peer) };
}

export function removeDevice(name: string): void {
  execFileSync('ip', ['link', 'del', name], { stdio: 'ignore' });
}

/** A BPF file system of our own. */
export function bpfFileSystem(): string {
  const path = join(scratch, 'bpffs');
  mkdirSync(path);
  execFileSync('mount', ['-t', 'bpf', 'colopp-libbpf', path]);
  atExit(() => execFileSync('umount', [path]));
  return path;
}

/** An empty control group; undefined when the machine has no cgroup2. */
export function controlGroup(): string {
  const mounts = execFileSync('cat', ['/proc/self/mounts'], { encoding: 'utf8' });
  const root = /^\S+ (\S+) cgroup2 /m.exec(mounts)?.[1];
  if (root === undefined) throw new Error('this machine has no cgroup2 mounted: mount -t cgroup2 none DIR');
  const path = join(root, `colopp-libbpf-${process.pid}`);
  mkdirSync(path);
  atExit(() => rmdirSync(path));
  return path;
}

/** Mounts tracefs where libbpf looks for it, unless it is there. */
export function mountTracefs(): void {
  const path = '/sys/kernel/tracing';
  if (readdirSync(path).length > 0) return;
  execFileSync('mount', ['-t', 'tracefs', 'colopp-libbpf', path]);
  atExit(() => execFileSync('umount', [path]));
}

export const u32 = (...values: number[]): Uint8Array => new Uint8Array(Uint32Array.from(values).buffer);
export const u64 = (...values: bigint[]): Uint8Array => new Uint8Array(BigUint64Array.from(values).buffer);
export const asU32 = (bytes: Uint8Array | undefined, index = 0): number | undefined =>
  bytes && new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getUint32(4 * index, true);
export const asU64 = (bytes: Uint8Array | undefined, index = 0): bigint | undefined =>
  bytes && new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getBigUint64(8 * index, true);

/** The error that `action` throws; fails when it throws none. */
export function thrown<E extends Error = Error>(action: () => unknown): E {
  try {
    action();
  } catch (error) {
    return error as E;
  }
  throw new Error('this should have thrown');
}

/**
 * Some machines forbid root programs that touch other programs or security decisions. What they
 * forbid cannot be shown there, but the error can: this checks that it is the clear one.
 */
export function assertForbidden(error: BpfError, program: string): void {
  assert.is(error.code, 'EPERM', error.message);
  assert.is(error.operation, 'load');
  assert.match(error.message, `prog '${program}': BPF program load failed: Operation not permitted (EPERM); root is not enough here`);
  console.log(`this machine forbids program "${program}"; its refusal was checked instead`);
}

/** The error that a promise rejects with. */
export async function rejected<E extends Error = Error>(promise: Promise<unknown>): Promise<E> {
  try {
    await promise;
  } catch (error) {
    return error as E;
  }
  throw new Error('this should have been rejected');
}

setFlagsFromString('--expose-gc');
const gc = runInNewContext('gc') as () => void;

/** Collects what nobody holds, and lets its finalizers run. */
export async function collectGarbage(): Promise<void> {
  for (let i = 0; i < 5; i++) {
    gc();
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** Waits until `holds`, or throws after `limitMs`. */
export async function until(holds: () => boolean, limitMs = 5000): Promise<void> {
  const end = Date.now() + limitMs;
  while (!holds()) {
    if (Date.now() > end) throw new Error(`this did not become true within ${limitMs} ms: ${holds}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
