/** The VM of one host: QEMU as the pair's state machine wants it. */

import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { withHugePages } from 'huge-pages';
import { QemuProcess, QmpError, coloExit, coloPlugins, cutPeer, declareAlone, ensurePrivateFolder, failOver, qemuArguments, type QemuRuntime } from '../qemu/index.js';
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
/** By this QEMU knows the connection that it was given. */
const streamName = 'checkpoints';
const commandTimeoutMs = 10_000;
const largestSentPagesMiB = 512;
const resumeMs = 1000;
/** From the first socket that a dying QEMU closes until its process is gone, at most. */
const endingMs = 200;

/**
 * Of a page that was sent before, only what has changed is sent again (QEMU calls that XBZRLE): a tenth
 * of the bytes. For that QEMU remembers pages as it sent them, of those at the same place modulo this size one.
 * @returns a power of two, as QEMU wants it
 */
export function sentPagesBytes(memoryMiB: number): number {
  return Math.min(2 ** Math.ceil(Math.log2(memoryMiB)), largestSentPagesMiB) * 2 ** 20;
}

export class Vm {
  readonly #config: AgentConfig;
  readonly #runtime: QemuRuntime;
  readonly accel: 'kvm' | 'tcg';
  readonly #onEvent: (event: VmEvent) => void;
  #qemu: QemuProcess | undefined;
  /** It was stopped to be copied. */
  #stillToCopy = false;
  #running = true;
  #coloExit: Promise<void> = Promise.resolve();
  /** It is paused at each load without our doing; undefined: there may be a file of an earlier agent. */
  #held: boolean | undefined;
  /** The guest ended itself: its QEMU's end is no accident. */
  #guestEnded: string | undefined;

  constructor(config: AgentConfig, runtime: QemuRuntime, accel: 'kvm' | 'tcg', onEvent: (event: VmEvent) => void) {
    this.#config = config;
    this.#runtime = runtime;
    this.accel = accel;
    this.#onEvent = onEvent;
  }

  get pid(): number | undefined {
    return this.#qemu?.pid;
  }

