/** A process of a simulated host: it runs, stands still, or is gone. */

import type { Task, World } from './world.js';

interface Waiting {
  timer: boolean;
  run: () => void;
}

export class Process {
  readonly name: string;
  readonly world: World;
  alive = true;
  readonly #whenDead: (() => void)[] = [];
  #frozenUntilUs = 0;
  /** What came while it stood still. */
  #waiting: Waiting[] = [];
  #thawing = false;

  constructor(world: World, name: string) {
    this.world = world;
    this.name = name;
  }

  get frozen(): boolean {
    return this.world.nowUs < this.#frozenUntilUs;
  }

  /** Something from outside arrives: now, after the thaw, or never. */
  input(run: () => void): void {
    this.#do({ timer: false, run });
  }

  later(delayUs: number, run: () => void): Task {
    return this.world.after(delayUs, () => this.#do({ timer: true, run }));
  }

  /** After everything that has arrived by now: an event loop's next turn. */
  afterInputs(run: () => void): void {
    if (this.#thawing) this.#waiting.push({ timer: false, run });
    else this.later(0, run);
  }

  freeze(durationUs: number): void {
    if (!this.alive) return;
    this.world.log(this.name, () => `stands still for ${durationUs / 1000} ms`);
    this.#frozenUntilUs = Math.max(this.#frozenUntilUs, this.world.nowUs + durationUs);
    this.world.after(durationUs, () => this.#thaw());
  }

  thaw(): void {
    this.#frozenUntilUs = 0;
    this.#thaw();
  }

  kill(): void {
    if (!this.alive) return;
    this.world.log(this.name, () => 'is killed');
    this.alive = false;
    this.#waiting = [];
    for (const run of this.#whenDead) run();
  }

  whenDead(run: () => void): void {
    this.#whenDead.push(run);
  }

  #do(waiting: Waiting): void {
    if (!this.alive) return;
    if (this.frozen || this.#thawing) this.#waiting.push(waiting);
    else waiting.run();
  }

  #thaw(): void {
    if (!this.alive || this.frozen || this.#thawing) return;
    this.#thawing = true;
    // An event loop may be stopped before its timers or before its sockets.
    const timersFirst = this.world.random.chance(0.5);
    this.#waiting.sort((a, b) => Number(a.timer !== timersFirst) - Number(b.timer !== timersFirst));
    while (this.alive && !this.frozen) {
      const next = this.#waiting.shift();
      if (!next) break;
      next.run();
    }
    this.#thawing = false;
  }
}
