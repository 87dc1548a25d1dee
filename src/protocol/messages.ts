/**
 * What the two agents of a pair say to each other over the control connection.
 * Sizes and value ranges are checked where messages are parsed, in agent/.
 */

import type { Forwarding } from './compare-policy.js';
import type { Phase, Role } from './pair-types.js';
import type { VcpuDemand } from './vcpu-policy.js';

/** Sent first by both sides: who I am, and whether I run the VM. */
export interface Greeting {
  type: 'greeting';
  host: string;
  role: Role;
  phase: Phase;
  /** Rises by one with each takeover: of two that claim the VM, the higher is right. */
  generation: number;
  /** This host runs the VM and speaks for it, or must assume that it does. */
  active: boolean;
}

/** Primary to secondary: start an empty VM like mine. */
export interface Offer {
  type: 'offer';
  generation: number;
  /** Digest of everything about the VM that both sides must have alike. */
  vmDigest: string;
  /** The same in words, to explain a difference. */
  vmSummary: string;
}

/** Secondary to primary: the empty VM waits for its state. */
export interface Ready { type: 'ready' }
/** Secondary to primary: there is no secondary VM (any more). */
export interface Refuse { type: 'refuse'; code: string; reason: string }
/** Primary to secondary: from now on you may take over. Sent before the first release. */
export interface Protected { type: 'protected'; generation: number; term: number }
/** Primary to secondary: forget your VM, I go on alone. Answered by `unprotected`. */
export interface Unprotect { type: 'unprotect'; reason: string }
export interface Unprotected { type: 'unprotected' }
/** Primary to secondary: I am silent for good, take over now. */
export interface TakeOver { type: 'take-over'; reason: string }
/** Secondary to primary: an operator wants a failover. */
export interface RequestFailover { type: 'request-failover' }
/** Secondary to primary: an operator wants a checkpoint. */
export interface RequestCheckpoint { type: 'request-checkpoint' }

export type Message =
  | Greeting | Offer | Ready | Refuse | Protected | Unprotect | Unprotected
  | TakeOver | RequestFailover | RequestCheckpoint;

/**
 * Primary to secondary: mirrored input is about to come, beginning with this
 * number. Sent before the copy of the VM is made.
 */
export interface LogBegin {
  type: 'log-begin';
  /** 63 bits in hexadecimal, a secret of the two: acknowledgements carry it. */
  epoch: string;
  nextInput: number;
}

/**
 * Primary to secondary: the VM has stopped for a checkpoint, and had read these
 * inputs. Once that checkpoint is loaded, the log begins behind them: replayed,
 * they would happen twice. Checkpoints count from 1, the copy of the VM not.
 */
export interface LogMark {
  type: 'log-mark';
  checkpoint: number;
  readInput: number;
  /** Another one for each checkpoint, of 24 bits: what your VM says once it has loaded this one carries it. */
  round: number;
}

/**
 * Secondary to primary: that checkpoint is loaded, and the log begins behind its
 * mark. Without this a checkpoint does not commit.
 */
export interface LogMarked {
  type: 'log-marked';
  checkpoint: number;
  /** The VM runs on from there, with its input, and what it says can be compared. */
  active: boolean;
}

/** A connection whose client knows other numbers than the VM, or perhaps more of them. */
export interface TranslatedFlow {
  /** struct shadow_key in hexadecimal. */
  key: string;
  /** To be added to the VM's sequence numbers, and to its timestamps; modulo 2^32. */
  seqDelta: number;
  tsDelta: number;
}

export interface Translations {
  /** Added to the timestamps of all other connections. */
  tsOffset: number;
  flows: TranslatedFlow[];
}

/**
 * Primary to secondary: since I have taken over I translate so; after a takeover
 * you must. In parts: the first one takes the place of all before.
 */
export interface LogFlows extends Translations { type: 'log-flows'; first: boolean }

/**
 * Primary to secondary: whether your VM is to run between checkpoints, which of its outputs I want, and the
 * ports whose replies leave early no more, as audits have failed: nor may they after a takeover.
 */
export interface SecondaryWish { type: 'secondary-wish'; active: boolean; forward: Forwarding; caught: number[] }

/** About inputs and shadow outputs; nothing in the pair's life depends on it. */
export type LogMessage = LogBegin | LogMark | LogMarked | LogFlows | SecondaryWish;

/** Primary to secondary, several times a second: its load, by which the secondary decides how many of its vCPUs run. */
export interface VcpuLoad { type: 'vcpu-load'; demand: VcpuDemand }

/** Primary to secondary: a checkpoint is asked for. QEMU stops your VM first, and waits for each of its vCPUs. */
export interface CheckpointAsked { type: 'checkpoint-asked' }

/** About the vCPUs of the secondary; nothing in the pair's life depends on it. */
export type VcpuMessage = VcpuLoad | CheckpointAsked;

export type PeerMessage = Message | LogMessage | VcpuMessage;

export function isLogMessage(message: PeerMessage): message is LogMessage {
  return message.type === 'log-begin' || message.type === 'log-mark' || message.type === 'log-marked' || message.type === 'log-flows' || message.type === 'secondary-wish';
}

/** Whether the other host may say this to one of that role; what it said before the roles changed may come late. */
export function isLogMessageTo(role: Role, message: LogMessage): boolean {
  return (message.type === 'log-marked') === (role === 'primary');
}

export function isVcpuMessage(message: PeerMessage): message is VcpuMessage {
  return message.type === 'vcpu-load' || message.type === 'checkpoint-asked';
}
