/**
 * A host's gate: as bpf/gate.bpf.c, bpf/mirror.h and addon/tap-hold do it. The
 * gate itself is the kernel's and outlives its agent; what is held does not.
 */

import { Flows, type FlowRules } from './flow.js';
import type { Entry } from './input-log.js';
import type { Segment } from './packet.js';
import type { Process } from './process.js';
import type { Tap } from './vm.js';
import { ms, type Task, type World } from './world.js';

/** Broken on purpose. */
export interface GateRules extends FlowRules {
  /** What was mirrored counts as logged. */
  ackBeforeLogging?: boolean;
  /** Input is mirrored from the moment on from which output is held. */
  mirrorWhenProtected?: boolean;
}

export interface GateEvents {
  /** Past the gate, on its way to clients. */
  out: (s: Segment, speaker: string) => void;
  mirror: (entry: Entry) => void;
}

interface Held {
  segment: Segment;
  /** Which QEMU said it. */
  speaker: string;
  timeUs: number;
  /** The input that it waits for; 0: it waits for a commit. */
  needsIseq: number;
  /** It has left, though older ones still wait. */
  gone: boolean;
}

/** kPatienceNs */
const patienceUs = 10 * ms;

export class Gate {
  mode: 'pass' | 'protected' | 'closed' = 'closed';
  leaseUntilNs = 0n;
  onNotice: (notice: 'held' | 'limit', oldestNs: bigint) => void = () => {};
  readonly #world: World;
  readonly #tap: Tap;
  readonly #declared: readonly boolean[];
  readonly #rules: GateRules;
  readonly #events: GateEvents;
  #holder: Process | undefined;
  #held: Held[] = [];
  #watermarkUs = 0;
  readonly #noticed = new Set<'held' | 'limit'>();
  #patience: Task | undefined;
  #flows: Flows;
  #inputIseq = 0;
  #unnumbered = 0;
  #readBefore = 0;
  #opened = false;
  #logEpoch = 0;

  constructor(world: World, tap: Tap, declared: readonly boolean[], rules: GateRules, events: GateEvents) {
    this.#world = world;
    this.#tap = tap;
    this.#declared = declared;
    this.#rules = rules;
    this.#events = events;
    this.#flows = new Flows(declared, rules);
  }

