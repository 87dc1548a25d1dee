/** Simulated time: what happens, in order, and a trace of it. */

import type { Random } from './random.js';

export interface Task {
  readonly atUs: number;
  readonly order: number;
  run: (() => void) | undefined;
}

export const ms = 1000;
export const second = 1000 * ms;

/** Times are whole microseconds since the beginning. */
export class World {
  nowUs = 0;
  readonly random: Random;
  /** Lines of the trace, if one is kept. */
  readonly trace: string[] | undefined;
  readonly #heap: Task[] = [];
  #order = 0;
  #stopped = false;

  constructor(random: Random, tracing: boolean) {
    this.random = random;
    this.trace = tracing ? [] : undefined;
  }

  get nowNs(): bigint {
    return BigInt(this.nowUs) * 1000n;
  }

  log(who: string, text: () => string): void {
    this.trace?.push(`${(this.nowUs / 1000).toFixed(3).padStart(10)} ms  ${who.padEnd(8)} ${text()}`);
  }

  after(delayUs: number, run: () => void): Task {
    const task = { atUs: this.nowUs + Math.max(0, Math.round(delayUs)), order: this.#order++, run };
    this.#push(task);
    return task;
  }

  /** Nothing more happens. */
  stop(): void {
    this.#stopped = true;
  }

  /** Lets everything happen that is due until then. */
  runUntil(untilUs: number): void {
    for (let next = this.#heap[0]; next && next.atUs <= untilUs && !this.#stopped; next = this.#heap[0]) {
      this.#pop();
      this.nowUs = next.atUs;
      next.run?.();
    }
    this.nowUs = untilUs;
  }

  #push(task: Task): void {
    const heap = this.#heap;
    let at = heap.push(task) - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!before(task, heap[parent]!)) break;
      heap[at] = heap[parent]!;
      at = parent;
    }
    heap[at] = task;
  }

  #pop(): void {
    const heap = this.#heap;
    const last = heap.pop()!;
    if (heap.length === 0) return;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && before(heap[child + 1]!, heap[child]!)) child++;
      if (!before(heap[child]!, last)) break;
      heap[at] = heap[child]!;
      at = child;
    }
    heap[at] = last;
  }
}

function before(a: Task, b: Task): boolean {
  return a.atUs < b.atUs || (a.atUs === b.atUs && a.order < b.order);
}

export function cancel(task: Task | undefined): void {
  if (task) task.run = undefined;
}
