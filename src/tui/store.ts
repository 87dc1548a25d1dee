/** Holds the model between observations and drawings. */

import { initialModel, reduce, type Model } from './model.js';
import type { Sink } from './feed.js';
import type { Observation } from './observation.js';

/** What is drawn: the model at a moment. */
export interface Frame { model: Model; nowMs: number }

/** What is worth showing before the next round is drawn this much later, together with what comes meanwhile. */
const soonMs = 40;

export class Store implements Sink {
  readonly #nowMs: () => number;
  readonly #onObserved: (observation: Observation) => void;
  readonly #listeners = new Set<() => void>();
  #model: Model;
  #frame: Frame;
  #timer: NodeJS.Timeout | undefined;

  constructor(sources: readonly string[], nowMs: () => number, onObserved: (observation: Observation) => void = () => {}) {
    this.#nowMs = nowMs;
    this.#onObserved = onObserved;
    this.#model = initialModel(sources);
    this.#frame = { model: this.#model, nowMs: nowMs() };
  }

  readonly observe = (observation: Observation): void => {
    this.#onObserved(observation);
    const before = this.#model;
    this.#model = reduce(before, observation);
    // Commits and checkpoints come by the dozen a second; what makes an event comes rarely.
    if (this.#model.events !== before.events || answering(this.#model) !== answering(before)) this.#timer ??= setTimeout(this.drawn, soonMs);
  };

  readonly drawn = (): void => {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#frame = { model: this.#model, nowMs: this.#nowMs() };
    for (const listener of this.#listeners) listener();
  };

  readonly frame = (): Frame => this.#frame;

  readonly subscribe = (listener: () => void): (() => void) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  close(): void {
    clearTimeout(this.#timer);
    this.#listeners.clear();
  }
}

/** How many agents answer. */
function answering({ seen }: Model): number {
  return seen.filter(({ status, gone }) => status !== undefined && gone === undefined).length;
}
