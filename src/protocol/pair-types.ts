/**
 * The words of the pair's state machine: its states, what can happen to it, and
 * what it can ask for. All times are CLOCK_MONOTONIC nanoseconds of the own host.
 */

import type { Message } from './messages.js';

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
  /** Protection ends: the primary's output waits until the secondary cannot take over any more. */
  | 'parting'
  /** The secondary is becoming the active VM. */
  | 'taking-over'
  /** The VM outlived a peer and runs unprotected. */
  | 'active-alone'
  /** This host's VM may be obsolete and must not speak; only the peer or an operator can tell. */
  | 'fenced'
  /** The VM has shut down, or died with no secondary that could go on. */
  | 'ended';

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
  /** How long the primary may speak after a heartbeat that was acknowledged; as long as the silence that means loss. */
  leaseMs: number;
  /** A lost secondary is asked for this long before its primary goes on alone. At least two leases. */
  askMs: number;
  /** Wait between attempts to reach the peer. */
  retryMs: number;
  /** A witness names the one host that may go on without the other. */
  witness: boolean;
  /** Keep the secondary VM paused between checkpoints, until `secondary-active` says otherwise. */
  pauseSecondary: boolean;
}

export interface PairState {
  role: Role;
  phase: Phase;
  generation: number;
  /** Counts the times that protection began: what the witness is asked about. */
  term: number;
  peer: { host: string; phase: Phase; generation: number } | undefined;
  /** This host's QEMU lives, as far as is known: a primary's, or one that has taken over. */
  vm: boolean;
  /** The gate holds the VM's output. */
  holding: boolean;
  /** A checkpoint that was asked for; `stopNs` once the VM has stopped for it; `again`: an operator has asked for one since. */
  checkpoint: { requestedNs: bigint; stopNs: bigint | undefined; again: boolean } | undefined;
  /** Commits since protection began. None: the secondary has not been told that it may take over. */
  commits: number;
  /** Secondary: whether its VM runs between checkpoints; undefined: as configured. */
  secondaryActive: boolean | undefined;
  /** Until then the peer counts on us: the newest heartbeat of ours that it acknowledged, and a lease. */
  trustedUntilNs: bigint;
  /** A lost secondary, or the witness, is being asked, in rounds: since when, the last one, and how many are left. */
  asking: { sinceNs: bigint; roundNs: bigint; rounds: number } | undefined;
  /** An operator wants no protection for now: no secondary is asked for. */
  paused: boolean;
  /** What holds output here is gone: a VM under protection would be mute. */
  cannotHold: boolean;
  /** The input log is gone: no takeover could give to the VM what the primary's replies rely on. */
  cannotLog: boolean;
  /** Of what was to be remembered last: what it was, and that it could not be written at once, but again and again. */
  mayRunAlone: boolean;
  unremembered: boolean;
  /** Why the VM is not protected, in words for people. */
  reason: string;
}

export type TimerName = 'checkpoint' | 'period' | 'checkpoint-timeout' | 'sync-timeout' | 'ask' | 'retry' | 'persist';

export type PairEvent =
  /** `vmAlive`: an earlier agent's VM still runs. `mayRunAlone`: no peer can have taken over meanwhile. */
  | { type: 'start'; role: Role; generation: number; term: number; vmAlive: boolean; mayRunAlone: boolean }
  | { type: 'peer-up' }
  /** The session ended, and the peer has been silent for as long as a lease lasts. */
  | { type: 'peer-lost'; reason: string }
  /**
   * A `dial` came to nothing. `absent`: no agent runs on the peer's host. `refused`: the peer's
   * agent lives and wants no session now. `silent`: no answer of any kind.
   */
  | { type: 'peer-unreached'; sign: 'absent' | 'refused' | 'silent'; reason: string }
  | { type: 'message'; message: Message }
  /** What the witness answered to a `claim`: who of the two may go on. */
  | { type: 'verdict'; term: number; granted: boolean; holder: string }
  | { type: 'heartbeat-acked'; sentNs: bigint }
  | { type: 'vm-listening' }
  /** The primary's QEMU has entered its COLO state. */
  | { type: 'colo-entered' }
  /** QEMU's STOP: `stampNs` is its own stamp, converted; `receivedNs` when we saw it. */
  | { type: 'vm-stopped'; stampNs: bigint; receivedNs: bigint }
  | { type: 'vm-resumed'; receivedNs: bigint }
  | { type: 'colo-exit'; reason: string }
  | { type: 'vm-exited'; clean: boolean; reason: string }
  /** Secondary: its VM is to run between checkpoints, or to stay paused, from the next commit on. */
  | { type: 'secondary-active'; on: boolean }
  | { type: 'held'; oldestNs: bigint }
  | { type: 'hold-limit' }
  /** This host can hold no output any more. */
  | { type: 'hold-lost' }
  /** The secondary's input log does not get what was mirrored. */
  | { type: 'log-lags' }
  /** This host can keep no input log any more. */
  | { type: 'log-lost' }
  | { type: 'timer'; name: TimerName }
  /** `drop-secondary` is done, and the VM runs; or it does not, and this host may have none any more. */
  | { type: 'secondary-dropped' }
  | { type: 'drop-failed'; reason: string }
  | { type: 'took-over' }
  | { type: 'takeover-failed'; reason: string }
  /** An effect could not be carried out. */
  | { type: 'failed'; what: string; reason: string }
  | { type: 'command'; command: 'checkpoint' | 'failover' | 'pause' | 'reprotect' | 'start-alone' | 'stop' };

export type Effect =
  | { type: 'dial' }
  | { type: 'hang-up'; reason: string }
  /** Ask the witness for the VM. No answer is no `verdict`; the claim is made again. */
  | { type: 'claim'; term: number }
  | { type: 'send'; message: Message }
  /** Let the VM run: start it, or take it out of whatever state an earlier secondary left it in. */
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
  | { type: 'release'; upToNs: bigint; stopNs: bigint; askNs: bigint; pauseNs: bigint }
  | { type: 'release-all' }
  | { type: 'discard' }
  | { type: 'announce' }
  /** What must be remembered across a restart. The effects that follow need it; they are left out if it fails. */
  | { type: 'persist'; role: Role; generation: number; term: number; mayRunAlone: boolean }
  | { type: 'timer'; name: TimerName; ms: number }
  | { type: 'cancel-timer'; name: TimerName }
  | { type: 'note'; level: 'info' | 'warn' | 'error'; code: string; text: string };

export interface Step {
  state: PairState;
  effects: Effect[];
}
