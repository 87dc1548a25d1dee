/** Where observations come from while agents run: their control sockets. */

import { setTimeout as sleep } from 'node:timers/promises';
import { callAgent, watchAgent } from '../agent/control.js';
import { ObservationError, parseNews, parseStatus, type Observation } from './observation.js';

/** Something the monitor can show: running agents, or a recording of them. */
export interface Feed {
  readonly sources: readonly string[];
  /** The time on the clock of its observations, Unix milliseconds. */
  nowMs(): number;
  /** Tells `sink` what it observes until `signal` aborts. @throws if it cannot go on at all */
  run(sink: Sink, signal: AbortSignal): Promise<void>;
  /** Has a command carried out, and says what became of it; absent where nobody can. */
  command?(source: string, command: 'checkpoint' | 'failover'): Promise<void>;
}

export interface Sink {
  observe(observation: Observation): void;
  /** A round of observations is complete: time to draw. */
  drawn(): void;
}

export interface AgentAddress { source: string; socket: string }

const firstWaitMs = 250;
const longestWaitMs = 4000;
/** An agent that takes longer to say how it is does not answer. */
const answerMs = 2000;

export class LiveFeed implements Feed {
  readonly sources: readonly string[];
  readonly #agents: readonly AgentAddress[];
  readonly #intervalMs: number;
  /** Sources whose agent answers: only these are asked. */
  readonly #answering = new Set<string>();
  #sink: Sink | undefined;

  constructor(agents: readonly AgentAddress[], intervalMs: number) {
    this.sources = agents.map(({ source }) => source);
    this.#agents = agents;
    this.#intervalMs = intervalMs;
  }

  nowMs(): number {
    return performance.timeOrigin + performance.now(); // does not jump when the clock is set
  }

  async run(sink: Sink, signal: AbortSignal): Promise<void> {
    this.#sink = sink;
    await Promise.all([...this.#agents.map((agent) => this.#follow(agent, signal)), this.#ask(sink, signal)]);
  }

  async command(source: string, command: 'checkpoint' | 'failover'): Promise<void> {
    const socket = this.#agents.find((agent) => agent.source === source)?.socket;
    if (socket === undefined) return;
    try {
      const result = await callAgent(socket, { command }) as { pauseMs?: unknown };
      this.#say(source, 'info', command === 'failover' ? 'The VM has been moved.'
        : `Checkpoint committed${typeof result.pauseMs === 'number' ? `, the VM was paused for ${result.pauseMs.toFixed(1)} ms` : ''}.`);
    } catch (error) {
      this.#say(source, 'error', (error as Error).message);
    }
  }

  /** Asks all agents that answer how they are, once per interval. */
  async #ask(sink: Sink, signal: AbortSignal): Promise<void> {
    for (;;) {
      const asked = this.#agents.filter(({ source }) => this.#answering.has(source)).map((agent) => this.#askOne(agent));
      // One that hangs must not make the other wait.
      await Promise.race([Promise.all(asked), pause(this.#intervalMs, signal)]);
      if (signal.aborted) return;
      sink.drawn();
      await pause(this.#intervalMs, signal);
    }
  }

  async #askOne({ source, socket }: AgentAddress): Promise<void> {
    try {
      const answer = await callAgent(socket, { command: 'status', brief: true }, { timeoutMs: answerMs });
      this.#observeStatus(source, answer);
    } catch (error) {
      // That the agent is gone shows where its news are followed; that it hangs, by the age of its last answer.
      if (error instanceof ObservationError) this.#gone(source, error);
    }
  }

  /** Follows one agent's news for ever, through its absences. */
  async #follow({ source, socket }: AgentAddress, signal: AbortSignal): Promise<void> {
    let waitMs = firstWaitMs;
    while (!signal.aborted) {
      let reason: unknown = new Error('it has ended');
      try {
        for await (const value of watchAgent(socket, signal)) {
          if (this.#answering.has(source)) {
            this.#observeNews(source, value);
          } else {
            this.#observeStatus(source, value);
            this.#answering.add(source);
            waitMs = firstWaitMs;
          }
        }
      } catch (error) {
        reason = error;
      }
      this.#answering.delete(source);
      if (signal.aborted) return;
      this.#gone(source, reason as Error);
      await pause(waitMs, signal);
      waitMs = Math.min(longestWaitMs, waitMs * 2);
    }
  }

  #observeStatus(source: string, value: unknown): void {
    this.#sink?.observe({ kind: 'status', atMs: this.nowMs(), source, status: parseStatus(value) });
  }

  #observeNews(source: string, value: unknown): void {
    const news = parseNews(value);
    if (news) this.#sink?.observe({ kind: 'news', atMs: this.nowMs(), source, news });
  }

  #gone(source: string, error: Error): void {
    const reason = error instanceof ObservationError ? `its status is not one that this monitor knows: ${error.message}` : error.message;
    this.#sink?.observe({ kind: 'gone', atMs: this.nowMs(), source, reason });
  }

  #say(source: string, level: 'info' | 'error', text: string): void {
    this.#sink?.observe({ kind: 'said', atMs: this.nowMs(), source, level, text });
  }
}

/** Waits, or returns early when `signal` aborts. */
export async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await sleep(ms, undefined, { signal }).catch(() => {});
}
