/**
 * The life of a pair, as a pure function: (state, event) -> (state, effects).
 *
 * One such machine runs in each agent. It knows no clock (events carry the
 * time), does no I/O (effects say what to do), and so can be simulated whole.
 *
 * The rules that make a takeover invisible to clients:
 *  - Output is released only up to the STOP of a checkpoint whose RESUME was
 *    seen: RESUME means that the secondary has loaded that state (the commit).
 *  - The secondary may take over only after `protected`, which is sent before
 *    the first release, and only when the primary's lease must have ended.
 *  - The primary goes on alone only when the secondary has given up its VM, or
 *    is dead. A secondary that does not answer for `askMs` counts as dead.
 *  - Nobody decides late. Half of `askMs` after the peer may have ceased to
 *    count on it, a host that slept through that time (frozen, overloaded)
 *    cannot know what the other has done: it is fenced, and waits for its word.
 *
 * What is left without a witness: both hosts live, both are awake, and no
 * packet passes between them; or a secondary takes over because a connection
 * was lost or the primary slept, and itself dies or sleeps before the primary
 * hears of it. Then both speak, until they meet again and the one of the lower
 * generation gives up its VM.
 *
 * With a witness, nobody goes on without the peer's word or the witness's. Each
 * time that protection begins is a term, and of a term the witness lets one
 * host go on: the one that asks first. No clock is involved, so nobody can be
 * late; but while the witness cannot be reached, a lost peer means silence.
 */

import type { Greeting, Message } from './messages.js';
import type { Effect, PairConfig, PairEvent, PairState, Phase, Step, TimerName } from './pair-types.js';

export type * from './pair-types.js';

const nsPerMs = 1_000_000n;
const askRounds = 10;
/** The peer takes no longer reasons; most of them come from elsewhere. */
const longestReason = 500;
const holdLost = 'this host can hold no output until its agent is restarted';
const logLost = 'the secondary\'s host can log no input until its agent is restarted';

export function initialState(role: PairState['role']): PairState {
  return {
    role, phase: 'alone', generation: 0, term: 0, peer: undefined, vm: false, holding: false, checkpoint: undefined,
    commits: 0, secondaryActive: undefined, trustedUntilNs: 0n, asking: undefined, paused: false, cannotHold: false, cannotLog: false,
    mayRunAlone: false, unremembered: false, reason: 'not started',
  };
}

/** True while a takeover would lose nothing that a client has seen. */
export function isProtected(state: PairState): boolean {
  return state.phase === 'protected' || state.phase === 'checkpointing';
}

const silentPhases: ReadonlySet<Phase> = new Set(['parting', 'fenced', 'ended']);

/** True if this host runs the VM that speaks to the world. */
export function isActive(state: PairState): boolean {
  return state.role === 'primary' && !silentPhases.has(state.phase);
}

/** Secondary: true if its VM runs on after the next commit. */
export function secondaryIsActive(state: PairState, config: PairConfig): boolean {
  return state.secondaryActive ?? !config.pauseSecondary;
}

export function greeting(state: PairState, config: PairConfig): Greeting {
  return {
    type: 'greeting', host: config.host, role: state.role, phase: state.phase,
    generation: state.generation, active: isActive(state) || state.phase === 'taking-over',
  };
}

/**
 * The next state and what to do about it.
 * @param nowNs time of the event
 */
export function step(before: PairState, event: PairEvent, nowNs: bigint, config: PairConfig): Step {
  const machine = new Machine(copyOf(before), nowNs, config);
  machine.on(event);
  return { state: machine.state, effects: machine.effects };
}

/** A copy to change; much faster than structuredClone, and every heartbeat needs one. */
function copyOf(state: PairState): PairState {
  const { peer, checkpoint, asking } = state;
  return { ...state, peer: peer && { ...peer }, checkpoint: checkpoint && { ...checkpoint }, asking: asking && { ...asking } };
}

class Machine {
  readonly state: PairState;
  readonly effects: Effect[] = [];
  readonly #nowNs: bigint;
  readonly #config: PairConfig;

  constructor(state: PairState, nowNs: bigint, config: PairConfig) {
    this.state = state;
    this.#nowNs = nowNs;
    this.#config = config;
  }

