/**
 * A simulated QEMU: it reads its tap, lets its guest work, and copies it. Its
 * COLO is QEMU's, as the design describes it.
 */

import type { Guest } from './guest.js';
import type { Segment } from './packet.js';
import { Process } from './process.js';
import { cancel, ms, type Task, type World } from './world.js';

/** The VM's tap: what waits in it, and how many packets QEMU has read from it. */
export class Tap {
  read = 0;
  queue: Segment[] = [];
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

const retransmitUs = 200 * ms;
const delayedAckUs = 40 * ms;

export class Qemu extends Process {
  /** Undefined: empty, waiting for a state. */
  guest: Guest | undefined;
  running = false;
  onEvent: (event: QemuEvent) => void = () => {};
  readonly #tap: Tap;
  readonly #out: (s: Segment, speaker: string) => void;
  readonly #wallUs: () => number;
  #colo = false;
  #relay: Relay | undefined;
  /** Read from the tap, and not yet the guest's. */
  #inHand: Segment[] = [];
  #reading = false;
  #working = false;
  #retransmission: Task | undefined;
  #delayedAck: Task | undefined;
  #loading = false;

  constructor(world: World, name: string, tap: Tap, out: (s: Segment, speaker: string) => void, wallUs: () => number, guest: Guest | undefined) {
    super(world, name);
    this.#tap = tap;
    this.#out = out;
    this.#wallUs = wallUs;
    this.guest = guest;
    this.running = guest !== undefined;
    tap.queue = [];
    this.whenDead(() => {
      tap.queue = [];
      this.onEvent({ type: 'exited' });
    });
  }

  // ---- the guest -----------------------------------------------------------

  /** There is something in the tap. */
  poll(): void {
    if (this.#reading || !this.running || this.#tap.queue.length + this.#inHand.length === 0) return;
    this.#reading = true;
    const { random } = this.world;
    this.later(random.delay(5, 120), () => {
      this.#reading = false;
      if (!this.running) return; // goes on when it does
      const taken = this.#tap.queue.splice(0, random.int(1, 2));
      this.#tap.read += taken.length;
      this.#inHand.push(...taken);
      // Sometimes it is stopped before the guest sees them.
      if (taken.length === 0 || random.chance(0.8)) for (const s of this.#inHand.splice(0)) this.guest!.receive(s, random, this.#send);
      this.#drive();
    });
  }

  readonly #send = (s: Segment): void => {
    this.#out(s, this.name);
  };

  /** Sees to it that everything happens that is due. */
  #drive(): void {
    const { guest } = this;
    if (!this.running || !guest) return;
    this.poll();
    if (guest.waits) {
      this.#retransmission ??= this.later(retransmitUs, () => {
        this.#retransmission = undefined;
        if (this.running) this.guest!.resend(this.#send);
        this.#drive();
      });
    }
    if (guest.owesAcks) {
      this.#delayedAck ??= this.later(delayedAckUs, () => {
        this.#delayedAck = undefined;
        if (this.running) this.guest!.flushAcks(this.#send);
      });
    }
    if (this.#working || !guest.hasWork) return;
    this.#working = true;
    this.later(this.world.random.delay(50, 800), () => {
      this.#working = false;
      if (!this.running) return;
      this.guest!.work(this.#send);
      this.#drive();
    });
  }

  #run(running: boolean): void {
    if (this.running === running) return;
    this.running = running;
    this.world.log(this.name, () => running ? 'RESUME' : 'STOP');
    this.onEvent(running ? { type: 'resumed' } : { type: 'stopped', wallUs: this.#wallUs() });
    this.#drive();
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
    this.#run(false);
    const guest = this.guest!.clone();
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
        this.#inHand = [];
        cancel(this.#retransmission);
        cancel(this.#delayedAck);
        this.#retransmission = this.#delayedAck = undefined;
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
