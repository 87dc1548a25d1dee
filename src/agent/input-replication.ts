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

/**
 * Inputs that are kept although they were read: QEMU may have taken them from
 * the tap too late for the guest to see them before it stopped. More must not
 * be: a whole connection that had ended would be replayed and happen twice.
 */
const keptInputs = 2;
/** STOP is news for this long. Later the VM may run again, and read on. */
const freshStopNs = 2_000_000n;
/** What a VM's clock may be behind beyond what is known. Too much does no harm. */
const clockMarginMs = 200;
const nsPerMs = 1e6;

export class InputReplication {
  readonly #gate: Gate;
  readonly #shadow: Shadow;
  /** Primary: what the VM had read when the checkpoint under way was asked for. */
  #readWhenAsked = 0n;
  /** Secondary: the newest mark, which counts when its checkpoint is loaded, and when it came. */
  #mark: { readInput: bigint; atNs: bigint } | undefined;
  /** When the VM had stopped, at the primary, for the checkpoint that was last loaded. */
  #stoppedNs = process.hrtime.bigint();

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

  checkpointAsked(): void {
    this.#readWhenAsked = this.#gate.readInputs();
  }

  /**
   * The VM has stopped for a checkpoint, at `stopNs`, and reads nothing until it
   * runs again. If that may be so already, what it had read earlier is on the safe
   * side: some inputs more are replayed, none is missing.
   * @returns what the secondary must know before it has loaded that checkpoint
   */
  stopped(stopNs: bigint): LogMessage {
    const fresh = process.hrtime.bigint() - stopNs < freshStopNs;
    return { type: 'log-mark', readInput: Number(fresh ? this.#gate.readInputs() : this.#readWhenAsked) };
  }

  // ---- secondary -----------------------------------------------------------

  onMessage(message: LogMessage): void {
    if (message.type === 'log-begin') {
      this.#mark = undefined;
      this.#shadow.reset(BigInt(`0x${message.epoch}`), BigInt(message.nextInput));
    } else {
      this.#mark = { readInput: BigInt(message.readInput), atNs: process.hrtime.bigint() };
    }
  }

  /** The VM has loaded a checkpoint: the one that was last marked. */
  loaded(): void {
    if (!this.#mark) return;
    this.#stoppedNs = this.#mark.atNs;
    this.#shadow.forget(this.#mark.readInput, keptInputs);
    this.#mark = undefined;
  }

  /** The VM runs from its last commit: gives it what it missed. */
  takeOver(): Promise<ReplayStats> {
    const behindMs = Number(process.hrtime.bigint() - this.#stoppedNs) / nsPerMs;
    return this.#shadow.takeOver({ clockBehindMs: Math.ceil(behindMs + clockMarginMs) });
  }

  stats(): ShadowStats {
    return this.#shadow.stats();
  }

  close(): void {
    this.#shadow.close();
  }
}
