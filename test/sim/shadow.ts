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
  /** What was translated before a takeover is not after it. */
  handNothing?: boolean;
}

const silent: ShadowFlow = {
  state: 'silent', seqDelta: 0, guestIsn: 0, sndMax: 0, rcvAck: undefined, clientFin: false, guestFin: false, ended: false, replies: 0,
};

/** Of a connection, what a secondary is told. */
export interface Translation {
  conn: number;
  seqDelta: number;
}

export type ShadowMode = 'standby' | 'replay' | 'live' | 'off';

export class Shadow {
  mode: ShadowMode = 'off';
  /** Inputs that came this far and did not reach the VM: dropped, or at the log's end. */
  diverted = 0;
  /** Rises whenever a secondary of this host must be told anew how flows are translated. */
  changes = 0;
  /** What the primary translates, since a takeover before. */
  #handed: Translation[] = [];
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

  /** Protection begins: a checkpoint brings the primary's connections. */
  reset(): void {
    this.mode = 'standby';
    this.#handed = [];
    this.#flows.clear();
  }

  /** How this host translates, since it has taken over. */
  translations(): Translation[] {
    if (this.mode !== 'live' && this.mode !== 'replay') return [];
    const settled = [...this.#flows].filter(([, { state }]) => state === 'known' || state === 'silent');
    return settled.map(([conn, { seqDelta }]) => ({ conn, seqDelta }));
  }

  /** Connections whose clients know other numbers than the guest, or more of them, or may. */
  get unsettled(): number[] {
    return [...this.#flows.keys()];
  }

  /** How the primary translates: this host must, too, once it gives input to its VM. */
  hand(translations: readonly Translation[]): void {
    this.#handed = [...translations];
  }

  /** The VM runs from the last checkpoint of the primary's. */
  takeOver(): void {
    this.#flows.clear();
    if (!this.#rules.handNothing) {
      for (const { conn, seqDelta } of this.#handed) this.#flows.set(conn, { ...silent, seqDelta });
    }
    this.mode = 'replay';
  }

  /** A VM that has never been taken over needs no translation, and everything passes. */
  turnOff(): void {
    if (this.mode !== 'live' && this.mode !== 'replay') this.mode = 'off';
  }

  /** What the log thread sees of a flow. */
  look(conn: number): Readonly<ShadowFlow> | undefined {
    return this.#flows.get(conn);
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
      f = { ...silent };
      this.#flows.set(s.conn, f);
    }
    return f;
  }

  /** flow_input */
  #input(f: ShadowFlow, s: Segment, replay: boolean): Segment {
    if (opens(s)) {
      if (f.ended || f.state === 'silent') {
        this.changes += Number(f.seqDelta !== 0);
        Object.assign(f, { ...silent, state: 'syn', guestIsn: f.guestIsn, sndMax: f.sndMax } satisfies ShadowFlow);
      }
      return s;
    }
    let { seq, ack, fin } = s;
    if (s.rst) f.ended = true;
    else if (f.state === 'syn-ack') {
      f.seqDelta = this.#rules.noLearning ? 0 : s.ack - (f.guestIsn + 1);
      f.state = 'known';
      this.changes += Number(f.seqDelta !== 0);
    } else if (f.state === 'silent' && replay) {
      seq -= probeShift;
      fin = false;
    }
    if (s.fin) {
      f.clientFin = true;
      f.ended ||= f.guestFin;
    }
    if (f.state === 'known' || f.state === 'silent') ack -= f.seqDelta;
    // How much a silent guest has sent is not known.
    if (f.state === 'known' && ack > f.sndMax && !this.#rules.noClamp) ack = f.sndMax;
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
    } else if (end > f.sndMax) {
      f.sndMax = end;
      const last = s.data.at(-1);
      if (last && last.part === last.parts - 1) f.replies++; // with PSH
    }
    if (!s.rst && (f.rcvAck === undefined || s.ack > f.rcvAck)) f.rcvAck = s.ack;
    if (s.rst) f.ended = true;
    if (s.fin) {
      f.guestFin = true;
      f.ended ||= f.clientFin;
    }
    if (f.state !== 'known' || f.seqDelta === 0) return s;
    return { ...s, seq: s.seq + f.seqDelta };
  }
}
