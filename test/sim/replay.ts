/**
 * addon/tap-hold/src/log_replay.cc: giving the log to a guest that was set back
 * to its last checkpoint. The names are its own.
 */

import type { Entry, LogRules } from './input-log.js';
import { opens, serviceOf, span, type Segment } from './packet.js';
import type { ShadowFlow } from './shadow.js';
import { ms, type World } from './world.js';

const windowFrames = 32;
const untrackedUs = 5 * ms;
const certainFactor = 5;
const allFactor = 10;
const longestStepUs = 10 * ms;
const limits = { totalUs: 3000 * ms, retryUs: 20 * ms, barrierUs: 50 * ms, tries: 100 };

export interface ReplayTarget {
  inject: (s: Segment) => void;
  look: (conn: number) => Readonly<ShadowFlow> | undefined;
}

interface Item {
  segment: Segment;
  iseq: number;
  /** Sequence number behind it. */
  end: number;
  countable: boolean;
  live: boolean;
  write: boolean;
  sent: boolean;
  asked: boolean;
}

interface Service {
  firstWrite: number;
  open: boolean;
  readonly flows: Flow[];
}

interface Flow {
  conn: number;
  service: Service;
  items: Item[];
  done: number;
  next: number;
  fresh: number;
  tracked: boolean;
  spoken: boolean;
  clientAck: number | undefined;
  asks: number;
  replies: number;
  tries: number;
  askedUs: number;
  sentUs: number;
  progressUs: number;
}

export class Replayer {
  readonly #world: World;
  readonly #target: ReplayTarget;
  readonly #rules: LogRules;
  readonly #flows = new Map<number, Flow>();
  /** The same in some order, that must not matter. */
  readonly #busy: Flow[] = [];
  readonly #items: Item[] = [];
  /** The time as it counts: without that in which this host stood still. */
  #awakeUs = 0;
  #seenUs = 0;
  readonly #services = new Map<number, Service>();

  constructor(world: World, target: ReplayTarget, rules: LogRules) {
    this.#world = world;
    this.#target = target;
    this.#rules = rules;
  }

  /** @param committed the guest has probably read these before its checkpoint */
  begin(log: readonly Entry[], committed: number): void {
    this.#seenUs = this.#world.nowUs;
    const sorted = [...log].sort((a, b) => a.iseq - b.iseq);
    for (const entry of withoutHarmful(sorted, committed)) {
      const { service } = this.#add(entry.segment, entry.iseq, entry.write, false);
      service.open = this.#rules.noBarrier === true;
      const counts = entry.iseq > committed || this.#rules.committedWrites;
      if (entry.write && counts) service.firstWrite = Math.min(service.firstWrite, entry.iseq);
    }
    if (this.#world.random.chance(0.5)) this.#busy.reverse();
    this.#world.log('replay', () => `${this.#items.length} inputs of ${this.#flows.size} connections`);
  }

  append(s: Segment): void {
    const flow = this.#flows.get(s.conn);
    const open = this.#services.get(this.#serviceOf(s.conn))?.open ?? true;
    const mayWrite = s.data.length > 0 && !open && !this.#rules.liveAtOnce;
    if (mayWrite || (flow && !isIdle(flow))) this.#add(s, Infinity, mayWrite, true);
    else this.#target.inject(s);
  }

  /** @returns whether nothing is left */
  step(): boolean {
    this.#awakeUs += this.#rules.wallClock ? this.#world.nowUs - this.#seenUs : Math.min(this.#world.nowUs - this.#seenUs, longestStepUs);
    this.#seenUs = this.#world.nowUs;
    const forUs = this.#awakeUs;
    if (forUs >= limits.totalUs || this.#rules.unpaced) {
      this.#flush();
      return true;
    }
    let done = true;
    for (let again = true; again;) {
      again = false;
      done = true;
      for (const flow of this.#busy) {
        if (isIdle(flow)) continue;
        this.#progress(flow);
        done &&= isIdle(flow);
      }
      const patient = forUs < allFactor * limits.barrierUs;
      for (const service of this.#services.values()) {
        if (service.open) continue;
        service.open = !patient || service.flows.every((flow) => this.#hasReplied(flow));
        if (service.open) again = true;
        else done = false;
      }
    }
    return done;
  }

  #serviceOf(conn: number): number {
    return this.#rules.oneBarrier ? 0 : serviceOf(conn);
  }

  #add(s: Segment, iseq: number, write: boolean, live: boolean): Flow {
    let flow = this.#flows.get(s.conn);
    if (!flow) {
      const which = this.#serviceOf(s.conn);
      const service = this.#services.get(which) ?? { firstWrite: Infinity, open: true, flows: [] };
      this.#services.set(which, service);
      flow = {
        conn: s.conn, service, items: [], done: 0, next: 0, fresh: 0, tracked: true, spoken: false, clientAck: undefined,
        asks: 0, replies: 0, tries: 0, askedUs: 0, sentUs: 0, progressUs: 0,
      };
      this.#flows.set(s.conn, flow);
      service.flows.push(flow);
      this.#busy.push(flow);
    }
    const item = { segment: s, iseq, end: s.seq + span(s), countable: span(s) > 0, live, write, sent: false, asked: false };
    this.#items.push(item);
    flow.items.push(item);
    if (!live && !s.syn && (flow.clientAck === undefined || flow.clientAck < s.ack)) flow.clientAck = s.ack;
    return flow;
  }

