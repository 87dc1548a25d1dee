/**
 * Both halves of input replication as the agent sees them: what the primary's
 * gate mirrors, the secondary logs, and a takeover replays.
 *
 * Exists only where services are declared: nothing else needs the log.
 */

import { randomBytes } from 'node:crypto';
import type { ReplayStats } from 'tap-hold';
import type { Gate } from '../dataplane/gate.js';
import { Shadow, type ShadowStats } from '../dataplane/shadow.js';
import type { LogMessage } from '../protocol/messages.js';
import type { AgentConfig } from './config.js';

/** Inputs that are kept although the VM had read them: numbers and reads are not counted at one instant. */
const keptInputs = 64;
/** What a VM's clock may be behind beyond what is known. Too much does no harm. */
const clockMarginMs = 1000;
const nsPerMs = 1e6;

export class InputReplication {
  readonly #gate: Gate;
  readonly #shadow: Shadow;
  /** Primary: what the VM had read when the checkpoint under way was asked for. */
  #readInputs = 0n;
  /** Secondary: when the last checkpoint was loaded, and the longest pause that one has caused. */
  #loadedNs = 0n;
  #longestPauseMs = 0;

  /**
   * @param gate made with a mirror through `config.network.tunnel`
   * @param onTrouble the log needs a checkpoint: input was lost on the way, or it grows too long
   */
  constructor(config: AgentConfig, gate: Gate, onTrouble: () => void) {
    this.#gate = gate;
    this.#shadow = Shadow.open({
      tap: config.network.tap, tunnel: config.network.tunnel, logTap: config.network.logTap,
      peerAddress: config.peer.address.host, onNotice: onTrouble,
    });
  }

  /** This host's VM has taken nothing over: nothing is translated. */
  turnOff(): void {
    this.#shadow.turnOff();
  }

  // ---- primary -------------------------------------------------------------

  /** Protection is about to begin. @returns what the secondary must know before it does */
  begin(): LogMessage {
    const epoch = randomBytes(8);
    epoch[0]! &= 0x7f; // the log takes 63 bits
    epoch[7]! |= 1; // zero means none
    const nextInput = this.#gate.beginLog(epoch.readBigUInt64BE());
    return { type: 'log-begin', epoch: epoch.toString('hex'), nextInput: Number(nextInput) };
  }

  /** A checkpoint is asked for: what the VM has read by now, it has read at its STOP. */
  checkpointAsked(): void {
    this.#readInputs = this.#gate.readInputs();
  }

  /** That checkpoint has committed. @returns what the secondary may forget */
  committed(pauseMs: number): LogMessage {
    return { type: 'log-forget', upToInput: Number(this.#readInputs), pauseMs: Math.ceil(pauseMs) };
  }

  // ---- secondary -----------------------------------------------------------

  onMessage(message: LogMessage): void {
    if (message.type === 'log-begin') {
      this.#longestPauseMs = 0;
      this.#shadow.reset(BigInt(`0x${message.epoch}`), BigInt(message.nextInput));
    } else {
      this.#longestPauseMs = Math.max(this.#longestPauseMs, message.pauseMs);
      this.#shadow.forget(BigInt(message.upToInput), keptInputs);
    }
  }

  /** The secondary VM has loaded a checkpoint. */
  loaded(): void {
    this.#loadedNs = process.hrtime.bigint();
  }

  /** The VM runs from its last commit: gives it what it missed. */
  takeOver(): Promise<ReplayStats> {
    const sinceLoadMs = Number(process.hrtime.bigint() - this.#loadedNs) / nsPerMs;
    return this.#shadow.takeOver({ clockBehindMs: Math.ceil(sinceLoadMs + this.#longestPauseMs + clockMarginMs) });
  }

  stats(): ShadowStats {
    return this.#shadow.stats();
  }

  close(): void {
    this.#shadow.close();
  }
}
