/**
 * The guest: a server with a tiny TCP. All of it is its state, which checkpoints
 * copy; when it works, its QEMU decides.
 *
 * Where Linux is strict, so is it: a segment that acknowledges what was never
 * sent is dropped with its data; before the connection is open it is answered
 * with a RST, and so is whatever belongs to no connection.
 */

import { clientOf, replyUnits, segment, segmentUnits, span, type Request, type Segment, type Unit } from './packet.js';
import type { Random } from './random.js';

interface Conn {
  readonly id: number;
  open: boolean;
  /** First sequence number not acknowledged, and the next to be sent. */
  una: number;
  next: number;
  /** The next one expected. */
  expected: number;
  /** What is to be sent, from `una` on; a FIN or SYN is behind or before it. */
  unacked: Unit[];
  /** Requests that are complete. */
  requests: Request[];
  /** When the first of them is carried out, if that takes long, by the guest's clock. */
  dueUs: number | undefined;
  clientFin: boolean;
  finSent: boolean;
  /** An acknowledgement is due, unless something else carries it. */
  ackDue: boolean;
}

/** So many units may wait for an acknowledgement: more come when it does. */
const windowUnits = 3;

export class Guest {
  readonly #conns = new Map<number, Conn>();
  readonly #registers = new Map<string, number>();
  /** Of each client, by number, the newest that was carried out. */
  readonly #lastWrites = new Map<number, number>();
  /** Connections, once for each request of theirs. */
  readonly #ready: number[] = [];
  /** Likewise, but not before then. */
  #slow: { conn: number; dueUs: number }[] = [];
  /** For how long it has run when it was last stopped: its own clock, which stands still then. */
  ranUs = 0;