  /** Takes over the QEMU that an earlier agent left, if there is one. */
  async adopt(): Promise<void> {
    await ensurePrivateFolder(this.#config.runDir);
    try {
      this.#watch(await QemuProcess.adopt(this.#files()));
      this.#coloExit = Promise.resolve(); // it may have been told to the agent before
    } catch (error) {
      if ((error as { code?: string }).code !== 'QEMU_GONE') throw error;
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

  /** Starts an empty VM, which waits to {@link receive} its state. */
  async startIncoming(): Promise<void> {
    await this.#launch(true);
    await this.#prepare();
  }

  /** Secondary: takes the state from a connection, and checkpoints after it. */
  async receive(fd: number): Promise<void> {
    await this.#qmp.execute('getfd', { fdname: streamName }, { fd });
    await this.#qmp.execute('migrate-incoming', { uri: `fd:${streamName}` });
  }

  /**
   * Copies the VM through a connection, ending in the COLO state. Under emulation it stands
   * still meanwhile: what an emulated vCPU writes just as its page is sent may be missed (seen in QEMU 11.1),
   * and the copy then lacks it until the guest writes there again. COLO sets it running.
   * @param wanted aborts when the copy is given up, before {@link dropSecondary}: then nothing more is asked of QEMU
   */
  async migrate(connection: { readonly fd: number }, wanted: AbortSignal): Promise<void> {
    await this.#prepare();
    wanted.throwIfAborted();
    await this.#qmp.execute('getfd', { fdname: streamName }, { fd: connection.fd });
    wanted.throwIfAborted();
    await this.#qmp.execute('migrate-set-parameters', {
      'max-bandwidth': unlimitedBytesPerSecond, 'x-checkpoint-delay': neverMs, 'xbzrle-cache-size': sentPagesBytes(this.#config.vm.memoryMiB),
    });
    wanted.throwIfAborted();
    if (this.#copiesStill) {
      this.#stillToCopy = true;
      await this.#qmp.execute('stop');
      wanted.throwIfAborted();
    }
    await this.#qmp.execute('migrate', { uri: `fd:${streamName}` });
  }

  /**
   * Setting the delay, to whatever value, makes QEMU start a checkpoint at once, and it sets the VM running
   * again at its end. It also stops the VM, but from another thread than the one that reads the tap: what is
   * read while the vCPUs are on their way to a stop QEMU drops (seen in 11.1), and the client has to say it
   * again, 200 ms later. A VM that was stopped before by a command, in the tap's own thread, loses nothing.
   * Only under emulation, where a stop takes a millisecond: KVM's vCPUs stop in microseconds. Tried on nested KVM
   * with the differences that #prepare now refuses, it was not to be told from what those did.
   * @param otherRuns the other VM runs, too: it has to stop before this one
   */
  async triggerCheckpoint(otherRuns: boolean): Promise<void> {
    const timeoutMs = commandTimeoutMs;
    const stopFirst = this.accel === 'tcg' && !otherRuns;
    // QEMU carries them out in this order.
    await Promise.all([
      stopFirst ? this.#qmp.execute('stop', undefined, { timeoutMs }) : undefined,
      this.#qmp.execute('migrate-set-parameters', { 'x-checkpoint-delay': neverMs }, { timeoutMs }),
    ]);
  }

  /** Primary: cuts the secondary off; the VM runs on, out of the middle of a checkpoint too. */
  async dropSecondary(): Promise<void> {
    await cutPeer(this.#qmp, commandTimeoutMs);
    const { status } = await this.#qmp.execute('query-migrate');
    if (status === 'colo') await declareAlone(this.#qmp, commandTimeoutMs);
    else if (status === 'active' || status === 'setup' || status === 'device') await this.#qmp.execute('migrate_cancel');
    if (this.#stillToCopy && status !== 'colo') await this.#qmp.execute('cont');
    this.#stillToCopy = false;
  }

  /** Secondary: cuts the primary off and runs the VM from its last commit. */
  async takeOver(): Promise<void> {
    this.hold(false);
    await failOver(this.#qmp, this.#coloExit, commandTimeoutMs);
    // A paused secondary is set running by the failover itself, in QEMU's own time.
    if (!await this.#runs(commandTimeoutMs)) throw new Error(`QEMU did not run the VM within ${commandTimeoutMs} ms of the failover`);
  }

  async pause(): Promise<void> {
    // What makes it pause by itself has done so already, but may not have been heard yet.
    if (this.#held) await new Promise((resolve) => setTimeout(resolve, 1));
    if (this.#running) await this.#qmp.execute('stop');
  }

  /** Secondary: whether the VM is to be paused from each load on before it has run; where QEMU cannot, it is up to {@link pause}. */
  hold(on: boolean): void {
    if (on === this.#held || coloPlugins(this.accel).length === 0) return;
    try {
      if (on) writeFileSync(this.#holdFile, '');
      else rmSync(this.#holdFile, { force: true });
      this.#held = on;
    } catch (error) {
      if (!on) throw error;
    }
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

  /** Lets go of QEMU, which runs on. @returns whether there was one */
  detach(): boolean {
    const qemu = this.#qemu;
    this.#qemu = undefined;
    qemu?.detach();
    return qemu !== undefined;
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

  get #holdFile(): string {
    return join(this.#config.runDir, 'hold-secondary');
  }

  #files(): { qmpSocket: string; pidFile: string } {
    const { runDir } = this.#config;
    return { qmpSocket: join(runDir, 'qmp.sock'), pidFile: join(runDir, 'qemu.pid') };
  }

  async #launch(incoming: boolean): Promise<void> {
    const { vm, network, runDir } = this.#config;
    const files = this.#files();
    const args = qemuArguments({
      name: vm.name, memoryMiB: vm.memoryMiB, vcpus: vm.vcpus, accel: this.accel, plugins: coloPlugins(this.accel, this.#holdFile),
      kernel: vm.kernel, initrd: vm.initrd, append: vm.append,
      nets: [{ id: 'net0', tap: network.tap, mac: vm.mac }],
      serial: { file: join(runDir, 'console.log') }, qmpSocket: files.qmpSocket, incoming, extraArgs: vm.extraArgs,
    });
    this.#watch(await QemuProcess.start({ ...files, runtime: this.#runtime, args, logFile: join(runDir, 'qemu.log'), launch: withHugePages }));
  }

  #watch(qemu: QemuProcess): void {
    this.#qemu = qemu;
    this.#guestEnded = undefined;
    const { qmp } = qemu;
    this.#coloExit = coloExit(qmp);
    const emit = (event: VmEvent): void => {
      if (this.#qemu === qemu) this.#onEvent(event);
    };
    qmp.on('STOP', () => { this.#running = false; });
    qmp.on('RESUME', () => { this.#running = true; });
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

  /**
   * Differences only where the VM stands still while it is copied, which KVM's does not: the last pages of a live copy
   * QEMU sends without remembering them, as if nothing came after, and differences to what it remembers instead would
   * spoil those pages on the other host, by single bytes.
   */
  async #prepare(): Promise<void> {
    const capabilities = { events: true, 'return-path': true, 'x-colo': true, xbzrle: this.#copiesStill };
    await this.#qmp.execute('migrate-set-capabilities', {
      capabilities: Object.entries(capabilities).map(([capability, state]) => ({ capability, state })),
    });
  }

  /** Whether the VM stands still while it is copied: under emulation, where a live copy may miss what is written meanwhile. */
  get #copiesStill(): boolean {
    return this.accel === 'tcg';
  }
}
