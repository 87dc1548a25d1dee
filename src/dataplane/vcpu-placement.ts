/**
 * Which of a VM's vCPUs have CPUs of their own: the active ones run at normal
 * weight, each on one CPU; the others are parked, runnable on a CPU that they
 * share, but only when nobody else wants it. A guest that spins for a parked
 * vCPU waits long, and not forever.
 */

import { getScheduling, setScheduling, ThreadError, type Scheduling } from 'thread-sched';
import type { VcpuThread } from './vcpu-tracer.js';

export class VcpuPlacement {
  /** What was found of each thread that was touched, to be given back; by thread id. */
  readonly #found = new Map<number, Scheduling>();
  /** The CPU of each active vCPU. */
  readonly #cpuOf = new Map<number, number>();

  /** The CPUs that the VM may use on this host. */
  cpus(threads: readonly VcpuThread[]): number[] {
    for (const { tid } of threads) {
      const found = this.#found.get(tid) ?? ifAlive(() => getScheduling(tid));
      if (found) return found.cpus;
    }
    return [];
  }

  /**
   * Places the threads of all vCPUs; may be repeated as threads come and go.
   * @param active which run at normal weight; if that is all, none is placed
   * @throws ThreadError where the kernel refuses, with everything given back
   */
  place(threads: readonly VcpuThread[], active: readonly number[]): void {
    if (threads.every(({ vcpu }) => active.includes(vcpu))) return this.restore();
    const cpus = this.cpus(threads);
    const parking = cpus.at(-1);
    if (parking === undefined) return; // all have ended
    for (const vcpu of [...this.#cpuOf.keys()]) if (!active.includes(vcpu)) this.#cpuOf.delete(vcpu);
    try {
      for (const { vcpu, tid } of threads) {
        const isActive = active.includes(vcpu);
        ifAlive(() => {
          const found = this.#found.get(tid) ?? getScheduling(tid);
          this.#found.set(tid, found);
          if (isActive) setScheduling(tid, { ...found, cpus: [this.#cpuFor(vcpu, cpus)] });
          else setScheduling(tid, { policy: 'idle', cpus: [parking] });
        });
      }
    } catch (error) {
      this.restore();
      throw error;
    }
  }

  /**
   * Gives every thread back what it had. Takes microseconds, and never fails: a takeover must not.
   * Who took the CPUs away that a thread had has given it others, and those are kept.
   */
  restore(): void {
    for (const [tid, { policy, priority, cpus }] of this.#found) {
      for (const part of [{ policy, priority }, { cpus }]) {
        try {
          setScheduling(tid, part);
        } catch {
          // It has ended, or may not have this any more.
        }
      }
    }
    this.#found.clear();
    this.#cpuOf.clear();
  }

  /** A vCPU keeps its CPU; a new one gets the first that is free, the parking one last. */
  #cpuFor(vcpu: number, cpus: readonly number[]): number {
    let cpu = this.#cpuOf.get(vcpu);
    if (cpu === undefined) {
      const taken = [...this.#cpuOf.values()];
      cpu = cpus.find((free) => !taken.includes(free)) ?? cpus[taken.length % cpus.length]!;
      this.#cpuOf.set(vcpu, cpu);
    }
    return cpu;
  }
}

/** Threads may end at any time. */
function ifAlive<T>(act: () => T): T | undefined {
  try {
    return act();
  } catch (error) {
    if (error instanceof ThreadError && error.code === 'ESRCH') return undefined;
    throw error;
  }
}
