/**
 * bpf/flow.h: which replies come from synchronised state. The names are its own;
 * requests are not parsed, the simulated segments tell.
 */

import { opens, serviceOf, type Segment, type Unit } from './packet.js';
import { ms } from './world.js';

/** How long writes are in doubt whose reply is not seen or does not come: VAGUE_NS and OPEN_NS. */
export interface Doubt { vagueMs: number; openMs: number }

const trueDoubt: Doubt = { vagueMs: 1000, openMs: 10_000 };

interface Flow {
  /** Newest input; 0 if that had no number. */
  inputIseq: number;
  /** Newest output that waits for a commit, and that only waits for the input log. */
  heldUs: number;
  unloggedUs: number;
  nextSeq: number;
  /** Of the client's numbers, what the guest has acknowledged. */
  acked: number;
  outEnd: number;
  service: Service;
  /** The guest accepted the client's SYN that we saw. */
  established: boolean;
  lost: boolean;
  asked: boolean;
  writeOpen: boolean;
  vague: boolean;
  closed: boolean;
  /** Where one of its replies ended is not known. */
  adrift: boolean;
  written: boolean;
  /** The guest has begun to reply, and answerEnd is right. */
  answering: boolean;
  answerEnd: number;
  pipelined: boolean;
  /** The client's newest bytes. */
  newest: Segment | undefined;
}

interface Service {
  openWrites: number;
  openUs: number;
  settledUs: number;
  vagueUs: number;
}

type Verdict = 'prereleased' | 'control' | 'order' | 'unlogged' | 'doubt' | 'standing' | 'off';

/** Broken on purpose, but for the first. */
export interface FlowRules {
  /** Shorter times, so that runs are long enough for them to pass. */
  doubt?: Doubt;
  /** The reply to a write is judged like any other, however late it comes. */
  releaseLateReplies?: boolean;
  /** What the guest says on connections that are not followed is no sign of their writes. */
  ignoreUnfollowed?: boolean;
  /** In-doubt writes are forgotten. */
  forgetWrites?: boolean;
  /** A write is in doubt no longer than until the reply to it. */
  settleAtReply?: boolean;
  /** Whatever ends a reply settles a write, also one of before that is said again. */
  settleByRepeats?: boolean;
  /** Whether the secondary has the input does not matter. */
  ignoreLog?: boolean;
  /** What a client repeats counts as a write, though nothing is in doubt by that. */
  repeatedWrites?: boolean;
}

export class Flows {
  /** The newest input that the secondary has in its log, contiguously. */
  loggedIseq = 0;
  /** The hold thread has given back everything up to then, and up to then what only waited for the input log. */
  drainedUs = 0;
  unloggedDrainedUs = 0;
  commitUs = 0;
  earlierCommitUs = 0;
  readonly #flows = new Map<number, Flow>();
  readonly #services: readonly (Service | undefined)[];
  readonly #rules: FlowRules;

  /** @param declared by number, whether the service is declared */
  constructor(declared: readonly boolean[], rules: FlowRules) {
    this.#services = declared.map((is) => is ? { openWrites: 0, openUs: 0, settledUs: 0, vagueUs: 0 } : undefined);
    this.#rules = rules;
  }

