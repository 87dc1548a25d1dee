/** Where observations come from while agents run: their control sockets. */

import { setTimeout as sleep } from 'node:timers/promises';
import { callAgent } from '../agent/control.js';
import { AgentConnection } from './agent-connection.js';
import { ObservationError, parseNews, parseObservation, parseStatus, type Observation } from './observation.js';

/** Something the monitor can show: running agents, or a recording of them. */
export interface Feed {
  readonly sources: readonly string[];
  /** A status older than this, on the same clock, is no longer taken for the truth. */
  readonly staleMs: number;
  /** The time on the clock of its observations, Unix milliseconds. */
  nowMs(): number;
  /** Tells `sink` what it observes until `signal` aborts. @throws if it cannot go on at all */
  run(sink: Sink, signal: AbortSignal): Promise<void>;
  /** Has a command carried out, and says what became of it; absent where nobody can. */
  command?(source: string, request: MonitorRequest): Promise<void>;
}

/** What the monitor asks agents to do. */
export type MonitorRequest =
  | { command: 'checkpoint' | 'failover' | 'pause' | 'reprotect' }
  | { command: 'pre-release'; port: number; on: boolean }
  | { command: 'active-vcpus'; activeVcpus: 'auto' | number };

export interface Sink {
  observe(observation: Observation): void;
  /** A round of observations is complete: time to draw. */
  drawn(): void;
}

export interface AgentAddress { source: string; socket: string }

/** After so many rounds without an answer a status is stale. */
const staleRounds = 3;
export const leastStaleMs = 2000;
const firstWaitMs = 250;
const longestWaitMs = 4000;

export class LiveFeed implements Feed {
  readonly sources: readonly string[];
  readonly staleMs: number;
  readonly #agents: readonly AgentAddress[];
  readonly #intervalMs: number;
  #sink: Sink | undefined;

  constructor(agents: readonly AgentAddress[], intervalMs: number) {
    this.sources = agents.map(({ source }) => source);
    this.staleMs = Math.max(leastStaleMs, staleRounds * intervalMs);
    this.#agents = agents;
    this.#intervalMs = intervalMs;
  }

  nowMs(): number {
    return performance.timeOrigin + performance.now(); // does not jump when the clock is set
  }

  async run(sink: Sink, signal: AbortSignal): Promise<void> {
    this.#sink = sink;
    const followers = this.#agents.map((agent) => new Follower(agent, sink, () => this.nowMs()));
    while (!signal.aborted) {
      const next = pause(this.#intervalMs, signal);
      // One that hangs must not make the other wait.
      await Promise.race([Promise.all(followers.map((follower) => follower.round())), next]);
      if (!signal.aborted) sink.drawn();
      await next;
    }
    for (const follower of followers) follower.close();
  }

  async command(source: string, request: MonitorRequest): Promise<void> {
    const socket = this.#agents.find((agent) => agent.source === source)?.socket;
    if (socket === undefined) return;
    try {
      this.#say(source, 'info', doneText(request, await callAgent(socket, request), this.#agents.length));
    } catch (error) {
      this.#say(source, 'error', (error as Error).message);
    }
  }

  #say(source: string, level: 'info' | 'error', text: string): void {
    this.#sink?.observe(parseObservation({ kind: 'said', atMs: this.nowMs(), source, level, text }));
  }
}

/** @param watched so many agents of the pair */
function doneText(request: MonitorRequest, result: unknown, watched: number): string {
  switch (request.command) {
    case 'checkpoint': {
      const { pauseMs } = result as { pauseMs?: unknown };
      return `Checkpoint committed${typeof pauseMs === 'number' ? `, the VM was paused for ${pauseMs.toFixed(1)} ms` : ''}.`;
    }
    case 'failover': return 'The VM has been moved.';
    case 'pause': return 'The protection is paused.';
    case 'reprotect': return 'Protection has been asked for.';
    case 'pre-release': return `The pre-release of port ${request.port} is ${request.on ? 'on' : 'off'}${watched > 1 ? '' : ', on this host only: tell the other, too'}.`;
    case 'active-vcpus': return request.activeVcpus === 'auto' ? 'The active vCPUs are chosen by the load.' : `${request.activeVcpus} vCPUs of the secondary are to be active.`;
  }
}

/** Follows one agent through its absences. */
class Follower {
  readonly #agent: AgentAddress;
  readonly #sink: Sink;
  readonly #nowMs: () => number;
  #connection: AgentConnection | undefined;
  #isBusy = false;
  #waitMs = firstWaitMs;
  #nextTryMs = 0;
  #latestMs = 0;

  constructor(agent: AgentAddress, sink: Sink, nowMs: () => number) {
    this.#agent = agent;
    this.#sink = sink;
    this.#nowMs = nowMs;
  }

  /** Observes what there is. Does nothing while the last round has not ended, or until it is time to try again. */
  async round(): Promise<void> {
    if (this.#isBusy || (!this.#connection && this.#nowMs() < this.#nextTryMs)) return;
    this.#isBusy = true;
    const { source, socket } = this.#agent;
    try {
      this.#connection ??= new AgentConnection(socket);
      const { news, status } = await this.#connection.round();
      for (const each of news) this.#observeNews(each);
      this.#sink.observe({ kind: 'status', atMs: this.#at(this.#nowMs()), source, status: parseStatus(status) });
      this.#waitMs = firstWaitMs;
    } catch (error) {
      this.close();
      this.#nextTryMs = this.#nowMs() + this.#waitMs;
      this.#waitMs = Math.min(longestWaitMs, this.#waitMs * 2);
      const why = error instanceof ObservationError ? `its status is not one that this monitor knows: ${error.message}` : (error as Error).message;
      this.#sink.observe(parseObservation({ kind: 'gone', atMs: this.#at(this.#nowMs()), source, reason: why }));
    } finally {
      this.#isBusy = false;
    }
  }

  close(): void {
    this.#connection?.close();
    this.#connection = undefined;
  }

  #observeNews(value: unknown): void {
    const news = parseNews(value);
    if (!news) return;
    // It happened on this machine, so by this clock; but it has waited to be asked for.
    const agoMs = Number(process.hrtime.bigint() - BigInt(news.atNs)) / 1e6;
    this.#sink.observe({ kind: 'news', atMs: this.#at(this.#nowMs() - agoMs), source: this.#agent.source, news });
  }

  /** Times of one source do not run backwards, nor into the future. */
  #at(ms: number): number {
    this.#latestMs = Math.max(this.#latestMs, Math.min(ms, this.#nowMs()));
    return this.#latestMs;
  }
}

/** Waits, or returns early when `signal` aborts. */
export async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await sleep(ms, undefined, { signal }).catch(() => {});
}
