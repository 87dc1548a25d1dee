/**
 * addon/tap-hold's input log: which of the mirrored inputs are here, what of
 * them a commit makes superfluous, and what the primary is told.
 */

import type { Segment } from './packet.js';
import type { Process } from './process.js';
import { Replayer, type ReplayTarget } from './replay.js';
import { cancel, ms, type Task } from './world.js';

/** A logged input. */
export interface Entry {
  iseq: number;
  segment: Segment;
  /** It may be a write. */
  write: boolean;
}

/** Broken on purpose. */
export interface LogRules {
  /** A missing input is acknowledged with those behind it. */
  ackPastGaps?: boolean;
  /** What comes after a gap is replayed, too, and everything at once. */
  unpaced?: boolean;
  /** Writes do not wait for the replies to earlier requests. */
  noBarrier?: boolean;
  /** The first write to one service frees those to all. */
  oneBarrier?: boolean;
  /** The replay is as impatient after a time in which its host stood still. */
  wallClock?: boolean;
  /** What clients send now waits for nothing but what their own connection has in the log. */
  liveAtOnce?: boolean;
  /** Writes that the checkpoint has brought count among those that wait. */
  committedWrites?: boolean;
}

export interface LogEvents {
  acknowledge: (epoch: number, iseq: number) => void;
  /** A gap, or too much: only a checkpoint helps. */
  onTrouble: () => void;
  /** The replay is over. */
  onReplayed: () => void;
}

const gapUs = 20 * ms;
const gapPackets = 64;
const limitPackets = 150;
const repeatUs = 10 * ms;

export class InputLog {
  phase: 'idle' | 'logging' | 'replaying' | 'forwarding' = 'idle';
  readonly #process: Process;
  readonly #target: ReplayTarget;
  readonly #events: LogEvents;
  readonly #rules: LogRules;
  #entries: Entry[] = [];
  /** Numbers of complete inputs beyond the first gap. */
  readonly #beyond = new Set<number>();
  /** The lowest that is missing. */
  #next = 1;
  #newest = 0;
  #committed = 0;
  #told = -1;
  #epoch = 0;
  #troubleNoticed = false;
  #working = false;
  #gapTimer: Task | undefined;
  #repeat: Task | undefined;
  #replayer: Replayer | undefined;

  constructor(process: Process, target: ReplayTarget, rules: LogRules, events: LogEvents) {
    this.#process = process;
    this.#target = target;
    this.#rules = rules;
    this.#events = events;
  }

  /** The newest number that was seen. */
  get newest(): number {
    return this.#newest;
  }

  reset(epoch: number, next: number): void {
    this.#empty();
    this.#beyond.clear();
    this.#next = next;
    this.#newest = this.#committed = next - 1;
    this.#epoch = epoch;
    this.#troubleNoticed = false;
    this.phase = 'logging';
    this.#acknowledge();
  }

  /** A checkpoint has brought the effects of all up to `iseq`, perhaps but for the last `margin` of them. */
  forget(iseq: number, margin: number): void {
    if (this.phase !== 'logging') return;
    const upTo = iseq - margin;
    // In the order of arrival, as the ring is.
    const keep = this.#entries.findIndex((entry) => entry.iseq > upTo);
    this.#entries.splice(0, keep < 0 ? this.#entries.length : keep);
    while (this.#next <= upTo) this.#beyond.delete(this.#next++);
    this.#advance();
    this.#newest = Math.max(this.#newest, this.#next - 1);
    this.#committed = Math.max(this.#committed, iseq);
    this.#troubleNoticed = false;
    this.#work();
  }

  /** From the tunnel. */
  arrive(entry: Entry): void {
    this.#process.input(() => {
      if (this.phase !== 'logging' || entry.iseq < this.#next || this.#beyond.has(entry.iseq)) return;
      this.#entries.push(entry);
      this.#beyond.add(entry.iseq);
      this.#newest = Math.max(this.#newest, entry.iseq);
      this.#advance();
      this.#work();
    });
  }

  /** From clients, after the takeover. */
  arriveLive(s: Segment): void {
    this.#process.input(() => {
      if (this.phase === 'replaying') this.#replayer!.append(s);
      else if (this.phase === 'forwarding') this.#target.inject(s);
    });
  }

  replay(): void {
    // What came after a gap was never acknowledged: clients send it again.
    const log = this.phase === 'logging' ? this.#entries.filter(({ iseq }) => iseq < this.#next) : [];
    const { world } = this.#process;
    this.#replayer = new Replayer(world, this.#target, this.#rules);
    this.#replayer.begin(log, this.#committed);
    this.phase = 'replaying';
    this.#stepReplay();
  }

  #stepReplay(): void {
    if (this.phase !== 'replaying') return;
    if (!this.#replayer!.step()) return void this.#process.later(ms, () => this.#stepReplay());
    this.#empty();
    this.phase = 'forwarding';
    this.#process.world.log(this.#process.name, () => 'the log is replayed');
    this.#events.onReplayed();
  }

  #advance(): void {
    while (this.#beyond.delete(this.#next)) this.#next++;
  }

  /** The thread's next round: one for several packets. */
  #work(): void {
    if (this.#working) return;
    this.#working = true;
    const { world } = this.#process;
    this.#process.later(world.random.delay(3, 60), () => {
      this.#working = false;
      if (this.phase !== 'logging') return;
      this.#acknowledge();
      this.#noticeTrouble();
    });
  }

  #acknowledge(): void {
    const iseq = this.#rules.ackPastGaps ? this.#newest : this.#next - 1;
    if (iseq === this.#told) return;
    this.#told = iseq;
    this.#events.acknowledge(this.#epoch, iseq);
    cancel(this.#repeat);
    this.#repeat = this.#process.later(repeatUs, () => {
      if (this.phase === 'logging') this.#events.acknowledge(this.#epoch, this.#told);
    });
  }

  #noticeTrouble(): void {
    const hole = this.#newest >= this.#next;
    if (this.#troubleNoticed) return;
    if ((hole && this.#newest - this.#next >= gapPackets) || this.#entries.length > limitPackets) return this.#notice();
    if (!hole || this.#gapTimer) return;
    const missing = this.#next;
    this.#gapTimer = this.#process.later(gapUs, () => {
      this.#gapTimer = undefined;
      if (this.phase !== 'logging' || this.#troubleNoticed) return;
      if (this.#next === missing) this.#notice();
      else this.#work();
    });
  }

  #notice(): void {
    this.#troubleNoticed = true;
    this.#events.onTrouble();
  }

  #empty(): void {
    this.#replayer = undefined;
    this.#entries = [];
  }
}
