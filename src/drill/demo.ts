/**
 * The main job, shown: a protected VM with clients, its host dies without
 * warning, and the same connections go on against the other host.
 */

import { setTimeout as sleep } from 'node:timers/promises';
import { watchAgent } from '../agent/control.js';
import type { AgentNews, AgentStatus } from '../agent/agent.js';
import { quantile } from '../agent/pause-history.js';
import { demoGuest, Lab } from '../lab/lab.js';
import { slowdown } from '../lab/slowdown.js';
import { addresses, setCables } from '../lab/topology.js';
import { ClientProcess } from './client-process.js';

export interface DemoOptions {
  labName: string;
  vcpus: number;
  /** Replies to reads leave before a checkpoint. */
  preRelease: boolean;
  /** `active`: the secondary's VM runs, and output leaves as soon as both have said it. */
  secondary: 'paused' | 'active';
  writers: number;
  readers: number;
  /** Redis clients that only read, and that open a new connection for each write and read. */
  redisReaders: number;
  newcomers: number;
  /** Seconds of load before the kill, and how much more of it chance may add. */
  loadSeconds: number;
  jitterSeconds: number;
  /** Gives numbers from 0 to 1: when to kill. */
  random: () => number;
  /** Leave the lab up after the round. */
  keep: boolean;
  signal: AbortSignal;
  /** What is being done now; `done` closes the line with a result. */
  onProgress: (step: string, done?: string) => void;
}

export interface DemoRound {
  accel: 'kvm' | 'tcg';
  checkpoints: { count: number; pausesMs: number[] };
  failover: { detectMs: number; takeoverMs: number; firstReplyMs: number };
  /** The guest's packets until the kill, and those of them that left before a checkpoint: at once, or matched by the secondary's. */
  output: { packets: number; early: number; match: number };
  connections: { open: number; survived: number; broken: { name: string; why: string }[] };
  writes: { acknowledged: number; lost: number };
  /** The primary died between the STOP and the RESUME of a checkpoint. */
  killedInCheckpoint: boolean;
}

/** The demo's result in figures: of all rounds together, times as medians. */
export interface DemoSummary {
  accel: 'kvm' | 'tcg';
  checkpoints: { count: number; pauseMsP50: number; pauseMsP99: number };
  failover: { detectMs: number; takeoverMs: number; firstReplyMs: number; firstReplyMsMax: number };
  output: { packets: number; early: number; match: number };
  connections: { open: number; survived: number };
  writes: { acknowledged: number; lost: number };
  rounds: { passed: number; failed: number };
}

const protectTimeoutMs = 120_000;
const takeoverTimeoutMs = 15_000;
/** So long a pair may be apart while clients load it: it comes together again by itself. */
const hiccupMs = 5000;
const afterTakeoverMs = 2000;
/** Later than this, the service was gone for too long whatever survived. */
const longestSilenceMs = 15_000;

