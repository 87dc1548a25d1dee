/**
 * When to compare what the two VMs say, and whom to trust with what, as a pure
 * function: (state, window) -> (state, decisions).
 *
 * Comparing pays where output waits: a match releases it without a checkpoint.
 * It costs a secondary that runs, and where the two say different things each
 * packet waits for the other VM first and for a checkpoint then. So `auto` stays
 * with commits where nearly everything leaves early anyway. Where it does not,
 * only trying shows which way is better: `auto` tries, measures how much output
 * leaves in both ways and how long it waits, and keeps the better one; what has
 * failed is tried again later, and later still when it fails again.
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
  /** So many mismatches in its audits within `mismatchWindowMs`, and a service's replies do not leave early any more. */
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
  /** Packets that left without waiting for either VM. */
  early: number;
  matched: Released;
  /** By commits: what might have matched, and what belongs to services that are not compared. */
  committed: Released;
  uncompared: Released;
  /** Of the requests, those that may have been writes; and of the output, what was held as a write was in doubt. */
  writes: number;
  doubtPackets: number;
  /** For how long there was no write, if reads wait only for a commit to settle the last one; else undefined. */
  writtenMsAgo: number | undefined;
  /** By the guest's port. */
  divergences: ReadonlyMap<number, Divergences>;
  mismatches: ReadonlyMap<number, number>;
  late: number;
}

/** Divergences of a service. */
export interface Divergences {
  count: number;
  /** Packets of it that had ever matched, by then. */
  matched: number;
}

/** Those of the window that ended then. */
interface Moment extends Divergences {
  atMs: number;
}

interface ServiceState {
  /** Its divergences, the oldest first; those that are too old are forgotten. */
  diverged: readonly Moment[];
  /** Not compared until then; undefined: compared. */
  untilMs: number | undefined;
  /** Since when it is compared again; undefined: it always was. */
  sinceMs: number | undefined;
  backoffMs: number;
  /** When its audits failed, once for each, the oldest first; those that are too old are forgotten. */
  mismatchedMs: readonly number[];
  /** Its replies do not leave early any more. */
  caught: boolean;
}

/** The output of some time that had to wait, by what released it. */
type Held = Pick<CompareWindow, 'matched' | 'committed' | 'uncompared'>;

/** Windows, added up. */
type Sums = Pick<CompareWindow, 'early' | 'matched' | 'committed' | 'uncompared' | 'writes' | 'doubtPackets' | 'late'> & { divergences: number };

/** How output fares in one of the two ways. */
interface Pace {
  perSecond: number;
  /** Mean wait of what has to wait. */
  waitMs: number;
  /** Of all output, what has to wait. */
  share: number;
}

export interface ComparePolicyState {
  comparing: boolean;
  /** Since the last judgement; of a trial without the time that it takes to get going. */
  sums: Sums;
  /** Of that time. */
  begun: Sums;
  judgedMs: number;
  /** How output fared in the trial of comparing; undefined: it is not over. */
  tried: Pace | undefined;
  /** How output fares when commits are all there is; undefined: not known. */
  commits: Pace | undefined;
  /** When comparing last turned out worse, and with what load; undefined: never, or whatever the load. */
  failed: { atMs: number; commits: Pace } | undefined;
  notBeforeMs: number;
  backoffMs: number;
  busyMs: number;
  /** Windows in succession, up to now, in which output waited and hardly any matched. */
  poor: number;
  services: ReadonlyMap<number, ServiceState>;
}

export type CompareDecision =
  | { type: 'compare'; on: boolean; reason: string }
  /** A commit would let reads leave early again. */
  | { type: 'settle' }
  /** The output of this port is compared, or waits for commits. */
  | { type: 'trust'; port: number; on: boolean; reason: string }
  /** The replies of this port do not leave early any more, until an operator says so. */
  | { type: 'caught'; port: number; reason: string };

/** How commits do is judged after so long, */
export const lookMs = 500;
/** and comparing after this, not counting the time that it takes to get going. */
export const trialMs = 1000;
export const startMs = 1000;
/**
 * One in which little matches after this, though output waits, is over. Sooner it tells nothing: the first packets
 * find the other VM not running yet, and wait until they are late. Or after so many divergences.
 */
