/**
 * What a secondary costs its host, and what it gives its primary: fully active,
 * active as the policy decides, and paused, with two and four vCPUs, beside a
 * tenant that wants the secondary's host for itself. Each host has CPUs of its
 * own, as far as there are any.
 */

import { spawn, type ChildProcessByStdio } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { createInterface } from 'node:readline';
import type { Readable, Writable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { setScheduling } from 'thread-sched';
import { quantile } from '../../src/agent/pause-history.js';
import { Progress } from '../../src/cli/progress.js';
import { ClientProcess } from '../../src/drill/client-process.js';
import { demoGuest, Lab } from '../../src/lab/lab.js';
import { addresses, type HostName } from '../../src/lab/topology.js';
import { fillRedis, redisMix, type Target } from './load.js';

export interface VcpuBenchOptions {
  rounds: number;
  /** Each load is measured for so long. */
  seconds: number;
  /**
   * Requests a second, at most: where every mode can keep up, all do the same work. Without it those
   * that serve faster would be asked more, and so work more.
   */
  rate: number;
}

/** Write shares. */
const loads = { readMostly: 0.01, mixed: 0.3, writeHeavy: 0.9 } as const;
type Load = keyof typeof loads;

/** How the secondary runs; `noVm`: there is none, and the primary is not protected. */
const modes = {
  noVm: undefined,
  full: { secondary: 'active', activeVcpus: 64 },
  policy: { mode: 'auto', activeVcpus: 'auto' },
  paused: { activeVcpus: 0 },
} as const;
type Mode = keyof typeof modes;

/** What is measured: a mode with a guest of so many vCPUs. */
interface Subject {
  mode: Mode;
  vcpus: number;
}

/** Seconds and counts are per second of the load. */
interface Figures {
  rps: number;
  p99Ms: number;
  /** Blocks of the tenant's work. */
  tenant: number;
  /** CPU time of the secondary's QEMU, and of its agent. */
  secondaryCpuSeconds: number;
  agentCpuSeconds: number;
  /** Of all threads of the secondary's QEMU. */
  contextSwitches: number;
  involuntary: number;
  checkpoints: number;
}

type Measured = Partial<Record<Load, Figures>> & { takeoverMs?: number | undefined };

/** Asked once: it is those that this process may use, which are fewer while it is bound to some. */
const allCpus: readonly number[] = Array.from({ length: availableParallelism() }, (_, cpu) => cpu);
const labName = 'bench-vcpu';
const bootTimeoutMs = 120_000;
const services = [{ port: 6379, protocol: 'resp' }, { port: 80, protocol: 'http' }];
/** A host that is only slow, under four emulated vCPUs, must not count as lost. */
const heartbeat = { intervalMs: 100, missed: 5 };
const tenantMain = fileURLToPath(new URL('tenant-main.js', import.meta.url));

export async function run(jsonPath: string | undefined, options: VcpuBenchOptions): Promise<void> {
  const { rounds } = options;
  const interruption = new AbortController();
  const lab = new Lab(labName);
  for (const name of ['SIGINT', 'SIGTERM'] as const) process.on(name, () => interruption.abort(new Error(`interrupted by ${name}`)));
  const subjects: Subject[] = [
    { mode: 'noVm', vcpus: 2 }, ...[2, 4].flatMap((vcpus) => (['full', 'policy', 'paused'] as const).map((mode) => ({ mode, vcpus }))),
  ];
  const seen = new Map<string, Measured[]>(subjects.map((subject) => [nameOf(subject), []]));
  const failures: string[] = [];
  const progress = new Progress(process.stdout);
  try {
    for (let round = 0; round < rounds; round++) {
      progress.title(`Round ${round + 1} of ${rounds}`);
      // Each comes first in turn.
      const turn = round % subjects.length;
      for (const subject of [...subjects.slice(turn), ...subjects.slice(0, turn)]) {
        const onFailure = ({ message }: Error): void => {
          interruption.signal.throwIfAborted();
          failures.push(`${nameOf(subject)}: ${message}`);
          progress.done(`FAILED: ${message.split('\n', 1)[0]}`);
        };
        try {
          await lab.down();
          seen.get(nameOf(subject))!.push(await measure(lab, subject, options, progress, interruption.signal, onFailure));
        } catch (error) {
          onFailure(error as Error);
        }
      }
    }
  } catch (error) {
    if (!interruption.signal.aborted) throw error;
    process.stdout.write('Interrupted; everything is cleaned up.\n');
    process.exitCode = 130;
    return;
  } finally {
    await lab.down();
  }
  const results = Object.fromEntries([...seen].map(([name, measured]) => [name, medians(measured)]));
  const ratios = ratiosOf(results);
  print(results, ratios, options);
  if (jsonPath !== undefined) await writeFile(jsonPath, `${JSON.stringify({ ...results, ratios, failures }, undefined, 2)}\n`);
  if (failures.length > 0) process.exitCode = 1;
}

function nameOf({ mode, vcpus }: Subject): string {
  return mode === 'noVm' ? mode : `${mode}${vcpus}`;
}

/** One mode with all loads, from an empty machine on. */
async function measure(lab: Lab, { mode, vcpus }: Subject, { seconds, rate }: VcpuBenchOptions, progress: Progress, signal: AbortSignal, onFailure: (error: Error) => void): Promise<Measured> {
  const name = nameOf({ mode, vcpus });
  progress.start(`${name}: boot the guest`);
  const cpus = cpusOfHosts();
  const config = { services, heartbeat, ...modes[mode] };
  await lab.up({ vcpus, agents: [], signal, overrides: { a: config, b: config } });
  if (mode !== 'noVm') await on(cpus.b, () => lab.startAgent('b', signal));
  await on(cpus.a, () => lab.startAgent('a', signal));
  await lab.waitForGuest(bootTimeoutMs, signal);
  const assertRunning = async (): Promise<void> => {
    await lab.waitFor('a', mode === 'noVm' ? 'running its VM alone' : 'the protected primary', (s) => s.active && s.protected === (mode !== 'noVm'), bootTimeoutMs, signal);
  };
  await assertRunning();
  progress.done('ready');

  const target: Target = { netns: lab.topology.client, host: addresses.guest, port: demoGuest().ports.redis, connections: 4, seconds, signal };
  const measured: Measured = {};
  await fillRedis(target);
  const tenant = await on(cpus.b, () => Promise.resolve(new Tenant(lab.topology.hosts.b)));
  try {
    for (const [load, writeShare] of Object.entries(loads) as [Load, number][]) {
      progress.start(`${name}: ${load}`);
      await tenant.done();
      const before = await usage(lab, mode);
      const startedMs = performance.now();
      const { rps, p99Ms } = await on(cpus.a, () => redisMix(target, writeShare, rate));
      const elapsed = (performance.now() - startedMs) / 1000;
      const work = await tenant.done();
      const after = await usage(lab, mode);
      await assertRunning();
      if (after.pid !== before.pid) throw new Error('the secondary was lost on the way');
      const grown = (of: Exclude<keyof Usage, 'pid'>): number => rounded((after[of] - before[of]) / elapsed);
      measured[load] = {
        rps: rounded(rps), p99Ms: rounded(p99Ms), tenant: rounded(work / elapsed),
        secondaryCpuSeconds: grown('qemuSeconds'), agentCpuSeconds: grown('agentSeconds'),
        contextSwitches: grown('switches'), involuntary: grown('involuntary'), checkpoints: grown('commits'),
      };
      progress.done(describe(measured[load]));
    }
    if (mode !== 'noVm') {
      progress.start(`${name}: takeover`);
      try {
        measured.takeoverMs = await takeover(lab, cpus.a);
        progress.done(`first reply after ${measured.takeoverMs} ms`);
      } catch (error) {
        onFailure(error as Error); // the loads have been measured all the same
      }
    }
    return measured;
  } finally {
    tenant.end();
    await lab.down();
  }
}

/** Kills host a under load. @returns milliseconds until a client had a reply from host b */
async function takeover(lab: Lab, clientCpus: readonly number[]): Promise<number> {
  const { ports } = demoGuest();
  const clients = new ClientProcess(lab.topology.client);
  try {
    await on(clientCpus, () => clients.start({ guest: addresses.guest, redisPort: ports.redis, httpPort: ports.http, writers: 2, readers: 1 }));
    await sleep(1000);
    const { pid, vm } = await lab.status('a');
    const sinceNs = process.hrtime.bigint();
    for (const doomed of [pid, vm.pid!]) process.kill(doomed, 'SIGKILL');
    await lab.waitFor('b', 'active', (status) => status.active, 10_000);
    await sleep(2000);
    // What was on its way when the host went does not count.
    const { reports, lost } = await clients.stop(sinceNs + 100_000_000n);
    if (lost > 0) throw new Error(`${lost} acknowledged writes are lost`);
    return Math.round(Math.min(...reports.map(({ firstReplyNs }) => Number(BigInt(firstReplyNs) - sinceNs) / 1e6)));
  } finally {
    clients.kill();
  }
}

interface Usage { pid: number | null; qemuSeconds: number; agentSeconds: number; switches: number; involuntary: number; commits: number }

/** What the secondary has used so far. */
async function usage(lab: Lab, mode: Mode): Promise<Usage> {
  if (mode === 'noVm') return { pid: null, qemuSeconds: 0, agentSeconds: 0, switches: 0, involuntary: 0, commits: 0 };
  const [{ checkpoints }, { pid: agent, vm: { pid } }] = await Promise.all([lab.status('a'), lab.status('b')]);
  if (pid === null) throw new Error('host b has no VM');
  const switches = threadSwitches(pid);
  return { pid, qemuSeconds: cpuSeconds(pid), agentSeconds: cpuSeconds(agent), ...switches, commits: checkpoints.commits };
}

function cpuSeconds(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

function threadSwitches(pid: number): { switches: number; involuntary: number } {
  const sum = { switches: 0, involuntary: 0 };
  for (const tid of readdirSync(`/proc/${pid}/task`)) {
    const status = readFileSync(`/proc/${pid}/task/${tid}/status`, 'latin1');
    const [voluntary = 0, involuntary = 0] = [...status.matchAll(/ctxt_switches:\s+(\d+)/g)].map(([, count]) => Number(count));
    sum.switches += voluntary + involuntary;
    sum.involuntary += involuntary;
  }
  return sum;
}

/** Computes beside the secondary. */
class Tenant {
  readonly #child: ChildProcessByStdio<Writable, Readable, null>;
  readonly #lines: AsyncIterator<string>;

  constructor(netns: string) {
    this.#child = spawn('ip', ['netns', 'exec', netns, process.execPath, tenantMain], { stdio: ['pipe', 'pipe', 'inherit'] });
    this.#lines = createInterface(this.#child.stdout)[Symbol.asyncIterator]();
  }

  /** How much it has done since it was last asked. */
  async done(): Promise<number> {
    this.#child.stdin.write('\n');
    const { value, done } = await this.#lines.next();
    if (done) throw new Error('the tenant has ended');
    return Number(value);
  }

  end(): void {
    this.#child.kill('SIGKILL');
  }
}

/** Half of this machine for each host; a machine with one CPU is shared. */
function cpusOfHosts(): Record<HostName, readonly number[]> {
  const half = Math.ceil(allCpus.length / 2);
  return { a: allCpus.slice(0, half), b: allCpus.length > 1 ? allCpus.slice(half) : allCpus };
}

/** Runs `act` so that the processes it starts at once stay on these CPUs. */
async function on<T>(cpus: readonly number[], act: () => Promise<T>): Promise<T> {
  setScheduling(process.pid, { cpus: [...cpus] });
  try {
    return await act();
  } finally {
    setScheduling(process.pid, { cpus: [...allCpus] });
  }
}

function medians(measured: readonly Measured[]): Measured {
  const result: Measured = {};
  for (const load of Object.keys(loads) as Load[]) {
    const all = measured.flatMap((one) => one[load] ?? []);
    if (all.length === 0) continue;
    result[load] = Object.fromEntries(Object.keys(all[0]!).map((of) => [of, quantile(all.map((figures) => figures[of as keyof Figures]), 0.5)])) as unknown as Figures;
  }
  const takeovers = measured.flatMap(({ takeoverMs }) => takeoverMs ?? []);
  if (takeovers.length > 0) result.takeoverMs = quantile(takeovers, 0.5)!;
  return result;
}

/** The policy against fully active, and against no VM at all; of two and four vCPUs the worse one counts. */
function ratiosOf(results: Record<string, Measured>): Record<string, number | null> {
  const worst = (pick: (...values: number[]) => number, load: Load, of: keyof Figures | ((figures: Figures) => number), over: (vcpus: number) => string): number | null => {
    const figure = (name: string): number | undefined => {
      const figures = results[name]?.[load];
      return figures && (typeof of === 'function' ? of(figures) : figures[of]);
    };
    const all = [2, 4].flatMap((vcpus) => {
      const [ours, theirs] = [figure(`policy${vcpus}`), figure(over(vcpus))];
      return ours === undefined || !theirs ? [] : ours / theirs;
    });
    return all.length < 2 ? null : rounded(pick(...all));
  };
  return {
    readMostlySecondaryCpu: worst(Math.max, 'readMostly', 'secondaryCpuSeconds', (vcpus) => `full${vcpus}`),
    // Clients that are served faster ask for more, and every write costs a checkpoint.
    readMostlySecondaryCpuPerRequest: worst(Math.max, 'readMostly', ({ secondaryCpuSeconds, rps }) => secondaryCpuSeconds / rps, (vcpus) => `full${vcpus}`),
    readMostlyTenant: worst(Math.min, 'readMostly', 'tenant', () => 'noVm'),
    writeHeavyP99: worst(Math.max, 'writeHeavy', 'p99Ms', (vcpus) => `full${vcpus}`),
  };
}

function print(results: Record<string, Measured>, ratios: Record<string, number | null>, { rounds, seconds, rate }: VcpuBenchOptions): void {
  const lines = ['', `Medians of ${rounds} rounds of ${seconds} s each, at most ${rate} requests a second; CPU seconds, tenant and switches per second:`];
  for (const [name, measured] of Object.entries(results)) {
    for (const load of Object.keys(loads) as Load[]) {
      lines.push(`  ${name.padEnd(8)} ${load.padEnd(10)}  ${measured[load] ? describe(measured[load]) : 'FAILED'}`);
    }
    if (measured.takeoverMs !== undefined) lines.push(`  ${name.padEnd(8)} takeover    first reply after ${measured.takeoverMs} ms`);
  }
  lines.push('Policy, the worse of two and four vCPUs:');
  const of = {
    readMostlySecondaryCpu: 'of the CPU time of fully active (goal: at most 0.10)',
    readMostlySecondaryCpuPerRequest: 'of that, for as many requests',
    readMostlyTenant: "of the tenant's work without a VM (goal: at least 0.95)",
    writeHeavyP99: 'of the p99 of fully active (goal: at most 1)',
  };
  for (const [name, what] of Object.entries(of)) lines.push(`  ${name.padEnd(32)} ${ratios[name] ?? 'not measured'} ${what}`);
  process.stdout.write(`${lines.join('\n')}\n`);
}

function describe({ rps, p99Ms, tenant, secondaryCpuSeconds, contextSwitches, involuntary, checkpoints }: Figures): string {
  return `${rps.toFixed(0).padStart(5)}/s, p99 ${p99Ms.toFixed(1)} ms; secondary ${secondaryCpuSeconds.toFixed(3)} CPU s, ${contextSwitches.toFixed(0)} switches, ${involuntary.toFixed(0)} involuntary; tenant ${tenant.toFixed(0)}; ${checkpoints.toFixed(1)} checkpoints`;
}

function rounded(value: number): number {
  return Number(value.toFixed(3));
}
