/**
 * The primary's half of an active secondary: measures what comparing brings,
 * carries out what protocol/compare-policy decides, and tells why.
 */

import type { CompareEvent, CompareLimits } from 'tap-hold';
import type { Gate, OutputCounts } from '../dataplane/gate.js';
import {
  decideCompare, forgive, forwardingOf, initialComparePolicy,
  type CompareDecision, type CompareMode, type ComparePolicyConfig, type ComparePolicyState, type Divergences, type Forwarding, type Released,
} from '../protocol/compare-policy.js';
import type { SecondaryWish } from '../protocol/messages.js';
import { preReleases, type AgentConfig } from './config.js';

/** What `status` tells. */
export interface CompareStatus {
  mode: CompareMode;
  /** Output is compared now. */
  comparing: boolean;
  /** The last decision in words; empty: none yet. */
  reason: string;
  forward: Forwarding;
  divergences: number;
  late: number;
  auditMismatches: number;
  /** Ports whose output is left out of it for a while, as it keeps diverging. */
  uncompared: number[];
  /** Ports whose replies leave early no more, as audits have failed; until an operator switches it on again. */
  caught: number[];
}

/** What there may be to tell a person. */
export type CompareCode =
  | 'COMPARING' | 'COMMITTING' | 'SERVICE_COMPARED' | 'SERVICE_UNCOMPARED' | 'DIVERGENCE' | 'AUDIT_MISMATCH' | 'PRERELEASE_OFF' | 'FAILED';

export interface CompareControlEvents {
  /** What the secondary is to do, and to know. */
  onWish: (wish: Omit<SecondaryWish, 'type'>) => void;
  /** A finding asks for a checkpoint now, or a decision that one makes effective. */
  onCheckpoint: () => void;
  onNote: (level: 'info' | 'warn' | 'error', code: CompareCode, text: string) => void;
}

const tickMs = 250;
const nsPerMs = 1e6;
/** Less than this is never late. */
const usualLagMs = 50;
/** Findings that are told one by one, per tick. */
const mostTold = 3;

export class CompareControl {
  readonly #config: AgentConfig;
  readonly #policy: ComparePolicyConfig;
  readonly #gate: Gate;
  readonly #events: CompareControlEvents;
  #state: ComparePolicyState;
  #timer: NodeJS.Timeout | undefined;
  /** Counters when the last window ended. */
  #before: OutputCounts;
  #divergences = new Map<number, Divergences>();
  #mismatches = new Map<number, number>();
  #late = 0;
  #told = 0;
  readonly #uncompared = new Set<number>();
  readonly #caught = new Set<number>();
  #totals = { divergences: 0, late: 0, auditMismatches: 0 };
  #reason = '';

  constructor(config: AgentConfig, gate: Gate, events: CompareControlEvents) {
    const { auditPercent, auditMismatches } = config.compare;
    this.#config = config;
    this.#policy = { mode: config.mode, auditShare: auditPercent / 100, mismatchLimit: auditMismatches };
    this.#gate = gate;
    this.#events = events;
    this.#state = initialComparePolicy(performance.now());
    this.#before = gate.outputCounts();
  }