  clone(): Guest {
    const copy = new Guest();
    for (const [id, conn] of this.#conns) copy.#conns.set(id, { ...conn, unacked: conn.unacked.slice(), requests: conn.requests.slice() });
    for (const [key, value] of this.#registers) copy.#registers.set(key, value);
    for (const [client, write] of this.#lastWrites) copy.#lastWrites.set(client, write);
    copy.#ready.push(...this.#ready);
    copy.#slow = this.#slow.slice();
    copy.ranUs = this.ranUs;
    return copy;
  }

  /** @param nowUs by its clock @returns when there is work to do; undefined: there is none */
  workUs(nowUs: number): number | undefined {
    if (this.#slow.length > 0) {
      for (const { conn, dueUs } of this.#slow) if (dueUs <= nowUs) this.#ready.push(conn);
      this.#slow = this.#slow.filter(({ dueUs }) => dueUs > nowUs);
    }
    if (this.#ready.length > 0) return nowUs;
    return this.#slow.length > 0 ? Math.min(...this.#slow.map(({ dueUs }) => dueUs)) : undefined;
  }

  /** Something was sent that is not acknowledged. */
  get waits(): boolean {
    for (const { una, next } of this.#conns.values()) if (una < next) return true;
    return false;
  }

  /** Whether it has carried out this client's write, and so all that came before. */
  remembers(client: number, write: number): boolean {
    return (this.#lastWrites.get(client) ?? 0) >= write;
  }

  receive(s: Segment, random: Random, send: (s: Segment) => void): void {
    const conn = this.#conns.get(s.conn);
    if (!conn) {
      if (s.rst) return;
      if (s.syn) return this.#accept(s, random, send);
      return send(segment(s.conn, true, s.ack, 0, { rst: true }));
    }
    const acknowledge = (): void => {
      conn.ackDue = false;
      send(segment(conn.id, true, conn.next, conn.expected));
    };
    if (s.rst) {
      if (s.seq === conn.expected) this.#forget(conn);
      return;
    }
    if (s.syn) {
      if (!conn.open && s.seq === conn.expected - 1) return this.#resend(conn, send);
      return acknowledge();
    }
    if (!conn.open && s.ack !== conn.next) return send(segment(s.conn, true, s.ack, 0, { rst: true }));
    if (s.ack > conn.next) return acknowledge();
    if (s.ack > conn.una) this.#acknowledged(conn, s.ack, send);
    if (conn.finSent && conn.una === conn.next) return this.#forget(conn);
    const length = span(s);
    if (length === 0) {
      if (s.seq < conn.expected) acknowledge();
      return;
    }
    if (s.seq > conn.expected || s.seq + length <= conn.expected) return acknowledge();
    const fresh = s.data.slice(conn.expected - s.seq);
    for (const unit of fresh) {
      if (unit.part !== unit.parts - 1) continue;
      conn.requests.push(unit.request);
      this.#ready.push(conn.id);
    }
    conn.expected = s.seq + length;
    conn.ackDue = true;
    if (s.fin) conn.clientFin = true;
    this.#push(conn, send);
    if (conn.ackDue && random.chance(0.6)) acknowledge();
  }

  /** One request is carried out and answered, or begun if it is slow: of one connection in order, but of any. */
  work(random: Random, nowUs: number, send: (s: Segment) => void): void {
    const [id] = this.#ready.splice(random.int(0, this.#ready.length - 1), 1);
    const conn = this.#conns.get(id!);
    const request = conn?.requests[0];
    if (!conn || !request) return; // its connection is gone
    if (request.slowUs > 0) conn.dueUs ??= nowUs + request.slowUs;
    if (conn.dueUs !== undefined && conn.dueUs > nowUs) {
      this.#slow.push({ conn: conn.id, dueUs: conn.dueUs });
      return;
    }
    conn.dueUs = undefined;
    conn.requests.shift();
    const value = this.#apply(request);
    if (request.op !== 'read') this.#lastWrites.set(clientOf(conn.id), request.id);
    const parts = replyUnits(request, value);
    for (let part = 0; part < parts; part++) conn.unacked.push({ request, part, parts, value });
    this.#push(conn, send);
  }

  /** The retransmission timer: everything again that waits. */
  resend(send: (s: Segment) => void): void {
    for (const conn of this.#conns.values()) if (conn.una < conn.next) this.#resend(conn, send);
  }

  /** Acknowledgements that nothing else has carried. */
  flushAcks(send: (s: Segment) => void): void {
    for (const conn of this.#conns.values()) {
      if (!conn.ackDue) continue;
      conn.ackDue = false;
      send(segment(conn.id, true, conn.next, conn.expected));
    }
  }

  get owesAcks(): boolean {
    for (const { ackDue } of this.#conns.values()) if (ackDue) return true;
    return false;
  }

  #accept(s: Segment, random: Random, send: (s: Segment) => void): void {
    const first = random.int(1, 1_000_000);
    this.#conns.set(s.conn, {
      id: s.conn, open: false, una: first, next: first + 1, expected: s.seq + 1, unacked: [], requests: [], dueUs: undefined,
      clientFin: false, finSent: false, ackDue: false,
    });
    send(segment(s.conn, true, first, s.seq + 1, { syn: true }));
  }

  #apply({ key, op, value }: Request): number {
    const before = this.#registers.get(key) ?? 0;
    const after = op === 'read' ? before : op === 'raise' ? before + 1 : value;
    this.#registers.set(key, after);
    return after;
  }

  #acknowledged(conn: Conn, ack: number, send: (s: Segment) => void): void {
    // The SYN-ACK's number comes before the first unit.
    const units = conn.open ? ack - conn.una : ack - conn.una - 1;
    conn.open = true;
    conn.unacked.splice(0, units);
    conn.una = ack;
    this.#push(conn, send);
  }

  /** Sends what may be sent. */
  #push(conn: Conn, send: (s: Segment) => void): void {
    const end = conn.una + conn.unacked.length;
    const until = Math.min(end, conn.una + windowUnits);
    if (conn.open && conn.next < until) {
      const units = conn.unacked.slice(conn.next - conn.una, until - conn.una);
      const from = conn.next;
      conn.next = until;
      conn.ackDue = false;
      this.#transmit(conn, from, units, send);
    }
    if (!conn.clientFin || conn.finSent || conn.requests.length > 0 || conn.next !== end) return;
    conn.finSent = true;
    conn.ackDue = false;
    send(segment(conn.id, true, conn.next++, conn.expected, { fin: true }));
  }

  #resend(conn: Conn, send: (s: Segment) => void): void {
    conn.ackDue = false;
    if (!conn.open) return send(segment(conn.id, true, conn.una, conn.expected, { syn: true }));
    this.#transmit(conn, conn.una, conn.unacked.slice(0, conn.next - conn.una), send);
    if (conn.finSent) send(segment(conn.id, true, conn.next - 1, conn.expected, { fin: true }));
  }

  #transmit(conn: Conn, from: number, units: readonly Unit[], send: (s: Segment) => void): void {
    for (let at = 0; at < units.length; at += segmentUnits) {
      send(segment(conn.id, true, from + at, conn.expected, { data: units.slice(at, at + segmentUnits) }));
    }
  }

  #forget(conn: Conn): void {
    this.#conns.delete(conn.id);
  }
}