  /** flow_input. @returns whether it may be a write */
  input(s: Segment, iseq: number, nowUs: number): boolean {
    const service = this.#services[serviceOf(s.conn)];
    if (!service) return true;
    if (opens(s)) {
      this.#open(s, service, iseq, nowUs);
      return false;
    }
    const f = this.#flows.get(s.conn);
    if (!f) {
      if (s.data.length === 0) return false;
      service.vagueUs = nowUs; // older than the gate
      return true;
    }
    f.inputIseq = iseq;
    if (s.data.length === 0) return false;
    if (!f.lost && isAcknowledged(f, s)) return this.#rules.repeatedWrites ?? false;
    if (!f.lost && isRepeated(f, s)) {
      if (this.#rules.repeatedWrites) return true;
      if (f.writeOpen) service.openUs = nowUs;
      if (f.vague) service.vagueUs = nowUs;
      return f.vague;
    }
    if (f.lost || s.seq !== f.nextSeq) {
      this.#lose(f, nowUs);
      return true;
    }
    const ahead = s.ack - f.outEnd;
    const alone = !f.asked && !f.vague && !f.adrift && ahead >= 0 && ahead <= 1 && !f.pipelined;
    const found = classify(s.data);
    f.nextSeq += s.data.length;
    f.newest = s;
    if (found.write) this.#writeArrived(f, nowUs, alone && !found.read && found.ended <= 1);
    if (found.ended > 0) f.asked = true;
    f.pipelined = !alone || found.ended > 1;
    return found.write;
  }

  /** flow_output. @returns true: it may leave at once; else the input that it waits for, 0: it waits for a commit */
  output(s: Segment, protectedNow: boolean, nowUs: number): true | number {
    const f = this.#flows.get(s.conn);
    if (!f) {
      const unfollowed = this.#services[serviceOf(s.conn)];
      if (unfollowed && !this.#rules.ignoreUnfollowed) unfollowed.vagueUs = nowUs;
      return 0;
    }
    const { service } = f;
    if (s.syn && s.ack === f.nextSeq && !f.established) {
      f.outEnd = s.seq + 1;
      f.established = true;
    }
    if (f.established && !s.rst && s.ack > f.acked) {
      f.acked = s.ack;
      if (f.writeOpen) service.openUs = nowUs;
    }
    const whole = this.#answer(f, s, nowUs);
    if (!protectedNow) {
      this.#answered(f, s, whole, nowUs);
      return 0;
    }
    const verdict = this.#judge(f, s, nowUs);
    this.#answered(f, s, whole, nowUs);
    switch (verdict) {
      case 'prereleased': case 'control': return true;
      case 'unlogged':
        f.unloggedUs = nowUs;
        return f.inputIseq;
      default:
        f.heldUs = nowUs;
        return 0;
    }
  }

  commit(stopUs: number): void {
    this.earlierCommitUs = this.commitUs;
    this.commitUs = stopUs;
  }

  /** flow_open */
  #open(s: Segment, service: Service, iseq: number, nowUs: number): void {
    const f = this.#flows.get(s.conn);
    if (f && !f.closed) {
      f.inputIseq = iseq;
      if (f.nextSeq !== s.seq + 1 || f.established) this.#lose(f, nowUs);
      return;
    }
    this.#flows.set(s.conn, {
      inputIseq: iseq, heldUs: 0, unloggedUs: 0, nextSeq: s.seq + 1, acked: s.seq + 1, outEnd: 0, service, established: false, lost: false,
      asked: false, writeOpen: false, vague: false, closed: false,
      adrift: false, written: false, answering: false, answerEnd: 0, pipelined: false, newest: undefined,
    });
  }

  #lose(f: Flow, nowUs: number): void {
    f.lost = f.vague = true;
    f.service.vagueUs = nowUs;
  }

  #writeArrived(f: Flow, nowUs: number, alone: boolean): void {
    if (this.#rules.forgetWrites) return;
    if (!alone) {
      f.vague = true;
      f.service.vagueUs = nowUs;
      return;
    }
    f.service.openUs = nowUs;
    if (f.writeOpen) return;
    f.writeOpen = f.written = true;
    f.service.openWrites++;
  }

  #writeSettled(f: Flow, nowUs: number): void {
    if (!f.writeOpen) return;
    f.writeOpen = false;
    f.service.settledUs = this.#rules.settleAtReply ? f.service.settledUs : nowUs;
    f.service.openWrites--;
  }

  /** flow_adrift */
  #adrift(f: Flow, unasked: boolean, nowUs: number): void {
    f.adrift = true;
    if (!f.written || !unasked) return;
    f.vague = true;
    f.service.vagueUs = nowUs;
  }

  /** flow_answer. The length of every reply is known from its first unit. */
  #answer(f: Flow, s: Segment, nowUs: number): boolean {
    const { data } = s;
    const end = s.seq + data.length;
    const said = f.outEnd;
    const first = data[data.length - (end - said)];
    const last = data.at(-1);
    f.outEnd = Math.max(said, end);
    if (this.#rules.settleByRepeats) return last !== undefined && last.part === last.parts - 1;
    if (data.length === 0 || end <= said) return false;
    if (f.adrift || f.vague || (f.pipelined && !f.writeOpen)) return false;
    if (!f.asked || !first) {
      this.#adrift(f, true, nowUs);
      return false;
    }
    if (!f.answering) {
      if (s.ack < f.nextSeq) {
        this.#adrift(f, false, nowUs);
        return false;
      }
      f.answerEnd = said + first.parts;
      f.answering = true;
    }
    if (end < f.answerEnd) return false;
    f.answering = false;
    if (end > f.answerEnd) this.#adrift(f, true, nowUs);
    return true;
  }

  /** flow_answered */
  #answered(f: Flow, s: Segment, whole: boolean, nowUs: number): void {
    if (s.fin || s.rst) {
      f.closed = true;
      this.#writeSettled(f, nowUs);
    }
    if (f.vague) f.service.vagueUs = nowUs;
    if (whole) {
      f.asked = false;
      this.#writeSettled(f, nowUs);
    } else if (s.data.length > 0 && f.writeOpen) {
      f.service.openUs = nowUs;
    }
  }

  /** flow_judge */
  #judge(f: Flow, s: Segment, nowUs: number): Verdict {
    const control = s.data.length === 0 && !s.fin && !s.rst;
    if (f.heldUs > this.drainedUs) return 'order';
    if (!control) {
      if (s.fin || s.rst || s.syn) return 'off';
      if (!f.established || f.lost || f.vague) return 'standing';
      if ((f.writeOpen && !this.#rules.releaseLateReplies) || this.#inDoubt(f.service, nowUs)) return 'doubt';
    }
    const waits = f.inputIseq > this.loggedIseq || (f.unloggedUs > this.drainedUs && f.unloggedUs > this.unloggedDrainedUs);
    if (waits && !this.#rules.ignoreLog) return 'unlogged';
    return control ? 'control' : 'prereleased';
  }

  #inDoubt(service: Service, nowUs: number): boolean {
    const { vagueMs, openMs } = this.#rules.doubt ?? trueDoubt;
    return (service.openWrites > 0 && this.#vagueSince(service.openUs, openMs * ms, nowUs)) || service.settledUs >= this.commitUs
      || this.#vagueSince(service.vagueUs, vagueMs * ms, nowUs);
  }

  #vagueSince(timeUs: number, waitUs: number, nowUs: number): boolean {
    return timeUs > 0 && (timeUs >= this.earlierCommitUs || nowUs - timeUs < waitUs);
  }
}

/** acknowledged */
function isAcknowledged({ acked }: Flow, { seq, data }: Segment): boolean {
  return seq + data.length <= acked;
}

/** repeated */
function isRepeated({ newest }: Flow, { seq, data }: Segment): boolean {
  return newest?.seq === seq && newest.data.length === data.length; // a simulated client says no other bytes
}

/** classify_stream: what is known from these units alone. */
function classify(units: readonly Unit[]): { read: boolean; write: boolean; ended: number } {
  const found = { read: false, write: false, ended: 0 };
  for (const { request, part, parts } of units) {
    const ends = part === parts - 1;
    if (request.op !== 'read') found.write = true;
    else if (ends) found.read = true;
    found.ended += Number(ends);
  }
  return found;
}
