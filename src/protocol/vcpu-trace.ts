/** What vCPUs have been seen to do, and what that means for a span of time. */

/** `unseen`: it has done one and the same since it is traced. */
export type VcpuActivity = 'unseen' | 'sleeping' | 'waiting' | 'running' | 'gone';

/** Why a vCPU left guest mode, where KVM runs. */
export const vcpuExits = ['halt', 'pause', 'io', 'memory', 'interrupt', 'other'] as const;
export type VcpuExit = (typeof vcpuExits)[number];

/** What one vCPU's thread has done since it is traced. */
export interface VcpuTotals {
  /** Its number in QEMU. */
  vcpu: number;
  /** Its thread on the host. */
  tid: number;
  /** What it does now, and where it last ran. */
  activity: VcpuActivity;
  cpu: number;
  runNs: number;
  /** Runnable, and not running. */
  waitNs: number;
  sleepNs: number;
  /** Of `waitNs`: it was preempted, and another vCPU of the VM ran, which may have spun for a lock of this one. */
  preemptedBesideSiblingNs: number;
  /** Switches away from it: it slept, or it was preempted. */
  voluntary: number;
  involuntary: number;
  migrations: number;
  /** Spans of waiting and of running by length: entry n counts those of 2^n to 2^(n+1) microseconds. */
  waits: number[];
  runs: number[];
  /** Null where KVM does not run. */
  exits: Record<VcpuExit, number> | null;
}

/** All that is known at one moment. */
export interface VcpuReading {
  /** CLOCK_MONOTONIC. */
  atNs: number;
  /** The VM's process. */
  pid: number;
  vcpus: VcpuTotals[];
  /** All other processes of this host. */
  others: { runNs: number; waitNs: number };
}

/** What one vCPU did in a span of time. `run`, `wait`, `sleep` and `preemptedBesideSibling` are shares of it. */
export interface VcpuActivityWindow {
  vcpu: number;
  run: number;
  wait: number;
  sleep: number;
  preemptedBesideSibling: number;
  voluntary: number;
  involuntary: number;
  migrations: number;
  waits: number[];
  runs: number[];
  exits: Record<VcpuExit, number> | null;
}

export interface VcpuWindow {
  fromNs: number;
  toNs: number;
  vcpus: VcpuActivityWindow[];
  /** The host's other processes: how many ran, and how many waited for a CPU, on average. */
  others: { run: number; wait: number };
}

/** What happened between two readings; a vCPU whose thread is another by then begins anew. */
export function windowBetween(before: VcpuReading, after: VcpuReading): VcpuWindow {
  const spanNs = Math.max(1, after.atNs - before.atNs);
  // Another process of the VM: what the earlier one ran is not known any more.
  const cpus = (of: 'runNs' | 'waitNs'): number => after.pid === before.pid ? Math.max(0, after.others[of] - before.others[of]) / spanNs : 0;
  return {
    fromNs: before.atNs,
    toNs: after.atNs,
    vcpus: after.vcpus.map((now) => {
      const earlier = before.vcpus.find(({ vcpu, tid }) => vcpu === now.vcpu && tid === now.tid);
      return activityBetween(earlier, now, spanNs);
    }),
    others: { run: cpus('runNs'), wait: cpus('waitNs') },
  };
}

function activityBetween(before: VcpuTotals | undefined, after: VcpuTotals, spanNs: number): VcpuActivityWindow {
  const grown = (now: number, earlier: number | undefined): number => Math.max(0, now - (earlier ?? 0));
  const share = (of: 'runNs' | 'waitNs' | 'sleepNs' | 'preemptedBesideSiblingNs'): number => Math.min(1, grown(after[of], before?.[of]) / spanNs);
  const count = (of: 'voluntary' | 'involuntary' | 'migrations'): number => grown(after[of], before?.[of]);
  const spans = (of: 'waits' | 'runs'): number[] => after[of].map((spanCount, slot) => grown(spanCount, before?.[of][slot]));
  // A reading takes a moment, and that a sleeper was woken may be known only when it runs, perhaps a span later:
  // what fits into no span is not to be seen. Running is what is known best, and sleeping what is known least.
  const run = share('runNs');
  const wait = Math.min(share('waitNs'), 1 - run);
  const sleep = Math.min(share('sleepNs'), 1 - run - wait);
  return {
    vcpu: after.vcpu, run, wait, sleep, preemptedBesideSibling: share('preemptedBesideSiblingNs'),
    voluntary: count('voluntary'), involuntary: count('involuntary'), migrations: count('migrations'),
    waits: spans('waits'), runs: spans('runs'),
    exits: after.exits && Object.fromEntries(vcpuExits.map((exit) => [exit, grown(after.exits![exit], before?.exits?.[exit])])) as Record<VcpuExit, number>,
  };
}

/** The span in microseconds that a share `q` of a histogram's spans does not exceed; null of nothing. */
export function spanQuantileUs(histogram: readonly number[], q: number): number | null {
  const total = histogram.reduce((sum, count) => sum + count, 0);
  if (total === 0) return null;
  let seen = 0;
  const slot = histogram.findIndex((count) => (seen += count) >= q * total);
  return 2 ** (slot + 1);
}
