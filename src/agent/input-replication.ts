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
import type { Forwarding } from '../protocol/compare-policy.js';
import type { LogBegin, LogFlows, LogMark, LogMarked, PeerMessage } from '../protocol/messages.js';
import type { AgentConfig } from './config.js';

/**
 * So many inputs may QEMU have taken from the tap too late for the guest to see
 * them before it stopped. It sees them when it runs again, so what had been read
 * at the checkpoint before is certain. No more than these may be kept: a whole
 * connection that had ended would be replayed and happen twice.
 */
const inputsInHand = 2n;
/**
 * How many of the inputs that were read before a STOP the guest may not have seen then. Fewer may have been read
 * than at the checkpoint before: what had waited in the tap when the log began counts only once it is read.
 */
export function unseenInputs(readInput: bigint, settled: bigint): number {
  const since = readInput - settled;
  return Number(since < 0n ? 0n : since < inputsInHand ? since : inputsInHand);
}

/** STOP is news for this long. Later the VM may run again, and read on. */
const freshStopNs = 2_000_000n;
/** What a VM's clock may be behind beyond what is known. Too much does no harm. */
const clockMarginMs = 200;
const nsPerMs = 1e6;
/**
 * The log tells by a later input that one is missing, but not that the last one is.
 * If none has been acknowledged for so long, the next replies would wait in vain.
 */
const lagMs = 100;
/** A message has room for so many. */
const flowsPerMessage = 256;
/** Rounds are told with 24 bits. */
const rounds = 2 ** 24;

export class InputReplication {
  readonly #gate: Gate;
  readonly #shadow: Shadow;
  readonly #send: (message: PeerMessage) => void;
  readonly #watch: NodeJS.Timeout;
  /** Primary: what the VM had read when the checkpoint under way was asked for. */
  #readWhenAsked = 0n;
  /** Primary: checkpoints of this protection that were marked, and those of them that the secondary has loaded. */
  #marks = 0;
  #marked = 0;
  /** Primary: how often its translations had changed when the secondary was last told. */
  #toldChanges = 0n;
  /** Primary: the secondary's VM runs on from the newest of these. */
  #peerActive = false;
  /** Primary: to be called when they are equal. */
  #commit: (() => void) | undefined;
  /** Secondary: states that the VM has loaded; 0 is the copy of the VM. */
  #loads = -1;
  /** Secondary: the newest mark, which counts when its checkpoint is loaded, and when it came. */
  #mark: { checkpoint: number; readInput: bigint; atNs: bigint } | undefined;
  /** Secondary: what the primary's VM had read at the checkpoint before the newest that was loaded. */
  #settled = 0n;
  /** Primary: told from those of an earlier protection by where they begin. */
  #round = randomInt(rounds);
  /** Secondary: when its active VM stopped for the newest checkpoint, and for the one before. */
  #suspendedNs = 0n;
  #suspendedBeforeNs = 0n;
  /** When the VM had stopped, at the primary, for the checkpoint that was last loaded. */
  #stoppedNs = process.hrtime.bigint();

