/** Measures loads in several modes, in rounds that take turns, and sets the medians beside each other. */

import { writeFile } from 'node:fs/promises';
import { quantile } from '../../src/agent/pause-history.js';
import { Progress } from '../../src/cli/progress.js';
import { addresses } from '../../src/lab/topology.js';
import { LoadError, type Figures, type Target } from './load.js';
import { removeLeftovers, startMode, type Counts, type Declared, type Mode } from './modes.js';

export interface ComparisonOptions {
  rounds: number;
  /** Each load is measured for so long in each round. */
  seconds: number;
  vcpus: number;
  connections: number;
  modes: readonly Mode[];
}

/** What came of a load in one mode. */
export interface Measured extends Figures {
  checkpoints: number;
  /** Of the output that left under protection, what a match released; undefined where nobody counts. */
  releasedByCompareShare?: number;
}

/** What was measured; undefined if it was not, or failed. */
export type Look = (mode: Mode, load: string) => Measured | undefined;

/** What is measured, and what of it is worth a ratio. */
export interface Comparison {
  port: number;
  /** What the modes with pre-release declare. */
  services: readonly Declared[];
  /** Comes before the loads of every round. */
  prepare?: (target: Target) => Promise<void>;
  loads: Record<string, (target: Target) => Promise<Figures>>;
  /** Undefined: something it needs was not measured. */
  ratios: Record<string, (look: Look) => number | undefined>;
}

/** One figure of a load in one mode, divided by that in another. */
export function ratio(load: string, mode: Mode, over: Mode, of: keyof Figures): (look: Look) => number | undefined {
  return (look) => {
    const [ours, theirs] = [look(mode, load)?.[of], look(over, load)?.[of]];
    return ours === undefined || theirs === undefined ? undefined : ours / theirs;
  };
}

/** Something that could not be measured, and why. */
interface Failed {
  failed: string;
}

type ModeResult = Record<string, Measured | Failed> | Failed;

/** What has been seen of one mode. One failure is enough: medians of what is left would flatter it. */
class ModeRecord {
  readonly #rounds = new Map<string, Measured[]>();
  readonly #failures = new Map<string, string>();
  #failure: string | undefined;

  get failed(): boolean {
    return this.#failure !== undefined;
  }

  hasFailed(load: string): boolean {
    return this.#failures.has(load);
  }

  add(load: string, measured: Measured): void {
    this.#rounds.set(load, [...this.#rounds.get(load) ?? [], measured]);
  }

