/** Whether a QEMU's COLO works here, found out by using it: versions and capabilities do not tell. */

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { DEFAULT_CPU, DEFAULT_MACHINE } from './command-line.js';
import { QemuError } from './errors.js';
import { coloExit, failOver } from './failover.js';
import { coloPlugins } from './plugins.js';
import { QemuProcess } from './process.js';
import type { QemuRuntime } from './runtime.js';

export interface ColoTrial {
  /** How long the checkpoint stopped the VM. */
  pauseMs: number;
  /** From cutting the primary off until the secondary ran. */
  takeoverMs: number;
  totalMs: number;
}

/** It takes about two seconds, and several times as long where this machine is emulated itself. */
const defaultTimeoutMs = 60_000;
const checkpointDelayMs = 0xffff_ffff;
const failoverMs = 10_000;
/** Enough for the firmware, which finds nothing to boot and runs on. */
const memoryMiB = 32;

/**
 * Starts two VMs without a guest, replicates one to the other over a unix socket, makes a checkpoint,
 * and lets the second take over. Takes about two seconds and leaves nothing behind.
 * @throws QemuError `QEMU_COLO_FAILED` that says how far it came
 */
export async function tryColo(
  runtime: QemuRuntime,
  accel: 'kvm' | 'tcg',
  { signal, timeoutMs = defaultTimeoutMs }: { signal?: AbortSignal; timeoutMs?: number } = {},
): Promise<ColoTrial> {
  const startedMs = performance.now();
  const folder = await mkdtemp(join(tmpdir(), 'colopp-colo-')); // made 0700
  const vms: QemuProcess[] = [];
  let step = 'starting two VMs';
  const timeout = AbortSignal.timeout(timeoutMs);
  try {
    const within = AbortSignal.any([timeout, ...signal ? [signal] : []]);
    for (const side of ['primary', 'secondary'] as const) vms.push(await start(runtime, accel, folder, side, within));
    const [primary, secondary] = vms as [QemuProcess, QemuProcess];

    step = 'replicating the first to the second';
    await unlessAborted(within, replicate(primary, secondary, join(folder, 'incoming')));
    step = 'making a checkpoint';
    const pauseMs = await unlessAborted(within, checkpoint(primary));
    step = 'taking over';
    const beganMs = performance.now();
    const exited = coloExit(secondary.qmp);
    await primary.kill();
    await unlessAborted(within, takeOver(secondary, exited, within));
    return { pauseMs, takeoverMs: performance.now() - beganMs, totalMs: performance.now() - startedMs };
  } catch (cause) {
    signal?.throwIfAborted();
    const why = timeout.aborted ? `it was not done within ${timeoutMs / 1000} s` : cause instanceof Error ? cause.message : String(cause);
    throw new QemuError('QEMU_COLO_FAILED', `COLO does not work with this QEMU (${runtime.origin}): ${step} failed: ${why}`, { cause });
  } finally {
    for (const vm of vms) await vm.kill();
    await rm(folder, { recursive: true, force: true });
  }
}

async function start(runtime: QemuRuntime, accel: 'kvm' | 'tcg', folder: string, side: string, signal: AbortSignal): Promise<QemuProcess> {
  const qmpSocket = join(folder, `${side}.qmp`);
  return await QemuProcess.start({
    runtime,
    args: [
      ...['-nodefaults', '-no-user-config', '-display', 'none', '-machine', `${DEFAULT_MACHINE},usb=off,vmport=off`],
      ...['-accel', accel === 'tcg' ? 'tcg,thread=multi' : 'kvm', '-cpu', DEFAULT_CPU, '-m', `size=${memoryMiB}M`],
      ...coloPlugins(accel).flatMap(({ file }) => ['-plugin', `file=${file}`]),
      ...['-chardev', `socket,id=qmp,path=${qmpSocket},server=on,wait=off`, '-qmp', 'chardev:qmp'],
      ...(side === 'secondary' ? ['-incoming', 'defer'] : []),
    ],
    qmpSocket,
    pidFile: join(folder, `${side}.pid`),
    logFile: join(folder, `${side}.log`),
    signal,
  });
}

/** Ends when the pair is in the COLO state and the primary runs: before that, QEMU cannot be asked for a checkpoint. */
async function replicate(primary: QemuProcess, secondary: QemuProcess, socket: string): Promise<void> {
  const capabilities = ['events', 'return-path', 'x-colo'].map((capability) => ({ capability, state: true }));
  for (const { qmp } of [primary, secondary]) await qmp.execute('migrate-set-capabilities', { capabilities });
  await secondary.qmp.execute('migrate-incoming', { uri: `unix:${socket}` });
  const entered = new Promise<void>((resolve, reject) => {
    let colo = false;
    primary.qmp.on('MIGRATION', ({ data: { status } }) => {
      colo = status === 'colo';
      if (status === 'failed') reject(new Error('QEMU says that the migration failed'));
    });
    primary.qmp.on('RESUME', () => { if (colo) resolve(); });
    void endedEarly(primary, secondary).catch(reject);
  });
  await primary.qmp.execute('migrate-set-parameters', { 'max-bandwidth': 1e12, 'x-checkpoint-delay': checkpointDelayMs });
  await primary.qmp.execute('migrate', { uri: `unix:${socket}` });
  await entered;
}

/** @returns the pause, milliseconds */
async function checkpoint(primary: QemuProcess): Promise<number> {
  const committed = new Promise<number>((resolve, reject) => {
    let stoppedUs = 0;
    primary.qmp.on('STOP', ({ timestampUs }) => { stoppedUs = timestampUs; });
    primary.qmp.on('RESUME', ({ timestampUs }) => resolve((timestampUs - stoppedUs) / 1000));
    primary.qmp.on('COLO_EXIT', ({ data: { reason } }) => reject(new Error(`QEMU left COLO (${reason})`)));
    void endedEarly(primary).catch(reject);
  });
  await primary.qmp.execute('migrate-set-parameters', { 'x-checkpoint-delay': checkpointDelayMs });
  return await committed;
}

async function takeOver({ qmp }: QemuProcess, exited: Promise<void>, signal: AbortSignal): Promise<void> {
  await failOver(qmp, exited, failoverMs);
  while (!(await qmp.execute('query-status')).running) await sleep(2, undefined, { signal });
}

/** Rejects when one of them dies. */
async function endedEarly(...vms: QemuProcess[]): Promise<never> {
  await Promise.race(vms.map((vm) => vm.ended));
  throw new Error('QEMU died');
}

async function unlessAborted<T>(signal: AbortSignal, work: Promise<T>): Promise<T> {
  work.catch(() => {}); // when it is too late
  return await Promise.race([
    work,
    new Promise<never>((_, reject) => {
      if (signal.aborted) reject(signal.reason as Error);
      signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true });
    }),
  ]);
}
