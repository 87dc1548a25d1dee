/** The parent's view of the clients in a lab's client namespace. */

import { spawn, type ChildProcess } from 'node:child_process';
import { fileURLToPath } from 'node:url';

export type ClientOrder =
  | { type: 'start'; guest: string; redisPort: number; httpPort: number; writers: number; readers: number;
    /** Redis clients that only read, and that come and go. */
    redisReaders?: number; newcomers?: number;
    /** Readers of the page that no two guests answer alike, and whether the large one is fetched all the time, as it is by default. */
    stampReaders?: number; download?: boolean }
  | { type: 'progress'; sinceNs: string }
  | { type: 'stop'; sinceNs: string };

/** Times are CLOCK_MONOTONIC nanoseconds, as text. */
export type ClientNews =
  | { type: 'started'; connections: number }
  /** `waiting`: connections without a reply since the moment that was asked about. */
  | { type: 'progress'; downloadBytes: number; acknowledged: number; waiting: number }
  /** `longestSilenceMs`: the longest time in which no client had a reply. */
  | { type: 'stopped'; reports: { name: string; replies: number; firstReplyNs: string; broken?: string | undefined }[]; acknowledged: number; lost: number; longestSilenceMs: number }
  | { type: 'failed'; reason: string };

type NewsOf<T extends ClientNews['type']> = Extract<ClientNews, { type: T }>;

export class ClientProcess {
  readonly #child: ChildProcess;
  #waiting: { type: ClientNews['type']; resolve: (news: ClientNews) => void; reject: (error: Error) => void } | undefined;

  /** @param netns network namespace to run in; undefined: the caller's */
  constructor(netns: string | undefined) {
    const main = fileURLToPath(new URL('client-main.js', import.meta.url));
    const [file, ...args] = [...(netns === undefined ? [] : ['ip', 'netns', 'exec', netns]), process.execPath, main];
    this.#child = spawn(file!, args, { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
    this.#child.on('message', (news: ClientNews) => this.#onNews(news));
    this.#child.on('error', (error) => this.#fail(error.message));
    this.#child.on('exit', (code, signal) => this.#fail(`it ended with ${signal ?? `exit code ${code}`}`));
  }

  start(order: Omit<Extract<ClientOrder, { type: 'start' }>, 'type'>): Promise<NewsOf<'started'>> {
    return this.#ask({ type: 'start', ...order }, 'started');
  }

  progress(sinceNs = 0n): Promise<NewsOf<'progress'>> {
    return this.#ask({ type: 'progress', sinceNs: sinceNs.toString() }, 'progress');
  }

  /** Ends the load, reads back what was acknowledged, and counts replies since `sinceNs`. */
  stop(sinceNs: bigint): Promise<NewsOf<'stopped'>> {
    return this.#ask({ type: 'stop', sinceNs: sinceNs.toString() }, 'stopped');
  }

  kill(): void {
    this.#child.removeAllListeners('exit');
    this.#child.kill('SIGKILL');
  }

  #ask<T extends ClientNews['type']>(order: ClientOrder, type: T): Promise<NewsOf<T>> {
    return new Promise((resolve, reject) => {
      this.#waiting = { type, resolve: resolve as (news: ClientNews) => void, reject };
      this.#child.send(order, (error) => error && this.#fail(error.message));
    });
  }

  #onNews(news: ClientNews): void {
    if (news.type === 'failed') return this.#fail(news.reason);
    const waiting = this.#waiting;
    if (waiting?.type !== news.type) return;
    this.#waiting = undefined;
    waiting.resolve(news);
  }

  #fail(reason: string): void {
    const waiting = this.#waiting;
    this.#waiting = undefined;
    waiting?.reject(new Error(`The clients failed: ${reason}`));
  }
}
