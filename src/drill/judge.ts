/** From what was seen to what it means: each expectation, met or not, with the figures. Pure. */

import type { Reign } from '../lab/cables.js';
import type { HostName } from '../lab/topology.js';
import { timeText } from './quantities.js';
import type { Bounds, HostWord, MetricName, Script } from './script.js';

/** What happened to the clients of one load. */
export interface LoadOutcome {
  connections: number;
  broken: { name: string; why: string }[];
  replies: number;
  acknowledged: number;
  lost: number;
  longestSilenceMs: number;
}

export interface Observations {
  /** What was done to the pair, in order. CLOCK_MONOTONIC nanoseconds. */
  disturbances: { atNs: bigint; what: string }[];
  /** Seen on the wire; undefined where nobody watched. */
  speech: { first: HostName; reigns: Reign[]; count: number } | undefined;
  loads: LoadOutcome[];
  protectedAtEnd: boolean;
  metrics: { host: HostWord; metric: MetricName; value: number | undefined; bounds: Bounds }[];
}

export interface Finding { expectation: string; met: boolean; text: string }

/**
 * Who takes over rules until it has a new secondary, and that takes longer than this. A shorter
 * reign between two of the other host means that both were active.
 */
const shortestReignNs = 1_000_000_000n;

export function judge(expect: Script['expect'], seen: Observations): Finding[] {
  return [...judgeSpeech(expect, seen), ...judgeLoads(expect, seen.loads), ...judgeStatus(expect, seen)];
}

interface Takeover { reign: Reign; cause: Observations['disturbances'][number] | undefined; afterMs: number }

/** The reigns in which the guest spoke from another host than before. */
export function takeovers({ disturbances, speech }: Observations): Takeover[] {
  const found: Takeover[] = [];
  let speaker = speech?.first;
  for (const reign of speech?.reigns ?? []) {
    if (reign.host !== speaker) {
      const cause = disturbances.findLast(({ atNs }) => atNs <= reign.firstNs);
      found.push({ reign, cause, afterMs: cause ? Number(reign.firstNs - cause.atNs) / 1e6 : Infinity });
    }
    speaker = reign.host;
  }
  return found;
}

function judgeSpeech(expect: Script['expect'], seen: Observations): Finding[] {
  const { speech } = seen;
  if (!speech) return [];
  const findings: Finding[] = [];
  const found = takeovers(seen);
  if (expect.oneActive !== false) {
    const { reigns, count } = speech;
    const short = reigns.findIndex((reign, i) => i > 0 && i < reigns.length - 1 && reigns[i + 1]!.firstNs - reign.firstNs < shortestReignNs);
    const met = short < 0 && count === reigns.length;
    findings.push({
      expectation: 'oneActive', met,
      text: met ? `the guest was heard from one host at a time: ${reigns.length === 0 ? 'it said nothing' : reigns.map(({ host, frames }) => `${frames} frames of ${host}`).join(', then ')}`
        : `both hosts were heard: ${count} times the voice changed${short < 0 ? '' : `; ${reigns[short]!.host} for ${timeText(Number(reigns[short + 1]!.firstNs - reigns[short]!.firstNs) / 1e6)} between frames of ${reigns[short + 1]!.host}`}`,
    });
  }
  if (expect.takeovers !== undefined) {
    findings.push({ expectation: 'takeovers', met: found.length === expect.takeovers, text: `${found.length} of ${expect.takeovers}` });
  }
  if (expect.takeoverWithin !== undefined) {
    const worst = found.reduce<Takeover | undefined>((slowest, one) => (slowest && slowest.afterMs >= one.afterMs ? slowest : one), undefined);
    findings.push({
      expectation: 'takeoverWithin', met: worst !== undefined && worst.afterMs <= expect.takeoverWithin,
      text: worst === undefined ? 'nobody took over'
        : `host ${worst.reign.host} spoke ${timeText(worst.afterMs)} after ${worst.cause?.what ?? 'nothing that this drill did'}; ${timeText(expect.takeoverWithin)} are allowed`,
    });
  }
  return findings;
}

function judgeLoads(expect: Script['expect'], loads: readonly LoadOutcome[]): Finding[] {
  if (loads.length === 0) return [];
  const findings: Finding[] = [];
  const sum = (pick: (load: LoadOutcome) => number): number => loads.reduce((total, load) => total + pick(load), 0);
  const broken = loads.flatMap((load) => load.broken);
  if (expect.connectionsSurvive !== false) {
    const all = sum((load) => load.connections);
    findings.push({
      expectation: 'connectionsSurvive', met: broken.length === 0 && sum((load) => load.replies) > 0,
      text: `${all - broken.length} of ${all} connections go on, after ${sum((load) => load.replies)} replies${broken.map(({ name, why }) => `; ${name}: ${why}`).join('')}`,
    });
  }
  if (expect.writesKept !== false) {
    const lost = sum((load) => load.lost);
    findings.push({ expectation: 'writesKept', met: lost === 0, text: `${lost} of ${sum((load) => load.acknowledged)} acknowledged writes are lost` });
  }
  if (expect.longestSilence !== undefined) {
    const longestMs = Math.max(...loads.map((load) => load.longestSilenceMs));
    findings.push({ expectation: 'longestSilence', met: longestMs <= expect.longestSilence, text: `${timeText(longestMs)}; ${timeText(expect.longestSilence)} are allowed` });
  }
  return findings;
}

function judgeStatus(expect: Script['expect'], { protectedAtEnd, metrics }: Observations): Finding[] {
  const findings: Finding[] = [];
  if (expect.protectedAtEnd !== undefined) {
    findings.push({ expectation: 'protectedAtEnd', met: protectedAtEnd === expect.protectedAtEnd, text: protectedAtEnd ? 'the pair is protected' : 'the pair is not protected' });
  }
  for (const { host, metric, value, bounds } of metrics) {
    findings.push({ expectation: 'metrics', met: isWithin(value, bounds), text: `${metric} of ${host} is ${value ?? 'not known'}, expected ${boundsText(bounds)}` });
  }
  return findings;
}

export function isWithin(value: number | undefined, { atLeast = -Infinity, atMost = Infinity }: Bounds): boolean {
  return value !== undefined && value >= atLeast && value <= atMost;
}

export function boundsText({ atLeast, atMost }: Bounds): string {
  return [...(atLeast === undefined ? [] : [`at least ${atLeast}`]), ...(atMost === undefined ? [] : [`at most ${atMost}`])].join(', ');
}
