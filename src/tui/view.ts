/** What the screen says about a model at one moment: words and figures, no layout. */

import { packetsOf, settledPhase, type LogEvent, type Model, type OutputSample, type Seen } from './model.js';
import type { Level, SeenService, SeenStatus } from './observation.js';
import { byteCount, millis, perSecond, plural, span, timeOfDay, wrap } from './text.js';

export type Tone = 'plain' | 'good' | 'warn' | 'bad' | 'dim';

/** Label and value. */
export type Figure = readonly [label: string, value: string, tone?: Tone];

export interface View {
  /** Is the VM protected? */
  verdict: { word: string; tone: Tone; text: string };
  hosts: HostView[];
  /** How long a silent host may speak, and who decides; undefined: not known. */
  lease: string | undefined;
  /** Why the VM is not protected, and what the loss of the active host would cost now. */
  remarks: Remark[];
  /** The host whose checkpoints and output are shown. */
  subject: SubjectView | undefined;
  /** What the host that would take over does meanwhile; undefined where nothing of it is known. */
  secondary: SecondaryView | undefined;
  /** Whom commands go to. */
  target: Target | undefined;
  /** Whose pre-release can be switched, and by which agents. */
  services: { sources: string[]; services: { port: number; protocol: string; preRelease: boolean }[] };
  /** Whose active vCPUs can be chosen. */
  vcpus: { source: string; host: string; of: number; mode: string } | undefined;
}

export interface Remark { label: string; texts: string[]; tone: Tone }

export interface HostView {
  source: string;
  host: string;
  isActive: boolean;
  isSubject: boolean;
  role: string;
  phase: string;
  phaseTone: Tone;
  peer: string;
  roundTrip: string;
  generation: string;
  vm: string;
  /** Why there is nothing newer; undefined while what is shown is true. */
  stale: string | undefined;
}

export interface SubjectView {
  host: string;
  /** How old the figures are; undefined while they are true. */
  stale: string | undefined;
  checkpoints: Figure[];
  /** The longest pause of each of the last seconds, the oldest first; undefined where there was no checkpoint. */
  pausesMs: (number | undefined)[];
  output: Figure[];
  services: ServiceView[];
}

export interface ServiceView {
  name: string;
  state: string;
  tone: Tone;
  /** The share that leaves early, and how much that is. */
  early: string;
  /** Why the rest waits. */
  held: string;
}

export interface SecondaryView {
  host: string;
  stale: string | undefined;
  figures: Figure[];
  /** Shares of the time that each vCPU's thread runs, and waits for a CPU. */
  vcpus: { vcpu: number; run: number; wait: number; rests: 'parked' | 'paused' | undefined }[];
  /** Whether comparing its output helps: the first to go where there is little room. */
  compare: Figure[];
}

export interface Target {
  source: string; host: string; from: string; to: string;
  /** `on`: there, or being begun. `paused`: by an operator. */
  protection: 'on' | 'off' | 'paused';
}

/** A rate is over so many whole seconds. */
const rateSeconds = 5;
const chartSeconds = 300;
/** A checkpoint that takes longer than this is worth showing as a phase of its own. */
const slowCheckpointMs = 1000;

/**
 * @param nowMs on the clock of the observations
 * @param staleMs a status older than this is no longer taken for the truth
 * @param selected the source to show; by default the one whose VM is active
 */
