/**
 * Both halves of input replication as the agent sees them: what the primary's
 * gate mirrors, the secondary logs, and gives to its VM: as it comes, while it is
 * active, else after a takeover.
 *
 * Exists only where services are declared, or outputs compared: nothing else
 * needs the log.
 */

import { randomBytes, randomInt } from 'node:crypto';
import type { ReplayStats } from 'tap-hold';
import type { Gate } from '../dataplane/gate.js';
import { Shadow, type ShadowStats } from '../dataplane/shadow.js';
import type { LogBegin, LogMark } from '../protocol/messages.js';
import type { Forwarding } from '../protocol/compare-policy.js';
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
/** Rounds are told with 24 bits. */
const rounds = 2 ** 24;

export class InputReplication {
  readonly #gate: Gate;
  readonly #shadow: Shadow;
  /** Primary: what the VM had read when the checkpoint under way was asked for. */
  #readWhenAsked = 0n;
  /** Secondary: the newest mark, which counts when its checkpoint is loaded, and when it came. */
  #mark: { readInput: bigint; atNs: bigint } | undefined;
  /** Primary: told from those of an earlier protection by where they begin. */
  #round = randomInt(rounds);
  /** Secondary: when its active VM stopped for the newest checkpoint, and for the one before. */
  #suspendedNs = 0n;
  #suspendedBeforeNs = 0n;
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
      peerAddress: config.peer.address.host, logMark: gate.logMark, onNotice: onTrouble,
    });
  }

  /** This host's VM has taken nothing over: nothing is translated. */
  turnOff(): void {
    this.#shadow.turnOff();
  }

  // ---- primary -------------------------------------------------------------

  /** Protection is about to begin. @returns what the secondary must know before it does */
  begin(): LogBegin {
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
  stopped(stopNs: bigint): LogMark {
    this.#round = (this.#round + 1) % rounds;
    const fresh = process.hrtime.bigint() - stopNs < freshStopNs;
    return { type: 'log-mark', readInput: Number(fresh ? this.#gate.readInputs() : this.#readWhenAsked), round: this.#round };
  }

  // ---- secondary -----------------------------------------------------------

  onMessage(message: LogBegin | LogMark): void {
    if (message.type === 'log-begin') {
      this.#mark = undefined;
      this.#shadow.reset(BigInt(`0x${message.epoch}`), BigInt(message.nextInput));
    } else {
      this.#mark = { readInput: BigInt(message.readInput), atNs: process.hrtime.bigint() };
      // The primary's VM stops after ours: what ours says from now on it says with that checkpoint.
      this.#shadow.begin(message.round);
    }
  }

  /** Which of this VM's outputs the primary wants while it is active. */
  forward(what: Forwarding): void {
    this.#shadow.forward(what);
  }

  /** The VM has stopped: nothing goes in until it has loaded a checkpoint, or takes over. */
  suspended(): void {
    [this.#suspendedBeforeNs, this.#suspendedNs] = [this.#suspendedNs, process.hrtime.bigint()];
    this.#shadow.suspend();
  }

  /**
   * The VM has loaded a checkpoint: the one that was last marked.
   * @param active it runs on, and is given its input
   */
  loaded(active: boolean): void {
    const mark = this.#mark;
    this.#mark = undefined;
    if (mark) {
      this.#stoppedNs = mark.atNs;
      this.#shadow.forget(mark.readInput, keptInputs);
    }
    if (mark && active) {
      this.#gate.setMode('shadowed');
      // A write of the last round may be in doubt still.
      this.#shadow.activate(this.#suspendedBeforeNs);
    } else {
      // Which inputs it has had is not known until the next mark: it gets none.
      this.#shadow.standBy();
      this.#gate.setMode('closed');
    }
  }

  /** The VM runs from its last commit, or goes on as it was: gives it what it missed. */
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
