import { once } from 'node:events';
import { mkdir, readFile } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { CheckpointStream, PeerClient, PeerServer, type PeerConnection } from '../../src/peer/index.js';
import { qemuArguments, QemuProcess, type QemuRuntime } from '../../src/qemu/index.js';

/** A guest image, as vm-images/guest describes it in build/guest/guest.json. */
export interface GuestImage {
  kernel: string;
  initrd: string;
  append: string;
  memoryMiB: number;
}

/** The stream of checkpoints: a connection that our agents would make and hand over, or QEMU's own TCP. */
export type Channel = 'handed' | 'tcp';

const READY_MARK = 'COLOPP-GUEST-READY';
const READY_TIMEOUT_MS = 120_000;
const SYNC_TIMEOUT_MS = 60_000;
const CHECKPOINT_TIMEOUT_MS = 10_000;
/** Checkpoints only when asked for. */
const NEVER_MS = 3_600_000;
const IDENTITY = { pairId: 'bench', incarnation: '1' };

/**
 * A primary and a secondary QEMU on this machine, in the COLO state, without networking. Their
 * checkpoint stream runs over QEMU's own TCP channel, or over a connection of ours.
 */
export class ColoPair {
  readonly #vms: QemuProcess[] = [];
  #streams: { primary: CheckpointStream; secondary: CheckpointStream } | undefined;

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
      await pair.#replicate();
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
      const [pauseMs] = await Promise.all([committed, this.ask()]);
      // A secondary that runs would take the CPU that the other pair is measured on.
      await this.vm('secondary').qmp.execute('stop');
      return pauseMs;
    } finally {
      for (const off of undo) off();
    }
  }

  /** Has a checkpoint begin, and does not wait for what becomes of it. */
  async ask(): Promise<void> {
    await this.vm('primary').qmp.execute('migrate-set-parameters', { 'x-checkpoint-delay': NEVER_MS });
  }

  /** The host's QEMU. */
  vm(side: 'primary' | 'secondary'): QemuProcess {
    const vm = this.#vms[side === 'primary' ? 0 : 1];
    if (!vm) throw new Error(`the ${side} has not started`);
    return vm;
  }

  /** Ends the stream from one host's side. */
  cut(side: 'primary' | 'secondary'): void {
    this.#streams?.[side].close();
  }

  /** Ends everything that was started. */
  async stop(): Promise<void> {
    for (const side of ['primary', 'secondary'] as const) this.cut(side);
    for (const vm of this.#vms) await vm.kill();
  }

  async #replicate(): Promise<void> {
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
      this.#streams = await openStreams();
      await secondary.execute('getfd', { fdname: 'stream' }, { fd: this.#streams.secondary.fd });
      await secondary.execute('migrate-incoming', { uri: 'fd:stream' });
      await primary.execute('getfd', { fdname: 'stream' }, { fd: this.#streams.primary.fd });
      await primary.execute('migrate', { uri: 'fd:stream' });
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
}

/** Both ends of a connection between two hosts, as agents make it. */
async function openStreams(): Promise<{ primary: CheckpointStream; secondary: CheckpointStream }> {
  let arrive!: (connection: PeerConnection) => void;
  const arrived = new Promise<PeerConnection>((resolve) => (arrive = resolve));
  const address = '127.0.0.1';
  const server = await PeerServer.listen({ ...IDENTITY, hostName: 'secondary', address, port: 0, onConnection: arrive });
  const { socket } = await PeerClient.connect({ ...IDENTITY, hostName: 'primary', address, port: server.port, kind: 'checkpoint' });
  const secondary = CheckpointStream.incoming((await arrived).socket);
  secondary.taken();
  const primary = await CheckpointStream.outgoing(socket);
  await server.close();
  return { primary, secondary };
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
