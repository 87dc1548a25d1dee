/** What colopp needs of a host, whatever it is to run: the kernel, its clocks, what this process may do. */

import { execFile } from 'node:child_process';
import { constants } from 'node:fs';
import { access, readFile } from 'node:fs/promises';
import { arch, release } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { createTunnel, removeTunnel } from '../../dataplane/tunnel.js';
import { fail, ok, warn, type Check, type Verdict } from './finding.js';

/** By number, see capabilities(7). What root has everywhere but in some containers. */
const neededCapabilities: Readonly<Record<number, string>> = { 12: 'CAP_NET_ADMIN', 21: 'CAP_SYS_ADMIN', 23: 'CAP_SYS_NICE', 38: 'CAP_PERFMON', 39: 'CAP_BPF' };
/** Reading one of these takes a trip through slow hardware, for each packet. */
const slowClocks = new Set(['hpet', 'acpi_pm', 'jiffies', 'refined-jiffies', 'pit']);
const clockSampleMs = 250;
/** How far the two clocks may seem apart without either having been set: one is read after the other. */
const clockToleranceMs = 5;

export const hostChecks: readonly Check[] = [
  ['root', async () => process.geteuid?.() === 0
    ? ok('running as root')
    : fail(`running as user ${process.geteuid?.()}`, 'Run it with sudo: taps, namespaces and BPF programs need root.')],
  ['rights', capabilities],
  ['machine', async () => arch() === 'x64'
    ? ok(`x86-64, Linux ${release()}`)
    : fail(`${arch()}, Linux ${release()}`, 'Use an x86-64 host: the VM\'s machine type is one.')],
  ['BTF', async () => await can('/sys/kernel/btf/vmlinux', constants.R_OK)
    ? ok('the kernel has type information')
    : fail('/sys/kernel/btf/vmlinux is missing', 'Use a kernel built with CONFIG_DEBUG_INFO_BTF=y, as Debian\'s are.')],
  ['tun', async () => await can('/dev/net/tun', constants.R_OK | constants.W_OK)
    ? ok('/dev/net/tun is there')
    : fail('/dev/net/tun is missing, or closed to us', 'Load it: modprobe tun; in a container, pass the device in.')],
  ['ip', () => new Promise((resolve) => {
    execFile('ip', ['-V'], (error, stdout) => resolve(error
      ? fail('the ip command cannot be run', 'Install it: apt-get install iproute2')
      : ok(stdout.trim())));
  })],
  ['tunnel', tunnel],
  ['clocks', clocks],
];

async function capabilities(): Promise<Verdict> {
  const effective = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)$/m.exec(await readFile('/proc/self/status', 'utf8'))?.[1] ?? '0'}`);
  const missing = Object.entries(neededCapabilities).filter(([number]) => ((effective >> BigInt(number)) & 1n) === 0n).map(([, name]) => name);
  return missing.length === 0 ? ok('all capabilities that are needed')
    : fail(`this process lacks ${missing.join(', ')}`, 'Run it as root, outside of a container or in one that has these capabilities (--cap-add).');
}

/** Declared services need it; the name is our own, and it is gone afterwards. */
async function tunnel(): Promise<Verdict> {
  const name = `clp-probe${process.pid % 100_000}`;
  try {
    await createTunnel(name);
    return ok('vxlan devices can be made: inputs of declared services can be mirrored');
  } catch (error) {
    const { message } = error as Error;
    // The kernel allows one such device for a port. Whether its agent is gone, the leftovers tell.
    if (/exists/i.test(message)) return ok('vxlan devices can be made: an agent has made the tunnel already');
    return warn(message, 'Without vxlan no service can be declared. Load it: modprobe vxlan');
  } finally {
    await removeTunnel(name);
  }
}

/** Hosts never compare their clocks; but each converts QEMU's wall clock stamps into its own monotonic time. */
async function clocks(): Promise<Verdict> {
  const source = (await readFile('/sys/devices/system/clocksource/clocksource0/current_clocksource', 'utf8').catch(() => 'unknown')).trim();
  const [wallMs, monotonicMs] = [Date.now(), performance.now()];
  await sleep(clockSampleMs);
  const apartMs = Math.abs((Date.now() - wallMs) - (performance.now() - monotonicMs));
  if (apartMs > clockToleranceMs) {
    return warn(`the wall clock moved by ${apartMs.toFixed(0)} ms against the monotonic one within ${clockSampleMs} ms`, 'Let chrony or systemd-timesyncd slew it in place of setting it: a commit is dated by it.');
  }
  return slowClocks.has(source)
    ? warn(`the clock source is ${source}, which is slow to read`, 'Use a host whose TSC is stable: each packet is stamped.')
    : ok(`clock source ${source}; the wall clock runs evenly (the hosts' clocks need not agree)`);
}

async function can(path: string, mode: number): Promise<boolean> {
  return access(path, mode).then(() => true, () => false);
}
