/** All chance of a run, from one seed. */

import { seededRandom } from '../../src/drill/random.js';

export class Random {
  readonly #next: () => number;

  constructor(seed: number) {
    this.#next = seededRandom(seed);
  }

  /** A whole number from `low` to `high`, both included. */
  int(low: number, high: number): number {
    return low + Math.floor(this.#next() * (high - low + 1));
  }

  chance(share: number): boolean {
    return this.#next() < share;
  }

  pick<T>(items: readonly T[]): T {
    return items[this.int(0, items.length - 1)]!;
  }

  /** Mostly near `low`, sometimes far: a delay, in whatever unit. */
  delay(low: number, high: number): number {
    const share = this.#next();
    return Math.round(low + share * share * share * (high - low));
  }
}