export function viewOf(model: Model, nowMs: number, staleMs: number, selected?: string): View {
  const isFresh = (seen: Seen): seen is Known => seen.status !== undefined && seen.gone === undefined && nowMs - seen.statusAtMs <= staleMs;
  const known = model.seen.filter((seen): seen is Known => seen.status !== undefined);
  const fresh = known.filter(isFresh);
  const active = fresh.find(({ status }) => status.active);
  const subject = known.find(({ source }) => source === selected) ?? active ?? fresh[0] ?? known[0];
  const asked = active ?? fresh[0];
  return {
    verdict: verdictOf(model.seen, known, fresh, nowMs),
    hosts: model.seen.map((seen) => hostView(seen, isFresh(seen), seen === subject, nowMs)),
    lease: leaseOf(fresh),
    remarks: remarksOf(fresh, nowMs),
    subject: subject && subjectView(subject, isFresh(subject), nowMs),
    secondary: secondaryOf(known, fresh, active ?? subject, nowMs),
    target: asked && targetOf(asked, fresh),
    services: {
      sources: fresh.filter(({ status }) => status.output.services.length > 0).map(({ source }) => source),
      services: (asked?.status.output.services ?? []).map(({ port, protocol, preRelease }) => ({ port, protocol, preRelease })),
    },
    vcpus: fresh.flatMap(({ source, status: { role, host, vcpus } }) =>
      role === 'secondary' && vcpus ? [{ source, host, of: vcpus.of, mode: `${vcpus.mode}` }] : [])[0],
  };
}

type Known = Seen & { status: SeenStatus };

// ---- the verdict -------------------------------------------------------------

function verdictOf(seen: readonly Seen[], known: readonly Known[], fresh: readonly Known[], nowMs: number): View['verdict'] {
  if (known.length === 0) return { word: 'WAITING', tone: 'warn', text: seen.map(({ gone }) => gone).find((gone) => gone !== undefined) ?? 'no agent has answered yet' };
  if (fresh.length === 0) {
    const newestMs = Math.max(...known.map(({ statusAtMs }) => statusAtMs));
    return { word: 'NO ANSWER', tone: 'bad', text: `What is shown was true ${span(nowMs - newestMs)} ago.` };
  }
  const active = fresh.filter(({ status }) => status.active);
  if (active.length > 1 && isConfirmed(active)) {
    return { word: 'TWO SPEAK', tone: 'bad', text: `${active.map(({ status }) => status.host).join(' and ')} both run the VM. See the events.` };
  }
  const [speaker = fresh.find(({ status }) => status.protected)] = active;
  if (!speaker) return withoutSpeaker(fresh);
  const { status } = speaker;
  if (!status.protected) {
    return { word: 'NOT PROTECTED', tone: 'warn', text: `${status.host} runs the VM, ${settledPhase(status.phase)}.` };
  }
  const behind = speaker.lastCommitAtMs === undefined ? '' : `, ${span(nowMs - speaker.lastCommitAtMs)} behind`;
  return status.active
    ? { word: 'PROTECTED', tone: 'good', text: `${otherHost(speaker, fresh)} can take over from ${status.host}${behind}.` }
    : { word: 'PROTECTED', tone: 'good', text: `${status.host} can take over from ${otherHost(speaker, fresh)}.` };
}

/** Two statuses are not of the same moment: all must have been asked again since the last one of them began. */
function isConfirmed(active: readonly Known[]): boolean {
  const latestBeginMs = Math.max(...active.map(({ activeSinceMs }) => activeSinceMs ?? Infinity));
  return active.every(({ statusAtMs }) => statusAtMs > latestBeginMs);
}

function withoutSpeaker(fresh: readonly Known[]): View['verdict'] {
  const { host, phase, role } = telling(fresh)!.status;
  if (phase === 'taking-over') return { word: 'TAKING OVER', tone: 'warn', text: `${host} is taking over.` };
  return { word: 'NOT PROTECTED', tone: 'bad', text: `No host is known to run the VM; ${host} is ${role}, ${phase}.` };
}

/** Of hosts that do not speak, the one that has most to tell. */
function telling(fresh: readonly Known[]): Known | undefined {
  return ['taking-over', 'fenced', 'ended'].map((phase) => fresh.find(({ status }) => status.phase === phase)).find((seen) => seen !== undefined)
    ?? fresh.find(({ status }) => status.role === 'primary') ?? fresh[0];
}

