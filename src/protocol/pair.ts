/**
 * The life of a pair, as a pure function: (state, event) -> (state, effects).
 *
 * One such machine runs in each agent. It knows no clock (events carry the
 * time), does no I/O (effects say what to do), and so can be simulated whole.
 * All times are CLOCK_MONOTONIC nanoseconds of the own host.
 *
 * The rules that make a takeover invisible to clients:
 *  - Output is released only up to the STOP of a checkpoint whose RESUME was
 *    seen: RESUME means that the secondary has loaded that state (the commit).
 *  - The secondary may take over only after `protected`, which is sent before
 *    the first release, and only when the primary's lease must have ended.
 *  - The primary goes on alone only when the secondary has given up its VM, or
 *    is dead.
 */

import type { Greeting, Message } from './messages.js';

export type Role = 'primary' | 'secondary';

export type Phase =
  /** A primary runs its VM unprotected; a secondary has none. */
  | 'alone'
  /** The peer is there; the secondary prepares an empty VM. */
  | 'pairing'
  /** The VM's state is being copied. Nothing is promised yet. */
  | 'syncing'
  /** The secondary could take over now. */
  | 'protected'
  /** As `protected`, with a checkpoint on its way. */
  | 'checkpointing'
  /** The secondary is becoming the active VM. */
  | 'taking-over'
  /** The VM outlived a peer and runs unprotected. */
  | 'active-alone'
  /** This host's VM may be obsolete and must not speak; only the peer or an operator can tell. */
  | 'fenced';

export interface PairConfig {
  host: string;
  vmDigest: string;
  vmSummary: string;
  /** A checkpoint starts this long after the first packet was held. */
  holdMs: number;
  /** Longest time between two checkpoints. */
  periodMs: number;
  /** A checkpoint that takes longer ends the protection. */
  checkpointTimeoutMs: number;
  /** Copying the VM's state may take this long. */
  syncTimeoutMs: number;
  /** How long the primary may speak after a heartbeat that was acknowledged. */
  leaseMs: number;
  /** Wait between attempts to reach the peer. */
  retryMs: number;
  /** Keep the secondary VM paused between checkpoints. */
  pauseSecondary: boolean;
}

export interface PairState {
  role: Role;
  phase: Phase;
  generation: number;
  peer: { host: string; phase: Phase; generation: number } | undefined;
  /** The gate holds the VM's output. */
  holding: boolean;
  /** A checkpoint that was asked for; `stopNs` once the VM has stopped for it. */
  checkpoint: { requestedNs: bigint; stopNs: bigint | undefined } | undefined;
  /** Protection is being ended: waiting for the secondary to give up its VM. */
  ending: string | undefined;
  lastResumeNs: bigint;
  /** Commits since protection began. */
  commits: number;
  /** Why the VM is not protected, in words for people. */
  reason: string;
}

export type TimerName = 'checkpoint' | 'period' | 'checkpoint-timeout' | 'sync-timeout' | 'retry';

export type PairEvent =
  /** `vmAlive`: an earlier agent's VM still runs. `mayRunAlone`: no peer can have taken over meanwhile. */
  | { type: 'start'; role: Role; generation: number; vmAlive: boolean; mayRunAlone: boolean }
  | { type: 'peer-up' }
  /** Silence beyond the lease, or no connection and the lease is over: the peer cannot be speaking. */
  | { type: 'peer-lost'; reason: string }
  | { type: 'message'; message: Message }
  | { type: 'heartbeat-acked'; sentNs: bigint }
  | { type: 'vm-listening' }
  /** The primary's QEMU has entered its COLO state. */
  | { type: 'colo-entered' }
  /** QEMU's STOP: `stampNs` is its own stamp, converted; `receivedNs` when we saw it. */
  | { type: 'vm-stopped'; stampNs: bigint; receivedNs: bigint }
  | { type: 'vm-resumed'; receivedNs: bigint }
  | { type: 'colo-exit'; reason: string }
  | { type: 'vm-exited'; clean: boolean; reason: string }
  | { type: 'held'; oldestNs: bigint }
  | { type: 'hold-limit' }
  | { type: 'timer'; name: TimerName }
  | { type: 'took-over' }
  | { type: 'takeover-failed'; reason: string }
  /** An effect could not be carried out. */
  | { type: 'failed'; what: string; reason: string }
  | { type: 'command'; command: 'checkpoint' | 'failover' | 'start-alone' | 'stop' };