  #progress(flow: Flow): void {
    const nowUs = this.#awakeUs;
    const seen = flow.tracked ? this.#target.look(flow.conn) : undefined;
    const waiting = flow.next > flow.done;
    if (!seen && waiting && nowUs - flow.sentUs >= untrackedUs) flow.tracked = false;
    const spoken = seen !== undefined && (seen.state === 'syn-ack' || seen.state === 'known');
    if (spoken && !flow.spoken && waiting && !opens(flow.items[flow.done]!.segment)) flow.next = flow.done;
    flow.spoken = spoken;
    while (!isIdle(flow) && this.#isOver(flow, flow.items[flow.done]!, seen)) {
      const item = flow.items[flow.done++]!;
      if (flow.done > flow.next) {
        flow.next = flow.done;
        item.sent = true;
      }
      flow.progressUs = nowUs;
      flow.tries = 0;
    }
    flow.fresh = Math.max(flow.fresh, flow.done);
    if (flow.next > flow.done && nowUs - Math.max(flow.sentUs, flow.progressUs) >= limits.retryUs) {
      if (++flow.tries > limits.tries) return this.#abandon(flow);
      flow.next = flow.done;
    }
    for (let item = flow.items[flow.next]; item && this.#maySend(flow, item); item = flow.items[flow.next]) this.#send(flow, item, seen);
  }

  #isOver(flow: Flow, item: Item, seen: Readonly<ShadowFlow> | undefined): boolean {
    const onItsWay = flow.next > flow.done;
    if (!flow.tracked || item.live || item.segment.rst || seen?.ended) return onItsWay;
    if (!item.countable) return onItsWay && flow.spoken;
    return flow.spoken && seen?.rcvAck !== undefined && seen.rcvAck >= item.end && (onItsWay || !opens(item.segment));
  }

  #maySend(flow: Flow, item: Item): boolean {
    if (item.write && !flow.service.open && (item.live ? !this.#rules.liveAtOnce : item.iseq >= flow.service.firstWrite)) return false;
    if (!flow.tracked) return true;
    const onTheirWay = flow.next - flow.done;
    if (onTheirWay > 0 && (opens(item.segment) || !flow.spoken)) return false;
    return onTheirWay < windowFrames;
  }

  #send(flow: Flow, item: Item, seen: Readonly<ShadowFlow> | undefined): void {
    const nowUs = this.#awakeUs;
    this.#target.inject(item.segment);
    item.sent = true;
    flow.sentUs = nowUs;
    flow.next++;
    const onlyProbe = flow.tracked && !flow.spoken && !opens(item.segment);
    if (!onlyProbe) flow.fresh = Math.max(flow.fresh, flow.next);
    if (opens(item.segment)) flow.spoken = false;
    if (!onlyProbe && item.segment.data.length > 0 && !item.live && !item.asked && item.iseq < flow.service.firstWrite) {
      if (flow.asks === 0) flow.replies = seen?.replies ?? 0;
      item.asked = true;
      flow.asks++;
      flow.askedUs = nowUs;
    }
  }

  #abandon(flow: Flow): void {
    for (const item of flow.items.slice(flow.done)) {
      if (item.live) this.#target.inject(item.segment);
      item.sent = true;
    }
    flow.done = flow.next = flow.fresh = flow.items.length;
    flow.asks = 0;
    this.#world.log('replay', () => `gives connection ${flow.conn} up`);
  }

  #hasReplied(flow: Flow): boolean {
    const unsent = flow.items[flow.fresh];
    if (unsent && !unsent.live && unsent.iseq < flow.service.firstWrite) return false;
    if (flow.asks === 0) return true;
    const waitedUs = this.#awakeUs - flow.askedUs;
    if (!flow.tracked) return waitedUs >= limits.barrierUs;
    const seen = this.#target.look(flow.conn);
    if (!seen || seen.ended) return true;
    const certain = flow.done < flow.fresh
      || (flow.clientAck !== undefined && seen.state === 'known' && seen.sndMax + seen.seqDelta < flow.clientAck);
    if (certain) return waitedUs >= certainFactor * limits.barrierUs;
    return seen.replies - flow.replies >= flow.asks || waitedUs >= limits.barrierUs;
  }

  #flush(): void {
    for (const item of this.#items) {
      if (!item.sent) this.#target.inject(item.segment);
    }
  }
}

const isIdle = (flow: Flow): boolean => flow.done === flow.items.length;

/** DropHarmful: connections that have come and gone before the checkpoint would be opened again. */
function withoutHarmful(log: readonly Entry[], committed: number): Entry[] {
  const answered = new Set<number>();
  const kept: Entry[] = [];
  for (const entry of [...log].reverse()) {
    if (entry.iseq <= committed) {
      const { segment } = entry;
      if (opens(segment) && answered.has(segment.conn)) continue;
      if (!opens(segment)) answered.add(segment.conn);
    }
    kept.push(entry);
  }
  return kept.reverse();
}