function otherHost(seen: Known, fresh: readonly Known[]): string {
  return seen.status.peer?.host ?? fresh.find((each) => each !== seen)?.status.host ?? 'the other host';
}

// ---- hosts -------------------------------------------------------------------

function hostView(seen: Seen, isFresh: boolean, isSubject: boolean, nowMs: number): HostView {
  const { source, status } = seen;
  if (!status) {
    const stale = seen.gone ?? 'no answer yet';
    return { source, host: source, isActive: false, isSubject, role: '', phase: '', phaseTone: 'dim', peer: '', roundTrip: '', generation: '', vm: '', stale };
  }
  const { vm, peer } = status;
  const phase = phaseOf(seen, status, nowMs);
  return {
    source, host: status.host, isActive: status.active, isSubject, role: status.role, phase,
    phaseTone: status.protected ? 'good' : status.phase === 'fenced' || status.phase === 'ended' ? 'bad' : 'warn',
    peer: peer ? `${peer.host} ${span(peer.silentMs)} ago` : 'none',
    roundTrip: peer === null || peer.rttUs === null ? '' : millis(peer.rttUs / 1000),
    generation: `${status.generation}`,
    vm: vm.pid === null ? 'no VM' : `${vm.name} ${vm.accel}${status.active ? '' : ', silent'}`,
    stale: isFresh ? undefined : `${span(nowMs - seen.statusAtMs)} old`,
  };
}

/** Dozens of checkpoints a second are no changes of phase to look at; one that hangs is. */
function phaseOf(seen: Seen, status: SeenStatus, nowMs: number): string {
  const { checkpointingSinceMs } = seen;
  return checkpointingSinceMs !== undefined && nowMs - checkpointingSinceMs > slowCheckpointMs ? 'checkpointing' : settledPhase(status.phase);
}

/** Of the hosts that are heard: a witness that is lost to one of them is worth knowing. */
function leaseOf(fresh: readonly Known[]): string | undefined {
  const leaseMs = fresh.map(({ status }) => status.leaseMs).find((ms) => ms > 0);
  if (leaseMs === undefined) return undefined;
  const witness = fresh.map(({ status }) => status.witness).find((each) => each !== null);
  if (!witness) return `lease ${span(leaseMs)}, of the pair itself`;
  const deaf = fresh.filter(({ status }) => status.witness?.reachable === false).map(({ status }) => status.host);
  return `lease ${span(leaseMs)}, of the witness at ${witness.address}${deaf.length === 0 ? '' : `, which ${deaf.join(' and ')} cannot reach`}`;
}

// ---- what a failover would cost ----------------------------------------------

function remarksOf(fresh: readonly Known[], nowMs: number): Remark[] {
  const active = fresh.find(({ status }) => status.active);
  const speaker = active ?? fresh.find(({ status }) => status.protected) ?? telling(fresh);
  if (!speaker) return [];
  const { reason } = speaker.status;
  const why: Remark[] = speaker.status.protected || reason === '' ? [] : [{ label: 'Why:', texts: [reason], tone: 'warn' }];
  return active ? [...why, lossOf(active, fresh, nowMs)] : why;
}

function lossOf(active: Known, fresh: readonly Known[], nowMs: number): Remark {
  const { status } = active;
  const label = `If ${status.host} is lost:`;
  if (!status.protected) return { label, texts: ['the VM and its connections are lost with it.'], tone: 'bad' };
  const { heldPackets, heldBytes } = status.output;
  const since = active.lastCommitAtMs === undefined ? 'from the last commit' : `from ${span(nowMs - active.lastCommitAtMs)} ago`;
  const takeover = fresh.find(({ takeoverMs }) => takeoverMs !== undefined);
  const held = heldPackets === 0 ? 'No packet waits.' : `${plural(heldPackets, 'packet')} (${byteCount(heldBytes)}) would go; TCP sends again.`;
  const took = takeover ? ` Taking over took ${takeover.status.host} ${span(takeover.takeoverMs!)} last time.` : '';
  return { label, texts: [`${otherHost(active, fresh)} goes on ${since}; nothing clients were told is lost.`, `${held}${took}`], tone: 'plain' };
}