  fail(load: string, why: string): void {
    if (!this.#failures.has(load)) this.#failures.set(load, why);
  }

  failWhole(why: string): void {
    this.#failure ??= why;
  }

  result(loads: readonly string[]): ModeResult {
    if (this.#failure !== undefined) return { failed: this.#failure };
    return Object.fromEntries(loads.map((load) => {
      const failed = this.#failures.get(load);
      return [load, failed === undefined ? medians(this.#rounds.get(load) ?? []) : { failed }];
    }));
  }
}

/** Measures, prints, and writes the figures to `jsonPath` if there is one. Sets exit code 1 if something failed. */
export async function compare(comparison: Comparison, options: ComparisonOptions, jsonPath: string | undefined): Promise<void> {
  const interruption = new AbortController();
  const onSignal = (name: string): void => interruption.abort(new Error(`interrupted by ${name}`));
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
  for (const name of signals) process.on(name, onSignal);
  const progress = new Progress(process.stdout);
  const records = new Map(options.modes.map((mode) => [mode, new ModeRecord()]));
  try {
    await removeLeftovers();
    for (let round = 0; round < options.rounds; round++) {
      progress.title(`Round ${round + 1} of ${options.rounds}`);
      // Each mode comes first in turn.
      const turn = round % options.modes.length;
      for (const mode of [...options.modes.slice(turn), ...options.modes.slice(0, turn)]) {
        await measure(comparison, options, mode, records.get(mode)!, progress, interruption.signal);
      }
    }
  } catch (error) {
    progress.failed();
    // Control-C reaches all programs of the terminal, those that were just cleaning up too.
    await removeLeftovers();
    if (!interruption.signal.aborted) throw error;
    process.stdout.write('Interrupted; everything is cleaned up.\n');
    process.exitCode = 130;
    return;
  } finally {
    for (const name of signals) process.off(name, onSignal);
  }
  const loads = Object.keys(comparison.loads);
  const results = Object.fromEntries([...records].map(([mode, record]) => [mode, record.result(loads)]));
  const ratios = ratiosOf(comparison, results);
  print(loads, results, ratios, options);
  if (jsonPath !== undefined) await writeFile(jsonPath, `${JSON.stringify({ ...results, ratios }, undefined, 2)}\n`);
  if (Object.values(results).some((result) => isFailed(result) || Object.values(result).some(isFailed))) process.exitCode = 1;
}

/** One mode's part of a round, from an empty machine to an empty machine. What fails is recorded. */
async function measure(
  { port, services, prepare, loads }: Comparison, { seconds, vcpus, connections }: ComparisonOptions,
  mode: Mode, record: ModeRecord, progress: Progress, signal: AbortSignal,
): Promise<void> {
  const names = Object.keys(loads);
  if (record.failed || names.every((name) => record.hasFailed(name))) return;
  signal.throwIfAborted();
  const failed = (error: unknown): string => {
    if (signal.aborted) throw signal.reason;
    const { message } = error as Error;
    progress.done(`FAILED: ${firstLine(message)}`);
    return message;
  };
  progress.start(`${mode}: boot the guest`);
  const subject = await startMode(mode, { vcpus, services, signal }).catch((error: unknown) => record.failWhole(failed(error)));
  if (!subject) return;
  try {
    progress.done('ready');
    const target: Target = { netns: subject.clientNamespace, host: addresses.guest, port, connections, seconds, signal };
    await prepare?.(target);
    for (const [index, name] of names.entries()) {
      if (record.hasFailed(name)) continue;
      progress.start(`${mode}: ${name}`);
      try {
        const before = await subject.counts();
        const figures = await loads[name]!(target);
        const measured = { ...figures, ...between(before, await subject.counts()) };
        record.add(name, measured);
        progress.done(describe(measured));
      } catch (error) {
        const why = failed(error);
        record.fail(name, why);
        if (error instanceof LoadError) continue;
        // The guest does not run as its mode says: nothing more can be learnt from it.
        for (const next of names.slice(index + 1)) record.fail(next, `not measured, since ${name} failed: ${why}`);
        break;
      }
    }
  } catch (error) {
    record.failWhole(failed(error));
  } finally {
    await subject.stop();
  }
}

function between(before: Counts, after: Counts): Omit<Measured, keyof Figures> {
  const checkpoints = after.checkpoints - before.checkpoints;
  if (!before.output || !after.output) return { checkpoints };
  const packets = after.output.packets - before.output.packets;
  return { checkpoints, releasedByCompareShare: packets === 0 ? 0 : (after.output.matched - before.output.matched) / packets };
}

function ratiosOf({ ratios }: Comparison, results: Record<string, ModeResult>): Record<string, number | null> {
  const look: Look = (mode, load) => {
    const result = results[mode];
    const measured = result === undefined || isFailed(result) ? undefined : result[load];
    return measured === undefined || isFailed(measured) ? undefined : measured;
  };
  return Object.fromEntries(Object.entries(ratios).map(([name, of]) => {
    const value = of(look);
    return [name, value === undefined ? null : rounded(value)];
  }));
}

function print(loads: readonly string[], results: Record<string, ModeResult>, ratios: Record<string, number | null>, options: ComparisonOptions): void {
  const { rounds, seconds, vcpus, connections } = options;
  const width = Math.max(...loads.map(({ length }) => length));
  const lines = ['', `Medians of ${rounds} rounds of ${seconds} s each, guest with ${vcpus} vCPU${vcpus === 1 ? '' : 's'}, ${connections} connection${connections === 1 ? '' : 's'}:`];
  for (const [mode, result] of Object.entries(results)) {
    for (const load of isFailed(result) ? [''] : loads) {
      const figures = isFailed(result) ? result : result[load]!;
      lines.push(`  ${mode.padEnd(12)} ${load.padEnd(width)}  ${isFailed(figures) ? `FAILED: ${firstLine(figures.failed)}` : describe(figures)}`);
    }
  }
  lines.push('Ratios:');
  for (const [name, value] of Object.entries(ratios)) lines.push(`  ${name.padEnd(20)} ${value ?? 'not measured'}`);
  process.stdout.write(`${lines.join('\n')}\n`);
}

function describe({ rps, p50Ms, p99Ms, checkpoints, releasedByCompareShare: share }: Measured): string {
  const matched = share === undefined || share === 0 ? '' : `, ${Math.round(100 * share)} % matched`;
  return `${rps.toFixed(rps < 100 ? 1 : 0).padStart(6)}/s, p50 ${p50Ms.toFixed(2)} ms, p99 ${p99Ms.toFixed(2)} ms, ${checkpoints} checkpoints${matched}`;
}

/** @param rounds at least one */
function medians(rounds: readonly Measured[]): Measured {
  const median = (of: (measured: Measured) => number): number => rounded(quantile(rounds.map(of), 0.5)!);
  return {
    rps: median(({ rps }) => rps), p50Ms: median(({ p50Ms }) => p50Ms), p99Ms: median(({ p99Ms }) => p99Ms),
    checkpoints: median(({ checkpoints }) => checkpoints),
    ...(rounds.some(({ releasedByCompareShare }) => releasedByCompareShare === undefined) ? {}
      : { releasedByCompareShare: median(({ releasedByCompareShare }) => releasedByCompareShare!) }),
  };
}

function rounded(value: number): number {
  return Number(value.toFixed(3));
}

/** Errors may bring the end of a log with them, which has its place in the JSON. */
function firstLine(text: string): string {
  return text.split('\n', 1)[0]!;
}

function isFailed(result: object): result is Failed {
  return 'failed' in result;
}
