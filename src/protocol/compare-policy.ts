/**
 * When to compare what the two VMs say, and whom to trust with what, as a pure
 * function: (state, window) -> (state, decisions).
 *
 * Comparing pays where output waits: a match releases it without a checkpoint.
 * It costs a secondary that runs, and where the two say different things each
 * packet waits for the other VM first and for a checkpoint then. Which of the
 * two it is shows only by trying, so `auto` tries, measures how long output has
 * waited in both ways, and keeps the better one; what has failed is tried again
 * later, and later still when it fails again.
 *
 * A service is judged by itself: one whose comparisons keep diverging must not
 * cost the others their matches. And one that breaks the promise which
 * pre-release rests on loses it until an operator gives it back.
 */

export type CompareMode = 'commit' | 'compare' | 'auto';
/** Which shadow outputs the secondary sends: all, those since a write came, or none. */
export type Forwarding = 'all' | 'dirty' | 'none';

export interface ComparePolicyConfig {
  mode: CompareMode;
  /** Of the packets that leave early, this share is audited: 0 to 1. */
  auditShare: number;
  /** So many mismatches in its audits, and a service's replies do not leave early any more. */
  mismatchLimit: number;
}

/** One kind of release: how many packets, and how long they had waited together. */
export interface Released {
  packets: number;
  waitedMs: number;
}

/** What has happened since the last window. */
export interface CompareWindow {
  atMs: number;
  matched: Released;
  committed: Released;
  /** By the guest's port. */
  divergences: ReadonlyMap<number, number>;
  mismatches: ReadonlyMap<number, number>;
  late: number;
}

interface ServiceState {
  /** When divergences happened, the oldest first; those that are too old are forgotten. */
  divergedMs: number[];
  /** Not compared until then; undefined: compared. */
  untilMs: number | undefined;
  backoffMs: number;
  mismatches: number;
  /** Its replies do not leave early any more. */
  caught: boolean;
}

export interface ComparePolicyState {
  comparing: boolean;
  /** Since the last judgement. */
  matched: Released;
  committed: Released;
  late: number;
  divergences: number;
  /** How long output waits for commits, when that is all there is; undefined: not known. */
  commitWaitMs: number | undefined;
  notBeforeMs: number;
  backoffMs: number;
  judgedMs: number;
  busyMs: number;
  services: ReadonlyMap<number, ServiceState>;
}

export type CompareDecision =
  | { type: 'compare'; on: boolean; reason: string }
  /** The output of this port is compared, or waits for commits. */
  | { type: 'trust'; port: number; on: boolean; reason: string }
  /** The replies of this port do not leave early any more, until an operator says so. */
  | { type: 'caught'; port: number; reason: string };

/** A way is judged after so long and so many releases. */
export const trialMs = 2000;
const leastReleases = 20;
/** Comparing must save this share of the wait. */
const leastGain = 0.1;
/** Output that waits, per second, from which on comparing may be worth it. */
const leastHeldPerSecond = 5;
/** With nothing to compare for so long, the secondary runs for nothing. */
export const idleMs = 30_000;
export const firstBackoffMs = 10_000;
export const longestBackoffMs = 600_000;
/** So many divergences of a service in so long, and it is not compared for a while. */
export const divergenceLimit = 5;
export const divergenceWindowMs = 10_000;

const nothing: Released = { packets: 0, waitedMs: 0 };

export function initialComparePolicy(atMs: number): ComparePolicyState {
  return {
    comparing: false, matched: nothing, committed: nothing, late: 0, divergences: 0,
    commitWaitMs: undefined, notBeforeMs: atMs, backoffMs: firstBackoffMs, judgedMs: atMs, busyMs: atMs, services: new Map(),
  };
}

/** What the primary needs of the secondary's outputs. */
export function forwardingOf(state: ComparePolicyState, config: ComparePolicyConfig): Forwarding {
  if (!state.comparing) return 'none';
  return config.auditShare > 0 ? 'all' : 'dirty';
}

/** @param window not earlier than the one before */
export function decideCompare(
  before: ComparePolicyState, window: CompareWindow, config: ComparePolicyConfig,
): { state: ComparePolicyState; decisions: CompareDecision[] } {
  const decisions: CompareDecision[] = [];
  const services = new Map([...before.services].map(([port, service]) => [port, { ...service, divergedMs: [...service.divergedMs] }]));
  const state: ComparePolicyState = {
    ...before, services,
    matched: sum(before.matched, window.matched), committed: sum(before.committed, window.committed),
    late: before.late + window.late,
    divergences: before.divergences + [...window.divergences.values()].reduce((total, count) => total + count, 0),
  };
  if (window.matched.packets + window.committed.packets > 0) state.busyMs = window.atMs;
  judgeServices(services, window, config, decisions);
  const choice = choose(state, window.atMs, config);
  if (choice) {
    state.comparing = choice.on;
    decisions.push({ type: 'compare', ...choice });
    judged(state, window.atMs);
  }
  return { state, decisions };
}

/** An operator lets the replies of a port leave early again. */
export function forgive(before: ComparePolicyState, port: number): ComparePolicyState {
  const service = before.services.get(port);
  if (!service) return before;
  return { ...before, services: new Map([...before.services, [port, { ...service, mismatches: 0, caught: false }]]) };
}

