import { spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { chmod, mkdir, open, rm, stat } from 'node:fs/promises';
import { constants, setPriority } from 'node:os';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { QemuError } from './errors.js';
import {
  identify,
  isRunning,
  readPidFile,
  signalProcess,
  writePidFile,
  type ProcessIdentity,
} from './process-identity.js';
import { QmpClient, QmpError, type QmpConnectOptions, type QmpEvent } from './qmp.js';
import { qemuEnvironment, type QemuRuntime } from './runtime.js';

export interface QemuFiles {
  /** QEMU's monitor. Its folder is made 0700; one that others may enter is refused. */
  qmpSocket: string;
  /** Says which process is this VM's QEMU, for whoever takes over from us. */
  pidFile: string;
}

export interface StartOptions extends QemuFiles {
  runtime: QemuRuntime;
  /** From `qemuArguments`; they must put the monitor at `qmpSocket`. */
  args: readonly string[];
  /** Takes QEMU's standard output and error; appended to. */
  logFile: string;
  /** How long QEMU may take to answer on its monitor. Default 20000. */
  timeoutMs?: number | undefined;
  signal?: AbortSignal | undefined;
  onEvent?: ((event: QmpEvent) => void) | undefined;
  /** Called to start the process: for what it is to inherit. */
  launch?: (<T>(start: () => T) => T) | undefined;
}

export interface AdoptOptions extends QemuFiles, QmpConnectOptions {}

const DEFAULT_START_TIMEOUT_MS = 60_000;
const CONNECT_RETRY_MS = 10;
const EXIT_POLL_MS = 20;
/** How long a killed process may take to be gone. */
const EXIT_WAIT_MS = 2000;
const LOG_TAIL_BYTES = 4096;
const NORMAL_PRIORITY = constants.priority.PRIORITY_NORMAL;

/**
 * A QEMU that runs apart from us: in a session of its own, holding none of our pipes, so that it
 * goes on when we die and whoever comes after us can adopt it.
 */
export class QemuProcess {
  readonly pid: number;
  /** Resolves when the process is gone; never rejects, and never resolves after `detach`. */
  readonly ended: Promise<void>;
  readonly #identity: ProcessIdentity;
  readonly #files: QemuFiles;
  #detached = false;

  private constructor(
    identity: ProcessIdentity,
    readonly qmp: QmpClient,
    files: QemuFiles,
  ) {
    this.pid = identity.pid;
    this.#identity = identity;
    this.#files = files;
    this.ended = qmp.closed.then(async () => {
      while (isRunning(identity)) {
        if (this.#detached) await new Promise(() => {});
        await sleep(EXIT_POLL_MS);
      }
    });
  }

  /**
   * Starts QEMU and waits for its monitor. Throws QemuError: `QEMU_START` with what QEMU said
   * when it ends or stays mute, `QEMU_RUNNING` when the pid file names a live process; or the
   * signal's reason.
   */
  static async start(options: StartOptions): Promise<QemuProcess> {
    const { qmpSocket, pidFile, logFile, signal } = options;
    signal?.throwIfAborted();
    await ensurePrivateFolder(dirname(qmpSocket));
    const other = await readPidFile(pidFile);
    if (other) {
      throw new QemuError(
        'QEMU_RUNNING',
        `cannot start QEMU: process ${other.pid}, named by ${pidFile}, is already running this VM; adopt it or stop it first`,
      );
    }
    await rm(qmpSocket, { force: true });

    const child = spawnDetached(options);
    const exit = new Promise<string>((resolve) => {
      child.once('error', (error) => resolve(`it could not be run: ${error.message}`));
      child.once('exit', (code, killedBy) =>
        resolve(killedBy ? `it was ended by ${killedBy}` : `it ended with exit code ${code}`),
      );
    });
    // Before the first await: a child that has ended keeps its pid until node has noticed.
    const identity = child.pid === undefined ? undefined : identify(child.pid);
    try {
      if (!identity) throw await startError(await exit, logFile);
      await writePidFile(pidFile, identity);
      const qmp = await waitForMonitor(options, exit);
      await chmod(qmpSocket, 0o600);
      child.unref(); // from here on it is no reason for us to stay
      return new QemuProcess(identity, qmp, { qmpSocket, pidFile });
    } catch (error) {
      if (identity) {
        signalProcess(identity, 'SIGKILL');
        await Promise.race([exit, sleep(EXIT_WAIT_MS, undefined, { ref: false })]);
      }
      await rm(pidFile, { force: true });
      await rm(qmpSocket, { force: true });
      signal?.throwIfAborted();
      throw error;
    }
  }

  /**
   * Takes over a QEMU that another process of ours started. Throws QemuError `QEMU_GONE` if it no
   * longer runs, QmpError `QMP_CONNECT` if its monitor does not answer.
   */
  static async adopt(options: AdoptOptions): Promise<QemuProcess> {
    const { pidFile, qmpSocket } = options;
    const identity = await readPidFile(pidFile);
    if (!identity) {
      throw new QemuError('QEMU_GONE', `cannot adopt QEMU: no running process is named by ${pidFile}`);
    }
    const qmp = await QmpClient.connect(qmpSocket, options);
    return new QemuProcess(identity, qmp, { qmpSocket, pidFile });
  }

  /** Whether the process still runs. */
  get running(): boolean {
    return isRunning(this.#identity);
  }

  /** Lets go of the monitor and leaves QEMU running, to be adopted by another. */
  detach(): void {
    this.#detached = true;
    this.qmp.close();
  }

  /**
   * Ends QEMU: asks over QMP, then SIGTERM, then SIGKILL, giving each `graceMs` (default 2000).
   * The guest is not told; whoever wants it shut down in order sends `system_powerdown` first.
   */
  async stop(graceMs = 2000): Promise<void> {
    const steps = [
      async () => void (await this.qmp.execute('quit', undefined, { timeoutMs: graceMs })),
      () => void signalProcess(this.#identity, 'SIGTERM'),
      () => void signalProcess(this.#identity, 'SIGKILL'),
    ];
    for (const step of steps) {
      if (!this.running) break;
      try {
        await step();
      } catch (error) {
        if (!(error instanceof QmpError)) throw error;
        continue; // its monitor is deaf: on to the next step
      }
      await this.#waitGone(graceMs);
    }
    if (this.running) {
      throw new QemuError('QEMU_STOP', `QEMU (pid ${this.pid}) did not end, not even by SIGKILL`);
    }
    await this.#forget();
  }

  /** Ends QEMU at once, by SIGKILL. */
  async kill(): Promise<void> {
    signalProcess(this.#identity, 'SIGKILL');
    await this.#waitGone(EXIT_WAIT_MS);
    await this.#forget();
  }

  async #waitGone(timeoutMs: number): Promise<void> {
    const deadline = performance.now() + timeoutMs;
    while (this.running && performance.now() < deadline) await sleep(EXIT_POLL_MS);
  }

  async #forget(): Promise<void> {
    this.qmp.close();
    await rm(this.#files.pidFile, { force: true });
    await rm(this.#files.qmpSocket, { force: true });
  }
}

/** The end of a QEMU log, for error messages; empty if there is none. */
export async function logTail(logFile: string): Promise<string> {
  try {
    const file = await open(logFile);
    try {
      const { size } = await file.stat();
      const buffer = Buffer.alloc(Math.min(size, LOG_TAIL_BYTES));
      const { bytesRead } = await file.read(buffer, 0, buffer.length, size - buffer.length);
      return buffer.toString('utf8', 0, bytesRead).trim();
    } finally {
      await file.close();
    }
  } catch {
    return '';
  }
}

/** Makes a folder that only we can enter, or throws if it exists and others can. */
export async function ensurePrivateFolder(path: string): Promise<void> {
  await mkdir(path, { recursive: true, mode: 0o700 });
  const { uid, mode } = await stat(path);
  if (uid !== process.getuid?.() || (mode & 0o077) !== 0) {
    throw new QemuError(
      'QEMU_CONFIG',
      `the folder ${path} is open to other users (owner ${uid}, mode ${(mode & 0o777).toString(8)}), but QEMU's monitor would be in it; make it ours alone: chmod 700`,
    );
  }
}

function spawnDetached({ runtime, args, logFile, launch = (start) => start() }: StartOptions) {
  const [program, ...prefix] = runtime.argv;
  const log = openSync(logFile, 'a', 0o600);
  try {
    const child = launch(() => spawn(program, [...prefix, ...args], {
      detached: true,
      stdio: ['ignore', log, log],
      env: qemuEnvironment(runtime),
      cwd: '/',
    }));
    // Whatever ours is. Its threads inherit it, and none has been started yet.
    if (child.pid !== undefined) setPriority(child.pid, NORMAL_PRIORITY);
    return child;
  } finally {
    closeSync(log);
  }
}

async function waitForMonitor(options: StartOptions, exit: Promise<string>): Promise<QmpClient> {
  const { qmpSocket, logFile, signal, onEvent } = options;
  const timeoutMs = options.timeoutMs ?? DEFAULT_START_TIMEOUT_MS;
  const deadline = performance.now() + timeoutMs;
  let ended: string | undefined;
  void exit.then((how) => (ended = how));
  for (;;) {
    const leftMs = deadline - performance.now();
    try {
      return await QmpClient.connect(qmpSocket, { signal, onEvent, timeoutMs: Math.max(1, leftMs) });
    } catch (error) {
      if (!(error instanceof QmpError)) throw error;
      if (ended !== undefined) throw await startError(ended, logFile);
      if (leftMs <= 0) {
        throw await startError(`its monitor said nothing for ${timeoutMs} ms`, logFile, error);
      }
    }
    await sleep(CONNECT_RETRY_MS, undefined, { signal });
  }
}

async function startError(why: string, logFile: string, cause?: unknown): Promise<QemuError> {
  const tail = await logTail(logFile);
  return new QemuError(
    'QEMU_START',
    `QEMU did not start: ${why}${tail === '' ? '' : `; its log ${logFile} ends with:\n${tail}`}`,
    { cause },
  );
}
