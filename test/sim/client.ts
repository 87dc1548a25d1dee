/**
 * A client with one TCP connection at a time to a service of the VM. It
 * remembers all it was told, and complains of what TCP can never tell it.
 */

import { connOf, keyOf, segment, segmentUnits, type Request, type Segment, type Unit } from './packet.js';
import { cancel, ms, second, type Task, type World } from './world.js';

/** One request and its answer, as the client saw them. */
export interface Operation extends Request {
  client: number;
  calledUs: number;
  /** Infinity: never. */
  answeredUs: number;
  /** What was answered. */
  result: number | undefined;
}

/** How a client behaves. */
export interface Habits {
  /** Longest pause between an answer and the next request. */
  thinkMs: number;
  writes: number;
  /** Requests that may wait for answers at once. */
  pipeline: number;
  /** Requests of one connection. */
  requests: number;
  /** Share of connections that are reset in the middle. */
  aborts: number;
  /** Registers of each service. */
  keys: number;
  /**
   * Writes take the guest up to so long. Then all replies are of one length: a takeover may carry out such a write
   * before reads that were answered before it, and that puts clients out of step (the README says so).
   */
  slowestMs?: number;
}

export interface ClientEvents {
  send: (s: Segment) => void;
  onCall: (operation: Operation) => void;
  /** The VM, or what spoke for it, broke what TCP promises. The client begins anew. */
  onBroken: (text: string) => void;
  /** A number for a request. */
  nextId: () => number;
}

const firstRetryUs = 200 * ms;
/** Some connections outlive all the others. */
const longShare = 0.02;
const longRequests = 3000;

export class Client {
  readonly id: number;
  habits: Habits;
  conn = 0;
  /** When it last heard what it had not known. */
  lastNewsUs = -Infinity;
  answered = 0;
  /** The newest of its writes that was answered. */
  answeredWrite = 0;
  readonly #world: World;
  readonly #events: ClientEvents;
  #connections = 0;
  #state: 'closed' | 'opening' | 'open' | 'closing' = 'closed';
  /** Of our numbers: the first not acknowledged, and the next; of theirs: the next expected. */
  #una = 0;
  #next = 0;
  #expected = 0;
  #unacked: Unit[] = [];
  #finSent = false;
  /** Requests without an answer, in order, and what has come of the first one's. */
  readonly #waiting: { operation: Operation; seen: Unit | undefined }[] = [];
  #requestsLeft = 0;
  #aborting = false;
  #retry: Task | undefined;
  #think: Task | undefined;
  #ack: Task | undefined;

