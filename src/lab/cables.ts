/**
 * The cables of a lab, as its switches see them: breaks and spoils them, and tells which host was
 * seen to speak for the guest. Nobody is asked who has spoken; it is seen.
 */

import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { LabError } from './errors.js';
import type { HostName, Topology } from './topology.js';

export const networkNames = ['client', 'replication', 'management'] as const;
export type NetworkName = (typeof networkNames)[number];

/** What a cable does to frames in one direction. Shares are from 0 to 1. */
export interface CableFault {
  host: HostName;
  network: NetworkName;
  /** As seen from the host: what it sends, or what it receives. */
  direction: 'from' | 'to';
  /** Only what the input mirror sends, or everything. */
  of: 'all' | 'mirror';
  drop: number;
  /** Of the frames that are not lost; only those a host sends on the replication network can be late. */
  delay: number;
  delayMs: number;
}

/** A time in which one host and no other was seen to speak for the guest. CLOCK_MONOTONIC nanoseconds. */
export interface Reign { host: HostName; frames: number; firstNs: bigint; lastNs: bigint }

export interface CableReport {
  /** In order of time; the first 64 of them. */
  reigns: Reign[];
  /** All there were. */
  reignCount: number;
  droppedFrames: number;
  delayedFrames: number;
  corruptedFrames: number;
}

/** What the child process is told; each order gets one answer. */
export type CableOrder =
  | { type: 'read' }
  | { type: 'forget' }
  | { type: 'fault'; fault: CableFault }
  | { type: 'heal' }
  | { type: 'corrupt'; host: HostName; frameType: number };

/** As {@link CableReport}, fit for a pipe between processes. */
export type CableAnswer =
  | { type: 'report'; report: Omit<CableReport, 'reigns'> & { reigns: (Omit<Reign, 'firstNs' | 'lastNs'> & { firstNs: string; lastNs: string })[] } }
  | { type: 'failed'; reason: string };

export class Cables {
  readonly #child: ChildProcess;
  #last: Promise<unknown> = Promise.resolve();

  /**
   * Attaches to the switches of a lab that stands. Ends with {@link close}, and with this process.
   * @param guestMac whose voice is listened for
   */
  static async attach(topology: Topology, guestMac: string): Promise<Cables> {
    const main = fileURLToPath(new URL('cables-main.js', import.meta.url));
    const child = fork(main, [guestMac], {
      execPath: 'ip', execArgv: ['netns', 'exec', topology.net, process.execPath], stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    });
    const cables = new Cables(child);
    try {
      await cables.#next();
      return cables;
    } catch (error) {
      cables.close();
      throw error;
    }
  }

  private constructor(child: ChildProcess) {
    this.#child = child;
  }

  async report(): Promise<CableReport> {
    const { report } = await this.#ask({ type: 'read' });
    return { ...report, reigns: report.reigns.map((reign) => ({ ...reign, firstNs: BigInt(reign.firstNs), lastNs: BigInt(reign.lastNs) })) };
  }

  /** Begins to listen anew. */
  async forget(): Promise<void> {
    await this.#ask({ type: 'forget' });
  }

  /** In place of whatever that cable did in that direction. */
  async spoil(fault: CableFault): Promise<void> {
    await this.#ask({ type: 'fault', fault });
  }

  /** All cables carry everything again. */
  async heal(): Promise<void> {
    await this.#ask({ type: 'heal' });
  }

  /** The next frame of this type (see peer/frame) that a host sends to its peer arrives as garbage. */
  async corruptFrame(host: HostName, frameType: number): Promise<void> {
    await this.#ask({ type: 'corrupt', host, frameType });
  }

  close(): void {
    this.#child.kill('SIGKILL');
  }

  /** One order after the other. */
  #ask(order: CableOrder): Promise<Extract<CableAnswer, { type: 'report' }>> {
    const answer = this.#last.then(() => {
      const next = this.#next();
      this.#child.send(order, (error) => error && this.#child.emit('error', error));
      return next;
    });
    this.#last = answer.catch(() => {});
    return answer;
  }

  async #next(): Promise<Extract<CableAnswer, { type: 'report' }>> {
    const over = new AbortController();
    try {
      const [answer] = await Promise.race([
        once(this.#child, 'message', over) as Promise<[CableAnswer]>,
        once(this.#child, 'exit', over).then(([code, signal]) => { throw new Error(`its process ended with ${signal ?? `exit code ${code}`}`); }),
      ]);
      if (answer.type === 'failed') throw new Error(answer.reason);
      return answer;
    } catch (cause) {
      throw new LabError(`The lab's cables cannot be worked on: ${(cause as Error).message}.`, { cause });
    } finally {
      over.abort();
    }
  }
}
