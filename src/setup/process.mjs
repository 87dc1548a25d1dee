import { spawn } from 'node:child_process';
import { appendFileSync, closeSync, mkdirSync, openSync } from 'node:fs';
import { dirname } from 'node:path';
import { SetupError } from './errors.mjs';

/** How much of a child's output is kept in memory for error messages and for callers that parse it. */
const KEPT_OUTPUT_BYTES = 8 * 1024 * 1024;
/** How long a child that was asked to end may take before it is killed. */
const GRACE_MS = 3000;

/**
 * Runs programs for one step: output goes to the step's log file, nothing goes through a shell, and every child is
 * the leader of its own process group, so that ending it ends whatever it started.
 */
export class Runner {
  /** @param {{ logFile: string, signal: AbortSignal }} options */
  constructor({ logFile, signal }) {
    this.logFile = logFile;
    this.signal = signal;
    mkdirSync(dirname(logFile), { recursive: true });
    closeSync(openSync(logFile, 'w'));
  }

  /**
   * Run `program` to its end and return its standard output.
   *
   * @param {string} program
   * @param {readonly string[]} args
   * @param {{ cwd?: string, env?: NodeJS.ProcessEnv, timeoutMs?: number, uninterruptible?: boolean }} [options]
   *   an uninterruptible program is left to finish when set-up is interrupted
   * @returns {Promise<string>}
   * @throws {SetupError} `ECHILD` when it cannot be started, ends with another status than 0 or exceeds its time
   */
  async run(program, args, { cwd, env, timeoutMs = 30 * 60_000, uninterruptible = false } = {}) {
    this.signal.throwIfAborted();
    this.log(`$ ${[program, ...args].join(' ')}\n`);
    return new Promise((resolve, reject) => {
      const child = spawn(program, args, {
        cwd, env: { ...process.env, LC_ALL: 'C.UTF-8', ...env }, detached: true, stdio: ['ignore', 'pipe', 'pipe'],
      });
      let stdout = '';
      let tail = '';
      /** @type {string | undefined} */
      let ended;
      /** @type {NodeJS.Timeout | undefined} */
      let killTimer;
      const end = (/** @type {string} */ reason) => {
        ended ??= reason;
        killGroup(child.pid, 'SIGTERM');
        killTimer ??= setTimeout(() => killGroup(child.pid, 'SIGKILL'), GRACE_MS);
      };
      const onAbort = () => end('it was interrupted');
      const timer = setTimeout(() => end(`it took longer than ${Math.round(timeoutMs / 1000)} s`), timeoutMs);
      if (!uninterruptible) this.signal.addEventListener('abort', onAbort, { once: true });

      child.stdout.setEncoding('utf8').on('data', (/** @type {string} */ text) => {
        if (stdout.length < KEPT_OUTPUT_BYTES) stdout += text;
        tail = (tail + text).slice(-16384);
        this.log(text);
      });
      child.stderr.setEncoding('utf8').on('data', (/** @type {string} */ text) => {
        tail = (tail + text).slice(-16384);
        this.log(text);
      });
      const settle = (/** @type {string | undefined} */ failure) => {
        clearTimeout(timer);
        clearTimeout(killTimer);
        this.signal.removeEventListener('abort', onAbort);
        if (failure === undefined) resolve(stdout);
        else reject(new SetupError('ECHILD', `\`${[program, ...args].join(' ').slice(0, 300)}\` failed: ${failure}.`, { cause: { tail } }));
      };
      child.once('error', (error) => settle(error.message));
      child.once('close', (status, signal) => {
        // A group leader that ended may leave members behind (a daemonised helper, a build worker): they go too.
        killGroup(child.pid, 'SIGKILL');
        if (ended !== undefined) settle(ended);
        else if (status !== 0) settle(signal ? `it was ended by ${signal}` : `it ended with status ${status}`);
        else settle(undefined);
      });
    });
  }

  /** @param {string} text */
  log(text) {
    appendFileSync(this.logFile, text);
  }
}

/**
 * @param {number | undefined} pid leader of a process group
 * @param {NodeJS.Signals} signal
 */
export function killGroup(pid, signal) {
  if (pid === undefined) return;
  try {
    process.kill(-pid, signal);
  } catch {
    // ESRCH: the whole group has ended already.
  }
}