export type Effect =
  | { type: 'dial' }
  | { type: 'hang-up'; reason: string }
  | { type: 'send'; message: Message }
  | { type: 'start-vm' }
  | { type: 'start-incoming-vm' }
  | { type: 'destroy-vm' }
  /** Start copying the VM to the secondary, to end in the COLO state. */
  | { type: 'migrate' }
  | { type: 'trigger-checkpoint' }
  /** Primary: cut the dead secondary off and let the VM run on. */
  | { type: 'drop-secondary' }
  /** Secondary: cut the dead primary off and let the VM run. */
  | { type: 'take-over-vm' }
  | { type: 'pause-vm' }
  | { type: 'gate'; mode: 'pass' | 'protected' | 'closed' }
  | { type: 'lease'; untilNs: bigint }
  | { type: 'release'; upToNs: bigint; stopNs: bigint; pauseNs: bigint }
  | { type: 'release-all' }
  | { type: 'discard' }
  | { type: 'announce' }
  /** What must be remembered across a restart, before the effects that follow. */
  | { type: 'persist'; role: Role; generation: number; mayRunAlone: boolean }
  | { type: 'timer'; name: TimerName; ms: number }
  | { type: 'cancel-timer'; name: TimerName }
  | { type: 'note'; level: 'info' | 'warn' | 'error'; code: string; text: string };

export interface Step {
  state: PairState;
  effects: Effect[];
}

const nsPerMs = 1_000_000n;

export function initialState(role: Role): PairState {
  return {
    role, phase: 'alone', generation: 0, peer: undefined, holding: false, checkpoint: undefined,
    ending: undefined, lastResumeNs: 0n, commits: 0, reason: 'not started',
  };
}

/** True while a takeover would lose nothing that a client has seen. */
export function isProtected(state: PairState): boolean {
  return state.phase === 'protected' || state.phase === 'checkpointing';
}