// ---- checkpoints and output of one host --------------------------------------

function subjectView(seen: Known, isFresh: boolean, nowMs: number): SubjectView {
  // The last truth, as it was.
  const thenMs = isFresh ? nowMs : Math.min(nowMs, seen.statusAtMs);
  return {
    host: seen.status.host,
    stale: isFresh ? undefined : `${span(nowMs - seen.statusAtMs)} old`,
    checkpoints: checkpointFigures(seen, thenMs),
    pausesMs: pausesOf(seen, thenMs),
    output: outputFigures(seen),
    services: seen.status.output.services.map((service, i) => serviceView(service, i, seen)),
  };
}

function checkpointFigures(seen: Known, nowMs: number): Figure[] {
  const { commits, pauseMsP50, pauseMsP99 } = seen.status.checkpoints;
  const figures: Figure[] = [['commits', `${commits}`]];
  if (pauseMsP50 !== null && pauseMsP99 !== null) figures.push(['pause', `p50 ${millis(pauseMsP50)}, p99 ${millis(pauseMsP99)}`]);
  const rate = commitRate(seen, nowMs);
  if (rate !== undefined && commits > 0) figures.push(['rate', `${perSecond(rate)}${sentPerSecond(seen)}`]);
  if (seen.lastCommitAtMs !== undefined) figures.push(['last', `${span(nowMs - seen.lastCommitAtMs)} ago`]);
  return figures;
}

/** What the checkpoints carry; nothing to tell where none is made, as on a secondary. */
function sentPerSecond({ samples: [first, ...rest] }: Seen): string {
  const last = rest.at(-1);
  if (!first || !last || last.atMs <= first.atMs || last.sentBytes <= first.sentBytes) return '';
  return `, ${byteCount((last.sentBytes - first.sentBytes) / (last.atMs - first.atMs) * 1000)}/s`;
}

/** Over the last whole seconds in which the news were followed; undefined before the first. */
function commitRate(seen: Seen, nowMs: number): number | undefined {
  const now = Math.floor(nowMs / 1000);
  const from = Math.max(now - rateSeconds, Math.ceil(seen.followedSinceMs / 1000));
  if (from >= now) return undefined;
  const count = seen.commitSeconds.reduce((sum, { second, count }) => second >= from && second < now ? sum + count : sum, 0);
  return count / (now - from);
}

function pausesOf(seen: Seen, nowMs: number): (number | undefined)[] {
  const first = Math.floor(nowMs / 1000) - chartSeconds + 1;
  const pauses = new Array<number | undefined>(chartSeconds).fill(undefined);
  for (const { second, maxPauseMs } of seen.commitSeconds) {
    if (second >= first && second < first + chartSeconds) pauses[second - first] = maxPauseMs;
  }
  return pauses;
}

const gateWords: Record<string, string> = {
  protected: 'holds output until a commit', pass: 'lets everything pass', closed: 'closed, nothing leaves',
};

