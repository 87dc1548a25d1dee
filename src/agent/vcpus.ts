/**
 * The vCPUs of this host's VM. They are watched wherever the VM is; while this
 * host is the secondary, so many of them are active as are worth it.
 */

import { availableParallelism } from 'node:os';
import { VcpuPlacement } from '../dataplane/vcpu-placement.js';
import { VcpuTracer, type VcpuThread } from '../dataplane/vcpu-tracer.js';
import type { VcpuLoad, VcpuMessage } from '../protocol/messages.js';
import { decide, encouraged, initialPolicy, type PolicyState, type VcpuDecision, type VcpuDemand } from '../protocol/vcpu-policy.js';
import { windowBetween, type VcpuReading } from '../protocol/vcpu-trace.js';

/** How many are active: decided by the load, or an operator's word. */
export type ActiveVcpus = 'auto' | number;

export interface VcpusStatus {
  mode: ActiveVcpus;
  /** vCPUs of the VM. */
  of: number;
  /** Those that are active, the busiest first; null unless this host is a secondary that could take over. */
  active: number[] | null;
  /** Why so many. */
  reason: string;
  /** Shares of the last second in which each vCPU's thread ran, and waited for a CPU; empty where the kernel cannot trace. */
  load: { vcpu: number; run: number; wait: number }[];
}

/** What `vcpus` answers. */
export interface VcpusReport extends VcpusStatus {
  /** Null where the kernel cannot trace, or there is no VM. */
  reading: VcpuReading | null;
  /** What the primary last told. */
  demand: VcpuDemand | null;
  /** The last decisions, the newest last. */
  decisions: VcpuDecision[];
}

/** Packets that the gate has released so far. */
interface OutputCounts {
  early: number;
  released: Readonly<Record<'commit' | 'logged' | 'match', number>>;
}

/** What a host may be unable to do; the VM runs all the same. */
export type VcpuTroubleCode = 'VCPU_TRACE' | 'VCPU_PLACEMENT';

/** The agent, as far as it matters here. */
export interface VcpusHost {
  /** What this host is while the VM is protected. */
  part(): 'primary' | 'secondary' | 'neither';
  /** The VM's process. */
  pid(): number | undefined;
  threads(): Promise<VcpuThread[]>;
  output(): OutputCounts;
  /** Primary: whether it compares, so that how many vCPUs the secondary has counts. */
  comparing(): boolean;
  send(load: VcpuLoad): void;
  /** Whether the secondary runs between checkpoints. */
  setActive(on: boolean): void;
  onDecision(decision: VcpuDecision): void;
  warn(code: VcpuTroubleCode, text: string): void;
}

/** Between two looks at the vCPUs: while something is decided by them, and else. */
const watchfulMs = 100;
const idleMs = 1000;
const loadMs = 200;
/** Of so long {@link VcpusStatus} tells. */
const recentMs = 1000;
/** Threads come and go with QEMU, and hardly ever otherwise. */
const followMs = 1000;
/** A primary that tells nothing for so long is not counted on. */
const staleMs = 1500;
const keptDecisions = 64;

export class Vcpus {
  readonly #count: number;
  readonly #host: VcpusHost;
  readonly #tracer: VcpuTracer | undefined;
  readonly #placement = new VcpuPlacement();
  readonly #decisions: VcpuDecision[] = [];
  #timer: NodeJS.Timeout | undefined;
  #closed = false;
  #mode: ActiveVcpus;
  #threads: VcpuThread[] = [];
  #pid: number | undefined;
  #followedMs = -Infinity;
  #asking = false;
  /** The last ones, the oldest first. */
  #recent: VcpuReading[] = [];
  /** Primary: what was known when the load was last told. */
  #told: { atMs: number; reading: VcpuReading | undefined; output: OutputCounts } | undefined;
  /** Secondary: what the primary last told, and what follows from it; undefined: not in that part. */
  #demand: { demand: VcpuDemand; atMs: number } | undefined;
  #policy: PolicyState | undefined;
  /** Secondary: the primary compares, if this VM runs. */
  #wished = false;
  /** Secondary: a checkpoint is on its way, and nobody is parked. */
  #stopping = false;

  /** @param count vCPUs of the VM */
  constructor(count: number, mode: ActiveVcpus, host: VcpusHost) {
    this.#count = count;
    this.#mode = mode;
    this.#host = host;
    try {
      this.#tracer = VcpuTracer.open(count);
    } catch (error) {
      host.warn('VCPU_TRACE', `vCPUs are not traced on this host: ${(error as Error).message}`);
    }
    this.#tickIn(watchfulMs);
  }

  get mode(): ActiveVcpus {
    return this.#mode;
  }

  /** Counts at once, while this host is the secondary. */
  set mode(mode: ActiveVcpus) {
    this.#mode = mode;
    this.look();
  }

  onMessage(message: VcpuMessage): void {
    if (message.type === 'vcpu-load') {
      this.#demand = { demand: message.demand, atMs: monotonicMs() };
    } else if (this.#policy) {
      // A checkpoint begins when every vCPU has stopped, which a parked one would do in its own time.
      this.#stopping = true;
      this.#placement.restore();
    }
  }

  /** The VM runs again, or is paused: a checkpoint has been loaded. */
  loaded(): void {
    this.#stopping = false;
    this.#place();
  }

