/** Watches the threads of one VM's vCPUs through the scheduler's tracepoints. */

import { readFileSync } from 'node:fs';
import type { Link } from 'libbpf-napi';
import { vcpuExits, type VcpuActivity, type VcpuExit, type VcpuReading, type VcpuTotals } from '../protocol/vcpu-trace.js';
import { openVcpu, VcpuActivity as Activity, VcpuCounts, VcpuNow, type VcpuObjects } from './skel/vcpu.skel.js';

/** A vCPU and its thread, as `query-cpus-fast` tells them. */
export interface VcpuThread {
  vcpu: number;
  tid: number;
}

/** As bpf/vcpu.h has it. */
export const mostVcpus = 64;
const nobody = 0xffff_ffff;
/** A vCPU may change while it is read; so often it is read again. */
const readAttempts = 3;
/** What /proc counts in: USER_HZ is 100 on every Linux of today. */
const tickNs = 1e7;

const activities: Record<Activity, VcpuActivity> = {
  [Activity.VCPU_UNSEEN]: 'unseen',
  [Activity.VCPU_SLEEPS]: 'sleeping',
  [Activity.VCPU_WAITS]: 'waiting',
  [Activity.VCPU_RUNS]: 'running',
  [Activity.VCPU_GONE]: 'gone',
};

export class VcpuTracer {
  readonly #objects: VcpuObjects;
  readonly #links: readonly Link[];
  /** Sums up what other tasks have waited whenever it is read. */
  readonly #others: Link;
  readonly #seesExits: boolean;
  #pid = 0;
  #threads: readonly VcpuThread[] = [];
  /** By vCPU: that it is runnable, as found after which of its changes, since when, and how long it had run then. */
  readonly #unswitched = new Map<number, { changes: number; sinceNs: bigint; ranNs: bigint }>();

  /**
   * Loads and attaches the programs, which see nothing of interest until {@link follow}.
   * @param vcpus so many there can be
   * @throws BpfError where the kernel has no BTF or no tracing programs
   */
  static open(vcpus: number): VcpuTracer {
    if (!Number.isInteger(vcpus) || vcpus < 1 || vcpus > mostVcpus) throw new RangeError(`A VM has 1 to ${mostVcpus} vCPUs, not ${vcpus}.`);
    const specs = openVcpu();
    for (const map of [specs.maps.vcpu_now, specs.maps.vcpu_counts]) map.resize(vcpus);
    const seesExits = hasKvmExits();
    specs.programs.on_kvm_exit.setAutoload(seesExits);
    const objects = specs.load();
    const { sum_others, on_kvm_exit, ...programs } = objects.programs;
    const links: Link[] = [];
    try {
      for (const program of [...Object.values(programs), ...(seesExits ? [on_kvm_exit] : [])]) links.push(program.attach());
      return new VcpuTracer(objects, links, sum_others.attach(), seesExits);
    } catch (error) {
      for (const link of links) link.close();
      objects.close();
      throw error;
    }
  }

  private constructor(objects: VcpuObjects, links: Link[], others: Link, seesExits: boolean) {
    this.#objects = objects;
    this.#links = links;
    this.#others = others;
    this.#seesExits = seesExits;
  }

  /**
   * Traces these threads of a process from now on; those that were traced already go on.
   * @param pid QEMU, as this PID namespace numbers it, which must be the host's
   */
  follow(pid: number, threads: readonly VcpuThread[]): void {
    const same = threads.length === this.#threads.length && threads.every(({ vcpu, tid }, i) => this.#threads[i]?.vcpu === vcpu && this.#threads[i].tid === tid);
    if (same) return;
    const { maps, globals } = this.#objects;
    const slots = maps.vcpu_now.raw.maxEntries;
    for (const { vcpu } of threads) {
      if (!Number.isInteger(vcpu) || vcpu < 0 || vcpu >= slots) throw new RangeError(`There is no room for vCPU ${vcpu}: the VM was said to have ${slots}.`);
    }
    this.unfollow();
    const zero = Array.from({ length: maps.vcpu_counts.cpus }, () => VcpuCounts.create());
    for (const { vcpu, tid } of threads) {
      maps.vcpu_counts.update(vcpu, zero);
      const thread = threadOf(pid, tid);
      const activity = thread?.asleep ? Activity.VCPU_SLEEPS : Activity.VCPU_UNSEEN;
      maps.vcpu_now.update(vcpu, VcpuNow.create({ since_ns: process.hrtime.bigint(), activity, cpu: thread?.cpu ?? 0, delay_ns: thread?.waitedNs ?? 0n }));
      maps.vcpu_of.update(tid, vcpu);
    }
    this.#threads = threads.map((thread) => ({ ...thread }));
    this.#pid = pid;
    globals.data.traced_process.set(pid);
  }

  /** Traces nobody. */
  unfollow(): void {
    const { maps, globals } = this.#objects;
    globals.data.traced_process.set(nobody);
    for (const tid of [...maps.vcpu_of.keys()]) maps.vcpu_of.delete(tid);
    globals.bss.vcpus_running.set(0n);
    this.#threads = [];
    this.#unswitched.clear();
  }