function outputFigures(seen: Known): Figure[] {
  const { output } = seen.status;
  const [first, last] = [seen.samples[0], seen.samples.at(-1)];
  const counted = (key: 'released' | 'passed' | 'dropped' | 'early'): string => {
    if (!first || !last || last[key] === 0 || last.atMs <= first.atMs) return `${last?.[key] ?? 0}`;
    return `${last[key]}, ${perSecond(Math.max(0, last[key] - first[key]) / (last.atMs - first.atMs) * 1000)}`;
  };
  const figures: Figure[] = [
    ['gate', gateWords[output.mode] ?? output.mode],
    ['held now', output.heldPackets === 0 ? 'nothing' : `${output.heldPackets}, ${byteCount(output.heldBytes)}, for ${millis(output.oldestMs)}`],
    ['released', counted('released')],
    ...releaseShares(first, last),
    ...output.services.length > 0 || output.earlyPackets > 0 ? [['early', counted('early')] as const] : [],
    ['dropped', counted('dropped'), output.droppedPackets > 0 ? 'warn' : 'plain'],
    ['passed', counted('passed')],
  ];
  if (output.leaseDroppedPackets > 0) figures.push(['no lease', `${output.leaseDroppedPackets} dropped`, 'warn']);
  if (output.maxHoldMs > 0) figures.push(['hold', `mean ${millis(output.meanHoldMs)}, max ${millis(output.maxHoldMs)}`]);
  return figures;
}

/** What released the held output of late; nothing to tell where it was always a commit. */
function releaseShares(first: OutputSample | undefined, last: OutputSample | undefined): Figure[] {
  if (!first || !last) return [];
  const { commit, logged, match } = last.releasedBy;
  if (logged + match === 0) return [];
  const grown = { commit: commit - first.releasedBy.commit, logged: logged - first.releasedBy.logged, match: match - first.releasedBy.match };
  const sum = grown.commit + grown.logged + grown.match;
  const [shares, of] = sum > 0 ? [grown, sum] : [{ commit, logged, match }, commit + logged + match];
  return [['by', Object.entries(shares).filter(([, count]) => count > 0).map(([cause, count]) => `${cause} ${percent(count, of)}`).join(', ')]];
}

function percent(part: number, whole: number): string {
  return `${Math.round(part / whole * 100)} %`;
}

const ruleWords: Record<keyof SeenService['heldPackets'], string> = {
  doubt: 'write in doubt', unlogged: 'not logged', order: 'behind others', standing: 'not followed', off: 'switched off',
};

function serviceView(service: SeenService, index: number, { samples, status }: Known): ServiceView {
  const total = packetsOf(service);
  const before = samples[0]?.services[index] ?? total;
  const of = total.early + total.held > before.early + before.held ? { early: total.early - before.early, held: total.held - before.held } : total;
  const spanMs = (samples.at(-1)?.atMs ?? 0) - (samples[0]?.atMs ?? 0);
  const rate = spanMs > 0 ? `, ${perSecond(Math.max(0, total.early - before.early) / spanMs * 1000)}` : '';
  const why = Object.entries(service.heldPackets).filter(([, count]) => count > 0).sort(([, a], [, b]) => b - a)
    .map(([rule, count]) => `${ruleWords[rule as keyof typeof ruleWords]} ${count}`);
  const isCaught = status.compare?.caught.includes(service.port) ?? false;
  return {
    name: `${service.port} ${service.protocol}`,
    state: isCaught ? 'CAUGHT' : service.preRelease ? 'on' : 'off',
    tone: isCaught ? 'bad' : service.preRelease ? 'good' : 'warn',
    early: of.early + of.held === 0 ? 'nothing said' : `${percent(of.early, of.early + of.held)} early${rate}`,
    held: total.held === 0 ? 'nothing held' : `held ${total.held}: ${why.join(', ')}`,
  };
}

// ---- the secondary -----------------------------------------------------------

