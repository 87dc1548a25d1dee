/** What the monitor knows, as a pure function of what it has observed. */

import type { Level, Observation, SeenNews, SeenService, SeenStatus } from './observation.js';

const secondsKept = 300;
const eventsKept = 500;
/** Rates are over this many of the latest statuses. */
const samplesKept = 6;
/** Among so many of the latest events, one that repeats is counted instead of shown again. */
const repeatsWithin = 4;

/** Checkpoints that were committed within one second of the clock. */
export interface CommitSecond { second: number; count: number; maxPauseMs: number }

/** Counters of the gate at one time. */
export interface OutputSample {
  atMs: number; released: number; passed: number; dropped: number; early: number; sentBytes: number;
  releasedBy: SeenStatus['output']['releasedBy'];
  /** In the order of the status. */
  services: readonly { early: number; held: number }[];
}

/** One agent, as far as it has been seen. */
export interface Seen {
  source: string;
  /** Its newest status; true at `statusAtMs`. */
  status: SeenStatus | undefined;
  statusAtMs: number;
  /** Since when, without a gap, its news have been followed. */
  followedSinceMs: number;
  /** Why it does not answer; undefined while it does. */
  gone: string | undefined;
  /** The phase `checkpointing` began then; undefined in any other. */
  checkpointingSinceMs: number | undefined;
  /** Since then every status said that its VM speaks to the world. */
  activeSinceMs: number | undefined;
  lastCommitAtMs: number | undefined;
  commitSeconds: readonly CommitSecond[];
  samples: readonly OutputSample[];
  /** The agent's clock when it began to take over. */
  takingOverSinceMs: number | undefined;
  /** How long its last takeover took, from the decision to the running VM. */
  takeoverMs: number | undefined;
}

/** A line of the log. */
export interface LogEvent { atMs: number; source: string; level: Level; text: string; count: number }

export interface Model {
  /** In the order they were given. */
  seen: readonly Seen[];
  /** The oldest first. */
  events: readonly LogEvent[];
  /** What became of the last command. */
  said: LogEvent | undefined;
}

export function initialModel(sources: readonly string[]): Model {
  return { seen: sources.map(unseen), events: [], said: undefined };
}

export function reduce(model: Model, observation: Observation): Model {
  if (observation.kind === 'said') {
    const event = { ...observation, count: 1 };
    return withEvent({ ...model, said: event }, event);
  }
  const before = model.seen.find(({ source }) => source === observation.source);
  if (!before) return model; // not one of those that are watched
  const { after, events } = observe(before, observation);
  const seen = model.seen.map((each) => each === before ? after : each);
  return events.reduce(withEvent, { ...model, seen });
}

interface Observed { after: Seen; events: LogEvent[] }

function observe(seen: Seen, observation: Exclude<Observation, { kind: 'said' }>): Observed {
  switch (observation.kind) {
    case 'status': return onStatus(seen, observation.status, observation.atMs);
    case 'news': return onNews(seen, observation.news, observation.atMs);
    case 'gone': return onGone(seen, observation.reason, observation.atMs);
  }
}

function onStatus(seen: Seen, status: SeenStatus, atMs: number): Observed {
  const { output, checkpoints } = status;
  const isNewAgent = seen.status?.pid !== status.pid;
  const events = seen.status === undefined ? []
    : seen.gone !== undefined ? [event(seen, atMs, 'info', `The agent answers again, as process ${status.pid}.`)]
    : phaseEvents(seen, status.role, status.phase, atMs);
  const sample: OutputSample = {
    atMs, released: output.releasedPackets, passed: output.passedPackets, dropped: output.droppedPackets, early: output.earlyPackets,
    sentBytes: checkpoints.sentBytes, releasedBy: output.releasedBy, services: output.services.map(packetsOf),
  };
  const toldCommitAtMs = checkpoints.lastMsAgo === null ? undefined : atMs - checkpoints.lastMsAgo;
  const after: Seen = {
    ...seen,
    status, statusAtMs: atMs, gone: undefined,
    followedSinceMs: seen.gone !== undefined || seen.status === undefined ? atMs : seen.followedSinceMs,
    activeSinceMs: status.active ? seen.activeSinceMs ?? atMs : undefined,
    samples: isNewAgent ? [sample] : [...seen.samples.slice(1 - samplesKept), sample],
    lastCommitAtMs: isNewAgent ? toldCommitAtMs : latest(toldCommitAtMs, seen.lastCommitAtMs),
    checkpointingSinceMs: status.phase === 'checkpointing' ? seen.checkpointingSinceMs ?? atMs : undefined,
  };
  return { after, events };
}