/** True if this host runs the VM that speaks to the world. */
export function isActive(state: PairState): boolean {
  return state.role === 'primary' && state.phase !== 'fenced';
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
  const machine = new Machine(structuredClone(before), nowNs, config);
  machine.on(event);
  return { state: machine.state, effects: machine.effects };
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
      case 'peer-up': return this.#do({ type: 'send', message: greeting(this.state, this.#config) });
      case 'peer-lost': return this.#onPeerLost(event.reason);
      case 'message': return this.#onMessage(event.message);
      case 'heartbeat-acked': return this.#onHeartbeat(event.sentNs);
      case 'vm-listening': return this.#onListening();
      case 'colo-entered': return this.#onColoEntered();
      case 'vm-stopped': return this.#onStopped(event.stampNs, event.receivedNs);
      case 'vm-resumed': return this.#onResumed(event.receivedNs);
      case 'colo-exit': return this.#onBroken('COLO_EXIT', `QEMU left the COLO state: ${event.reason}`);
      case 'vm-exited': return this.#onVmExited(event.clean, event.reason);
      case 'held': return this.#onHeld(event.oldestNs);
      case 'hold-limit': return this.#startCheckpoint();
      case 'timer': return this.#onTimer(event.name);
      case 'took-over': return this.#onTookOver();
      case 'takeover-failed': return this.#onTakeoverFailed(event.reason);
      case 'failed': return this.#onBroken('FAILED', `${event.what} failed: ${event.reason}`);
      case 'command': return this.#onCommand(event.command);
    }
  }

  #do(...effects: Effect[]): void {
    this.effects.push(...effects);
  }

  #persist(mayRunAlone: boolean): Effect {
    return { type: 'persist', role: this.state.role, generation: this.state.generation, mayRunAlone };
  }

  #note(level: 'info' | 'warn' | 'error', code: string, text: string): void {
    this.#do({ type: 'note', level, code, text });
  }

  // ---- beginning -----------------------------------------------------------

  #onStart(event: Extract<PairEvent, { type: 'start' }>): void {
    const { state } = this;
    state.role = event.role;
    state.generation = event.generation;
    if (event.role === 'secondary') {
      state.reason = 'waiting for the primary';
      this.#do({ type: 'gate', mode: 'closed' });
      if (event.vmAlive) this.#do({ type: 'destroy-vm' });
    } else if (event.mayRunAlone) {
      state.reason = 'looking for the secondary';
      if (!event.vmAlive) this.#do({ type: 'start-vm' });
      this.#do({ type: 'gate', mode: 'pass' }, { type: 'dial' });
    } else {
      // When we last ran, the peer could take over. Only it knows if it did.
      state.phase = 'fenced';
      state.reason = 'the peer may have taken over; waiting for its word (or "colopp start-alone")';
      this.#do({ type: 'gate', mode: 'closed' }, { type: 'dial' });
      this.#note('warn', 'FENCED', 'This host was protected when its agent ended. It stays silent until the peer says who runs the VM.');
    }
  }

  #onGreeting(peer: Greeting): void {
    const { state } = this;
    state.peer = { host: peer.host, phase: peer.phase, generation: peer.generation };
    if (peer.active && peer.generation > state.generation && state.phase !== 'taking-over') {
      this.#stepDown(peer);
    } else if (peer.active && isActive(state) && peer.generation === state.generation) {
      this.#note('error', 'TWO_PRIMARIES', `Both ${this.#config.host} and ${peer.host} are configured as primary. Make one of them the secondary.`);
      this.#do({ type: 'hang-up', reason: 'both hosts are primary' });
    } else if (state.phase === 'fenced') {
      this.#unfence(peer);
    } else if (state.role === 'primary' && !peer.active && (state.phase === 'alone' || state.phase === 'active-alone')) {
      this.#offer();
    }
  }

  #offer(): void {
    const { state } = this;
    state.phase = 'pairing';
    state.reason = `waiting for ${state.peer?.host ?? 'the secondary'} to prepare`;
    this.#do(
      { type: 'send', message: { type: 'offer', generation: state.generation, vmDigest: this.#config.vmDigest, vmSummary: this.#config.vmSummary } },
      { type: 'timer', name: 'sync-timeout', ms: this.#config.syncTimeoutMs },
    );
  }

  /** The peer took over while we could not speak: our VM is history. */
  #stepDown(peer: Greeting): void {
    const { state } = this;
    this.#cancelTimers();
    Object.assign(state, {
      role: 'secondary', phase: 'alone', generation: peer.generation, holding: false, checkpoint: undefined,
      ending: undefined, reason: `${peer.host} has taken over; waiting for its offer`,
    } satisfies Partial<PairState>);
    this.#do(
      { type: 'gate', mode: 'closed' }, { type: 'discard' }, { type: 'destroy-vm' },
      this.#persist(false),
    );
    this.#note('warn', 'STEPPED_DOWN', `${peer.host} runs the VM in generation ${peer.generation}: this host gives up its copy.`);
  }

  #unfence(peer: Greeting): void {
    const { state } = this;
    state.phase = 'alone';
    state.reason = 'looking for the secondary';
    this.#do(
      this.#persist(true),
      { type: 'start-vm' }, { type: 'gate', mode: 'pass' },
    );
    this.#note('info', 'UNFENCED', `${peer.host} has not taken over: this host goes on.`);
    this.#offer();
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
        if (state.role !== 'primary' || state.phase === 'fenced') return;
        this.#note('error', message.code, `${state.peer?.host ?? 'The peer'} has no secondary VM: ${message.reason}`);
        return this.#goAlone(message.reason);
      case 'protected':
        if (state.role !== 'secondary' || state.phase !== 'syncing') return;
        state.phase = 'protected';
        state.generation = message.generation;
        state.reason = '';
        this.#note('info', 'PROTECTED', 'Ready to take over.');
        return;
      case 'unprotect':
        if (state.role !== 'secondary' || state.phase === 'taking-over') return;
        this.#note('warn', 'UNPROTECTED', `The primary ends the protection: ${message.reason}`);
        this.#giveUpSecondary(message.reason);
        this.#do({ type: 'send', message: { type: 'unprotected' } });
        return;
      case 'unprotected':
        if (state.phase === 'fenced') this.#do(this.#persist(true));
        else if (state.ending !== undefined) this.#goAlone(state.ending);
        return;
      case 'take-over':
        if (state.role === 'secondary' && isProtected(state)) this.#takeOver(message.reason);
        return;
      case 'request-failover':
        if (state.role === 'primary') this.#handOver('an operator asked for it');
        return;
      case 'request-checkpoint':
        if (state.role === 'primary') this.#startCheckpoint();
        return;
    }
  }

  #onOffer(generation: number, vmDigest: string, vmSummary: string): void {
    const { state } = this;
    if (state.role !== 'secondary' || state.phase !== 'alone') {
      const reason = `${this.#config.host} is ${state.role}, ${state.phase}, and cannot take an offer.`;
      return this.#do({ type: 'send', message: { type: 'refuse', code: 'NOT_IDLE', reason } });
    }
    if (vmDigest !== this.#config.vmDigest) {
      const reason = `the two hosts describe the VM differently: the primary says "${vmSummary}", ${this.#config.host} says "${this.#config.vmSummary}". Make the vm sections of both configurations equal.`;
      this.#note('error', 'VM_DIFFERS', reason);
      return this.#do({ type: 'send', message: { type: 'refuse', code: 'VM_DIFFERS', reason } });
    }
    state.phase = 'pairing';
    state.generation = generation;
    state.reason = 'preparing an empty VM';
    this.#do({ type: 'gate', mode: 'closed' }, { type: 'start-incoming-vm' });
  }

  #onListening(): void {
    if (this.state.role !== 'secondary' || this.state.phase !== 'pairing') return;
    this.state.phase = 'syncing';
    this.state.reason = 'receiving the state of the VM';
    this.#do({ type: 'send', message: { type: 'ready' } });
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
    if (state.role !== 'primary' || state.phase !== 'protected' || state.ending !== undefined) return;
    state.phase = 'checkpointing';
    this.#requestCheckpoint();
  }

  #requestCheckpoint(): void {
    this.state.checkpoint = { requestedNs: this.#nowNs, stopNs: undefined };
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
    state.lastResumeNs = receivedNs;
    if (state.role === 'secondary') {
      if (state.phase !== 'syncing' && !isProtected(state)) return;
      state.commits++;
      if (this.#config.pauseSecondary) this.#do({ type: 'pause-vm' });
      return;
    }
    // A RESUME without the STOP of a checkpoint we asked for commits nothing.
    const { checkpoint } = state;
    if (!checkpoint || checkpoint.stopNs === undefined || state.ending !== undefined) return;
    const { stopNs } = checkpoint;
    state.checkpoint = undefined;
    if (state.phase === 'syncing') {
      state.commits = 0;
      state.reason = '';
      this.#do(
        { type: 'cancel-timer', name: 'sync-timeout' },
        this.#persist(false),
        { type: 'send', message: { type: 'protected', generation: state.generation } },
      );
      this.#note('info', 'PROTECTED', `Protected by ${state.peer?.host ?? 'the secondary'}.`);
    }
    state.phase = 'protected';
    state.commits++;
    this.#do(
      { type: 'cancel-timer', name: 'checkpoint-timeout' },
      { type: 'release', upToNs: stopNs, stopNs, pauseNs: receivedNs - stopNs },
      { type: 'timer', name: 'period', ms: this.#config.periodMs },
    );
  }

  #onHeld(oldestNs: bigint): void {
    if (this.state.role !== 'primary' || this.state.phase !== 'protected') return;
    const waitedMs = Number((this.#nowNs - oldestNs) / nsPerMs);
    const ms = Math.max(0, this.#config.holdMs - waitedMs);
    if (ms === 0) this.#startCheckpoint();
    else this.#do({ type: 'timer', name: 'checkpoint', ms });
  }

  #onHeartbeat(sentNs: bigint): void {
    const { state } = this;
    if (state.role !== 'primary' || state.phase === 'fenced') return;
    this.#do({ type: 'lease', untilNs: sentNs + BigInt(this.#config.leaseMs) * nsPerMs });
  }

  #onTimer(name: TimerName): void {
    switch (name) {
      case 'checkpoint':
      case 'period':
        return this.#startCheckpoint();
      case 'checkpoint-timeout':
        return this.#onBroken('CHECKPOINT_TIMEOUT', `a checkpoint took longer than ${this.#config.checkpointTimeoutMs} ms`);
      case 'sync-timeout':
        return this.#onBroken('SYNC_TIMEOUT', `pairing took longer than ${this.#config.syncTimeoutMs} ms`);
      case 'retry':
        // A secondary is dialled by its primary, never the other way round.
        if (this.state.role === 'primary' && this.state.peer === undefined) this.#do({ type: 'dial' });
        return;
    }
  }

  // ---- endings -------------------------------------------------------------

  #onPeerLost(reason: string): void {
    const { state } = this;
    const peer = state.peer?.host ?? 'the peer';
    state.peer = undefined;
    if (state.role === 'secondary') {
      if (isProtected(state)) {
        this.#note('warn', 'PRIMARY_LOST', `${peer} is lost: ${reason}`);
        this.#takeOver(reason);
      } else if (state.phase === 'pairing' || state.phase === 'syncing') {
        this.#note('warn', 'PRIMARY_LOST', `${peer} is lost before the VM was protected: ${reason}`);
        this.#giveUpSecondary(reason);
      }
      return;
    }
    if (isProtected(state) || state.phase === 'syncing' || state.phase === 'pairing') {
      this.#note('warn', 'SECONDARY_LOST', `${peer} is lost: ${reason}`);
      this.#goAlone(reason);
    } else {
      this.#do({ type: 'timer', name: 'retry', ms: this.#config.retryMs });
    }
  }

  /** Something between the two VMs broke while the peer itself may be well. */
  #onBroken(code: string, reason: string): void {
    const { state } = this;
    if (state.role === 'secondary') {
      if (state.phase !== 'pairing' && state.phase !== 'syncing') return;
      this.#note('error', code, reason);
      this.#giveUpSecondary(reason);
      this.#do({ type: 'send', message: { type: 'refuse', code, reason } });
      return;
    }
    if (state.ending !== undefined || !(isProtected(state) || state.phase === 'syncing' || state.phase === 'pairing')) return;
    this.#note('error', code, `Protection ends: ${reason}`);
    // The VM runs on at once, but it is heard only when the secondary can no
    // longer take over: it says so, or its silence does.
    state.ending = reason;
    state.checkpoint = undefined;
    this.#cancelTimers();
    if (state.phase !== 'pairing') this.#do({ type: 'drop-secondary' });
    this.#do({ type: 'send', message: { type: 'unprotect', reason } });
  }

  #onVmExited(clean: boolean, reason: string): void {
    const { state } = this;
    this.#note(clean ? 'info' : 'error', 'VM_EXITED', `QEMU has ended: ${reason}`);
    if (state.role === 'secondary') {
      if (state.phase === 'alone') return;
      this.#giveUpSecondary(reason);
      this.#do({ type: 'send', message: { type: 'refuse', code: 'VM_EXITED', reason: `the secondary's QEMU has ended: ${reason}` } });
    } else if (isProtected(state) && !clean && state.ending === undefined) {
      this.#handOver(`the primary's QEMU has ended: ${reason}`);
    } else {
      this.#cancelTimers();
      this.#do({ type: 'send', message: { type: 'unprotect', reason } }, { type: 'gate', mode: 'closed' });
      Object.assign(state, { phase: 'fenced', holding: false, checkpoint: undefined, reason: 'the VM has ended' } satisfies Partial<PairState>);
    }
  }

  /** Primary: silence this host for good and let the secondary speak. */
  #handOver(reason: string): void {
    const { state } = this;
    if (!isProtected(state)) {
      return this.#note('error', 'NOT_PROTECTED', 'No failover: the VM is not protected, the secondary cannot take over.');
    }
    this.#cancelTimers();
    this.#do(
      { type: 'gate', mode: 'closed' }, { type: 'discard' },
      { type: 'send', message: { type: 'take-over', reason } }, { type: 'destroy-vm' },
    );
    Object.assign(state, {
      role: 'secondary', phase: 'alone', holding: false, checkpoint: undefined, ending: undefined,
      reason: `handed the VM over: ${reason}`,
    } satisfies Partial<PairState>);
    this.#note('warn', 'HANDED_OVER', `The VM is handed over to ${state.peer?.host ?? 'the secondary'}: ${reason}.`);
  }

  /** Primary: the secondary has no VM any more; go on without. */
  #goAlone(reason: string): void {
    const { state } = this;
    const dropped = state.ending !== undefined;
    const hadSecondary = state.holding || state.phase === 'syncing';
    this.#cancelTimers();
    this.#do(this.#persist(true));
    if (hadSecondary && !dropped) this.#do({ type: 'drop-secondary' });
    if (state.holding) this.#do({ type: 'release-all' });
    this.#do({ type: 'gate', mode: 'pass' });
    if (hadSecondary) this.#note('warn', 'ACTIVE_ALONE', 'The VM runs on unprotected.');
    Object.assign(state, {
      phase: hadSecondary ? 'active-alone' : 'alone', holding: false, checkpoint: undefined, ending: undefined, reason,
    } satisfies Partial<PairState>);
    this.#do({ type: 'hang-up', reason }, { type: 'timer', name: 'retry', ms: this.#config.retryMs });
    state.peer = undefined;
  }

  #giveUpSecondary(reason: string): void {
    this.#do({ type: 'gate', mode: 'closed' }, { type: 'destroy-vm' });
    Object.assign(this.state, { phase: 'alone', commits: 0, reason } satisfies Partial<PairState>);
  }

  #takeOver(reason: string): void {
    this.state.phase = 'taking-over';
    this.state.reason = reason;
    this.#do({ type: 'take-over-vm' });
    this.#note('warn', 'TAKING_OVER', `Taking over: ${reason}`);
  }

  #onTookOver(): void {
    const { state } = this;
    if (state.phase !== 'taking-over') return;
    Object.assign(state, { role: 'primary', phase: 'active-alone', generation: state.generation + 1, holding: false } satisfies Partial<PairState>);
    this.#do(
      { type: 'gate', mode: 'pass' }, { type: 'announce' },
      this.#persist(true),
      { type: 'timer', name: 'retry', ms: this.#config.retryMs },
    );
    this.#note('warn', 'ACTIVE_ALONE', `This host runs the VM now, generation ${state.generation}, unprotected.`);
  }

  #onTakeoverFailed(reason: string): void {
    if (this.state.phase !== 'taking-over') return;
    this.#note('error', 'TAKEOVER_FAILED', `The takeover failed: ${reason}`);
    this.#giveUpSecondary(reason);
  }

  #onCommand(command: 'checkpoint' | 'failover' | 'start-alone' | 'stop'): void {
    const { state } = this;
    switch (command) {
      case 'checkpoint':
        if (state.role === 'primary') this.#startCheckpoint();
        else this.#do({ type: 'send', message: { type: 'request-checkpoint' } });
        return;
      case 'failover':
        if (state.role === 'primary') this.#handOver('an operator asked for it');
        else this.#do({ type: 'send', message: { type: 'request-failover' } });
        return;
      case 'start-alone':
        if (state.phase !== 'fenced') return;
        state.phase = 'active-alone';
        state.generation++;
        state.reason = 'an operator decided that this host runs the VM';
        this.#do(
          this.#persist(true),
          { type: 'start-vm' }, { type: 'gate', mode: 'pass' }, { type: 'announce' },
          { type: 'timer', name: 'retry', ms: this.#config.retryMs },
        );
        return;
      case 'stop':
        return this.#onStop();
    }
  }

  /**
   * The agent ends, and its VM with it. A protected primary stays fenced until
   * the secondary has answered: without that answer it may take over.
   */
  #onStop(): void {
    const { state } = this;
    this.#cancelTimers();
    this.#do({ type: 'gate', mode: 'closed' }, { type: 'destroy-vm' });
    if (state.role === 'secondary') {
      this.#do({ type: 'send', message: { type: 'refuse', code: 'STOPPED', reason: 'the secondary was stopped' } });
      state.phase = 'alone';
    } else {
      this.#do({ type: 'send', message: { type: 'unprotect', reason: 'the primary was stopped' } });
      state.phase = 'fenced';
    }
    Object.assign(state, { holding: false, checkpoint: undefined, ending: undefined, reason: 'stopped' } satisfies Partial<PairState>);
  }

  #cancelTimers(): void {
    for (const name of ['checkpoint', 'period', 'checkpoint-timeout', 'sync-timeout'] as const) {
      this.#do({ type: 'cancel-timer', name });
    }
  }
}