  /** A new agent's gate takes the place of an earlier one's. */
  open(holder: Process): void {
    this.#holder = holder;
    this.mode = 'closed';
    this.leaseUntilNs = 0n;
    this.#held = [];
    this.#watermarkUs = 0;
    this.#noticed.clear();
    this.#patience = undefined;
    this.#flows = new Flows(this.#declared, this.#rules);
    this.#inputIseq = this.#unnumbered = this.#logEpoch = 0;
    this.#opened = false;
    holder.whenDead(() => { this.#held = []; });
  }

  setMode(mode: Gate['mode']): void {
    if (mode !== 'closed' && !this.#opened) {
      this.#opened = true;
      this.#readBefore = this.#tap.read;
    }
    if (mode === 'protected' && this.mode !== 'protected') this.#watermarkUs = 0;
    if (mode !== 'protected') this.#logEpoch = 0;
    this.mode = mode;
  }

  /** True if what the VM says may be heard, now or later. */
  get speaks(): boolean {
    return this.mode === 'pass' || (this.mode === 'protected' && this.#world.nowNs < this.leaseUntilNs);
  }

  // ---- input, and its log --------------------------------------------------

  /** gate_in. @returns whether it may go on to the VM */
  in(s: Segment): boolean {
    if (this.mode === 'closed') return false;
    const numbered = this.mode === 'protected' || (this.#logEpoch !== 0 && !this.#rules.mirrorWhenProtected);
    const iseq = numbered ? ++this.#inputIseq : 0;
    if (!numbered) this.#unnumbered++;
    const write = this.#flows.input(s, iseq, this.#world.nowUs);
    if (!numbered) return true;
    if (this.#rules.ackBeforeLogging) this.acked(this.#logEpoch, iseq);
    this.#events.mirror({ iseq, segment: s, write });
    return true;
  }

  /** mirror_acked */
  acked(epoch: number, iseq: number): void {
    if (this.#logEpoch === 0 || epoch !== this.#logEpoch || iseq > this.#inputIseq) return;
    if (iseq <= this.#flows.loggedIseq) return;
    this.#flows.loggedIseq = iseq;
    if (this.#held.some(({ needsIseq }) => needsIseq > 0)) this.#holder?.later(5, () => this.#work());
  }

  /** @returns the number that the first mirrored input will have */
  beginLog(epoch: number): number {
    this.#logEpoch = epoch;
    this.#flows.loggedIseq = this.#inputIseq;
    return this.#inputIseq + 1;
  }

  readInputs(diverted: number): number {
    const read = this.#read(diverted);
    if (read > this.#inputIseq) this.#readBefore += read - this.#inputIseq;
    return Math.max(0, Math.min(read, this.#inputIseq));
  }

  vmBegins(diverted: number): void {
    this.#readBefore += this.#read(diverted) - this.#inputIseq;
  }

  #read(diverted: number): number {
    return this.#tap.read - this.#readBefore - this.#unnumbered + diverted;
  }

  // ---- output --------------------------------------------------------------

  /** gate_out: the VM says something, or what it said is given back. */
  out(s: Segment, speaker: string, released = false): void {
    const { nowUs, nowNs } = this.#world;
    if (this.mode === 'pass') {
      if (!released) this.#flows.output(s, false, nowUs);
      return this.#events.out(s, speaker);
    }
    if (this.mode === 'closed' || nowNs >= this.leaseUntilNs) return;
    if (released) return this.#events.out(s, speaker);
    const needsIseq = this.#flows.output(s, true, nowUs);
    if (needsIseq === true) return this.#events.out(s, speaker);
    const holder = this.#holder;
    if (!holder?.alive) return; // its tap is gone with it
    holder.later(5, () => {
      this.#held.push({ segment: s, speaker, timeUs: nowUs, needsIseq, gone: false });
      this.#work();
    });
  }

  /** A commit, of a checkpoint that stopped then. */
  commit(stopNs: bigint): void {
    const stopUs = Number(stopNs / 1000n);
    this.#flows.commit(stopUs);
    this.#releaseUpTo(stopUs);
  }

  releaseAll(): void {
    this.#releaseUpTo(Infinity);
  }

  discard(): void {
    this.#held = [];
    this.#noticed.clear();
  }

  #releaseUpTo(timeUs: number): void {
    this.#watermarkUs = timeUs;
    this.#noticed.clear();
    // The hold thread's own time: it may be stopped before it gets to it.
    this.#holder?.later(this.#world.random.delay(5, 300), () => this.#work());
  }

  /** The hold thread's round: what may leave leaves. */
  #work(): void {
    const flows = this.#flows;
    for (let first = this.#held[0]; first && first.timeUs <= this.#watermarkUs; first = this.#held[0]) {
      this.#held.shift();
      this.out(first.segment, first.speaker, true);
    }
    flows.drainedUs = this.#watermarkUs;
    for (const held of this.#held) {
      if (held.needsIseq === 0) continue;
      if (held.needsIseq > flows.loggedIseq) break;
      held.gone = true;
      this.out(held.segment, held.speaker, true);
      flows.unloggedDrainedUs = held.timeUs;
    }
    this.#held = this.#held.filter(({ gone }) => !gone);
    this.#notice();
  }

  #notice(): void {
    const oldest = this.#held[0];
    if (!oldest) return;
    const waits = this.#held.some(({ needsIseq }) => needsIseq === 0) || this.#world.nowUs >= oldest.timeUs + patienceUs;
    if (!waits) {
      this.#patience ??= this.#holder?.later(patienceUs, () => {
        this.#patience = undefined;
        this.#notice();
      });
    }
    for (const notice of ['held', 'limit'] as const) {
      if (this.#noticed.has(notice) || !(notice === 'limit' ? this.#held.length >= 12 : waits)) continue;
      this.#noticed.add(notice);
      this.onNotice(notice, BigInt(oldest.timeUs) * 1000n);
    }
  }
}