function onNews(seen: Seen, news: SeenNews, atMs: number): Observed {
  switch (news.event) {
    case 'note': return { after: seen, events: [event(seen, atMs, news.level, news.text)] };
    case 'commit': return { after: { ...seen, lastCommitAtMs: atMs, commitSeconds: withCommit(seen.commitSeconds, atMs, news.pauseMs) }, events: [] };
    case 'phase': return onPhase(seen, news, atMs);
  }
}

function onPhase(seen: Seen, news: SeenNews & { event: 'phase' }, atMs: number): Observed {
  const events = phaseEvents(seen, news.role, news.phase, atMs);
  const agentMs = Number(BigInt(news.atNs)) / 1e6;
  const hasTakenOver = seen.takingOverSinceMs !== undefined && news.phase === 'active-alone';
  const after: Seen = {
    ...seen,
    // The rest of the status follows within one interval.
    status: seen.status && { ...seen.status, role: news.role, phase: news.phase },
    checkpointingSinceMs: news.phase === 'checkpointing' ? atMs : undefined,
    takingOverSinceMs: news.phase === 'taking-over' ? agentMs : undefined,
    takeoverMs: hasTakenOver ? agentMs - seen.takingOverSinceMs! : seen.takeoverMs,
  };
  return { after, events };
}

function onGone(seen: Seen, reason: string, atMs: number): Observed {
  const isNews = seen.gone === undefined && seen.status !== undefined;
  return {
    after: { ...seen, gone: reason, takingOverSinceMs: undefined },
    events: isNews ? [event(seen, atMs, 'warn', `The agent does not answer any more: ${reason}.`)] : [],
  };
}

/** The phase as a person cares for it: a checkpoint is part of being protected. */
export function settledPhase(phase: string): string {
  return phase === 'checkpointing' ? 'protected' : phase;
}

function phaseEvents(seen: Seen, role: string, phase: string, atMs: number): LogEvent[] {
  if (!seen.status || (seen.status.role === role && settledPhase(seen.status.phase) === settledPhase(phase))) return [];
  return [event(seen, atMs, 'info', `Now ${role}, ${settledPhase(phase)}.`)];
}

/** What left a service early, and what did not. */
export function packetsOf({ prereleasedPackets, controlPackets, heldPackets }: SeenService): { early: number; held: number } {
  return { early: prereleasedPackets + controlPackets, held: Object.values(heldPackets).reduce((sum, count) => sum + count, 0) };
}

function withCommit(seconds: readonly CommitSecond[], atMs: number, pauseMs: number): CommitSecond[] {
  const second = Math.floor(atMs / 1000);
  const last = seconds.at(-1);
  if (last?.second !== second) return [...seconds.slice(1 - secondsKept), { second, count: 1, maxPauseMs: pauseMs }];
  return [...seconds.slice(0, -1), { second, count: last.count + 1, maxPauseMs: Math.max(last.maxPauseMs, pauseMs) }];
}

function event(seen: Seen, atMs: number, level: Level, text: string): LogEvent {
  return { atMs, source: seen.status?.host ?? seen.source, level, text, count: 1 };
}

function withEvent(model: Model, event: LogEvent): Model {
  const from = Math.max(0, model.events.length - repeatsWithin);
  const repeated = model.events.slice(from).find(({ source, text }) => source === event.source && text === event.text);
  const others = repeated ? model.events.filter((each) => each !== repeated) : model.events.slice(1 - eventsKept);
  return { ...model, events: [...others, { ...event, count: 1 + (repeated?.count ?? 0) }] };
}

function latest(a: number | undefined, b: number | undefined): number | undefined {
  return a === undefined ? b : b === undefined ? a : Math.max(a, b);
}

function unseen(source: string): Seen {
  return {
    source, status: undefined, statusAtMs: 0, followedSinceMs: 0, gone: undefined, checkpointingSinceMs: undefined,
    activeSinceMs: undefined, lastCommitAtMs: undefined, commitSeconds: [], samples: [],
    takingOverSinceMs: undefined, takeoverMs: undefined,
  };
}