function choose(state: ComparePolicyState, atMs: number, config: ComparePolicyConfig): { on: boolean; reason: string } | undefined {
  if (config.mode !== 'auto') {
    const on = config.mode === 'compare';
    return on === state.comparing ? undefined : { on, reason: `the mode is "${config.mode}"` };
  }
  return state.comparing ? chooseComparing(state, atMs) : chooseCommitting(state, atMs);
}

/** Commits only, so far: is it time to try the other way? */
function chooseCommitting(state: ComparePolicyState, atMs: number): { on: boolean; reason: string } | undefined {
  const seconds = (atMs - state.judgedMs) / 1000;
  if (seconds * 1000 < trialMs) return undefined;
  const perSecond = state.committed.packets / seconds;
  if (state.committed.packets >= leastReleases) state.commitWaitMs = meanMs(state.committed);
  judged(state, atMs);
  if (perSecond < leastHeldPerSecond || state.commitWaitMs === undefined || atMs < state.notBeforeMs) return undefined;
  return { on: true, reason: `${perSecond.toFixed(0)} packets a second wait ${state.commitWaitMs.toFixed(1)} ms for commits: trying matches` };
}

function chooseComparing(state: ComparePolicyState, atMs: number): { on: boolean; reason: string } | undefined {
  const backOff = (reason: string): { on: boolean; reason: string } => {
    state.notBeforeMs = atMs + state.backoffMs;
    state.backoffMs = Math.min(2 * state.backoffMs, longestBackoffMs);
    return { on: false, reason: `${reason}; tried again in ${((state.notBeforeMs - atMs) / 1000).toFixed(0)} s` };
  };
  if (atMs - state.busyMs >= idleMs) return { on: false, reason: `nothing had to wait for ${idleMs / 1000} s` };
  const releases = state.matched.packets + state.committed.packets;
  const elapsedMs = atMs - state.judgedMs;
  // Where nothing at all is released, something is wrong with the other way too; but this one has had its time.
  if (elapsedMs < trialMs || (releases < leastReleases && elapsedMs < 5 * trialMs)) return undefined;
  const { late, divergences, commitWaitMs } = state;
  const all = sum(state.matched, state.committed);
  const share = releases === 0 ? 0 : state.matched.packets / releases;
  judged(state, atMs);
  if (releases < leastReleases || commitWaitMs === undefined) return undefined;
  const waitMs = meanMs(all);
  const figures = `output waits ${waitMs.toFixed(1)} ms, against ${commitWaitMs.toFixed(1)} ms for commits only (${(100 * share).toFixed(0)} % matched, ${divergences} divergences, ${late} late)`;
  if (waitMs > (1 - leastGain) * commitWaitMs) return backOff(figures);
  state.backoffMs = firstBackoffMs;
  return undefined;
}

function judgeServices(services: Map<number, ServiceState>, window: CompareWindow, config: ComparePolicyConfig, decisions: CompareDecision[]): void {
  const { atMs } = window;
  const of = (port: number): ServiceState => {
    const service = services.get(port) ?? { divergedMs: [], untilMs: undefined, backoffMs: firstBackoffMs, mismatches: 0, caught: false };
    services.set(port, service);
    return service;
  };
  for (const [port, count] of window.divergences) {
    const service = of(port);
    for (let i = 0; i < Math.min(count, divergenceLimit); i++) service.divergedMs.push(atMs);
  }
  for (const [port, count] of window.mismatches) {
    const service = of(port);
    service.mismatches += count;
    if (service.caught || service.mismatches < config.mismatchLimit) continue;
    service.caught = true;
    decisions.push({
      type: 'caught', port,
      reason: `${service.mismatches} of its audited replies differed from what the other VM said: it does not keep the promise that pre-release rests on`,
    });
  }
  for (const [port, service] of services) {
    service.divergedMs = service.divergedMs.filter((ms) => atMs - ms < divergenceWindowMs).slice(-divergenceLimit);
    if (service.untilMs !== undefined && atMs >= service.untilMs) {
      service.untilMs = undefined;
      decisions.push({ type: 'trust', port, on: true, reason: 'it is given another try' });
    } else if (service.untilMs === undefined && service.divergedMs.length >= divergenceLimit) {
      service.untilMs = atMs + service.backoffMs;
      decisions.push({
        type: 'trust', port, on: false,
        reason: `the two VMs said different things ${divergenceLimit} times in ${divergenceWindowMs / 1000} s; tried again in ${service.backoffMs / 1000} s`,
      });
      service.backoffMs = Math.min(2 * service.backoffMs, longestBackoffMs);
      service.divergedMs = [];
    }
  }
}

function judged(state: ComparePolicyState, atMs: number): void {
  Object.assign(state, { judgedMs: atMs, matched: nothing, committed: nothing, late: 0, divergences: 0 } satisfies Partial<ComparePolicyState>);
}

function sum(a: Released, b: Released): Released {
  return { packets: a.packets + b.packets, waitedMs: a.waitedMs + b.waitedMs };
}

function meanMs({ packets, waitedMs }: Released): number {
  return packets === 0 ? 0 : waitedMs / packets;
}