  /** This host is a primary, with a secondary that begins anew, whatever an earlier primary wanted of it. */
  begin(): void {
    this.end();
    this.#wish();
    if (this.#policy.mode === 'commit') return;
    this.#state = { ...initialComparePolicy(performance.now()), services: this.#state.services };
    this.#before = this.#gate.outputCounts();
    this.#timer = setInterval(() => this.#tick(), tickMs);
  }

  /** There is no secondary to compare with. */
  end(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
    if (!this.#state.comparing) return;
    this.#state = { ...this.#state, comparing: false };
    this.#gate.compareNothing();
  }

  /** What the hold thread has found. Each finding means that a checkpoint has to settle it. */
  onFound(events: readonly CompareEvent[]): void {
    for (const event of events) {
      const { guestPort } = event.flow;
      switch (event.finding) {
        case 'divergence':
          this.#totals.divergences++;
          this.#divergences.set(guestPort, { count: (this.#divergences.get(guestPort)?.count ?? 0) + 1, matched: event.portMatched });
          break;
        case 'late':
          this.#totals.late++;
          this.#late++;
          continue; // it happens to be; the counter is enough
        case 'auditMismatch':
          this.#totals.auditMismatches++;
          this.#mismatches.set(guestPort, (this.#mismatches.get(guestPort) ?? 0) + 1);
          break;
      }
      if (this.#told++ < mostTold) this.#events.onNote(event.finding === 'divergence' ? 'info' : 'warn', ...tell(event));
    }
    // Replies that a client has already, and should not, are no matter of the next tick.
    if (this.#mismatches.size > 0 && this.#timer !== undefined) this.#tick();
    this.#events.onCheckpoint();
  }

  /** An operator lets the replies of a port leave early again. */
  forgive(port: number): void {
    this.#state = forgive(this.#state, port);
    if (this.#caught.delete(port)) this.#wish();
  }

  /** Secondary: the primary's audits have caught the services at these ports, and no others. */
  adopt(ports: readonly number[]): void {
    for (const service of this.#config.services) {
      const caught = ports.includes(service.port);
      if (caught === this.#caught.has(service.port)) continue;
      this.#gate.setPreRelease(service.port, !caught && preReleases(service));
    }
    this.#caught.clear();
    for (const port of ports) this.#caught.add(port);
  }

  #wish(): void {
    this.#events.onWish({ active: this.#state.comparing, forward: forwardingOf(this.#state, this.#policy), caught: [...this.#caught] });
  }

  get comparing(): boolean {
    return this.#state.comparing;
  }

  status(): CompareStatus {
    const { comparing } = this.#state;
    return {
      mode: this.#policy.mode, comparing, reason: this.#reason, forward: forwardingOf(this.#state, this.#policy), ...this.#totals,
      uncompared: [...this.#uncompared], caught: [...this.#caught],
    };
  }

  #tick(): void {
    const [before, now] = [this.#before, this.#gate.outputCounts()];
    const { state, decisions } = decideCompare(this.#state, {
      atMs: performance.now(), early: now.early - before.early, writes: now.writes - before.writes, doubtPackets: now.doubtPackets - before.doubtPackets,
      matched: less(now.matched, before.matched), committed: less(now.committed, before.committed), uncompared: less(now.uncompared, before.uncompared),
      writtenMsAgo: this.#gate.writtenMsAgo(),
      divergences: this.#divergences, mismatches: this.#mismatches, late: this.#late,
    }, this.#policy);
    this.#state = state;
    this.#before = now;
    this.#divergences = new Map();
    this.#mismatches = new Map();
    this.#late = this.#told = 0;
    for (const decision of decisions) {
      try {
        this.#carryOut(decision);
      } catch (error) {
        this.#events.onNote('error', 'FAILED', `What was decided of comparing (${decision.type}) failed: ${(error as Error).message}`);
      }
    }
  }

  #carryOut(decision: CompareDecision): void {
    if (decision.type === 'settle') return this.#events.onCheckpoint();
    const { reason } = decision;
    switch (decision.type) {
      case 'compare':
        this.#reason = reason;
        if (decision.on) this.#gate.compare(lateness(this.#config.compare.latestMs), this.#policy.auditShare);
        else this.#gate.compareNothing();
        this.#wish();
        this.#events.onNote('info', decision.on ? 'COMPARING' : 'COMMITTING', decision.on
          ? `Output leaves as soon as the other VM has said the same: ${reason}.` : `Output waits for checkpoints: ${reason}.`);
        return this.#events.onCheckpoint();
      case 'trust':
        this.#gate.setCompared(decision.port, decision.on);
        if (decision.on) this.#uncompared.delete(decision.port);
        else this.#uncompared.add(decision.port);
        return this.#events.onNote(decision.on ? 'info' : 'warn', decision.on ? 'SERVICE_COMPARED' : 'SERVICE_UNCOMPARED',
          `Output of port ${decision.port} ${decision.on ? 'is compared again' : 'is not compared for a while'}: ${reason}.`);
      case 'caught':
        this.#gate.setPreRelease(decision.port, false);
        this.#caught.add(decision.port);
        this.#wish();
        return this.#events.onNote('error', 'PRERELEASE_OFF',
          `PRE-RELEASE OF PORT ${decision.port} IS SWITCHED OFF: ${reason}. Its replies wait for checkpoints until an operator switches it on again.`);
    }
  }
}

/**
 * A VM that has just been set to a checkpoint is slow at first, and a checkpoint made because of that
 * would only make it slow again: who is not known to be fast gets all the time there is.
 */
function lateness(latestMs: number): CompareLimits {
  return { lateMinMs: Math.min(latestMs, usualLagMs), lateFirstMs: latestMs, lateMaxMs: latestMs };
}

function less(now: Released, before: Released): Released {
  return { packets: now.packets - before.packets, waitedMs: now.waitedMs - before.waitedMs };
}

/** A finding in words: where, and how much, but never what. */
function tell({ finding, difference, flow, seq, offset, ageNs, primary, shadow }: CompareEvent): [code: CompareCode, text: string] {
  const { guest, guestPort, client, clientPort, protocol } = flow;
  const where = `${guest} port ${guestPort} to ${client} port ${clientPort}, protocol ${protocol}, sequence ${seq}, byte ${offset}`;
  const what = `${primary.bytes} bytes (${primary.digest}) here, ${shadow.bytes} bytes (${shadow.digest}) there, ${(ageNs / nsPerMs).toFixed(1)} ms old`;
  return finding === 'divergence'
    ? ['DIVERGENCE', `The two VMs differ (${difference}): ${where}: ${what}. A checkpoint settles it.`]
    : ['AUDIT_MISMATCH', `A reply that left early differs from what the other VM said (${difference}): ${where}: ${what}.`];
}