  /** What the vCPUs have done since they are followed, up to now. */
  read(): VcpuReading {
    const { maps, globals } = this.#objects;
    const vcpus = new Map<number, VcpuTotals>();
    let atNs = process.hrtime.bigint();
    let before = this.#states();
    for (let attempt = 1; attempt <= readAttempts && vcpus.size < this.#threads.length; attempt++) {
      if (attempt > 1) atNs = process.hrtime.bigint();
      const counts = new Map(maps.vcpu_counts.entries());
      const after = this.#states();
      for (const { vcpu, tid } of this.#threads) {
        const [now, perCpu] = [after.get(vcpu), counts.get(vcpu)];
        if (vcpus.has(vcpu) || !now || !perCpu) continue;
        const settled = now.changes === before.get(vcpu)?.changes;
        if (settled || attempt === readAttempts) vcpus.set(vcpu, this.#totals(vcpu, tid, now, perCpu, atNs));
      }
      before = after;
    }
    this.#others.readIterator();
    const others = { runNs: hostRunNs() - processRunNs(this.#pid), waitNs: Number(globals.bss.others_waited_ns.get()) };
    return { atNs: Number(atNs), pid: this.#pid, vcpus: [...vcpus.values()].sort((a, b) => a.vcpu - b.vcpu), others };
  }

  close(): void {
    for (const link of [...this.#links, this.#others]) link.close();
    this.#objects.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #states(): Map<number, VcpuNow> {
    return new Map(this.#objects.maps.vcpu_now.entries());
  }

  #totals(vcpu: number, tid: number, now: VcpuNow, perCpu: readonly VcpuCounts[], atNs: bigint): VcpuTotals {
    type Scalar = { [K in keyof VcpuCounts]: VcpuCounts[K] extends bigint ? K : never }[keyof VcpuCounts];
    const sum = (of: Scalar): number => Number(perCpu.reduce((total, counts) => total + counts[of], 0n));
    const sums = (of: 'waits' | 'runs' | 'exits'): number[] =>
      Array.from(perCpu[0]?.[of] ?? [], (_, slot) => Number(perCpu.reduce((total, counts) => total + counts[of][slot]!, 0n)));
    let activity: VcpuActivity = activities[now.activity];
    // The span under way counts as far as it has come.
    const spanNs = Math.max(0, Number(atNs - now.since_ns));
    const under: Partial<Record<VcpuActivity, number>> = { [activity]: spanNs };
    // What was woken and waits, or has not been switched to since it is traced, the programs tell only when it runs.
    if (activity === 'sleeping' || activity === 'unseen') {
      const thread = threadOf(this.#pid, tid);
      if (thread && !thread.asleep) {
        let seen = this.#unswitched.get(vcpu);
        if (seen?.changes !== now.changes) this.#unswitched.set(vcpu, seen = { changes: now.changes, sinceNs: atNs, ranNs: thread.ranNs });
        const foundNs = Number(atNs - seen.sinceNs);
        if (activity === 'sleeping') under.sleeping = Math.max(0, spanNs - foundNs);
        activity = thread.ranNs > seen.ranNs ? 'running' : 'waiting';
        under[activity] = foundNs;
      }
    }
    const exits = sums('exits');
    return {
      vcpu, tid, activity, cpu: now.cpu,
      runNs: sum('run_ns') + (under.running ?? 0),
      waitNs: sum('wait_ns') + (under.waiting ?? 0),
      sleepNs: sum('sleep_ns') + (under.sleeping ?? 0),
      preemptedBesideSiblingNs: sum('preempted_beside_sibling_ns'),
      voluntary: sum('voluntary'), involuntary: sum('involuntary'), migrations: sum('migrations'),
      waits: sums('waits'), runs: sums('runs'),
      exits: this.#seesExits ? Object.fromEntries(vcpuExits.map((exit, slot) => [exit, exits[slot] ?? 0])) as Record<VcpuExit, number> : null,
    };
  }
}

/** How long the CPUs of this host have been busy. The kernel counts in ticks. */
function hostRunNs(): number {
  const [, user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0] = readFileSync('/proc/stat', 'latin1').split('\n', 1)[0]!.split(/\s+/).map(Number);
  return (user + nice + system + irq + softirq) * tickNs;
}

/** How long a process has run; 0 if it is gone. */
function processRunNs(pid: number): number {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' '); // the name in front may hold anything
    return (Number(fields[11]) + Number(fields[12])) * tickNs;
  } catch {
    return 0;
  }
}

/** What the kernel tells of a thread: whether it sleeps, where it last ran, how long it has ever run and waited; undefined if it is gone. */
function threadOf(pid: number, tid: number): { asleep: boolean; cpu: number; ranNs: bigint; waitedNs: bigint } | undefined {
  const read = (file: string): string => readFileSync(`/proc/${pid}/task/${tid}/${file}`, 'latin1');
  try {
    const stat = read('stat');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' '); // the name in front may hold anything
    const [ranNs = 0n, waitedNs = 0n] = read('schedstat').trim().split(' ').map(BigInt);
    return { asleep: fields[0] !== 'R', cpu: Number(fields[36]), ranNs, waitedNs };
  } catch {
    return undefined;
  }
}

/** Whether this kernel has the tracepoint of KVM's exits, and its record is as vcpu.bpf.c reads it. */
function hasKvmExits(): boolean {
  try {
    const format = readFileSync('/sys/kernel/tracing/events/kvm/kvm_exit/format', 'utf8');
    return [/\bexit_reason;\s+offset:8;\s+size:4;/, /\bisa;\s+offset:24;\s+size:4;/].every((field) => field.test(format));
  } catch {
    return false;
  }
}