  onWish(active: boolean): void {
    if (active && !this.#wished && this.#policy) this.#policy = encouraged(this.#policy);
    this.#wished = active;
    this.look();
  }

  /** Something has changed that vCPUs are decided by: does not wait for the next look. */
  look(): void {
    this.#tickIn(0);
  }

  /** Every vCPU runs at full weight again, before this returns; for a takeover and for the end. */
  restore(): void {
    this.#placement.restore();
    this.#policy = undefined;
    this.#stopping = false;
  }

  status(): VcpusStatus {
    const reason = this.#policy?.reason ?? 'this host is not a secondary that could take over';
    return { mode: this.#mode, of: this.#count, active: this.#policy?.active ?? null, reason, load: this.#load() };
  }

  report(): VcpusReport {
    return {
      ...this.status(), demand: this.#demand?.demand ?? null, decisions: [...this.#decisions],
      reading: this.#pid === undefined ? null : this.#tracer?.read() ?? null,
    };
  }

  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.restore();
    this.#tracer?.close();
  }

  #tick(): void {
    this.#follow();
    const reading = this.#pid === undefined ? undefined : this.#tracer?.read();
    const part = this.#host.part();
    if (part === 'primary') this.#tellLoad(reading);
    else this.#told = undefined;
    if (part === 'secondary') this.#decide(reading);
    else if (this.#policy) this.restore();
    const oldestNs = (reading?.atNs ?? 0) - recentMs * 1e6;
    // The newest of those that are old enough is where the time told of begins.
    while ((this.#recent[1]?.atNs ?? Infinity) <= oldestNs) this.#recent.shift();
    this.#recent = reading ? [...this.#recent, reading] : [];
    this.#tickIn(this.#isWatchful(part) ? watchfulMs : idleMs);
  }

  /** Looking costs, and a paused secondary's host has better to do. */
  #isWatchful(part: 'primary' | 'secondary' | 'neither'): boolean {
    if (this.#pid === undefined && this.#host.pid() !== undefined) return true; // its threads are about to be known
    if (part === 'primary') return this.#host.comparing();
    return part === 'secondary' && (this.#wished || (this.#policy?.k ?? 0) > 0);
  }

  #tickIn(ms: number): void {
    clearTimeout(this.#timer);
    if (this.#closed) return;
    this.#timer = setTimeout(() => this.#tick(), ms).unref();
  }

  #load(): VcpusStatus['load'] {
    const [first, last] = [this.#recent[0], this.#recent.at(-1)];
    if (!first || !last || first === last) return [];
    return windowBetween(first, last).vcpus.map(({ vcpu, run, wait }) => ({ vcpu, run, wait }));
  }

  /** Keeps up with QEMU's threads. */
  #follow(): void {
    const pid = this.#host.pid();
    const nowMs = monotonicMs();
    if (pid !== this.#pid) {
      this.#pid = undefined;
      this.#threads = [];
      this.#tracer?.unfollow();
    } else if (nowMs - this.#followedMs < followMs) {
      return;
    }
    if (pid === undefined || this.#asking) return;
    this.#asking = true;
    this.#followedMs = nowMs;
    this.#host.threads().then((threads) => {
      if (this.#host.pid() !== pid) return;
      this.#threads = threads;
      this.#tracer?.follow(pid, threads);
      this.#pid = pid;
      this.#place();
    }).catch(() => {}).finally(() => { this.#asking = false; }); // QEMU is busy, or at its end: asked again
  }

  // ---- primary -------------------------------------------------------------

  #tellLoad(reading: VcpuReading | undefined): void {
    const atMs = monotonicMs();
    const before = this.#told;
    if (before && atMs - before.atMs < loadMs) return;
    const output = this.#host.output();
    this.#told = { atMs, reading, output };
    if (!before) return;
    const perSecond = (of: (counts: OutputCounts) => number): number => Math.max(0, of(output) - of(before.output)) / (atMs - before.atMs) * 1000;
    const held = ({ released }: OutputCounts): number => released.commit + released.match;
    const busy = reading && before.reading ? windowBetween(before.reading, reading).vcpus : [];
    this.#host.send({
      type: 'vcpu-load',
      demand: {
        run: Array.from({ length: this.#count }, (_, vcpu) => busy.find((seen) => seen.vcpu === vcpu)?.run ?? 0),
        outputsPerSecond: perSecond((counts) => counts.early + counts.released.logged + held(counts)),
        heldPerSecond: perSecond(held),
        matchedPerSecond: perSecond(({ released }) => released.match),
      },
    });
  }

  // ---- secondary -----------------------------------------------------------

  #decide(reading: VcpuReading | undefined): void {
    const atMs = monotonicMs();
    const config = { vcpus: this.#count, cpus: this.#placement.cpus(this.#threads).length || availableParallelism() };
    const [before, last] = [this.#policy, this.#recent.at(-1)];
    if (!before) this.#demand = undefined;
    const { state, decision } = decide(before ?? initialPolicy(config), {
      atMs,
      comparing: this.#wished,
      demand: this.#demand && atMs - this.#demand.atMs < staleMs ? this.#demand.demand : undefined,
      window: last && reading ? windowBetween(last, reading) : undefined,
      override: this.#mode === 'auto' ? undefined : this.#mode,
    }, config);
    this.#policy = state;
    if (!before || (before.k > 0) !== (state.k > 0)) this.#host.setActive(state.k > 0);
    if (!decision) return;
    this.#decisions.push(decision);
    if (this.#decisions.length > keptDecisions) this.#decisions.shift();
    this.#place();
    this.#host.onDecision(decision);
  }

  /** Threads go where the last decision wants them. */
  #place(): void {
    if (!this.#policy || this.#stopping) return;
    const { active } = this.#policy;
    try {
      if (active.length > 0) this.#placement.place(this.#threads, active);
      else this.#placement.restore(); // it is paused: nobody is to be parked, should it be needed at once
    } catch (error) {
      this.#host.warn('VCPU_PLACEMENT', `The secondary's vCPUs run where the kernel puts them: ${(error as Error).message}.`);
    }
  }
}

/** CLOCK_MONOTONIC, which readings and decisions share. */
function monotonicMs(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}