  constructor(world: World, id: number, habits: Habits, events: ClientEvents) {
    this.#world = world;
    this.id = id;
    this.habits = habits;
    this.#events = events;
    world.after(world.random.int(0, 100) * ms, () => this.#open());
  }

  /** It knows that the VM has accepted its connection, and has not tried to end it. */
  get established(): boolean {
    return this.#state === 'open';
  }

  /** The client's process ends without a word, and begins anew. */
  abandon(): void {
    if (this.#state !== 'closed') this.#close();
  }

  hear(s: Segment): void {
    if (s.conn !== this.conn || this.#state === 'closed') {
      // Of a connection that is over here.
      if (!s.rst && !s.syn) this.#events.send(segment(s.conn, false, s.ack, s.seq, { rst: true }));
      return;
    }
    if (s.rst) return this.#reset(s);
    if (this.#state === 'opening') {
      if (!s.syn || s.ack !== this.#next) return;
      this.#expected = s.seq + 1;
      this.#una = this.#next;
      this.#state = 'open';
      this.#calm();
      this.lastNewsUs = this.#world.nowUs;
      this.#acknowledge();
      return this.#again(0);
    }
    if (s.syn || s.ack > this.#next) return this.#acknowledge();
    if (s.ack > this.#una) {
      this.#unacked.splice(0, s.ack - this.#una);
      this.#una = s.ack;
      this.#calm();
    }
    const length = s.data.length + Number(s.fin);
    if (length === 0) {
      if (s.seq !== this.#expected) this.#acknowledge();
      return;
    }
    if (s.seq > this.#expected || s.seq + length <= this.#expected) return this.#acknowledge();
    const conn = this.conn;
    for (const unit of s.data.slice(this.#expected - s.seq)) {
      this.#expected++;
      this.#deliver(unit);
      if (this.conn !== conn || this.#state as string === 'closed') return;
    }
    if (s.fin) {
      this.#expected++;
      this.#acknowledge();
      if (this.#una === this.#next && this.#finSent) this.#close();
      return;
    }
    if (this.#ack) return;
    // Often the next request carries it.
    this.#ack = this.#world.after(this.#world.random.chance(0.5) ? 0 : 40 * ms, () => this.#acknowledge());
  }

  #deliver(unit: Unit): void {
    this.lastNewsUs = this.#world.nowUs;
    const first = this.#waiting[0];
    const { seen } = first ?? {};
    const inStep = first && unit.request.id === first.operation.id && unit.part === (seen ? seen.part + 1 : 0)
      && (!seen || (seen.parts === unit.parts && seen.value === unit.value));
    if (!inStep) {
      const expected = first ? `part ${(seen?.part ?? -1) + 1} of the answer to #${first.operation.id}${seen ? `, ${seen.value}` : ''}` : 'nothing';
      return this.#broken(`hears part ${unit.part} of an answer to #${unit.request.id}, ${unit.value}, and expects ${expected}`);
    }
    first.seen = unit;
    if (unit.part !== unit.parts - 1) return;
    this.#waiting.shift();
    this.answered++;
    if (first.operation.op !== 'read') this.answeredWrite = first.operation.id;
    first.operation.answeredUs = this.#world.nowUs;
    first.operation.result = unit.value;
    this.#again(this.#world.random.delay(0, this.habits.thinkMs) * ms);
  }

  #open(): void {
    const { random } = this.#world;
    this.conn = connOf(this.id, ++this.#connections);
    this.#state = 'opening';
    this.#una = random.int(1, 1_000_000);
    this.#next = this.#una + 1;
    this.#unacked = [];
    this.#finSent = false;
    this.#requestsLeft = random.int(1, random.chance(longShare) ? longRequests : this.habits.requests);
    this.#aborting = random.chance(this.habits.aborts);
    this.#transmit(firstRetryUs);
  }

  /** All is over; a new connection will take its place. */
  #close(): void {
    this.#state = 'closed';
    this.#waiting.length = 0;
    for (const task of [this.#retry, this.#think, this.#ack]) cancel(task);
    this.#retry = this.#think = this.#ack = undefined;
    this.#world.after(this.#world.random.delay(0, this.habits.thinkMs) * ms, () => this.#open());
  }

  #again(delayUs: number): void {
    if (this.#think) return;
    this.#think = this.#world.after(delayUs, () => {
      this.#think = undefined;
      this.#act();
    });
  }

  #act(): void {
    if (this.#state !== 'open') return;
    const { random, nowUs } = this.#world;
    if (this.#requestsLeft > 0) {
      const units: Unit[] = [];
      do {
        this.#requestsLeft--;
        const write = random.chance(this.habits.writes);
        const id = this.#events.nextId();
        const op = !write ? 'read' as const : random.chance(0.5) ? 'raise' as const : 'write' as const;
        const key = keyOf(this.conn, random.int(1, this.habits.keys));
        const value = op === 'write' ? 1000 * id : 0;
        const { slowestMs } = this.habits;
        const slowUs = write && slowestMs !== undefined ? random.int(1, slowestMs) * ms : 0;
        const mostUnits = slowestMs === undefined ? 3 : 1;
        const request: Request = { id, key, op, value, slowUs, mostUnits, units: write ? random.int(1, 3) : 1 };
        // Written out: spreading takes a tenth of all the time.
        const operation: Operation = { id, key, op, value, slowUs, mostUnits, units: request.units, client: this.id, calledUs: nowUs, answeredUs: Infinity, result: undefined };
        this.#waiting.push({ operation, seen: undefined });
        this.#events.onCall(operation);
        for (let part = 0; part < request.units; part++) units.push({ request, part, parts: request.units, value: 0 });
      } while (this.#requestsLeft > 0 && this.#waiting.length < this.habits.pipeline && random.chance(0.7));
      this.#send(units);
      if (this.#waiting.length < this.habits.pipeline && random.chance(0.3)) this.#again(random.delay(0, this.habits.thinkMs) * ms);
      if (this.#requestsLeft === 0 && this.#aborting) return this.#abort();
      return;
    }
    if (this.#waiting.length > 0) return;
    this.#state = 'closing';
    this.#finSent = true;
    this.#emit(segment(this.conn, false, this.#next++, this.#expected, { fin: true }));
    this.#calm();
  }

  /** Sometimes before the answers come, sometimes after some have. */
  #abort(): void {
    const { conn } = this;
    this.#world.after(this.#world.random.delay(0, 20 * ms), () => {
      if (this.conn !== conn || this.#state === 'closed') return;
      this.#emit(segment(conn, false, this.#next, this.#expected, { rst: true }));
      this.#close();
    });
  }

  #send(units: readonly Unit[]): void {
    const from = this.#next;
    this.#unacked.push(...units);
    this.#next += units.length;
    this.#emitUnits(from, units);
    if (!this.#retry) this.#calm();
  }

  #emitUnits(from: number, units: readonly Unit[]): void {
    for (let at = 0; at < units.length; at += segmentUnits) {
      this.#emit(segment(this.conn, false, from + at, this.#expected, { data: units.slice(at, at + segmentUnits) }));
    }
  }

  /** Everything again that is not acknowledged. */
  #transmit(timeoutUs: number): void {
    if (this.#state === 'closed') return;
    if (this.#state === 'opening') this.#emit(segment(this.conn, false, this.#una, 0, { syn: true }));
    else {
      this.#emitUnits(this.#una, this.#unacked);
      if (this.#finSent) this.#emit(segment(this.conn, false, this.#next - 1, this.#expected, { fin: true }));
    }
    this.#calm(Math.min(2 * timeoutUs, second));
  }

  /** Something was heard, or sent: the retransmission timer begins anew. */
  #calm(timeoutUs = firstRetryUs): void {
    cancel(this.#retry);
    this.#retry = this.#una === this.#next ? undefined : this.#world.after(timeoutUs, () => this.#transmit(timeoutUs));
  }

  #acknowledge(): void {
    if (this.#state === 'closed') return;
    this.#emit(segment(this.conn, false, this.#next, this.#expected));
  }

  #emit(s: Segment): void {
    cancel(this.#ack);
    this.#ack = undefined;
    this.#events.send(s);
  }

  #reset(s: Segment): void {
    if (this.#state === 'opening') return; // an answer to something older
    if (s.seq !== this.#expected) return this.#acknowledge();
    if (this.#state === 'closing') return this.#close();
    this.#broken('finds its connection reset');
  }

  #broken(text: string): void {
    this.#events.onBroken(`client ${this.id} ${text} (connection ${this.conn})`);
    this.#close();
  }
}
