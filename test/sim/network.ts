/**
 * The replication network: TCP between processes of the two hosts. A connection
 * keeps order and loses nothing while it lives; a network that lets nothing
 * pass delays it, and a reset loses whatever was under way.
 */

import { Process } from './process.js';
import { ms, second, type World } from './world.js';

export type HostName = 'a' | 'b';
export const hostNames: readonly HostName[] = ['a', 'b'];
export const otherHost = (host: HostName): HostName => host === 'a' ? 'b' : 'a';

/** One end of a connection; belongs to a process. */
export class End {
  readonly host: HostName;
  owner!: Process;
  readonly #network: Network;
  peer!: End;
  closed = false;
  #onMessage: ((message: unknown) => void) | undefined;
  #onClose: () => void = () => {};
  /** Arrived while nobody read. */
  #unread: unknown[] = [];
  /** Not yet at the other end, in order; `undefined` closes it. */
  readonly underWay: { message: unknown; atUs: number }[] = [];
  #carrying = false;

  constructor(network: Network, host: HostName, owner: Process) {
    this.#network = network;
    this.host = host;
    this.hand(owner);
  }

  /** Another process has it from now on: it outlives the one that had it before. */
  hand(owner: Process): void {
    this.owner = owner;
    owner.whenDead(() => {
      if (this.owner === owner) this.close();
    });
  }