function secondaryOf(known: readonly Known[], fresh: readonly Known[], primary: Known | undefined, nowMs: number): SecondaryView | undefined {
  const secondary = known.find(({ status }) => status.role === 'secondary');
  const isFresh = secondary !== undefined && fresh.includes(secondary);
  const figures: Figure[] = [];
  const missing = primary && primary.status.role === 'primary' ? Math.max(0, primary.status.output.inputSeq - primary.status.output.loggedSeq) : 0;
  if (secondary?.status.inputLog) {
    const { loggedPackets, loggedBytes, gaps } = secondary.status.inputLog.log;
    const lag = missing === 0 ? 'nothing missing' : `${missing} not there yet`;
    figures.push(['input', `${plural(loggedPackets, 'packet')} logged, ${byteCount(loggedBytes)}; ${lag}${gaps === 0 ? '' : `; ${plural(gaps, 'gap')} so far`}`]);
  } else if (primary && primary.status.role === 'primary' && primary.status.output.inputSeq > 0) {
    figures.push(['input', missing === 0 ? 'all of it has been logged' : `${missing} not logged yet`]);
  }
  const vcpus = secondary?.status.vcpus;
  if (vcpus && vcpus.active !== null) {
    figures.push(['vCPUs', `${vcpus.active.length} of ${vcpus.of} active${vcpus.mode === 'auto' ? '' : ' (an operator\'s word)'}: ${vcpus.reason}`]);
  }
  const compare = compareFigures(primary);
  if (figures.length + compare.length === 0) return undefined;
  return {
    host: secondary?.status.host ?? primary?.status.peer?.host ?? 'the secondary',
    stale: secondary === undefined || isFresh ? undefined : `${span(nowMs - secondary.statusAtMs)} old`,
    figures,
    vcpus: vcpus?.active ? vcpus.load.map((load) => ({ ...load, rests: restOf(load.vcpu, vcpus.active!) })) : [],
    compare,
  };
}

function compareFigures(primary: Known | undefined): Figure[] {
  const compare = primary?.status.compare;
  if (!compare || compare.mode === 'commit') return [];
  const { comparing, divergences, late, auditMismatches, reason } = compare;
  const counts = `${divergences} divergences, ${late} late${auditMismatches > 0 ? `, ${auditMismatches} audits failed` : ''}`;
  return [['compare', `${comparing ? 'on' : 'off'}, ${counts}${reason === '' ? '' : `: ${reason}`}`, auditMismatches > 0 ? 'warn' : 'plain']];
}

function restOf(vcpu: number, active: readonly number[]): 'parked' | 'paused' | undefined {
  if (active.length === 0) return 'paused';
  return active.includes(vcpu) ? undefined : 'parked';
}

// ---- commands and events -----------------------------------------------------

function targetOf(asked: Known, fresh: readonly Known[]): Target {
  const other = otherHost(asked, fresh);
  const { host, active, paused, phase } = asked.status;
  const protection = asked.status.protected || phase === 'pairing' || phase === 'syncing' ? 'on' : paused ? 'paused' : 'off';
  return { source: asked.source, host, from: active ? host : other, to: active ? other : host, protection };
}

const ranks: Record<Level, number> = { info: 0, warn: 1, error: 2 };

/** The events of a level and those above it. */
export function eventsFrom(events: readonly LogEvent[], level: Level): LogEvent[] {
  return events.filter((event) => ranks[event.level] >= ranks[level]);
}

export interface EventLine { head: string; level: Level; text: string }

/**
 * As many of the newest events as fill `height` lines, the oldest first.
 * @param back so many of the newest are left out
 */
export function eventLines(events: readonly LogEvent[], width: number, height: number, back: number): EventLine[] {
  const hostWidth = Math.min(12, Math.max(0, ...events.map(({ source }) => source.length)));
  const lines: EventLine[] = [];
  for (let i = events.length - 1 - back; i >= 0 && lines.length < height; i--) {
    const { atMs, level, source, text, count } = events[i]!;
    const head = `${timeOfDay(atMs)} ${level.padEnd(5)} ${source.slice(0, hostWidth).padEnd(hostWidth)} `;
    const wrapped = wrap(count > 1 ? `${text} (${count} times)` : text, Math.max(10, width - head.length));
    // Where not all of it fits, its beginning says most.
    lines.unshift(...wrapped.slice(0, height - lines.length).map((line, row) => ({ head: row === 0 ? head : ' '.repeat(head.length), level, text: line })));
  }
  return lines;
}
