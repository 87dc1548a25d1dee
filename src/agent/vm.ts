/** The VM of one host: QEMU as the pair's state machine wants it. */

import { join } from 'node:path';
import { QemuProcess, QmpError, coloPlugins, ensurePrivateFolder, qemuArguments, type QemuRuntime } from '../qemu/index.js';
import type { AgentConfig } from './config.js';

/** What QEMU tells. Times are CLOCK_MONOTONIC nanoseconds. */
export type VmEvent =
  | { type: 'stopped'; stampNs: bigint; receivedNs: bigint }
  | { type: 'resumed'; receivedNs: bigint }
  | { type: 'colo-entered' }
  | { type: 'migration-failed' }
  | { type: 'colo-exit'; reason: string }
  | { type: 'exited'; clean: boolean; reason: string };

/** So long that QEMU never starts a checkpoint of its own accord. */
const neverMs = 0xffff_ffff;
const unlimitedBytesPerSecond = 1e15;
const commandTimeoutMs = 10_000;
const resumeMs = 1000;
/** From the first socket that a dying QEMU closes until its process is gone, at most. */
const endingMs = 200;

export class Vm {
  readonly #config: AgentConfig;
  readonly #runtime: QemuRuntime;
  readonly accel: 'kvm' | 'tcg';
  readonly #onEvent: (event: VmEvent) => void;
  #qemu: QemuProcess | undefined;
  /** It was stopped to be copied. */
  #stillToCopy = false;
  /** The guest ended itself: its QEMU's end is no accident. */
  #guestEnded: string | undefined;

  constructor(config: AgentConfig, runtime: QemuRuntime, accel: 'kvm' | 'tcg', onEvent: (event: VmEvent) => void) {
    this.#config = config;
    this.#runtime = runtime;
    this.accel = accel;
    this.#onEvent = onEvent;
  }

