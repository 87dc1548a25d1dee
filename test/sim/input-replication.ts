/** src/agent/input-replication.ts on the simulated gate, log and tap. */

import type { LogMark, LogMessage, PeerMessage } from '../../src/protocol/messages.js';
import type { Host } from './host.js';
import { InputLog, type LogRules } from './input-log.js';
import type { Process } from './process.js';

/** Broken on purpose. */
export interface ReplicationRules extends LogRules {
  /** A commit empties the log of all that has arrived, not of what the VM had read at STOP. */
  forgetAtResume?: boolean;
  /** Nothing is replayed. */
  noReplay?: boolean;
  /** Inputs that did not reach the VM count as such that it has still to read. */
  countDiverted?: boolean;
  /** A checkpoint commits although the secondary may not know what it has brought. */
  commitUnmarked?: boolean;
}

const inputsInHand = 2;
const freshStopUs = 2000;

export class InputReplication {
  readonly log: InputLog;
  readonly #host: Host;
  readonly #rules: ReplicationRules;
  /** Primary. */
  #readWhenAsked = 0;
  #marks = 0;
  #marked = 0;
  #commit: (() => void) | undefined;
  #toldChanges = 0;
  /** Secondary. */
  #loads = -1;
  #mark: LogMark | undefined;
  #settled = 0;
  readonly #send: (message: PeerMessage) => void;

  constructor(host: Host, process: Process, send: (message: PeerMessage) => void) {
    this.#host = host;
    this.#send = send;
    this.#rules = host.rules;
    host.shadow.open();
    this.log = new InputLog(process, { inject: (s) => host.inject(s), look: (conn) => host.shadow.look(conn) }, host.rules, {
      acknowledge: (epoch, iseq) => host.acknowledge(epoch, iseq),
      onTrouble: () => process.afterInputs(() => send({ type: 'request-checkpoint' })),
      onReplayed: () => process.afterInputs(() => { host.shadow.mode = 'live'; }),
    });
  }

  turnOff(): void {
    this.#host.shadow.turnOff();
  }

  vmBegins(): void {
    this.#host.gate.vmBegins(this.#host.shadow.diverted);
  }

  begin(): void {
    this.#readInputs();
    const epoch = this.#host.world.random.int(1, 1e9);
    this.#marks = this.#marked = 0;
    this.#commit = undefined;
    this.#send({ type: 'log-begin', epoch: epoch.toString(16), nextInput: this.#host.gate.beginLog(epoch) });
    this.#tellTranslations();
  }

  #tellTranslations(): void {
    const { shadow } = this.#host;
    this.#toldChanges = shadow.changes;
    const flows = shadow.translations().map(({ conn, seqDelta }) => ({ key: conn.toString(16), seqDelta, tsDelta: 0 }));
    this.#send({ type: 'log-flows', first: true, tsOffset: 0, flows });
  }

  checkpointAsked(): void {
    this.#readWhenAsked = this.#readInputs();
  }

  stopped(stopUs: number): void {
    const ageUs = this.#host.world.nowUs - stopUs;
    const readInput = ageUs >= 0 && ageUs < freshStopUs ? this.#readInputs() : this.#readWhenAsked;
    if (this.#toldChanges !== this.#host.shadow.changes) this.#tellTranslations();
    this.#send({ type: 'log-mark', checkpoint: ++this.#marks, readInput, round: 0 });
  }

  #readInputs(): number {
    return this.#host.gate.readInputs(this.#rules.countDiverted ? 0 : this.#host.shadow.diverted);
  }

  whenMarked(commit: () => void): void {
    if (this.#marked === this.#marks || this.#rules.commitUnmarked) commit();
    else this.#commit = commit;
  }

  expectCopy(): void {
    this.#loads = -1;
    this.#mark = undefined;
  }

  onMessage(message: LogMessage): void {
    switch (message.type) {
      case 'log-begin':
        this.#host.shadow.reset();
        this.#settled = message.nextInput - 1;
        return this.log.reset(parseInt(message.epoch, 16), message.nextInput);
      case 'log-mark':
        this.#mark = message;
        return this.#useMark();
      case 'log-flows':
        return this.#host.shadow.hand(message.flows.map(({ key, seqDelta }) => ({ conn: parseInt(key, 16), seqDelta })));
      case 'log-marked': {
        if (message.checkpoint !== this.#marks) return; // of an earlier protection
        this.#marked = this.#marks;
        const commit = this.#commit;
        this.#commit = undefined;
        return commit?.();
      }
      case 'secondary-wish': return; // nothing is compared here
    }
  }

  loaded(): void {
    this.#loads++;
    this.#useMark();
  }

  #useMark(): void {
    const mark = this.#mark;
    if (!mark || this.#loads < mark.checkpoint) return;
    this.#mark = undefined;
    const read = this.#rules.forgetAtResume ? this.log.newest : mark.readInput;
    this.log.forget(read, Math.max(0, Math.min(inputsInHand, read - this.#settled)));
    this.#settled = read;
    this.#send({ type: 'log-marked', checkpoint: mark.checkpoint, active: false });
  }

  takeOver(): void {
    this.#host.shadow.takeOver();
    if (this.#rules.noReplay) this.#host.shadow.mode = 'live';
    else this.log.replay();
  }
}
