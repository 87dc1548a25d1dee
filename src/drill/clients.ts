/**
 * The clients of a drill. Each keeps one connection for its whole life and
 * remembers everything it was told, so that a contradiction cannot hide.
 */

import { setTimeout as sleep } from 'node:timers/promises';
import { slowdown } from '../lab/slowdown.js';
import { HttpConnection } from './http.js';
import { RespConnection } from './resp.js';

const connectTimeoutMs = 10_000 * slowdown();
const httpThinkMs = 20;

/** What a client found. Times are CLOCK_MONOTONIC nanoseconds. */
export interface ClientReport {
  name: string;
  replies: number;
  /** When the first reply after the given moment came, 0n if none did. */
  firstReplyNs: bigint;
  /** Why this connection did not survive; undefined if it did. */
  broken: string | undefined;
}

export abstract class Client {
  readonly name: string;
  readonly #replyTimesNs: bigint[] = [];
  #stopping = false;
  #broken: string | undefined;

  constructor(name: string) {
    this.name = name;
  }

  abstract connect(): Promise<void>;
  /** One request and its reply. @throws if the connection ended or the reply is wrong */
  protected abstract exchange(): Promise<void>;
  abstract close(): void;
  /** Deletes what it has written, if it writes; it is asked for nothing more. */
  async forget(): Promise<void> {}

  async run(): Promise<void> {
    try {
      while (!this.#stopping) {
        await this.exchange();
        this.#replyTimesNs.push(process.hrtime.bigint());
      }
    } catch (error) {
      this.#broken = (error as Error).message;
    }
  }

  /** Lets the exchange under way end, and no other begin. */
  stop(): void {
    this.#stopping = true;
  }

  /** Of every reply so far, in order. */
  get replyTimesNs(): readonly bigint[] {
    return this.#replyTimesNs;
  }

  report(sinceNs: bigint): ClientReport {
    const firstReplyNs = this.#replyTimesNs.find((time) => time >= sinceNs) ?? 0n;
    const silent = firstReplyNs === 0n ? 'no reply came any more' : undefined;
    return { name: this.name, replies: this.#replyTimesNs.length, firstReplyNs, broken: this.#broken ?? silent };
  }
}

/** Writes to keys of its own, alternately counting one up and setting a new one. */
export class RedisWriter extends Client {
  readonly #at: { host: string; port: number };
  readonly #prefix: string;
  #connection!: RespConnection;
  #sequence = 0;
  /** Acknowledged. */
  #count = 0;
  readonly #set: number[] = [];

  /** @param run distinguishes this drill's keys from those of any other */
  constructor(run: string, id: number, at: { host: string; port: number }) {
    super(`redis ${id}`);
    this.#prefix = `drill:${run}:${id}`;
    this.#at = at;
  }

  async connect(): Promise<void> {
    this.#connection = await RespConnection.connect(this.#at.host, this.#at.port, connectTimeoutMs);
  }

  /** Writes that were acknowledged. */
  get acknowledged(): number {
    return this.#count + this.#set.length;
  }