  on(event: PairEvent): void {
    switch (event.type) {
      case 'start': return this.#onStart(event);
      case 'peer-up': return this.#onPeerUp();
      case 'peer-lost': return this.#onPeerLost(event.reason);
      case 'peer-unreached': return this.#onUnreached(event.sign, event.reason);
      case 'message': return this.#onMessage(event.message);
      case 'verdict': return this.#onVerdict(event);
      case 'heartbeat-acked': return this.#onHeartbeat(event.sentNs);
      case 'vm-listening': return this.#onListening();
      case 'colo-entered': return this.#onColoEntered();
      case 'vm-stopped': return this.#onStopped(event.stampNs, event.receivedNs);
      case 'vm-resumed': return this.#onResumed(event.receivedNs);
      case 'colo-exit': return this.#onBroken('COLO_EXIT', `QEMU left the COLO state: ${event.reason}`);
      case 'vm-exited': return this.#onVmExited(event.clean, event.reason);
      case 'secondary-active':
        this.state.secondaryActive = event.on;
        return;
      case 'held': return this.#onHeld(event.oldestNs);
      case 'hold-limit':
      case 'log-lags': return this.#startCheckpoint();
      case 'hold-lost':
        this.state.cannotHold = true;
        return this.#pause(holdLost);
      case 'log-lost': return this.#onLogLost();
      case 'timer': return this.#onTimer(event.name);
      case 'secondary-dropped': return this.#onDropped();
      case 'drop-failed': return this.#onDropFailed(event.reason);
      case 'took-over': return this.#onTookOver();
      case 'takeover-failed': return this.#onTakeoverFailed(event.reason);
      case 'failed': return this.#onFailed(event.what, event.reason);
      case 'command': return this.#onCommand(event.command);
    }
  }

