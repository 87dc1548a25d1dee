/**
 * bpf/shadow.bpf.c and shadow_flow.h: what passes the secondary's tap, and the
 * translation between its guest's connections and those that clients have. The
 * names are its own; timestamps are left out.
 */

import { opens, segment, span, type Segment } from './packet.js';

/** PROBE_SHIFT */
const probeShift = 1 << 29;

export interface ShadowFlow {
  state: 'silent' | 'syn' | 'syn-ack' | 'known';
  /** Client's view of the guest's sequence numbers less the guest's own. */
  seqDelta: number;
  guestIsn: number;
  /** Behind the last that the guest has sent, and has acknowledged (undefined: nothing so far). */
  sndMax: number;
  rcvAck: number | undefined;
  clientFin: boolean;
  guestFin: boolean;
  ended: boolean;
  replies: number;
}

/** Broken on purpose. */
export interface ShadowRules {
  /** Acknowledgements go in as they are. */
  noClamp?: boolean;
  /** Another initial sequence number is not learned. */
  noLearning?: boolean;
}

export type ShadowMode = 'standby' | 'replay' | 'live' | 'off';

export class Shadow {
  mode: ShadowMode = 'off';
  /** Inputs that came this far and did not reach the VM: dropped, or at the log's end. */
  diverted = 0;
  readonly #flows = new Map<number, ShadowFlow>();
  readonly #rules: ShadowRules;

  constructor(rules: ShadowRules) {
    this.#rules = rules;
  }

  /** A new agent's programs take the place of an earlier one's. */
  open(): void {
    this.mode = 'standby';
    this.diverted = 0;
    this.#flows.clear();
  }

  /** shadow_sweep of everything */
  forgetFlows(): void {
    this.#flows.clear();
  }

  /** What the log thread sees of a flow. */
  look(conn: number): Readonly<ShadowFlow> | undefined {
    return this.#flows.get(conn);
  }

  /** Connections whose clients know other numbers than the guest. */
  get translated(): number[] {
    return [...this.#flows].filter(([, { seqDelta }]) => seqDelta !== 0).map(([conn]) => conn);
  }

  /** shadow_in. @returns what the guest gets; `log`: it goes there; undefined: nothing */
  in(s: Segment, replay: boolean): Segment | 'log' | undefined {
    switch (this.mode) {
      case 'off': return s;
      case 'standby':
        this.diverted++;
        return undefined;
      case 'replay':
        if (replay) break;
        this.diverted++;
        return 'log';
      case 'live': break;
    }
    const inReplay = replay && this.mode === 'replay';
    const f = this.#flowOf(s, inReplay);
    return f ? this.#input(f, s, inReplay) : s;
  }

  /** shadow_out. @returns what clients get; undefined: nothing */
  out(s: Segment): Segment | undefined {
    if (this.mode === 'standby') return undefined;
    if (this.mode === 'off') return s;
    const f = this.#flowOf(s, this.mode === 'replay');
    return f ? this.#output(f, s) : s;
  }

  #flowOf(s: Segment, make: boolean): ShadowFlow | undefined {
    let f = this.#flows.get(s.conn);
    if (!f && make && !s.rst) {
      f = { state: 'silent', seqDelta: 0, guestIsn: 0, sndMax: 0, rcvAck: undefined, clientFin: false, guestFin: false, ended: false, replies: 0 };
      this.#flows.set(s.conn, f);
    }
    return f;
  }

  /** flow_input */
  #input(f: ShadowFlow, s: Segment, replay: boolean): Segment {
    if (opens(s)) {
      if (f.ended || f.state === 'silent') Object.assign(f, { state: 'syn', seqDelta: 0, rcvAck: undefined, clientFin: false, guestFin: false, ended: false, replies: 0 } satisfies Partial<ShadowFlow>);
      return s;
    }
    let { seq, ack, fin } = s;
    if (s.rst) f.ended = true;
    else if (f.state === 'syn-ack') {
      f.seqDelta = this.#rules.noLearning ? 0 : s.ack - (f.guestIsn + 1);
      f.state = 'known';
    } else if (f.state === 'silent' && replay) {
      seq -= probeShift;
      fin = false;
    }
    if (s.fin) {
      f.clientFin = true;
      f.ended ||= f.guestFin;
    }
    if (f.state === 'known') {
      ack -= f.seqDelta;
      if (ack > f.sndMax && !this.#rules.noClamp) ack = f.sndMax;
    }
    return segment(s.conn, false, seq, ack, { fin, rst: s.rst, data: s.data });
  }

  /** flow_output */
  #output(f: ShadowFlow, s: Segment): Segment {
    const end = s.seq + span(s);
    if (s.syn && f.state !== 'silent' && f.state !== 'known') {
      f.guestIsn = s.seq;
      f.sndMax = end;
      f.state = 'syn-ack';
    } else if (f.state === 'syn' || f.state === 'silent') {
      f.sndMax = end;
      f.state = 'known';
    } else if (end > f.sndMax) f.sndMax = end;
    if (!s.rst && (f.rcvAck === undefined || s.ack > f.rcvAck)) f.rcvAck = s.ack;
    if (s.data.length > 0) f.replies++;
    if (s.rst) f.ended = true;
    if (s.fin) {
      f.guestFin = true;
      f.ended ||= f.clientFin;
    }
    if (f.state !== 'known' || f.seqDelta === 0) return s;
    return { ...s, seq: s.seq + f.seqDelta };
  }
}
