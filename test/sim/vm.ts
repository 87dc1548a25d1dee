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

/** The connection to the other QEMU, which the agents have made. */
export interface Stream {
  send: (message: unknown) => void;
  close: () => void;
}

type Carried = { type: 'state'; guest: Guest } | { type: 'loaded' };

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
  #stream: Stream | undefined;
  /** Read from the tap, and not yet the guest's. */
  #inHand: Segment[] = [];
  #reading = false;
  #working = false;
  #retransmission: Task | undefined;
  #delayedAck: Task | undefined;
  #slowWork: Task | undefined;
  #resumedUs = 0;
  #loading = false;

  constructor(world: World, name: string, tap: Tap, out: (s: Segment, speaker: string) => void, wallUs: () => number, guest: Guest | undefined) {
    super(world, name);
    this.#tap = tap;
    this.#out = out;
    this.#wallUs = wallUs;
    this.guest = guest;
    this.running = guest !== undefined;
    this.#resumedUs = world.nowUs;
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
    if (this.#working) return;
    const nowUs = this.#guestUs;
    const workUs = guest.workUs(nowUs);
    cancel(this.#slowWork);
    this.#slowWork = undefined;
    if (workUs === undefined) return;
    if (workUs > nowUs) {
      this.#slowWork = this.later(workUs - nowUs, () => this.#drive());
      return;
    }
    this.#working = true;
    this.later(this.world.random.delay(50, 800), () => {
      this.#working = false;
      if (!this.running) return;
      const now = this.#guestUs;
      if (this.guest!.workUs(now) === now) this.guest!.work(this.world.random, now, this.#send);
      this.#drive();
    });
  }

  /** The guest's clock. */
  get #guestUs(): number {
    return this.guest!.ranUs + (this.running ? this.world.nowUs - this.#resumedUs : 0);
  }

  #run(running: boolean): void {
    if (this.running === running) return;
    if (this.guest) this.guest.ranUs = this.#guestUs;
    this.running = running;
    this.#resumedUs = this.world.nowUs;
    this.world.log(this.name, () => running ? 'RESUME' : 'STOP');
    this.onEvent(running ? { type: 'resumed' } : { type: 'stopped', wallUs: this.#wallUs() });
    this.#drive();
  }

  // ---- COLO ----------------------------------------------------------------

  /** Primary: copies the running VM, then stands in the COLO state. */
  migrate(stream: Stream): void {
    this.input(() => {
      this.#join(stream);
      this.later(this.world.random.delay(20 * ms, 400 * ms), () => {
        if (this.#stream !== stream) return;
        this.#sendState();
      });
    });
  }

  /** Secondary: the state comes in here. */
  incoming(stream: Stream): void {
    this.input(() => this.#join(stream));
  }

  /** @param failed called if this QEMU cannot */
  checkpoint(failed: (reason: string) => void): void {
    this.input(() => {
      if (!this.#colo || !this.#stream) return failed('not in the COLO state');
      const stream = this.#stream;
      this.later(this.world.random.delay(100, 4 * ms), () => {
        if (this.#stream === stream && this.running) this.#sendState();
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

  #join(stream: Stream): void {
    this.#stream = stream;
  }

  /** What the other QEMU sent. */
  fromStream(stream: Stream, message: unknown): void {
    this.input(() => {
      if (this.#stream === stream) this.#onStream(message as Carried);
    });
  }

  streamClosed(stream: Stream): void {
    this.input(() => {
      if (this.#stream !== stream) return;
      this.#stream = undefined;
      this.onEvent({ type: 'colo-exit' });
    });
  }

  #leave(): void {
    this.#stream?.close();
    this.#stream = undefined;
    this.#colo = false;
  }

  #sendState(): void {
    const stream = this.#stream!;
    this.#run(false);
    const guest = this.guest!.clone();
    this.later(this.world.random.delay(500, 10 * ms), () => stream.send({ type: 'state', guest } satisfies Carried));
  }

  #onStream(message: Carried): void {
    if (message.type === 'state') {
      this.#loading = true;
      const stream = this.#stream;
      this.#run(false); // a secondary that runs between checkpoints is stopped to load
      this.later(this.world.random.delay(500, 15 * ms), () => {
        this.#loading = false;
        this.guest = message.guest;
        this.#inHand = [];
        cancel(this.#retransmission);
        cancel(this.#delayedAck);
        this.#retransmission = this.#delayedAck = undefined;
        if (this.#stream !== stream) return; // it was cut off meanwhile
        this.#colo = true;
        this.#run(true);
        stream?.send({ type: 'loaded' } satisfies Carried);
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