export const hopelessMs = 600;
export const hopelessDivergences = 3;
const littleShare = 0.25;
/** Later, so many windows in succession in which little matches end it: the load has become another. */
const poorWindows = 2;
/** Either takes longer for so many releases, up to a few times. */
const leastReleases = 20;
const leastWaits = 3;
const longest = 5;
/** Comparing must save this share of the wait, or bring that much more output; and must not cost more than that of it. */
const leastGain = 0.1;
/** More output is worth nothing any more when it waits that much longer than in the trial. */
const slower = 2;
/** Output that waits, per second and of all output, from which on comparing may be worth it; and below which it is not any more. */
const leastHeldPerSecond = 5;
const leastShare = 0.2;
const shareFall = 0.1;
/** The load is another one if the share that waits has changed by this, or the output by this factor. */
const otherShare = 0.25;
const otherFactor = 2;
/** Without a write for so long, a commit is worth its price to reads. */
export const settleMs = 250;
/** With nothing to compare for so long, the secondary runs for nothing. */
export const idleMs = 30_000;
export const firstBackoffMs = 10_000;
export const longestBackoffMs = 600_000;
/**
 * So many divergences of a service in so long, and it is not compared for a while: unless that many of
 * its packets matched for each. A divergence costs a checkpoint, which without comparing nearly every reply would.
 */
export const divergenceLimit = 5;
export const divergenceWindowMs = 10_000;
export const matchesPerDivergence = 100;
/** So long a failed audit counts: it may be chance, such as a packet of the secondary that was lost. */
export const mismatchWindowMs = 600_000;
/** The gate can leave out so many services; more that diverge have to wait for one of these to be tried again. */
export const mostUncompared = 32;

const nothing: Sums = {
  early: 0, matched: { packets: 0, waitedMs: 0 }, committed: { packets: 0, waitedMs: 0 }, uncompared: { packets: 0, waitedMs: 0 },
  writes: 0, doubtPackets: 0, late: 0, divergences: 0,
};