  get incomingSocket(): string {
    return join(this.#config.runDir, 'incoming.sock');
  }

  get pid(): number | undefined {
    return this.#qemu?.pid;
  }

  /** Takes over the QEMU that an earlier agent left. @returns whether there was one */
  async adopt(): Promise<boolean> {
    await ensurePrivateFolder(this.#config.runDir);
    try {
      this.#watch(await QemuProcess.adopt(this.#files()));
      return true;
    } catch (error) {
      if ((error as { code?: string }).code === 'QEMU_GONE') return false;
      throw error;
    }
  }

  /** Runs the VM; one that was adopted in the middle of a checkpoint is let go on. */
  async start(): Promise<void> {
    if (!this.#qemu) return this.#launch(false);
    const { status } = await this.#qmp.execute('query-migrate');
    const dropped = status === 'colo' || status === 'active';
    if (dropped) await this.dropSecondary();
    // QEMU sets a VM that it stopped for a checkpoint running again, in its own time.
    if (!await this.#runs(dropped ? resumeMs : 0)) await this.#qmp.execute('cont');
  }

  /** Starts an empty VM that waits for its state at {@link incomingSocket}. */
  async startIncoming(): Promise<void> {
    await this.#launch(true);
    await this.#prepare();
    await this.#qmp.execute('migrate-incoming', { uri: `unix:${this.incomingSocket}` });
  }

  /**
   * Copies the VM to whatever listens at `socketPath`, ending in the COLO state. Under emulation it stands
   * still meanwhile: what an emulated vCPU writes just as its page is sent may be missed (seen in QEMU 11.1),
   * and the copy then lacks it until the guest writes there again. COLO sets it running.
   */
  async migrate(socketPath: string): Promise<void> {
    await this.#prepare();
    await this.#qmp.execute('migrate-set-parameters', { 'max-bandwidth': unlimitedBytesPerSecond, 'x-checkpoint-delay': neverMs });
    if (this.accel === 'tcg') {
      this.#stillToCopy = true;
      await this.#qmp.execute('stop');
    }
    await this.#qmp.execute('migrate', { uri: `unix:${socketPath}` });
  }

  /** Setting the delay, to whatever value, makes QEMU start a checkpoint at once. */
  async triggerCheckpoint(): Promise<void> {
    await this.#qmp.execute('migrate-set-parameters', { 'x-checkpoint-delay': neverMs }, { timeoutMs: commandTimeoutMs });
  }

  /** Primary: cuts the secondary off; the VM runs on, out of the middle of a checkpoint too. */
  async dropSecondary(): Promise<void> {
    await this.#cutPeer();
    const { status } = await this.#qmp.execute('query-migrate');
    if (status === 'colo') await this.#loseHeartbeat();
    else if (status === 'active' || status === 'setup' || status === 'device') await this.#qmp.execute('migrate_cancel');
    if (this.#stillToCopy && status !== 'colo') await this.#qmp.execute('cont');
    this.#stillToCopy = false;
  }

  /** Secondary: cuts the primary off and runs the VM from its last commit. */
  async takeOver(): Promise<void> {
    await this.#cutPeer();
    await this.#loseHeartbeat();
    // A paused secondary is set running by the failover itself, in QEMU's own time.
    if (!await this.#runs(commandTimeoutMs)) throw new Error(`QEMU did not run the VM within ${commandTimeoutMs} ms of the failover`);
  }

  async pause(): Promise<void> {
    await this.#qmp.execute('stop');
  }

  /** The VM's vCPUs and their threads on this host. */
  async vcpuThreads(): Promise<{ vcpu: number; tid: number }[]> {
    const vcpus = await this.#qmp.execute('query-cpus-fast', undefined, { timeoutMs: commandTimeoutMs });
    return vcpus.map((vcpu) => ({ vcpu: vcpu['cpu-index'], tid: vcpu['thread-id'] }));
  }

  /** The VM's own network devices tell switches where it is now. */
  async announce(): Promise<void> {
    await this.#qmp.execute('announce-self', { initial: 20, max: 400, rounds: 6, step: 60 });
  }

  /**
   * Whether a failure is but the first sign of QEMU's end, which is then told as `exited`. A dying
   * process closes its sockets one by one, the monitor's not always first, before it is gone.
   */
  async isEnding(): Promise<boolean> {
    const qemu = this.#qemu;
    if (!qemu) return false;
    let timer: NodeJS.Timeout | undefined;
    const lives = new Promise<false>((resolve) => { timer = setTimeout(resolve, endingMs, false); });
    const ended = await Promise.race([qemu.ended.then(() => true), lives]);
    clearTimeout(timer);
    return ended;
  }

  /** Ends QEMU. Nothing is told of it: who asks for it knows. */
  async destroy(): Promise<void> {
    const qemu = this.#qemu;
    this.#qemu = undefined;
    await qemu?.kill();
  }

  /** Whether the VM runs, now or before `withinMs` have passed. */
  async #runs(withinMs: number): Promise<boolean> {
    const deadlineMs = performance.now() + withinMs;
    while (!(await this.#qmp.execute('query-status')).running) {
      if (performance.now() >= deadlineMs) return false;
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
    return true;
  }

  get #qmp(): QemuProcess['qmp'] {
    if (!this.#qemu) throw new QmpError('QMP_CLOSED', 'there is no QEMU to talk to');
    return this.#qemu.qmp;
  }

  #files(): { qmpSocket: string; pidFile: string } {
    const { runDir } = this.#config;
    return { qmpSocket: join(runDir, 'qmp.sock'), pidFile: join(runDir, 'qemu.pid') };
  }

  async #launch(incoming: boolean): Promise<void> {
    const { vm, network, runDir } = this.#config;
    const files = this.#files();
    const args = qemuArguments({
      name: vm.name, memoryMiB: vm.memoryMiB, vcpus: vm.vcpus, accel: this.accel, plugins: coloPlugins(this.accel),
      kernel: vm.kernel, initrd: vm.initrd, append: vm.append,
      nets: [{ id: 'net0', tap: network.tap, mac: vm.mac }],
      serial: { file: join(runDir, 'console.log') }, qmpSocket: files.qmpSocket, incoming, extraArgs: vm.extraArgs,
    });
    this.#watch(await QemuProcess.start({ ...files, runtime: this.#runtime, args, logFile: join(runDir, 'qemu.log') }));
  }

  #watch(qemu: QemuProcess): void {
    this.#qemu = qemu;
    this.#guestEnded = undefined;
    const { qmp } = qemu;
    const emit = (event: VmEvent): void => {
      if (this.#qemu === qemu) this.#onEvent(event);
    };
    qmp.on('STOP', (event) => emit({ type: 'stopped', stampNs: event.monotonicNs, receivedNs: event.receivedNs }));
    // QEMU says "colo" before it has made what a checkpoint is triggered by, and dies of an assertion
    // if one is asked for then. It lets the VM run again only after that.
    let entering = false;
    qmp.on('RESUME', (event) => {
      emit({ type: 'resumed', receivedNs: event.receivedNs });
      if (entering) emit({ type: 'colo-entered' });
      entering = false;
    });
    qmp.on('MIGRATION', ({ data: { status } }) => {
      entering = status === 'colo';
      if (status === 'failed') emit({ type: 'migration-failed' });
    });
    // Only an exit that nobody asked for is news.
    qmp.on('COLO_EXIT', ({ data: { reason } }) => reason === 'request' || emit({ type: 'colo-exit', reason }));
    qmp.on('SHUTDOWN', ({ data: { reason } }) => { this.#guestEnded = reason; });
    void qemu.ended.then(() => {
      if (this.#qemu !== qemu) return;
      this.#qemu = undefined;
      this.#onEvent({ type: 'exited', clean: this.#guestEnded !== undefined, reason: this.#guestEnded ?? `process ${qemu.pid} is gone` });
    });
  }

  async #prepare(): Promise<void> {
    await this.#qmp.execute('migrate-set-capabilities', {
      capabilities: ['events', 'return-path', 'x-colo'].map((capability) => ({ capability, state: true })),
    });
  }

  /** Out of band, as QEMU's main loop may be waiting for the very peer that is dead. */
  async #cutPeer(): Promise<void> {
    try {
      await this.#qmp.execute('yank', { instances: [{ type: 'migration' }] }, { oob: true, timeoutMs: commandTimeoutMs });
    } catch (error) {
      // No such instance: QEMU noticed by itself and has let go of the channel.
      if (!(error instanceof QmpError) || error.class === undefined) throw error;
    }
  }

  async #loseHeartbeat(): Promise<void> {
    await this.#qmp.execute('x-colo-lost-heartbeat', undefined, { timeoutMs: commandTimeoutMs });
  }
}
