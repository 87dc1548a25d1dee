/**
 * A simulated QEMU. Its guest is a counter that clients read and raise over
 * connections of their own; its COLO is QEMU's, as the design describes it.
 */

import { Process } from './process.js';
import type { Gate } from './gate.js';
import { ms, type World } from './world.js';

export interface Request {
  client: number;
  /** Counts the requests of this client's one connection, from 1. */
  seq: number;
  op: 'raise' | 'read';
}

/** The guest's whole state: what a checkpoint copies. */
export interface Guest {
  counter: number;
  /** The last request of each connection and its answer, for when it is sent again. */
  answered: Map<number, { seq: number; value: number }>;
}

/** As src/agent/vm.ts tells it; the stamp is the wall clock's. */
export type QemuEvent =
  | { type: 'stopped'; wallUs: number }
  | { type: 'resumed' }
  | { type: 'colo-entered' }
  | { type: 'colo-exit' }
  | { type: 'exited' };

/** The agent's relay, as its QEMU sees it. */
export interface Relay {
  send: (message: unknown) => void;
  close: () => void;
}

type Stream = { type: 'state'; guest: Guest } | { type: 'loaded' };

export class Qemu extends Process {
  /** Undefined: empty, waiting for a state. */
  guest: Guest | undefined;
  running = false;
  onEvent: (event: QemuEvent) => void = () => {};
  readonly #gate: Gate;
  readonly #wallUs: () => number;
  #colo = false;
  #relay: Relay | undefined;
  #inbox: Request[] = [];
  #working = false;
  #loading = false;

  constructor(world: World, name: string, gate: Gate, wallUs: () => number, guest: Guest | undefined) {
    super(world, name);
    this.#gate = gate;
    this.#wallUs = wallUs;
    this.guest = guest;
    this.running = guest !== undefined;
    this.whenDead(() => this.onEvent({ type: 'exited' }));
  }

  // ---- the guest -----------------------------------------------------------

  receive(request: Request): void {
    if (this.#inbox.length >= 64) return;
    this.#inbox.push(request);
    this.#work();
  }

  #work(): void {
    if (this.#working || !this.running || this.#inbox.length === 0) return;
    this.#working = true;
    this.later(this.world.random.delay(50, 800), () => {
      this.#working = false;
      if (!this.running) return; // goes on when it does
      const request = this.#inbox.shift();
      if (request) this.#answer(request);
      this.#work();
    });
  }

  #answer({ client, seq, op }: Request): void {
    const guest = this.guest!;
    const last = guest.answered.get(client) ?? { seq: 0, value: 0 };
    if (seq < last.seq) return; // an old duplicate
    let value: number | undefined = last.value;
    if (seq === last.seq + 1) {
      if (op === 'raise') guest.counter++;
      value = guest.counter;
      guest.answered.set(client, { seq, value });
    } else if (seq > last.seq) {
      value = undefined; // a request of a connection that this VM does not know so far
    }
    this.world.log(this.name, () => `answers client ${client}, ${seq}: ${op} = ${value ?? 'reset'}`);
    this.#gate.out({ client, seq, value, speaker: this.name, timeNs: this.world.nowNs });
  }

  #run(running: boolean): void {
    if (this.running === running) return;
    this.running = running;
    this.world.log(this.name, () => running ? 'RESUME' : 'STOP');
    this.onEvent(running ? { type: 'resumed' } : { type: 'stopped', wallUs: this.#wallUs() });
    this.#work();
  }

  // ---- COLO ----------------------------------------------------------------

  /** Primary: copies the running VM, then stands in the COLO state. */
  migrate(relay: Relay): void {
    this.input(() => {
      this.#join(relay);
      this.later(this.world.random.delay(20 * ms, 400 * ms), () => {
        if (this.#relay !== relay) return;
        this.#sendState();
      });
    });
  }

  /** Secondary: the state comes in here. */
  incoming(relay: Relay): void {
    this.input(() => this.#join(relay));
  }

  /** @param failed called if this QEMU cannot */
  checkpoint(failed: (reason: string) => void): void {
    this.input(() => {
      if (!this.#colo || !this.#relay) return failed('not in the COLO state');
      const relay = this.#relay;
      this.later(this.world.random.delay(100, 4 * ms), () => {
        if (this.#relay === relay && this.running) this.#sendState();
      });
    });
  }

  dropSecondary(done: () => void): void {
    this.input(() => {
      this.#leave();
      this.later(this.world.random.delay(200, 5 * ms), () => {
        this.#run(true);
        done();
      });
    });
  }

  takeOver(done: (failure: string | undefined) => void): void {
    this.input(() => {
      if (!this.guest && !this.#loading) return done('there is no state to run');
      this.#leave();
      // A state that is being loaded is loaded to its end.
      const attempt = (): void => {
        if (this.#loading) return void this.later(ms, attempt);
        this.#run(true);
        done(undefined);
      };
      this.later(this.world.random.delay(500, 30 * ms), attempt);
    });
  }

  pause(): void {
    this.input(() => this.#run(false));
  }

  #join(relay: Relay): void {
    this.#relay = relay;
  }

  /** The agent's relay brings what the other QEMU sent. */
  fromRelay(relay: Relay, message: unknown): void {
    this.input(() => {
      if (this.#relay === relay) this.#onStream(message as Stream);
    });
  }

  relayClosed(relay: Relay): void {
    this.input(() => {
      if (this.#relay !== relay) return;
      this.#relay = undefined;
      this.onEvent({ type: 'colo-exit' });
    });
  }

  #leave(): void {
    this.#relay?.close();
    this.#relay = undefined;
    this.#colo = false;
  }

  #sendState(): void {
    const relay = this.#relay!;
    const { counter, answered } = this.guest!;
    this.#run(false);
    const guest = { counter, answered: new Map(answered) };
    this.later(this.world.random.delay(500, 10 * ms), () => relay.send({ type: 'state', guest } satisfies Stream));
  }

  #onStream(message: Stream): void {
    if (message.type === 'state') {
      this.#loading = true;
      const relay = this.#relay;
      this.#run(false); // a secondary that runs between checkpoints is stopped to load
      this.later(this.world.random.delay(500, 15 * ms), () => {
        this.#loading = false;
        this.guest = message.guest;
        if (this.#relay !== relay) return; // it was cut off meanwhile
        this.#colo = true;
        this.#run(true);
        relay?.send({ type: 'loaded' } satisfies Stream);
      });
    } else {
      if (!this.#colo) {
        this.#colo = true;
        this.onEvent({ type: 'colo-entered' });
      }
      this.#run(true);
    }
  }
}
