/** Can this host take part in a pair? Every answer comes from trying. */

import { access } from 'node:fs/promises';
import { execFile } from 'node:child_process';
import { arch, release } from 'node:os';
import { probeGate } from '../dataplane/gate.js';
import { locateQemu, probeQemu } from '../qemu/index.js';

export interface Finding {
  name: string;
  verdict: 'ok' | 'warn' | 'fail';
  detail: string;
  /** What to do about it; empty if nothing needs doing. */
  remedy: string;
}

const checks: readonly [string, () => Promise<Omit<Finding, 'name'>>][] = [
  ['root', async () => process.geteuid?.() === 0
    ? ok('running as root')
    : fail(`running as user ${process.geteuid?.()}`, 'Run it with sudo: taps, namespaces and BPF programs need root.')],
  ['machine', async () => arch() === 'x64'
    ? ok(`x86-64, Linux ${release()}`)
    : fail(`${arch()}, Linux ${release()}`, 'Use an x86-64 host: the VM\'s machine type is one.')],
  ['BTF', async () => await exists('/sys/kernel/btf/vmlinux')
    ? ok('the kernel has type information')
    : fail('/sys/kernel/btf/vmlinux is missing', 'Use a kernel built with CONFIG_DEBUG_INFO_BTF=y, as Debian\'s are.')],
  ['tun', async () => await exists('/dev/net/tun')
    ? ok('/dev/net/tun is there')
    : fail('/dev/net/tun is missing', 'Load it: modprobe tun')],
  ['ip', () => new Promise((resolve) => {
    execFile('ip', ['-V'], (error, stdout) => resolve(error
      ? fail('the ip command cannot be run', 'Install it: apt-get install iproute2')
      : ok(stdout.trim())));
  })],
  ['gate', async () => {
    try {
      await probeGate();
      return ok('the gate\'s BPF programs load and attach to a tap (tcx)');
    } catch (error) {
      return fail((error as Error).message, 'The kernel must be 6.6 or newer, with CONFIG_NET_XGRESS; run as root.');
    }
  }],
];

/** @param qemuPath a QEMU binary to check in place of the one that set-up found */
export async function examine(qemuPath?: string): Promise<Finding[]> {
  const findings: Finding[] = [];
  for (const [name, check] of checks) findings.push({ name, ...await check() });
  findings.push(...await examineQemu(qemuPath));
  return findings;
}

async function examineQemu(qemuPath: string | undefined): Promise<Finding[]> {
  try {
    const runtime = await locateQemu(qemuPath === undefined ? {} : { explicitPath: qemuPath });
    const probe = await probeQemu(runtime);
    return [
      { name: 'QEMU', ...ok(`${probe.version} with COLO (${runtime.origin})`) },
      { name: 'KVM', ...(probe.kvm.usable ? ok(probe.kvm.reason) : warn(`guests run under emulation (TCG): ${probe.kvm.reason}`, 'Use a host whose CPU offers vmx or svm, if speed matters.')) },
    ];
  } catch (error) {
    return [{ name: 'QEMU', ...fail((error as Error).message, 'QEMU 11 or newer is needed; npm run setup brings one.') }];
  }
}

function ok(detail: string): Omit<Finding, 'name'> {
  return { verdict: 'ok', detail, remedy: '' };
}

function warn(detail: string, remedy: string): Omit<Finding, 'name'> {
  return { verdict: 'warn', detail, remedy };
}

function fail(detail: string, remedy: string): Omit<Finding, 'name'> {
  return { verdict: 'fail', detail, remedy };
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(() => true, () => false);
}