  protected async exchange(): Promise<void> {
    const sequence = this.#sequence++;
    if (sequence % 2 === 0) {
      const reply = await this.#connection.command('INCR', this.counterKey);
      // Each INCR of this connection is done exactly once, and nobody else counts here.
      if (reply !== this.#count + 1) throw new Error(`INCR after ${this.#count} answered ${String(reply)}`);
      this.#count++;
    } else {
      const reply = await this.#connection.command('SET', this.#key(sequence), this.#value(sequence));
      if (reply !== 'OK') throw new Error(`SET answered ${String(reply)}`);
      this.#set.push(sequence);
    }
  }

  close(): void {
    this.#connection.close();
  }

  /** Reads every acknowledged write back over a new connection. @returns how many are not there */
  async countLost(): Promise<number> {
    const connection = await RespConnection.connect(this.#at.host, this.#at.port, connectTimeoutMs);
    try {
      const counter = Number(await connection.command('GET', this.counterKey) ?? 0);
      // One more than acknowledged may be there: its reply was still on its way.
      let lost = counter < this.#count ? this.#count - counter : 0;
      if (counter > this.#count + 1) lost += counter - this.#count;
      for (let from = 0; from < this.#set.length; from += 100) {
        const sequences = this.#set.slice(from, from + 100);
        const values = await connection.command('MGET', ...sequences.map((sequence) => this.#key(sequence)));
        sequences.forEach((sequence, i) => {
          if (!Array.isArray(values) || values[i] !== this.#value(sequence)) lost++;
        });
      }
      return lost;
    } finally {
      connection.close();
    }
  }

  override async forget(): Promise<void> {
    const sequences = Array.from({ length: this.#sequence }, (_, sequence) => sequence);
    await deleteKeys(this.#at, [this.counterKey, ...sequences.map((sequence) => this.#key(sequence))]);
  }

  /** The key that only this writer counts up. */
  get counterKey(): string {
    return `${this.#prefix}:count`;
  }

  #key(sequence: number): string {
    return `${this.#prefix}:${sequence}`;
  }

  #value(sequence: number): string {
    return `value ${sequence} of ${this.#prefix}`;
  }
}

/** Reads the writers' counters in turn and insists that none ever goes back. */
export class RedisReader extends Client {
  readonly #at: { host: string; port: number };
  readonly #keys: readonly string[];
  readonly #seen = new Map<string, number>();
  #connection!: RespConnection;
  #next = 0;

  constructor(id: number, writers: readonly RedisWriter[], at: { host: string; port: number }) {
    super(`reader ${id}`);
    this.#keys = writers.map((writer) => writer.counterKey);
    this.#at = at;
  }

  async connect(): Promise<void> {
    this.#connection = await RespConnection.connect(this.#at.host, this.#at.port, connectTimeoutMs);
  }

  protected async exchange(): Promise<void> {
    const key = this.#keys[this.#next++ % this.#keys.length]!;
    const reply = await this.#connection.command('GET', key);
    const before = this.#seen.get(key) ?? 0;
    if (!(Number(reply ?? 0) >= before)) throw new Error(`GET ${key} answered ${before} before and ${String(reply)} now`);
    this.#seen.set(key, Number(reply ?? 0));
  }

  close(): void {
    this.#connection.close();
  }
}

/** Opens a connection, writes, reads it back and closes it, over and over. */
export class Newcomer extends Client {
  readonly #at: { host: string; port: number };
  readonly #key: string;
  #sequence = 0;

  constructor(run: string, id: number, at: { host: string; port: number }) {
    super(`newcomer ${id}`);
    this.#key = `drill:${run}:newcomer:${id}`;
    this.#at = at;
  }

  async connect(): Promise<void> {}

  protected async exchange(): Promise<void> {
    const value = `visit ${this.#sequence++}`;
    const connection = await RespConnection.connect(this.#at.host, this.#at.port, connectTimeoutMs);
    try {
      const written = await connection.command('SET', this.#key, value);
      if (written !== 'OK') throw new Error(`SET answered ${String(written)}`);
      const read = await connection.command('GET', this.#key);
      if (read !== value) throw new Error(`GET answered ${String(read)} after SET of ${value}`);
    } finally {
      connection.close();
    }
  }

  close(): void {}

  override async forget(): Promise<void> {
    await deleteKeys(this.#at, [this.#key]);
  }
}

async function deleteKeys(at: { host: string; port: number }, keys: readonly string[]): Promise<void> {
  const connection = await RespConnection.connect(at.host, at.port, connectTimeoutMs);
  try {
    const batches = Array.from({ length: Math.ceil(keys.length / 1000) }, (_, i) => keys.slice(1000 * i, 1000 * (i + 1)));
    const replies = await Promise.all(batches.map((batch) => connection.command('DEL', ...batch)));
    for (const reply of replies) if (reply instanceof Error) throw reply;
  } finally {
    connection.close();
  }
}

/** Fetches one page over and over and insists that it never changes. */
export class HttpReader extends Client {
  readonly #at: { host: string; port: number };
  readonly #path: string;
  readonly #thinkMs: number;
  #connection!: HttpConnection;
  #digest: string | undefined;

  constructor(name: string, path: string, at: { host: string; port: number }, thinkMs = httpThinkMs) {
    super(name);
    this.#path = path;
    this.#at = at;
    this.#thinkMs = thinkMs;
  }

  async connect(): Promise<void> {
    this.#connection = await HttpConnection.connect(this.#at.host, this.#at.port, connectTimeoutMs);
  }

  get partialBytes(): number {
    return this.#connection.partialBytes;
  }

  protected async exchange(): Promise<void> {
    if (this.#thinkMs > 0) await sleep(this.#thinkMs);
    const { status, digest } = await this.#connection.get(this.#path);
    if (status !== 200) throw new Error(`GET ${this.#path} answered ${status}`);
    this.#digest ??= digest;
    if (digest !== this.#digest) throw new Error(`GET ${this.#path} answered something else than before`);
  }

  close(): void {
    this.#connection.close();
  }
}
