/** Runs a drill from nothing to nothing, and says what it found. */

import { copyFileSync, existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { hostNames } from '../lab/topology.js';
import type { Lab } from '../lab/lab.js';
import { slowdown } from '../lab/slowdown.js';
import { judge, type Finding, type LoadOutcome, type Observations } from './judge.js';
import { Performer, stepText } from './perform.js';
import { seededRandom } from './random.js';
import type { Script } from './script.js';
import { Stage } from './stage.js';

/** `not run` is no pass: the stage could not be set, or the run was cut short. */
export type Outcome = 'passed' | 'failed' | 'not run';

export interface DrillResult {
  drill: string;
  proves: string;
  seed: number;
  outcome: Outcome;
  /** Why it was not run, or which step failed; empty otherwise. */
  reason: string;
  seconds: number;
  steps: { text: string; result: string; seconds: number }[];
  findings: Finding[];
  loads: LoadOutcome[];
  /** The ends of the agents' logs, unless it passed. */
  logs: Record<string, string>;
}

export interface DrillOptions {
  labName: string;
  seed: number;
  /** Copies of all logs of a drill that did not pass go there. */
  logDir?: string | undefined;
  /** Leave the lab of a drill that failed as it is. */
  keep: boolean;
  signal: AbortSignal;
  /** What is being done now; `done` closes the line with a result. */
  onProgress: (step: string, done?: string) => void;
}

const loggedLines = 20;

export async function runDrill(script: Script, options: DrillOptions): Promise<DrillResult> {
  const { labName, seed, signal, onProgress } = options;
  const startedMs = performance.now();
  const result: DrillResult = {
    drill: script.drill, proves: script.proves, seed, outcome: 'not run', reason: '', seconds: 0, steps: [], findings: [], loads: [], logs: {},
  };
  let stage: Stage | undefined;
  try {
    onProgress(script.pair ? 'find the pair' : 'make a lab with a protected guest');
    stage = await Stage.open(script, labName, signal);
    onProgress('', 'protected');
    await play(script, stage, options, result);
  } catch (error) {
    onProgress('', signal.aborted ? 'interrupted' : 'FAILED');
    result.reason = signal.aborted ? 'it was interrupted' : (error as Error).message;
  } finally {
    if (stage) {
      if (stage.lab) stage.faults.thaw(); // what stands still could not be ended in order
      if (result.outcome !== 'passed' && stage.lab) keepLogs(stage.lab, result, options.logDir);
      await stage.close(options.keep && result.outcome === 'failed');
    }
    result.seconds = (performance.now() - startedMs) / 1000;
  }
  return result;
}

async function play(script: Script, stage: Stage, { seed, signal, onProgress }: DrillOptions, result: DrillResult): Promise<void> {
  const performer = new Performer(stage, seededRandom(seed), signal);
  const first = await stage.hostOf('primary');
  await stage.cables?.forget();
  const perform = async (text: string, action: () => Promise<string>): Promise<void> => {
    const startedMs = performance.now();
    onProgress(text);
    const record = (came: string): void => {
      result.steps.push({ text, result: came, seconds: (performance.now() - startedMs) / 1000 });
    };
    try {
      const came = await action();
      onProgress('', came);
      record(came);
    } catch (error) {
      record('failed');
      throw error;
    }
  };
  try {
    for (const step of script.steps) {
      signal.throwIfAborted();
      await perform(stepText(step), () => performer.perform(step));
    }
    if (performer.isLoading) await perform('end the load and read everything back', () => performer.perform('stopLoad'));
  } catch (error) {
    if (signal.aborted) throw error;
    onProgress('', 'FAILED');
    result.reason = (error as Error).message;
  } finally {
    performer.abandon();
  }
  result.loads = performer.loads;
  result.findings = judge(lengthened(script.expect, slowdown()), await observe(script, stage, performer, first));
  result.outcome = result.reason === '' && result.findings.every(({ met }) => met) ? 'passed' : 'failed';
}

/** On a machine where everything takes longer, longer is allowed. */
function lengthened(expect: Script['expect'], factor: number): Script['expect'] {
  const times = (['takeoverWithin', 'longestSilence'] as const).filter((key) => expect[key] !== undefined);
  return { ...expect, ...Object.fromEntries(times.map((key) => [key, expect[key]! * factor])) };
}

async function observe(script: Script, stage: Stage, { disturbances, loads }: Performer, first: 'a' | 'b'): Promise<Observations> {
  const metrics = await Promise.all(script.expect.metrics.map(async ({ host: word, metric, ...bounds }) => {
    const host = await stage.hostOf(word).catch(() => undefined);
    return { host: host ?? word, metric, bounds, value: host && await stage.metric(host, metric) };
  }));
  const report = await stage.cables?.report();
  return {
    disturbances, loads, metrics,
    speech: report && { first, reigns: report.reigns, count: report.reignCount },
    protectedAtEnd: await stage.isProtected(),
  };
}

/** Logs that cannot be copied are told of in the result: the lab has still to go. */
export function keepLogs(lab: Pick<Lab, 'log'>, result: DrillResult, logDir: string | undefined): void {
  for (const host of hostNames) {
    try {
      result.logs[host] = readFileSync(lab.log(host, 'agent'), 'utf8').trimEnd().split('\n').slice(-loggedLines).join('\n');
    } catch {
      // A host that was never made has no log.
    }
    if (logDir === undefined) continue;
    try {
      const dir = join(logDir, `${result.drill}-${result.seed}`, host);
      mkdirSync(dir, { recursive: true, mode: 0o700 });
      const logs = (['agent', 'qemu', 'console'] as const).filter((which) => existsSync(lab.log(host, which)));
      for (const which of logs) copyFileSync(lab.log(host, which), join(dir, `${which}.log`));
    } catch (error) {
      result.reason = [result.reason, `the logs of host ${host} could not be kept: ${(error as Error).message}`].filter(Boolean).join('; ');
    }
  }
}