  #do(...effects: Effect[]): void {
    this.effects.push(...effects);
  }

  #send(message: Message): void {
    if ('reason' in message) message = { ...message, reason: message.reason.slice(0, longestReason) };
    this.#do({ type: 'send', message });
  }

  #greet(): void {
    this.#send(greeting(this.state, this.#config));
  }

  #persist(mayRunAlone: boolean): void {
    Object.assign(this.state, { mayRunAlone, unremembered: false } satisfies Partial<PairState>);
    this.#write();
  }

  #write(): void {
    const { role, generation, term, mayRunAlone } = this.state;
    this.#do({ type: 'persist', role, generation, term, mayRunAlone });
  }

  #note(level: 'info' | 'warn' | 'error', code: string, text: string): void {
    this.#do({ type: 'note', level, code, text });
  }

  get #askNs(): bigint {
    return BigInt(this.#config.askMs) * nsPerMs;
  }

  /** The peer has counted on us for so long ago that it may have decided without us. */
  get #slept(): boolean {
    return this.#nowNs > this.state.trustedUntilNs + this.#askNs / 2n;
  }

  // ---- beginning -----------------------------------------------------------

  #onStart(event: Extract<PairEvent, { type: 'start' }>): void {
    const { state } = this;
    state.role = event.role;
    state.generation = event.generation;
    state.term = event.term;
    if (event.role === 'secondary') {
      state.reason = 'waiting for the primary';
      this.#do({ type: 'gate', mode: 'closed' });
      if (event.vmAlive) this.#do({ type: 'destroy-vm' });
    } else if (event.mayRunAlone) {
      state.reason = 'looking for the secondary';
      state.vm = true;
      this.#do({ type: 'start-vm' }, { type: 'gate', mode: 'pass' }, { type: 'dial' });
    } else {
      // When we last ran, the peer could take over. Only it knows if it did.
      state.vm = event.vmAlive;
      this.#fence('the peer may have taken over; waiting for its word (or "colopp start-alone")');
    }
  }

  #onPeerUp(): void {
    if (this.state.phase === 'parting') this.#do({ type: 'cancel-timer', name: 'ask' }); // its greeting will tell
    this.#greet();
  }

  #onGreeting(peer: Greeting): void {
    const { state } = this;
    state.peer = { host: peer.host, phase: peer.phase, generation: peer.generation };
    if (state.role === 'secondary') {
      if (state.phase === 'fenced' && peer.active) this.#giveUpSecondary(`${peer.host} runs the VM`);
    } else if (peer.active) {
      if (peer.generation > state.generation) this.#stepDown(peer);
      else if (state.phase === 'parting') this.#fence(`${peer.host} is taking over`);
      else if (isActive(state) && peer.generation === state.generation) {
        this.#note('error', 'TWO_PRIMARIES', `Both ${this.#config.host} and ${peer.host} run the VM, in the same generation. Make one of them the secondary.`);
        this.#do({ type: 'hang-up', reason: 'both hosts are primary' }, { type: 'timer', name: 'retry', ms: this.#config.retryMs });
        state.peer = undefined;
      }
    } else if (state.phase === 'fenced' && !state.vm && peer.phase === 'fenced') {
      this.#handOver('its copy is the only one');
    } else if (state.phase === 'parting' || state.phase === 'fenced') {
      this.#send({ type: 'unprotect', reason: 'the primary goes on alone' });
    } else if ((state.phase === 'alone' || state.phase === 'active-alone') && !state.paused) {
      this.#offer();
    }
  }

  #offer(): void {
    const { state } = this;
    if (state.cannotHold) return this.#pause(holdLost);
    state.phase = 'pairing';
    state.commits = 0;
    state.reason = `waiting for ${state.peer?.host ?? 'the secondary'} to prepare`;
    this.#send({ type: 'offer', generation: state.generation, vmDigest: this.#config.vmDigest, vmSummary: this.#config.vmSummary });
    this.#do({ type: 'timer', name: 'sync-timeout', ms: this.#config.syncTimeoutMs });
  }

  /** The peer took over while we could not speak: our VM is history. */
  #stepDown(peer: Greeting): void {
    const { state } = this;
    this.#cancelTimers();
    Object.assign(state, {
      role: 'secondary', phase: 'alone', generation: peer.generation, vm: false, holding: false, checkpoint: undefined,
      commits: 0, asking: undefined, paused: false, reason: `${peer.host} has taken over; waiting for its offer`,
    } satisfies Partial<PairState>);
    this.#do({ type: 'gate', mode: 'closed' }, { type: 'discard' }, { type: 'destroy-vm' });
    this.#note('warn', 'STEPPED_DOWN', `${peer.host} runs the VM in generation ${peer.generation}: this host gives up its copy.`);
    this.#greet(); // as one that can take its offer
    this.#persist(false);
  }

  // ---- messages ------------------------------------------------------------

  #onMessage(message: Message): void {
    const { state } = this;
    switch (message.type) {
      case 'greeting': return this.#onGreeting(message);
      case 'offer': return this.#onOffer(message.generation, message.vmDigest, message.vmSummary);
      case 'ready':
        if (state.role !== 'primary' || state.phase !== 'pairing') return;
        state.phase = 'syncing';
        state.reason = 'copying the state of the VM';
        this.#do({ type: 'migrate' });
        return;
      case 'refuse':
        if (!this.#hasSecondary) return;
        this.#note('error', message.code, `${state.peer?.host ?? 'The peer'} has no secondary VM: ${message.reason}`);
        return this.#goAlone(message.reason);
      case 'protected':
        if (state.role !== 'secondary' || state.phase !== 'syncing') return;
        state.phase = 'protected';
        state.generation = message.generation;
        state.term = message.term;
        state.reason = '';
        this.#note('info', 'PROTECTED', 'Ready to take over.');
        return;
      case 'unprotect':
        if (state.role !== 'secondary' || state.phase === 'taking-over') return;
        if (state.phase !== 'alone') this.#note('warn', 'UNPROTECTED', `The primary ends the protection: ${message.reason}`);
        this.#giveUpSecondary(message.reason);
        return this.#send({ type: 'unprotected' });
      case 'unprotected':
        if (state.role !== 'primary') return;
        if (state.phase === 'parting' || state.phase === 'fenced') this.#goAlone(state.reason);
        else if (state.phase === 'ended') this.#persist(true);
        return;
      case 'take-over':
        if (state.role !== 'secondary') return;
        if (isProtected(state) || state.phase === 'fenced') this.#takeOver(message.reason);
        else this.#greet(); // so that the primary learns of its mistake
        return;
      case 'request-failover':
        if (state.role === 'primary') this.#failover();
        return;
      case 'request-checkpoint':
        return this.#startCheckpoint();
    }
  }

  #onOffer(generation: number, vmDigest: string, vmSummary: string): void {
    const { state } = this;
    if (state.role !== 'secondary' || (state.phase !== 'alone' && state.phase !== 'fenced')) {
      const reason = `${this.#config.host} is ${state.role}, ${state.phase}, and cannot take an offer.`;
      return this.#send({ type: 'refuse', code: 'NOT_IDLE', reason });
    }
    if (state.phase === 'fenced') this.#giveUpSecondary('the primary goes on');
    if (state.cannotLog) return this.#send({ type: 'refuse', code: 'LOG_TAP_LOST', reason: logLost });
    if (vmDigest !== this.#config.vmDigest) {
      const reason = `the two hosts describe the VM differently: the primary says "${vmSummary}", ${this.#config.host} says "${this.#config.vmSummary}". Make the two configurations equal in what differs.`;
      this.#note('error', 'VM_DIFFERS', reason);
      return this.#send({ type: 'refuse', code: 'VM_DIFFERS', reason });
    }
    state.phase = 'pairing';
    state.generation = generation;
    state.commits = 0;
    state.reason = 'preparing an empty VM';
    this.#do({ type: 'gate', mode: 'closed' }, { type: 'start-incoming-vm' });
  }

  #onListening(): void {
    if (this.state.role !== 'secondary' || this.state.phase !== 'pairing') return;
    this.state.phase = 'syncing';
    this.state.reason = 'receiving the state of the VM';
    this.#send({ type: 'ready' });
  }

  // ---- checkpoints ---------------------------------------------------------

  #onColoEntered(): void {
    const { state } = this;
    if (state.role !== 'primary' || state.phase !== 'syncing') return;
    // Output may have passed since the copy was made, so the copy promises
    // nothing. The first checkpoint that stops while we hold does.
    state.holding = true;
    this.#do({ type: 'gate', mode: 'protected' });
    this.#requestCheckpoint();
  }

  #startCheckpoint(): void {
    const { state } = this;
    if (state.role !== 'primary' || state.phase !== 'protected') return;
    state.phase = 'checkpointing';
    this.#requestCheckpoint();
  }

  #requestCheckpoint(): void {
    this.state.checkpoint = { requestedNs: this.#nowNs, stopNs: undefined, again: false };
    this.#do(
      { type: 'cancel-timer', name: 'checkpoint' },
      { type: 'trigger-checkpoint' },
      { type: 'timer', name: 'checkpoint-timeout', ms: this.#config.checkpointTimeoutMs },
    );
  }

  /**
   * QEMU's stamp is wall-clock time: a step of the clock must not move the
   * watermark past output of the next round. The VM cannot have stopped before
   * it was asked to, nor after we were told.
   */
  #onStopped(stampNs: bigint, receivedNs: bigint): void {
    const { checkpoint } = this.state;
    if (!checkpoint || checkpoint.stopNs !== undefined) return;
    const plausible = stampNs >= checkpoint.requestedNs && stampNs <= receivedNs;
    checkpoint.stopNs = plausible ? stampNs : checkpoint.requestedNs;
  }

  #onResumed(receivedNs: bigint): void {
    const { state } = this;
    if (state.role === 'secondary') {
      if (state.phase !== 'syncing' && !isProtected(state)) return;
      state.commits++;
      if (!secondaryIsActive(state, this.#config)) this.#do({ type: 'pause-vm' });
      return;
    }
    // A RESUME without the STOP of a checkpoint we asked for commits nothing.
    const { checkpoint } = state;
    if (!checkpoint || checkpoint.stopNs === undefined) return;
    const { requestedNs, stopNs, again } = checkpoint;
    state.checkpoint = undefined;
    if (state.phase === 'syncing') {
      state.reason = '';
      state.term++;
      this.#do({ type: 'cancel-timer', name: 'sync-timeout' });
      this.#persist(false);
      this.#send({ type: 'protected', generation: state.generation, term: state.term });
      this.#note('info', 'PROTECTED', `Protected by ${state.peer?.host ?? 'the secondary'}.`);
    }
    state.phase = 'protected';
    state.commits++;
    this.#do(
      { type: 'cancel-timer', name: 'checkpoint-timeout' },
      { type: 'release', upToNs: stopNs, stopNs, askNs: stopNs - requestedNs, pauseNs: receivedNs - stopNs },
      { type: 'timer', name: 'period', ms: this.#config.periodMs },
    );
    if (again) this.#startCheckpoint();
  }

  #onHeld(oldestNs: bigint): void {
    if (this.state.role !== 'primary' || this.state.phase !== 'protected') return;
    const ms = this.#config.holdMs - Number((this.#nowNs - oldestNs) / nsPerMs);
    if (ms <= 0) this.#startCheckpoint();
    else this.#do({ type: 'timer', name: 'checkpoint', ms });
  }

  #onHeartbeat(sentNs: bigint): void {
    const { state } = this;
    const untilNs = sentNs + BigInt(this.#config.leaseMs) * nsPerMs;
    if (untilNs > state.trustedUntilNs) state.trustedUntilNs = untilNs;
    // A peer that was lost and is back may have taken over: its word is awaited, not its pulse.
    const doubted = state.phase === 'fenced' || state.phase === 'ended' || state.asking !== undefined;
    if (state.role === 'primary' && !doubted) this.#do({ type: 'lease', untilNs });
  }

  #onTimer(name: TimerName): void {
    const { state } = this;
    switch (name) {
      case 'checkpoint':
      case 'period':
        return this.#startCheckpoint();
      case 'checkpoint-timeout':
        return this.#onBroken('CHECKPOINT_TIMEOUT', `a checkpoint took longer than ${this.#config.checkpointTimeoutMs} ms`);
      case 'sync-timeout':
        return this.#onBroken('SYNC_TIMEOUT', `pairing took longer than ${this.#config.syncTimeoutMs} ms`);
      case 'ask':
        return this.#askAgain();
      case 'retry':
        // A secondary is dialled by its primary, never the other way round.
        if (state.role === 'primary' && state.peer === undefined) this.#do({ type: 'dial' });
        return;
      case 'persist':
        if (!state.unremembered) return;
        this.#write();
        return this.#note('info', 'REMEMBERED', 'What this host is has been written into its stateDir at last.'); // left out if it has not
    }
  }

  // ---- endings -------------------------------------------------------------

  /** Primary: there is a secondary VM, or there may be. */
  get #hasSecondary(): boolean {
    const { role, phase } = this.state;
    return role === 'primary' && (phase === 'pairing' || phase === 'syncing' || phase === 'parting' || isProtected(this.state));
  }

  #onPeerLost(reason: string): void {
    const { state } = this;
    const peer = state.peer?.host ?? 'the peer';
    state.peer = undefined;
    if (state.role === 'secondary') {
      if (isProtected(state)) {
        this.#note('warn', 'PRIMARY_LOST', `${peer} is lost: ${reason}`);
        if (this.#config.witness) this.#askWitness(reason);
        else if (this.#slept) this.#fence(`${peer} was lost while this host slept; waiting for its word (or "colopp start-alone")`);
        else this.#takeOver(reason);
      } else if (state.phase === 'pairing' || state.phase === 'syncing') {
        this.#note('warn', 'PRIMARY_LOST', `${peer} is lost before the VM was protected: ${reason}`);
        this.#giveUpSecondary(reason);
      }
    } else if (this.#hasSecondary) {
      this.#note('warn', 'SECONDARY_LOST', `${peer} is lost: ${reason}`);
      if (state.commits === 0) this.#goAlone(reason);
      else if (this.#slept && !this.#config.witness) this.#fence(`${peer} was lost while this host slept; waiting for its word (or "colopp start-alone")`);
      else this.#ask(reason);
    } else {
      this.#do({ type: 'timer', name: 'retry', ms: this.#config.retryMs });
    }
  }

  /**
   * Primary: the secondary is silent. Is it dead, or is it taking over because
   * only the connection was lost? If it lives, it answers.
   */
  #ask(reason: string): void {
    this.#part(reason);
    this.state.asking = undefined;
    this.#askRound(askRounds);
  }

  /** Secondary: the primary is silent. Its copy waits, silent too, until it is known who goes on. */
  #askWitness(reason: string): void {
    this.state.phase = 'fenced';
    this.state.reason = reason;
    this.#askRound(askRounds);
    this.#note('info', 'ASKING_WITNESS', 'Asking the witness who may go on.');
  }

  #askRound(rounds: number): void {
    const { state } = this;
    state.asking = { sinceNs: state.asking?.sinceNs ?? this.#nowNs, roundNs: this.#nowNs, rounds };
    this.#do({ type: 'timer', name: 'ask', ms: this.#config.askMs / askRounds });
    if (this.#config.witness) this.#do({ type: 'claim', term: state.term });
    if (state.role === 'primary') this.#do({ type: 'dial' });
  }

  /** Only time in which this host was awake counts: else the answer may be waiting unread. */
  #askAgain(): void {
    const { asking, reason } = this.state;
    if (!asking) return;
    if (this.#config.witness) return this.#askRound(askRounds);
    const late = this.#nowNs - asking.roundNs > 2n * this.#askNs / BigInt(askRounds);
    const rounds = late ? askRounds : asking.rounds - 1;
    if (this.#nowNs - asking.sinceNs > 3n * this.#askNs / 2n) this.#fence('this host slept while it asked for the peer; waiting for its word (or "colopp start-alone")');
    else if (rounds === 0) this.#goAlone(reason);
    else this.#askRound(rounds);
  }

  #stopAsking(): void {
    if (!this.state.asking) return;
    this.state.asking = undefined;
    this.#do({ type: 'cancel-timer', name: 'ask' });
  }

  #onVerdict({ term, granted, holder }: Extract<PairEvent, { type: 'verdict' }>): void {
    const { state } = this;
    if (!state.asking || term !== state.term) return; // the peer's word came first
    const refusal = `the witness has let ${holder} go on; waiting for its word (or "colopp start-alone")`;
    if (state.role === 'primary') {
      if (granted) this.#goAlone(state.reason);
      else this.#fence(refusal);
    } else if (granted) {
      this.#takeOver(state.reason);
    } else {
      this.#fence(refusal);
    }
  }

  #onUnreached(sign: 'absent' | 'refused' | 'silent', reason: string): void {
    const { state } = this;
    if (state.role !== 'primary') return;
    if (state.phase === 'parting') {
      if (this.#config.witness) return; // which is asked in rounds
      // A restarted agent gives an earlier secondary up; one that refuses us lives, and decides.
      if (sign === 'absent') return this.#goAlone(state.reason);
      if (sign === 'refused') this.#fence(`the peer may take over: ${reason}`);
      return;
    }
    this.#do({ type: 'timer', name: 'retry', ms: this.#config.retryMs });
  }

  /** Something between the two VMs broke while the peer itself may be well. */
  #onBroken(code: string, reason: string): void {
    const { state } = this;
    if (state.role === 'secondary') {
      if (state.phase !== 'pairing' && state.phase !== 'syncing') return;
      this.#note('error', code, reason);
      this.#giveUpSecondary(reason);
      this.#send({ type: 'refuse', code, reason });
    } else if (this.#hasSecondary && state.phase !== 'parting') {
      this.#note('error', code, `Protection ends: ${reason}`);
      const dropping = this.#part(reason);
      if (!dropping) this.#send({ type: 'unprotect', reason });
    }
  }

  /** The secondary is asked to give its VM up only now that ours is seen to live. */
  #onDropped(): void {
    if (this.state.phase === 'parting') this.#send({ type: 'unprotect', reason: this.state.reason });
  }

  #onDropFailed(reason: string): void {
    const { state } = this;
    if (state.phase === 'parting' && state.commits > 0) this.#handOver(`the VM does not go on: ${reason}`);
    else this.#note('error', 'FAILED', `The VM could not be let go on: ${reason}`);
    if (state.phase === 'parting') this.#send({ type: 'unprotect', reason });
  }

  #onFailed(what: string, reason: string): void {
    if (what === 'persist') return this.#onUnremembered(reason);
    const { role, phase } = this.state;
    const concernsPair = phase === 'pairing' || phase === 'syncing' || (role === 'primary' && isProtected(this.state));
    if (concernsPair) return this.#onBroken('FAILED', `${what} failed: ${reason}`);
    this.#note('error', 'FAILED', `${what} failed: ${reason}`);
  }

  /** A restart would take this host for what it was before: it is written again until the disk has it. */
  #onUnremembered(reason: string): void {
    const { state } = this;
    const again = state.unremembered;
    state.unremembered = true;
    this.#do({ type: 'timer', name: 'persist', ms: this.#config.retryMs });
    const text = `what this host is cannot be written into its stateDir (${reason})`;
    if (state.role === 'primary' && isProtected(state)) return this.#onBroken('NOT_REMEMBERED', text);
    this.#note('error', 'NOT_REMEMBERED', `Do not restart this agent: ${text}.`);
    // No reason to leave clients without an answer.
    if (!again && state.phase === 'active-alone') this.#speak();
  }

  /**
   * Primary: the VM runs on at once, but it is heard only when the secondary
   * can no longer take over: it says so, or is dead.
   * @returns whether the secondary must be dropped first
   */
  #part(reason: string): boolean {
    const { state } = this;
    const dropping = state.phase !== 'pairing' && state.phase !== 'parting';
    this.#cancelTimers();
    if (dropping) this.#do({ type: 'drop-secondary' });
    Object.assign(state, { phase: 'parting', checkpoint: undefined, reason } satisfies Partial<PairState>);
    return dropping;
  }

  /** This host is silent until the peer, or an operator, says who runs the VM. Its own is kept. */
  #fence(reason: string): void {
    const { state } = this;
    this.#cancelTimers();
    this.#do({ type: 'gate', mode: 'closed' });
    Object.assign(state, { phase: 'fenced', checkpoint: undefined, asking: undefined, reason } satisfies Partial<PairState>);
    if (state.role === 'primary' && !state.peer) this.#do({ type: 'dial' });
    this.#note('warn', 'FENCED', `This host stays silent: ${reason}.`);
  }

  #onVmExited(clean: boolean, reason: string): void {
    const { state } = this;
    state.vm = false;
    this.#note(clean ? 'info' : 'error', 'VM_EXITED', `QEMU has ended: ${reason}`);
    if (state.role === 'secondary') {
      const { phase } = state;
      if (phase === 'alone') return;
      this.#giveUpSecondary(reason);
      if (phase === 'taking-over') this.#greet();
      else this.#send({ type: 'refuse', code: 'VM_EXITED', reason: `the secondary's QEMU has ended: ${reason}` });
    } else if (!clean && (isProtected(state) || (state.phase === 'parting' && state.commits > 0))) {
      this.#handOver(`the primary's QEMU has ended: ${reason}`);
    } else if (state.phase !== 'fenced') {
      this.#end(reason);
    }
  }

  /** A copy that is being taken over, or may have to be as no other is left, is kept. */
  #onLogLost(): void {
    const { state } = this;
    state.cannotLog = true;
    if (state.role !== 'secondary' || !(isProtected(state) || state.phase === 'pairing' || state.phase === 'syncing')) return;
    this.#giveUpSecondary(logLost);
    this.#send({ type: 'refuse', code: 'LOG_TAP_LOST', reason: logLost });
  }

  /** Primary: silence this host and let the secondary speak. Its greeting will tell that it does. */
  #handOver(reason: string): void {
    this.#fence(`the VM is being handed over to ${this.state.peer?.host ?? 'the secondary'}: ${reason}`);
    this.#send({ type: 'take-over', reason });
  }

  #failover(): void {
    if (isProtected(this.state)) this.#handOver('an operator asked for it');
    else this.#note('error', 'NOT_PROTECTED', 'No failover: the VM is not protected, the secondary cannot take over.');
  }

  /** Primary: the secondary has no VM any more; go on without. */
  #goAlone(reason: string): void {
    const { state } = this;
    const { phase, holding } = state;
    this.#cancelTimers();
    if (phase === 'fenced') this.#do({ type: 'start-vm' });
    else if (phase !== 'pairing' && phase !== 'parting') this.#do({ type: 'drop-secondary' });
    Object.assign(state, {
      phase: phase === 'pairing' ? 'alone' : 'active-alone', vm: true, holding: false, checkpoint: undefined, commits: 0, asking: undefined, reason,
    } satisfies Partial<PairState>);
    this.#do({ type: 'gate', mode: 'pass' });
    if (holding) this.#do({ type: 'release-all' });
    if (phase !== 'pairing') this.#note('warn', 'ACTIVE_ALONE', 'The VM runs on unprotected.');
    this.#do({ type: 'hang-up', reason }, { type: 'timer', name: 'retry', ms: this.#config.retryMs });
    state.peer = undefined;
    // Last: a restart that does not know of it yet asks the peer, and loses nothing.
    this.#persist(true);
  }

  #giveUpSecondary(reason: string): void {
    this.#stopAsking();
    this.#do({ type: 'gate', mode: 'closed' }, { type: 'destroy-vm' });
    Object.assign(this.state, { phase: 'alone', commits: 0, reason } satisfies Partial<PairState>);
  }

  #takeOver(reason: string): void {
    this.#stopAsking();
    this.state.phase = 'taking-over';
    this.state.reason = reason;
    this.#do({ type: 'take-over-vm' });
    this.#note('warn', 'TAKING_OVER', `Taking over: ${reason}`);
  }

  #onTookOver(): void {
    const { state } = this;
    if (state.phase !== 'taking-over') return;
    Object.assign(state, {
      role: 'primary', phase: 'active-alone', generation: state.generation + 1, vm: true, holding: false, commits: 0,
    } satisfies Partial<PairState>);
    this.#note('warn', 'ACTIVE_ALONE', `This host runs the VM now, generation ${state.generation}, unprotected.`);
    this.#persist(true);
    this.#speak();
  }

  /** Take the place of the host that spoke before. */
  #speak(): void {
    this.#do(
      { type: 'gate', mode: 'pass' }, { type: 'announce' },
      { type: 'timer', name: 'retry', ms: this.#config.retryMs },
    );
    this.#greet();
  }

  #onTakeoverFailed(reason: string): void {
    if (this.state.phase !== 'taking-over') return;
    this.#note('error', 'TAKEOVER_FAILED', `The takeover failed: ${reason}`);
    this.#giveUpSecondary(reason);
    this.#greet();
  }

  #onCommand(command: Extract<PairEvent, { type: 'command' }>['command']): void {
    const { state } = this;
    switch (command) {
      case 'checkpoint':
        if (state.role !== 'primary') this.#send({ type: 'request-checkpoint' });
        // What the VM has said since the STOP of the one that is under way is to be released, too.
        else if (state.phase === 'checkpointing' && state.checkpoint) state.checkpoint.again = true;
        else this.#startCheckpoint();
        return;
      case 'failover':
        if (state.role === 'primary') this.#failover();
        else this.#send({ type: 'request-failover' });
        return;
      case 'pause':
        return this.#pause('an operator has paused the protection');
      case 'reprotect':
        return this.#reprotect();
      case 'start-alone':
        return this.#startAlone();
      case 'stop':
        return this.#stop();
    }
  }

  /** Primary: the protection ends, in order, and no other is begun until an operator says so. */
  #pause(reason: string): void {
    const { state } = this;
    if (state.role !== 'primary' || state.paused) return;
    state.paused = true;
    this.#note('warn', 'PAUSED', `The VM stays unprotected: ${reason}.`);
    if (this.#hasSecondary && state.phase !== 'parting') {
      const dropping = this.#part(reason);
      if (!dropping) this.#send({ type: 'unprotect', reason });
    } else if (state.phase === 'alone' || state.phase === 'active-alone') {
      state.reason = reason;
    }
  }

  #reprotect(): void {
    const { state } = this;
    const { paused } = state;
    state.paused = false;
    if (!isActive(state) || (state.phase !== 'alone' && state.phase !== 'active-alone')) return;
    if (state.peer === undefined) this.#do({ type: 'dial' }); // as every retry does, but now
    else if (paused) this.#offer();
  }

  #startAlone(): void {
    const { state } = this;
    const reason = 'an operator decided that this host runs the VM';
    if (state.phase !== 'fenced' && state.phase !== 'ended') return;
    if (state.role === 'secondary') return this.#takeOver(reason);
    Object.assign(state, { phase: 'active-alone', generation: state.generation + 1, vm: true, holding: false, reason } satisfies Partial<PairState>);
    this.#do({ type: 'discard' }, { type: 'start-vm' });
    this.#speak();
    // The peer does not say again what it is: they meet anew.
    this.#do({ type: 'hang-up', reason });
    state.peer = undefined;
    // Last: a restart that does not know of it yet is fenced, as before.
    this.#persist(true);
  }

  /**
   * The agent ends. A primary that is protected hands its VM over first; told
   * again, or unprotected, it ends the VM. One that was protected stays fenced
   * after a restart until the secondary has answered: without that answer it
   * may take over.
   */
  #stop(): void {
    if (this.state.role === 'secondary') {
      this.#giveUpSecondary('stopped');
      this.#send({ type: 'refuse', code: 'STOPPED', reason: 'the secondary was stopped' });
    } else if (isProtected(this.state)) {
      this.#handOver(`the agent of ${this.#config.host} was stopped`);
    } else {
      this.#end('the primary was stopped');
      this.#do({ type: 'destroy-vm' });
    }
  }

  /** Primary: there is no VM any more, here or there. */
  #end(reason: string): void {
    this.#cancelTimers();
    this.#do({ type: 'gate', mode: 'closed' });
    this.#send({ type: 'unprotect', reason });
    Object.assign(this.state, { phase: 'ended', holding: false, checkpoint: undefined, commits: 0, asking: undefined, reason } satisfies Partial<PairState>);
  }

  #cancelTimers(): void {
    for (const name of ['checkpoint', 'period', 'checkpoint-timeout', 'sync-timeout', 'ask'] as const) {
      this.#do({ type: 'cancel-timer', name });
    }
  }
}