  /** What comes goes there from now on; also what came since {@link pause}, or that it was closed. */
  read(onMessage: (message: unknown) => void, onClose: () => void): void {
    this.#onMessage = onMessage;
    this.#onClose = onClose;
    for (const message of this.#unread.splice(0)) this.owner.input(() => this.#deliver(message));
    if (this.closed) this.owner.input(() => this.#onClose());
  }

  pause(): void {
    this.#onMessage = undefined;
    this.#onClose = () => {};
  }

  send(message: unknown): void {
    if (this.closed) return;
    this.#network.counted();
    this.#put(message);
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.#put(undefined);
  }

  /** What was under way is lost; the owner finds the connection closed. */
  reset(): void {
    this.underWay.length = 0;
    this.#carrying = false;
    const { world } = this.#network;
    world.after(world.random.delay(100, 20 * ms), () => this.#die());
  }

  #put(message: unknown): void {
    const { world } = this.#network;
    const last = this.underWay.at(-1)?.atUs ?? 0;
    this.underWay.push({ message, atUs: Math.max(last, world.nowUs + this.#network.delayUs(this.host)) });
    this.#carry();
  }

  #carry(): void {
    const { world } = this.#network;
    const next = this.underWay[0];
    if (!next || this.#carrying) return;
    this.#carrying = true;
    world.after(next.atUs - world.nowUs, () => {
      if (this.underWay[0] !== next) return;
      this.#carrying = false;
      if (!this.#network.passes(this.host, this.peer.host)) {
        // Retransmitted until it passes; a sender without power sends no more.
        if (this.#network.powered(this.host)) next.atUs = world.nowUs + world.random.int(20, 200) * ms;
        else this.underWay.length = 0;
        return this.#carry();
      }
      this.underWay.shift();
      if (next.message === undefined) this.peer.#die();
      else if (!this.peer.owner.alive || this.peer.closed) this.#die(); // nobody there: a reset comes back
      else this.peer.owner.input(() => this.peer.#deliver(next.message));
      this.#carry();
    });
  }

  #deliver(message: unknown): void {
    if (this.closed) return;
    if (this.#onMessage) this.#onMessage(message);
    else this.#unread.push(message);
  }

  #die(): void {
    this.owner.input(() => {
      if (this.closed) return;
      this.closed = true;
      this.#onClose();
    });
  }
}

export class Network {
  readonly world: World;
  /** Share of the tunnel's packets that are lost. */
  readonly loss: number;
  readonly #blocked = new Set<HostName>();
  readonly #unpowered = new Set<HostName>();
  readonly #listeners = new Map<HostName, { process: Process; accept: (end: End) => void }>();
  #connections: End[] = [];
  #slowUs = 0;
  #messages = 0;
  #cutAt = Infinity;
  /** While nothing passes between two hosts that live, each may think the other dead. */
  apartSinceUs: number | undefined;

  constructor(world: World, loss: number) {
    this.world = world;
    this.loss = loss;
  }

  listen(host: HostName, process: Process, accept: (end: End) => void): void {
    this.#listeners.set(host, { process, accept });
  }

  /** Ends with a connection; with `absent` if nobody listens; with `silent` after a time. */
  connect(owner: Process, from: HostName, timeoutUs: number, done: (result: End | 'absent' | 'silent') => void): void {
    const to = otherHost(from);
    const deadlineUs = this.world.nowUs + timeoutUs;
    const attempt = (): void => {
      if (!owner.alive) return;
      if (this.world.nowUs >= deadlineUs) return owner.input(() => done('silent'));
      if (!this.passes(from, to) || !this.passes(to, from)) return void this.world.after(200 * ms, attempt);
      const listener = this.#listeners.get(to);
      if (!listener?.process.alive) return owner.input(() => done('absent'));
      const [near, far] = [new End(this, from, owner), new End(this, to, listener.process)];
      near.peer = far;
      far.peer = near;
      this.#connections = [...this.#connections.filter((end) => !end.closed || !end.peer.closed), near];
      listener.process.input(() => listener.accept(far));
      owner.input(() => done(near));
    };
    this.world.after(this.delayUs(from) + this.delayUs(to), attempt);
  }

  /** Through the tunnel: it may be lost, late or doubled. */
  datagram(from: HostName, arrive: () => void): void {
    const { random } = this.world;
    const to = otherHost(from);
    for (let copies = random.chance(0.01) ? 2 : 1; copies > 0; copies--) {
      if (random.chance(this.loss)) continue;
      this.world.after(random.delay(50, 400) + (random.chance(0.02) ? random.int(0, 3 * ms) : 0) + this.#slowUs, () => {
        if (this.passes(from, to)) arrive();
      });
    }
  }

  passes(from: HostName, to: HostName): boolean {
    return !this.#blocked.has(from) && this.powered(from) && this.powered(to);
  }

  powered(host: HostName): boolean {
    return !this.#unpowered.has(host);
  }

  power(host: HostName, on: boolean): void {
    if (on) this.#unpowered.delete(host);
    else this.#unpowered.add(host);
  }

  delayUs(_from: HostName): number {
    return this.world.random.delay(50, 2 * ms) + this.#slowUs;
  }

  // ---- faults --------------------------------------------------------------

  /** Nothing that these hosts send arrives. */
  block(senders: readonly HostName[]): void {
    this.world.log('network', () => `nothing passes from ${senders.join(' and ')}`);
    for (const host of senders) this.#blocked.add(host);
    this.apartSinceUs ??= this.world.nowUs;
  }

  heal(): void {
    if (this.#blocked.size > 0) this.world.log('network', () => 'heals');
    this.#blocked.clear();
    this.apartSinceUs = undefined;
    this.#slowUs = 0;
  }

  slow(delayUs: number): void {
    this.world.log('network', () => `is slow: ${delayUs / 1000} ms`);
    this.#slowUs = delayUs;
  }

  /** Every connection, or one of them, is reset. */
  reset(which: 'all' | 'one'): void {
    const live = this.#connections.filter((end) => !end.closed || !end.peer.closed);
    const doomed = which === 'all' || live.length === 0 ? live : [this.world.random.pick(live)];
    this.world.log('network', () => `resets ${doomed.length} connections`);
    for (const end of doomed) for (const side of [end, end.peer]) side.reset();
  }

  /** The n-th message from now on is the last before everything is reset: whatever was sent with it is cut. */
  cutAfter(messages: number): void {
    this.#cutAt = this.#messages + messages;
  }

  counted(): void {
    if (++this.#messages !== this.#cutAt) return;
    this.world.after(this.world.random.delay(0, 3 * ms), () => this.reset('all'));
  }
}

export const connectTimeoutUs = 3 * second;