/** One round, from an empty machine to an empty machine. */
export async function runDemoRound(options: DemoOptions): Promise<DemoRound> {
  const lab = new Lab(options.labName);
  const { onProgress, signal } = options;
  let clients: ClientProcess | undefined;
  const watching = new AbortController();
  try {
    onProgress('two hosts, a client, two networks; both agents');
    await lab.up({ preRelease: options.preRelease, secondary: options.secondary, vcpus: options.vcpus, signal });
    onProgress('', 'up');

    onProgress('boot the guest and copy it to host b');
    const status = await lab.waitFor('a', 'protected', (s) => s.protected, protectTimeoutMs, signal);
    onProgress('', `protected (${status.vm.accel})`);

    onProgress('connect clients');
    clients = new ClientProcess(lab.topology.client);
    const { ports } = demoGuest();
    await lab.waitForGuest(protectTimeoutMs, signal);
    const { connections } = await clients.start({
      guest: addresses.guest, redisPort: ports.redis, httpPort: ports.http, writers: options.writers, readers: options.readers,
      redisReaders: options.redisReaders, newcomers: options.newcomers,
    });
    onProgress('', `${connections} connections`);

    const commits: number[] = [];
    const primary = follow(lab, 'a', watching.signal, (news) => {
      if (news.event === 'commit') commits.push(news.pauseMs);
    });
    const notes = new Map<string, bigint>();
    const secondary = follow(lab, 'b', watching.signal, (news) => {
      if (news.event === 'note') notes.set(news.code, BigInt(news.atNs));
    });

    const loadMs = (options.loadSeconds + options.random() * options.jitterSeconds) * 1000;
    onProgress(`clients write and read for ${(loadMs / 1000).toFixed(1)} s`);
    await sleep(loadMs, undefined, { signal });
    const before = await clients.progress();
    onProgress('', `${before.acknowledged} writes acknowledged, ${commits.length} checkpoints`);

    onProgress('kill host a: agent, QEMU and cables at once');
    // A host that has failed of itself, and was survived, is not the one that this is about.
    const doomed = await lab.waitFor('a', 'protected by b', (s) => s.active && s.protected, hiccupMs, signal);
    const killedNs = await killHost(lab, doomed);
    onProgress('', `a download was at ${before.downloadBytes} bytes`);

    onProgress('host b takes over');
    await lab.waitFor('b', 'active', (s) => s.active, takeoverTimeoutMs, signal);
    const detectedNs = notes.get('TAKING_OVER') ?? killedNs;
    const tookOverNs = notes.get('ACTIVE_ALONE') ?? killedNs;
    onProgress('', `after ${ms(tookOverNs - killedNs).toFixed(0)} ms`);

    onProgress('the same connections go on; then read back every acknowledged write');
    await sleep(afterTakeoverMs * slowdown(), undefined, { signal });
    const outcome = await clients.stop(tookOverNs);
    const broken = outcome.reports.flatMap((r) => r.broken === undefined ? [] : [{ name: r.name, why: r.broken }]);
    const firstReplies = outcome.reports.map((r) => BigInt(r.firstReplyNs)).filter((time) => time > 0n);
    const firstReplyNs = firstReplies.reduce((least, time) => time < least ? time : least, killedNs + BigInt(longestSilenceMs) * 1_000_000n);
    onProgress('', `${connections - broken.length} of ${connections} survived, ${outcome.lost} of ${outcome.acknowledged} writes lost`);

    watching.abort();
    await Promise.allSettled([primary, secondary]);
    return {
      accel: status.vm.accel,
      checkpoints: { count: commits.length, pausesMs: commits },
      failover: { detectMs: ms(detectedNs - killedNs), takeoverMs: ms(tookOverNs - detectedNs), firstReplyMs: ms(firstReplyNs - killedNs) },
      output: outputOf(doomed),
      connections: { open: connections, survived: connections - broken.length, broken },
      writes: { acknowledged: outcome.acknowledged, lost: outcome.lost },
      killedInCheckpoint: doomed.phase === 'checkpointing',
    };
  } finally {
    watching.abort();
    clients?.kill();
    if (!options.keep || signal.aborted) {
      onProgress('clean up');
      const { processes } = await lab.down();
      onProgress('', `${processes} processes ended`);
    }
  }
}

export function passed(round: DemoRound): boolean {
  return round.connections.survived === round.connections.open && round.writes.lost === 0 && round.writes.acknowledged > 0;
}

/** @param rounds at least one */
export function summarize(rounds: readonly DemoRound[]): DemoSummary {
  const pauses = rounds.flatMap((round) => round.checkpoints.pausesMs);
  const median = (pick: (round: DemoRound) => number): number => quantile(rounds.map(pick), 0.5) ?? 0;
  const sum = (pick: (round: DemoRound) => number): number => rounds.reduce((total, round) => total + pick(round), 0);
  const good = rounds.filter(passed).length;
  return {
    accel: rounds[0]!.accel,
    checkpoints: { count: sum((r) => r.checkpoints.count), pauseMsP50: quantile(pauses, 0.5) ?? 0, pauseMsP99: quantile(pauses, 0.99) ?? 0 },
    failover: {
      detectMs: median((r) => r.failover.detectMs), takeoverMs: median((r) => r.failover.takeoverMs),
      firstReplyMs: median((r) => r.failover.firstReplyMs), firstReplyMsMax: Math.max(...rounds.map((r) => r.failover.firstReplyMs)),
    },
    output: { packets: sum((r) => r.output.packets), early: sum((r) => r.output.early), match: sum((r) => r.output.match) },
    connections: { open: sum((r) => r.connections.open), survived: sum((r) => r.connections.survived) },
    writes: { acknowledged: sum((r) => r.writes.acknowledged), lost: sum((r) => r.writes.lost) },
    rounds: { passed: good, failed: rounds.length - good },
  };
}

function outputOf({ output: { earlyPackets, releasedPackets, releasedBy } }: AgentStatus): DemoRound['output'] {
  return { packets: earlyPackets + releasedPackets, early: earlyPackets + releasedBy.logged, match: releasedBy.match };
}

/** The power of host a fails: nothing of it runs or sends any more. @returns when */
async function killHost(lab: Lab, doomed: AgentStatus): Promise<bigint> {
  const atNs = process.hrtime.bigint();
  const cables = setCables(lab.topology, 'a', 'down');
  for (const pid of [doomed.pid, doomed.vm.pid]) if (pid !== null) process.kill(pid, 'SIGKILL');
  await cables;
  return atNs;
}

async function follow(lab: Lab, host: 'a' | 'b', signal: AbortSignal, onNews: (news: AgentNews) => void): Promise<void> {
  let first = true;
  for await (const news of watchAgent(lab.socket(host), signal)) {
    if (!first) onNews(news as AgentNews); // the first is the answer to the request
    first = false;
  }
}

function ms(ns: bigint): number {
  return Number(ns) / 1e6;
}
