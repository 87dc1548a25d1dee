import { once } from 'node:events';
import { fork, type ChildProcess } from 'node:child_process';
import { mkdir, readFile } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { qemuArguments, QemuProcess, type QemuRuntime } from '../../src/qemu/index.js';

/** A guest image, as vm-images/guest describes it in build/guest/guest.json. */
export interface GuestImage {
  kernel: string;
  initrd: string;
  append: string;
  memoryMiB: number;
}

export type Channel = 'relay' | 'tcp';

const READY_MARK = 'COLOPP-GUEST-READY';
const READY_TIMEOUT_MS = 120_000;
const SYNC_TIMEOUT_MS = 60_000;
const CHECKPOINT_TIMEOUT_MS = 10_000;
/** Checkpoints only when asked for. */
const NEVER_MS = 3_600_000;
const RELAY_END = fileURLToPath(new URL('relay-end.js', import.meta.url));

/**
 * A primary and a secondary QEMU on this machine, in the COLO state, without networking. Their
 * checkpoint stream runs over QEMU's own TCP channel, or over our relay with its two ends in
 * processes of their own.
 */
export class ColoPair {
  readonly #vms: QemuProcess[] = [];
  readonly #relayEnds: ChildProcess[] = [];

  private constructor(
    readonly channel: Channel,
    readonly signal: AbortSignal,
  ) {}

  /**
   * Boots the guest and brings the pair into the COLO state. `folder` must be ours alone. Once
   * the signal is aborted every call fails; what was started, `stop` ends.
   */
  static async start(
    channel: Channel,
    runtime: QemuRuntime,
    guest: GuestImage,
    folder: string,
    signal: AbortSignal,
  ): Promise<ColoPair> {
    const pair = new ColoPair(channel, signal);
    try {
      for (const side of ['primary', 'secondary'] as const) {
        pair.#vms.push(await startVm(runtime, guest, join(folder, side), side, signal));
      }
      await waitForReady(join(folder, 'primary', 'serial'), signal);
      await pair.#replicate(folder);
      return pair;
    } catch (error) {
      await pair.stop();
      throw error;
    }
  }

  /** Takes one checkpoint; returns how long the guest stood still, in milliseconds. */
  async checkpoint(): Promise<number> {
    const { qmp } = this.vm('primary');
    const undo: (() => void)[] = [];
    const committed = new Promise<number>((resolve, reject) => {
      let stoppedUs = 0;
      const fail = (why: string) => () => reject(new Error(`the checkpoint failed: ${why}`));
      const timer = setTimeout(fail('no commit in time'), CHECKPOINT_TIMEOUT_MS);
      undo.push(
        () => clearTimeout(timer),
        qmp.on('STOP', ({ timestampUs }) => (stoppedUs = timestampUs)),
        qmp.on('RESUME', ({ timestampUs }) => resolve((timestampUs - stoppedUs) / 1000)),
        qmp.on('COLO_EXIT', fail('COLO ended')),
      );
    });
    try {
      const asked = qmp.execute('migrate-set-parameters', { 'x-checkpoint-delay': NEVER_MS });
      const [pauseMs] = await Promise.all([committed, asked]);
      // A secondary that runs would take the CPU that the other pair is measured on.
      await this.vm('secondary').qmp.execute('stop');
      return pauseMs;
    } finally {
      for (const off of undo) off();
    }
  }

  /** The host's QEMU. */
  vm(side: 'primary' | 'secondary'): QemuProcess {
    const vm = this.#vms[side === 'primary' ? 0 : 1];
    if (!vm) throw new Error(`the ${side} has not started`);
    return vm;
  }

  /** Kills the relay's end on one host, as if the agent there had died. */
  cut(side: 'primary' | 'secondary'): void {
    this.#relayEnds[side === 'secondary' ? 0 : 1]?.kill('SIGKILL');
  }

  /** Ends everything that was started. */
  async stop(): Promise<void> {
    for (const end of this.#relayEnds) end.kill('SIGKILL');
    for (const vm of this.#vms) await vm.kill();
  }

  async #replicate(folder: string): Promise<void> {
    const capabilities = ['return-path', 'x-colo'].map((capability) => ({
      capability,
      state: true,
    }));
    for (const { qmp } of this.#vms) {
      await qmp.execute('migrate-set-capabilities', { capabilities });
    }
    const primary = this.vm('primary').qmp;
    const secondary = this.vm('secondary').qmp;
    await primary.execute('migrate-set-parameters', {
      'x-checkpoint-delay': NEVER_MS,
      'max-bandwidth': 10_000_000_000,
    });
    if (this.channel === 'tcp') {
      const port = await freePort();
      await secondary.execute('migrate-incoming', { uri: `tcp:127.0.0.1:${port}` });
      await primary.execute('migrate', { uri: `tcp:127.0.0.1:${port}` });
    } else {
      const [out, incoming] = [join(folder, 'out'), join(folder, 'in')];
      await secondary.execute('migrate-incoming', { uri: `unix:${incoming}` });
      const port = await this.#relayEnd('secondary', [incoming]);
      await this.#relayEnd('primary', [out, String(port)]);
      await primary.execute('migrate', { uri: `unix:${out}` });
    }
    const deadline = performance.now() + SYNC_TIMEOUT_MS;
    for (;;) {
      const { status, 'error-desc': why } = await primary.execute('query-migrate');
      if (status === 'colo') break;
      if (status === 'failed' || performance.now() > deadline) {
        throw new Error(`the pair over ${this.channel} is ${status}, not colo: ${why ?? ''}`);
      }
      await sleep(50, undefined, { signal: this.signal });
    }
  }

  /** Starts one end of the relay; resolves with what it reports when it is ready. */
  async #relayEnd(side: 'primary' | 'secondary', args: string[]): Promise<number> {
    const child = fork(RELAY_END, [side, ...args]);
    this.#relayEnds.push(child);
    const failed = once(child, 'exit').then(([code]) => {
      throw new Error(`the relay's ${side} end ended early, with exit code ${String(code)}`);
    });
    failed.catch(() => {});
    const [report] = (await Promise.race([once(child, 'message'), failed])) as [number];
    return report;
  }
}

async function startVm(
  runtime: QemuRuntime,
  guest: GuestImage,
  folder: string,
  side: 'primary' | 'secondary',
  signal: AbortSignal,
): Promise<QemuProcess> {
  await mkdir(folder, { mode: 0o700 });
  const qmpSocket = join(folder, 'qmp');
  return await QemuProcess.start({
    runtime,
    args: qemuArguments({
      ...guest,
      name: 'colopp-bench',
      vcpus: 2,
      accel: 'tcg',
      nets: [],
      serial: { file: join(folder, 'serial') },
      qmpSocket,
      incoming: side === 'secondary',
    }),
    qmpSocket,
    pidFile: join(folder, 'pid'),
    logFile: join(folder, 'log'),
    signal,
  });
}

async function waitForReady(serialFile: string, signal: AbortSignal): Promise<void> {
  const deadline = performance.now() + READY_TIMEOUT_MS;
  while (!(await readFile(serialFile, 'utf8').catch(() => '')).includes(READY_MARK)) {
    if (performance.now() > deadline) {
      throw new Error(`the guest was not ready within ${READY_TIMEOUT_MS} ms: see ${serialFile}`);
    }
    await sleep(100, undefined, { signal });
  }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}
