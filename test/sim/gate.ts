/**
 * A host's gate: as bpf/gate.bpf.c and addon/tap-hold do it. The gate itself is
 * the kernel's and outlives its agent; what is held does not.
 */

import type { Process } from './process.js';
import type { World } from './world.js';

/** A packet of the VM to a client. */
export interface Output {
  client: number;
  seq: number;
  /** What the VM answers; undefined: it knows of no such connection. */
  value: number | undefined;
  /** Which QEMU said it. */
  speaker: string;
  /** When the tap got it: CLOCK_MONOTONIC nanoseconds. */
  timeNs: bigint;
}

export class Gate {
  mode: 'pass' | 'protected' | 'closed' = 'closed';
  leaseUntilNs = 0n;
  onNotice: (notice: 'held' | 'limit', oldestNs: bigint) => void = () => {};
  readonly #world: World;
  readonly #deliver: (output: Output) => void;
  #holder: Process | undefined;
  #held: Output[] = [];
  #watermarkNs = 0n;
  #noticed = new Set<'held' | 'limit'>();

  constructor(world: World, deliver: (output: Output) => void) {
    this.#world = world;
    this.#deliver = deliver;
  }

  /** A new agent's gate takes the place of an earlier one's. */
  open(holder: Process): void {
    this.#holder = holder;
    this.mode = 'closed';
    this.#held = [];
    this.#watermarkNs = 0n;
    this.#noticed.clear();
    holder.whenDead(() => { this.#held = []; });
  }

  setMode(mode: Gate['mode']): void {
    if (mode === 'protected' && this.mode !== 'protected') this.#watermarkNs = 0n;
    this.mode = mode;
  }

  /** True if what the VM says may be heard, now or later. */
  get speaks(): boolean {
    return this.mode === 'pass' || (this.mode === 'protected' && this.#world.nowNs < this.leaseUntilNs);
  }

  /** True if the VM may have this packet. */
  admits(): boolean {
    return this.mode !== 'closed';
  }

  /** The VM says something. */
  out(output: Output, released = false): void {
    if (this.mode === 'pass') return this.#deliver(output);
    if (this.mode === 'closed' || this.#world.nowNs >= this.leaseUntilNs) return;
    if (released) return this.#deliver(output);
    const holder = this.#holder;
    if (!holder?.alive) return; // its tap is gone with it
    const held = { ...output, timeNs: this.#world.nowNs };
    holder.later(5, () => {
      this.#held.push(held);
      this.#work();
    });
  }

  release(upToNs: bigint): void {
    this.#watermarkNs = upToNs;
    this.#noticed.clear();
    // The hold thread's own time: it may be stopped before it gets to it.
    this.#holder?.later(this.#world.random.delay(5, 300), () => this.#work());
  }

  releaseAll(): void {
    this.release(1n << 62n);
  }

  discard(): void {
    this.#held = [];
    this.#noticed.clear();
  }

  #work(): void {
    while (this.#held[0] && this.#held[0].timeNs <= this.#watermarkNs) this.out(this.#held.shift()!, true);
    const oldest = this.#held[0];
    if (!oldest) return;
    for (const notice of ['held', 'limit'] as const) {
      if (this.#noticed.has(notice) || (notice === 'limit' && this.#held.length < 6)) continue;
      this.#noticed.add(notice);
      this.onNotice(notice, oldest.timeNs);
    }
  }
}