export function initialComparePolicy(atMs: number): ComparePolicyState {
  return {
    comparing: false, sums: nothing, begun: nothing, judgedMs: atMs, tried: undefined, commits: undefined, failed: undefined, poor: 0,
    notBeforeMs: atMs, backoffMs: firstBackoffMs, busyMs: atMs, services: new Map(),
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
  const services = new Map([...before.services].map(([port, service]) => [port, { ...service }]));
  const state: ComparePolicyState = { ...before, services, sums: addUp(before.sums, window) };
  if (window.matched.packets + window.committed.packets > 0) state.busyMs = window.atMs;
  state.poor = isPoor(window) ? state.poor + 1 : 0;
  judgeServices(services, window, config, decisions);
  const choice = choose(state, window, config);
  if (choice) {
    state.comparing = choice.on;
    decisions.push({ type: 'compare', ...choice });
    judged(state, window.atMs);
    state.tried = undefined;
  } else if (state.comparing && window.matched.packets > 0 && (window.writtenMsAgo ?? 0) >= settleMs) {
    decisions.push({ type: 'settle' });
  }
  return { state, decisions };
}

/** An operator lets the replies of a port leave early again. */
export function forgive(before: ComparePolicyState, port: number): ComparePolicyState {
  const service = before.services.get(port);
  if (!service) return before;
  return { ...before, services: new Map([...before.services, [port, { ...service, mismatchedMs: [], caught: false }]]) };
}

function choose(state: ComparePolicyState, window: CompareWindow, config: ComparePolicyConfig): { on: boolean; reason: string } | undefined {
  if (config.mode !== 'auto') {
    const on = config.mode === 'compare';
    return on === state.comparing ? undefined : { on, reason: `the mode is "${config.mode}"` };
  }
  return state.comparing ? chooseComparing(state, window) : chooseCommitting(state, window.atMs);
}

/** Commits only, so far: is it time to try the other way? */
function chooseCommitting(state: ComparePolicyState, atMs: number): { on: boolean; reason: string } | undefined {
  const elapsedMs = atMs - state.judgedMs;
  if (elapsedMs < lookMs || (state.sums.committed.packets < leastReleases && elapsedMs < longest * lookMs)) return undefined;
  const pace = paceOf(state.sums, elapsedMs);
  judged(state, atMs);
  const heldPerSecond = pace.share * pace.perSecond;
  if (heldPerSecond < leastHeldPerSecond || pace.share < leastShare) return undefined;
  state.commits = pace;
  const { failed } = state;
  if (atMs < state.notBeforeMs && !(failed && atMs - failed.atMs >= trialMs + startMs && differ(pace, failed.commits))) return undefined;
  return { on: true, reason: `${heldPerSecond.toFixed(0)} packets a second (${percent(pace.share)} of the output) wait ${pace.waitMs.toFixed(1)} ms for commits: trying matches` };
}

function chooseComparing(state: ComparePolicyState, window: CompareWindow): { on: boolean; reason: string } | undefined {
  const { sums, tried, commits } = state;
  const { atMs } = window;
  const elapsedMs = atMs - state.judgedMs - (tried ? 0 : startMs);
  if (atMs - state.busyMs >= idleMs) return { on: false, reason: `nothing had to wait for ${idleMs / 1000} s` };
  if (elapsedMs <= 0) {
    // What began with commits only is no matter of comparing.
    state.begun = together(state.begun, sums);
    state.sums = nothing;
    return commits && giveUpEarly(state, window);
  }
  if (state.poor >= poorWindows) {
    judged(state, atMs);
    return giveUp(state, atMs, commits, `${matchedOf(window)} of late`);
  }
  // Where nothing at all is released, something is wrong with the other way too; but this one has had its time.
  if (elapsedMs < trialMs || (packetsOf(sums) < leastReleases && elapsedMs < longest * trialMs)) return undefined;
  judged(state, atMs);
  if (packetsOf(sums) < leastReleases || !commits) return undefined;
  const pace = paceOf(sums, elapsedMs);
  const trial = state.tried ??= pace;
  const share = shareWithCommits(sums, elapsedMs, commits.waitMs);
  if (share < shareFall) return { on: false, reason: `only ${percent(share)} of the output would wait for commits` };
  const { matched, committed, divergences, late } = sums;
  const matchedShare = matched.packets / Math.max(1, matched.packets + committed.packets);
  const figures = `output waits ${pace.waitMs.toFixed(1)} ms, against ${commits.waitMs.toFixed(1)} ms for commits only (${pace.perSecond.toFixed(0)} packets a second, against ${commits.perSecond.toFixed(0)}; ${percent(matchedShare)} matched, ${divergences} divergences, ${late} late)`;
  // Output can be set beside output only in the trial, when commits have just been looked at; later the load may be another.
  const gain = trial.perSecond / commits.perSecond;
  const waitsLess = pace.waitMs <= (1 - leastGain) * commits.waitMs;
  if ((gain >= 1 - leastGain && waitsLess) || (gain >= 1 + leastGain && pace.waitMs <= slower * trial.waitMs)) {
    state.backoffMs = firstBackoffMs;
    return undefined;
  }
  return giveUp(state, atMs, commits, figures);
}

/** A trial that gets nowhere is not waited for: until it is over, all output waits for the other VM in vain. */
function giveUpEarly(state: ComparePolicyState, window: CompareWindow): { on: boolean; reason: string } | undefined {
  const { begun, judgedMs } = state;
  const elapsedMs = window.atMs - judgedMs;
  const diverges = begun.divergences >= hopelessDivergences;
  if (elapsedMs < hopelessMs && !diverges) return undefined;
  const sample = diverges ? begun : window;
  if (!isPoor(sample)) return undefined;
  return giveUp(state, window.atMs, undefined, `${matchedOf(sample)} ${diverges ? 'in' : 'after'} ${(elapsedMs / 1000).toFixed(1)} s, and ${begun.divergences} diverged`);
}

function matchedOf(sample: Held): string {
  return `${sample.matched.packets} of the ${waitedIn(sample)} packets that had to wait matched`;
}

/** @param commits the load that it was tried with, if another one may fare better; undefined: none would */
function giveUp(state: ComparePolicyState, atMs: number, commits: Pace | undefined, why: string): { on: boolean; reason: string } {
  state.failed = commits && { atMs, commits };
  state.notBeforeMs = atMs + state.backoffMs;
  const backoffS = state.backoffMs / 1000;
  state.backoffMs = Math.min(2 * state.backoffMs, longestBackoffMs);
  return { on: false, reason: `${why}; tried again in ${backoffS.toFixed(0)} s` };
}

/**
 * Of all output, what would wait if there were commits only: what waits whatever happens, the replies to
 * writes, and of the other replies those that a write in doubt meets, which it is for about two waits.
 */
function shareWithCommits(sums: Sums, elapsedMs: number, commitWaitMs: number): number {
  const held = sums.matched.packets + sums.committed.packets;
  const writes = Math.min(sums.writes, sums.doubtPackets);
  const inDoubt = Math.min(1, sums.writes / elapsedMs * 2 * commitWaitMs);
  return Math.max(0, held - sums.doubtPackets + writes + (sums.doubtPackets - writes) * inDoubt) / packetsOf(sums);
}

function judgeServices(services: Map<number, ServiceState>, window: CompareWindow, config: ComparePolicyConfig, decisions: CompareDecision[]): void {
  const { atMs } = window;
  const of = (port: number): ServiceState => {
    const service = services.get(port) ?? { diverged: [], untilMs: undefined, sinceMs: undefined, backoffMs: firstBackoffMs, mismatchedMs: [], caught: false };
    services.set(port, service);
    return service;
  };
  for (const [port, divergences] of window.divergences) {
    const service = of(port);
    service.diverged = [...service.diverged, { atMs, ...divergences }];
  }
  for (const [port, count] of window.mismatches) {
    const service = of(port);
    // No more are needed, whatever an agent is told at once.
    const news = Array<number>(Math.min(count, config.mismatchLimit)).fill(atMs);
    service.mismatchedMs = [...service.mismatchedMs.filter((then) => atMs - then < mismatchWindowMs), ...news];
    if (service.caught || service.mismatchedMs.length < config.mismatchLimit) continue;
    service.caught = true;
    decisions.push({
      type: 'caught', port,
      reason: `${service.mismatchedMs.length} of its audited replies differed from what the other VM said: it does not keep the promise that pre-release rests on`,
    });
  }
  let room = mostUncompared - [...services.values()].filter(({ untilMs }) => untilMs !== undefined).length;
  for (const [port, service] of services) {
    service.diverged = service.diverged.filter((moment) => atMs - moment.atMs < divergenceWindowMs);
    const divergences = service.diverged.reduce((total, { count }) => total + count, 0);
    if (service.untilMs !== undefined && atMs >= service.untilMs) {
      service.untilMs = undefined;
      service.sinceMs = atMs;
      room++;
      decisions.push({ type: 'trust', port, on: true, reason: 'it is given another try' });
    } else if (service.untilMs === undefined && divergences >= Math.max(divergenceLimit, matchedSince(service.diverged) / matchesPerDivergence) && room > 0) {
      service.untilMs = atMs + service.backoffMs;
      room--;
      decisions.push({
        type: 'trust', port, on: false,
        reason: `the two VMs said different things ${divergences} times in ${divergenceWindowMs / 1000} s; tried again in ${service.backoffMs / 1000} s`,
      });
      service.backoffMs = Math.min(2 * service.backoffMs, longestBackoffMs);
      service.diverged = [];
    } else if (isForgettable(service, atMs)) {
      services.delete(port);
    }
  }
}

/** Whether it is like one that nothing was ever heard of: a guest that calls others has a new port for each call. */
function isForgettable({ diverged, untilMs, sinceMs, mismatchedMs, caught }: ServiceState, atMs: number): boolean {
  if (diverged.length > 0 || untilMs !== undefined || caught) return false;
  if (mismatchedMs.some((then) => atMs - then < mismatchWindowMs)) return false;
  return sinceMs === undefined || atMs - sinceMs >= longestBackoffMs;
}

function judged(state: ComparePolicyState, atMs: number): void {
  state.judgedMs = atMs;
  state.sums = state.begun = nothing;
}

/** Whether output waited in that time, and hardly any of it matched. */
function isPoor(sample: Held): boolean {
  const waited = waitedIn(sample);
  return waited >= leastWaits && sample.matched.packets <= littleShare * waited;
}

/** Packets that matched between the first of these divergences and the last. */
function matchedSince(diverged: readonly Moment[]): number {
  const [first, last] = [diverged[0], diverged.at(-1)];
  return first && last ? last.matched - first.matched : 0;
}

function addUp(sums: Sums, window: CompareWindow): Sums {
  return together(sums, { ...window, divergences: [...window.divergences.values()].reduce((total, { count }) => total + count, 0) });
}

function together(a: Sums, b: Sums): Sums {
  return {
    early: a.early + b.early, matched: sum(a.matched, b.matched), committed: sum(a.committed, b.committed), uncompared: sum(a.uncompared, b.uncompared),
    writes: a.writes + b.writes, doubtPackets: a.doubtPackets + b.doubtPackets, late: a.late + b.late, divergences: a.divergences + b.divergences,
  };
}

function waitedIn({ matched, committed, uncompared }: Held): number {
  return matched.packets + committed.packets + uncompared.packets;
}

function packetsOf(sums: Sums): number {
  return sums.early + waitedIn(sums);
}

function paceOf(sums: Sums, elapsedMs: number): Pace {
  const held = sum(sums.matched, sums.committed);
  const packets = packetsOf(sums);
  return { perSecond: packets / elapsedMs * 1000, waitMs: held.packets === 0 ? 0 : held.waitedMs / held.packets, share: packets === 0 ? 0 : held.packets / packets };
}

function differ(a: Pace, b: Pace): boolean {
  const [less, more] = [Math.min(a.perSecond, b.perSecond), Math.max(a.perSecond, b.perSecond)];
  return Math.abs(a.share - b.share) >= otherShare || more >= otherFactor * less;
}

function sum(a: Released, b: Released): Released {
  return { packets: a.packets + b.packets, waitedMs: a.waitedMs + b.waitedMs };
}

function percent(share: number): string {
  return `${Math.round(100 * share)} %`;
}
