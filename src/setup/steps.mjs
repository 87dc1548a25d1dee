/**
 * The engine of set-up: runs steps in order, skips those whose product is in place, says what happens and how long
 * it takes.
 */
import { mkdirSync, existsSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { SetupError } from './errors.mjs';
import { Runner } from './process.mjs';

/** How much of a failed step's log is shown. */
const SHOWN_LINES = 20;
/** A step that takes longer than this shows how long it has been at it. */
const TICKER_AFTER_MS = 2000;

/**
 * One step. It is in place when `inPlace` says so or, where there is no such question to ask of the world, when its
 * last success had the same `inputs` and all of `outputs` still exist.
 *
 * @typedef {object} Step
 * @property {string} name names its log file and stamp, and is what `--only` and error messages call it
 * @property {string} title for people
 * @property {string} doing what it is about to do, for people
 * @property {string} remedy what to try when it fails, unless the failure knows better
 * @property {() => boolean} [inPlace]
 * @property {() => string} [inputs] fingerprint of all that the product depends on
 * @property {() => readonly string[]} [outputs] absolute paths
 * @property {(runner: Runner) => Promise<void>} run
 */

/**
 * Run `steps` in order, up to the first that fails.
 *
 * @param {readonly Step[]} steps
 * @param {{ buildDir: string, signal: AbortSignal, reporter: Reporter }} options
 * @throws {SetupError} of the step that failed; its output has been shown
 */
export async function runSteps(steps, { buildDir, signal, reporter }) {
  for (const step of steps) {
    signal.throwIfAborted();
    const stampFile = join(buildDir, 'stamps', `${step.name}.json`);
    const inputs = step.inputs?.();
    if (step.inPlace?.() ?? (inputs !== undefined && readStamp(stampFile) === inputs && (step.outputs?.() ?? []).every((path) => existsSync(path)))) {
      reporter.inPlace(step);
      continue;
    }
    const logFile = join(buildDir, 'log', `${step.name}.log`);
    reporter.started(step);
    try {
      // From here until it succeeds, nothing of an earlier run is to be trusted.
      rmSync(stampFile, { force: true });
      await step.run(new Runner({ logFile, signal }));
      signal.throwIfAborted();
      const missing = (step.outputs?.() ?? []).filter((path) => !existsSync(path));
      if (missing.length > 0) throw new SetupError('EOUTPUT', `It ended well, but did not leave ${missing.join(', ')}.`);
      if (inputs !== undefined) writeStamp(stampFile, inputs);
    } catch (error) {
      if (signal.aborted) {
        reporter.interrupted(step);
        throw signal.reason;
      }
      throw reporter.failed(step, logFile, error);
    }
    reporter.done(step);
  }
}

/** @param {string} file */
function readStamp(file) {
  try {
    return JSON.parse(readFileSync(file, 'utf8')).inputs;
  } catch {
    return undefined; // none, or not ours: the step runs
  }
}

/** @param {string} file @param {string} inputs */
function writeStamp(file, inputs) {
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(`${file}.new`, `${JSON.stringify({ inputs })}\n`);
  renameSync(`${file}.new`, file);
}

/** Says on a terminal, or in plain lines elsewhere, how the steps go. */
export class Reporter {
  /** @type {NodeJS.Timeout | undefined} */
  #ticker;
  #startedMs = 0;
  #width;

  /** @param {{ out: NodeJS.WriteStream, root: string, steps: readonly Step[] }} options */
  constructor({ out, root, steps }) {
    this.out = out;
    this.root = root;
    this.live = out.isTTY === true;
    this.#width = Math.max(...steps.map((step) => step.title.length));
  }

  /** @param {Step} step */
  inPlace(step) {
    this.#line(step, 'in place');
  }

  /** @param {Step} step */
  started(step) {
    this.#startedMs = performance.now();
    if (!this.live) {
      this.#line(step, `${step.doing} ...`);
      return;
    }
    const draw = () => {
      const elapsedMs = performance.now() - this.#startedMs;
      this.#rewrite(step, elapsedMs < TICKER_AFTER_MS ? step.doing : `${step.doing}  ${Math.floor(elapsedMs / 1000)} s`);
    };
    draw();
    this.#ticker = setInterval(draw, 1000);
  }

  /** @param {Step} step */
  done(step) {
    this.#end();
    this.#line(step, `done in ${this.#elapsed()}`);
  }

  /** @param {Step} step */
  interrupted(step) {
    this.#end();
    this.#line(step, `interrupted after ${this.#elapsed()}`);
  }

  /**
   * Show what a failed step printed last, and return the error to end with.
   * @param {Step} step
   * @param {string} logFile
   * @param {unknown} error
   */
  failed(step, logFile, error) {
    this.#end();
    this.#line(step, `FAILED after ${this.#elapsed()}`);
    const log = existsSync(logFile) ? readFileSync(logFile, 'utf8').trimEnd() : '';
    const lines = log === '' ? [] : log.split('\n').slice(-SHOWN_LINES);
    this.out.write(lines.map((line) => `    | ${line.slice(0, 200)}\n`).join(''));
    const message = error instanceof Error ? error.message : String(error);
    const remedy = error instanceof SetupError && error.remedy !== '' ? error.remedy : step.remedy;
    return new SetupError(error instanceof SetupError ? error.code : 'ESTEP', `The set-up step "${step.title}" failed: ${message}`, {
      cause: error,
      exitCode: error instanceof SetupError ? error.exitCode : 1,
      remedy: `${remedy} The whole output is in ${relative(this.root, logFile)}.`,
    });
  }

  #elapsed() {
    return `${((performance.now() - this.#startedMs) / 1000).toFixed(1)} s`;
  }

  #end() {
    clearInterval(this.#ticker);
    if (this.live) this.out.write('\r\x1b[K');
  }

  /** @param {Step} step @param {string} text */
  #line(step, text) {
    this.out.write(`  ${step.title.padEnd(this.#width)}  ${text}\n`);
  }

  /** @param {Step} step @param {string} text */
  #rewrite(step, text) {
    const room = Math.max(20, (this.out.columns ?? 80) - this.#width - 5);
    this.out.write(`\r\x1b[K  ${step.title.padEnd(this.#width)}  ${text.slice(0, room)}`);
  }
}