  /**
   * @param gate made with a mirror through `config.network.tunnel`
   * @param send to the peer's agent
   * @param onLag primary: the log needs a checkpoint, as the newest input was lost on the way
   * @param onLost the log is gone, and there will be no other
   */
  constructor(config: AgentConfig, gate: Gate, send: (message: PeerMessage) => void, onLag: () => void, onLost: () => void) {
    this.#gate = gate;
    this.#send = send;
    let before = gate.logProgress();
    let lags = 0;
    this.#watch = setInterval(() => {
      const now = gate.logProgress();
      lags = now.logged < before.input && now.logged === before.logged ? lags + 1 : 0;
      // Less and less often: where nothing gets through, checkpoints do not help.
      if (lags > 0 && (lags & (lags - 1)) === 0) onLag();
      before = now;
      this.#noticeDrops();
    }, lagMs).unref();
    this.#shadow = Shadow.open({
      tap: config.network.tap, tunnel: config.network.tunnel, logTap: config.network.logTap,
      peerAddress: config.peer.address.host, logMark: gate.logMark,
      // Input was lost on the way, or the log grows too long: a checkpoint makes up for it.
      onNotice: (notice) => notice === 'lost' ? onLost() : send({ type: 'request-checkpoint' }),
    });
  }

  /** The gate can tell what the VM has read the better, the sooner it is asked after the tap was full. */
  #noticeDrops(): void {
    try {
      this.#readInputs();
    } catch {
      // Without a tap nothing is read, and who depends on it is told when he asks.
    }
  }

  /** This host's VM has taken nothing over: nothing is translated. */
  turnOff(): void {
    this.#shadow.turnOff();
  }

  /** Another VM is about to be started. */
  vmBegins(): void {
    this.#gate.vmBegins(this.#shadow.divertedInputs());
  }

  // ---- primary -------------------------------------------------------------

  /** Protection is about to begin: tells the secondary what it must know before it does. */
  begin(): void {
    this.#readInputs(); // the sooner the gate counts right, the better
    const epoch = randomBytes(8);
    epoch[0]! &= 0x7f; // the log takes 63 bits
    epoch[7]! |= 1; // zero means none
    const nextInput = this.#gate.beginLog(epoch.readBigUInt64BE());
    this.#marks = this.#marked = 0;
    this.#commit = undefined;
    this.#send({ type: 'log-begin', epoch: epoch.toString('hex'), nextInput: Number(nextInput) });
    this.#tellTranslations();
  }

  /** What this host translates, since it has taken over, its secondary must once it takes over. */
  #tellTranslations(): void {
    this.#toldChanges = this.#shadow.translationChanges;
    const { tsOffset, flows } = this.#shadow.translations();
    for (let from = 0; from === 0 || from < flows.length; from += flowsPerMessage) {
      this.#send({ type: 'log-flows', first: from === 0, tsOffset, flows: flows.slice(from, from + flowsPerMessage) });
    }
  }

  /** What the secondary's VM says after the newest checkpoint carries this; undefined: it says nothing. */
  get round(): number | undefined {
    return this.#peerActive ? this.#round : undefined;
  }

  checkpointAsked(): void {
    this.#readWhenAsked = this.#readInputs();
  }

  /**
   * The VM has stopped for a checkpoint, at `stopNs`, and reads nothing until it
   * runs again: tells the secondary what it had read. If it may run again already,
   * what it had read earlier is on the safe side: some inputs more are replayed,
   * none is missing.
   */
  stopped(stopNs: bigint): void {
    this.#round = (this.#round + 1) % rounds;
    const ageNs = process.hrtime.bigint() - stopNs;
    // A step of the clock may put it into the future.
    const fresh = ageNs >= 0n && ageNs < freshStopNs;
    const readInput = fresh ? this.#readInputs() : this.#readWhenAsked;
    if (this.#toldChanges !== this.#shadow.translationChanges) this.#tellTranslations();
    this.#send({ type: 'log-mark', checkpoint: ++this.#marks, readInput: Number(readInput), round: this.#round });
  }

  #readInputs(): bigint {
    return this.#gate.readInputs(this.#shadow.divertedInputs());
  }

  /**
   * The secondary's VM has loaded the checkpoint, and the primary's runs again.
   * @param commit called once the secondary's log begins behind that checkpoint's mark: without it, a
   *   takeover would do again what is done; never, if protection ends before
   */
  whenMarked(commit: () => void): void {
    if (this.#marked === this.#marks) commit();
    else this.#commit = commit;
  }

  // ---- secondary -----------------------------------------------------------

  /** An empty VM is about to be started. */
  expectCopy(): void {
    this.#loads = -1;
    this.#mark = undefined;
  }

  onMessage(message: LogBegin | LogMark | LogMarked | LogFlows): void {
    switch (message.type) {
      case 'log-begin':
        this.#settled = BigInt(message.nextInput) - 1n;
        return this.#shadow.reset(BigInt(`0x${message.epoch}`), BigInt(message.nextInput));
      case 'log-mark':
        this.#mark = { checkpoint: message.checkpoint, readInput: BigInt(message.readInput), atNs: process.hrtime.bigint() };
        // The primary's VM stops after ours: what ours says from now on it says with that checkpoint.
        this.#shadow.begin(message.round);
        this.#useMark(false);
        return;
      case 'log-flows':
        return this.#shadow.hand(message, !message.first);
      case 'log-marked': {
        if (message.checkpoint !== this.#marks) return; // of an earlier protection
        this.#marked = this.#marks;
        this.#peerActive = message.active;
        const commit = this.#commit;
        this.#commit = undefined;
        return commit?.();
      }
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
   * The VM has loaded a state: the copy, or the next checkpoint.
   * @param active it runs on, and is given its input
   */
  loaded(active: boolean): void {
    this.#loads++;
    if (this.#useMark(active) && active) {
      this.#gate.setMode('shadowed');
      // A write of the last round may be in doubt still.
      this.#shadow.activate(this.#suspendedBeforeNs);
    } else {
      // Which inputs it has had is not known until the next mark: it gets none.
      this.#shadow.standBy();
      this.#gate.setMode('closed');
    }
  }

  /**
   * Mark and state come on different connections, in any order.
   * @param active the VM runs on with its input, if both are there
   * @returns whether they are
   */
  #useMark(active: boolean): boolean {
    const mark = this.#mark;
    if (!mark || this.#loads < mark.checkpoint) return false;
    this.#mark = undefined;
    this.#stoppedNs = mark.atNs;
    this.#shadow.forget(mark.readInput, unseenInputs(mark.readInput, this.#settled));
    this.#settled = mark.readInput;
    this.#send({ type: 'log-marked', checkpoint: mark.checkpoint, active });
    return true;
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
    clearInterval(this.#watch);
    this.#shadow.close();
  }
}
