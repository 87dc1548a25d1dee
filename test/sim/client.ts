/**
 * A client with one connection to the VM. Like TCP, it sends a request again
 * until it is answered; it remembers all it was told.
 */

import type { Output } from './gate.js';
import type { Request } from './vm.js';
import { cancel, ms, second, type Task, type World } from './world.js';

/** One request and its answer, as the client saw them. */
export interface Operation {
  client: number;
  seq: number;
  op: Request['op'];
  value: number;
  calledUs: number;
  answeredUs: number;
}

export class Client {
  readonly id: number;
  /** The VM denied a connection that it had answered on. */
  denied = false;
  lastAnswerUs = -Infinity;
  readonly #world: World;
  readonly #send: (request: Request) => void;
  readonly #onAnswer: (operation: Operation) => void;
  #request: Request | undefined;
  #calledUs = 0;
  #seq = 0;
  #again: Task | undefined;
  #stopped = false;

  constructor(world: World, id: number, send: (request: Request) => void, onAnswer: (operation: Operation) => void) {
    this.#world = world;
    this.id = id;
    this.#send = send;
    this.#onAnswer = onAnswer;
    world.after(world.random.int(0, 100) * ms, () => this.#next());
  }

  /** Requests that were answered. */
  get answered(): number {
    return this.#request ? this.#seq - 1 : this.#seq;
  }

  stop(): void {
    this.#stopped = true;
    cancel(this.#again);
  }

  hear({ seq, value }: Output): void {
    if (this.#stopped || !this.#request || seq !== this.#request.seq) return; // an answer that was heard before
    if (value === undefined) {
      this.denied = true;
      return this.stop();
    }
    cancel(this.#again);
    const { op } = this.#request;
    this.#request = undefined;
    this.lastAnswerUs = this.#world.nowUs;
    this.#onAnswer({ client: this.id, seq, op, value, calledUs: this.#calledUs, answeredUs: this.#world.nowUs });
    this.#again = this.#world.after(this.#world.random.delay(2 * ms, 120 * ms), () => this.#next());
  }

  #next(): void {
    if (this.#stopped) return;
    this.#request = { client: this.id, seq: ++this.#seq, op: this.#world.random.chance(0.6) ? 'raise' : 'read' };
    this.#calledUs = this.#world.nowUs;
    this.#transmit(200 * ms);
  }

  #transmit(timeoutUs: number): void {
    if (this.#stopped || !this.#request) return;
    this.#send(this.#request);
    this.#again = this.#world.after(timeoutUs, () => this.#transmit(Math.min(2 * timeoutUs, second)));
  }
}
