/** Parting a pair of VMs in the COLO state, from outside. */

import { QmpError, type QmpClient } from './qmp.js';

/**
 * Ends QEMU's connection to its peer. Out of band, as QEMU's main loop may be waiting for the very peer that is dead.
 * @throws QmpError
 */
export async function cutPeer(qmp: QmpClient, timeoutMs: number): Promise<void> {
  try {
    await qmp.execute('yank', { instances: [{ type: 'migration' }] }, { oob: true, timeoutMs });
  } catch (error) {
    // No such instance: QEMU noticed by itself and has let go of the channel.
    if (!(error instanceof QmpError) || error.class === undefined) throw error;
  }
}

/** Resolves when this QEMU has left the COLO state, or, of a secondary, has read the last of its primary. To be asked before that. */
export function coloExit(qmp: QmpClient): Promise<void> {
  return new Promise((resolve) => qmp.on('COLO_EXIT', () => resolve()));
}

/**
 * Cuts a secondary off, and has it run the VM from the last checkpoint that has wholly arrived.
 *
 * What the primary has sent of another one may be waiting to be read, much of it where this host is slow. QEMU reads on
 * after its connection was cut; declared alone meanwhile, it would put the rest into the memory of the VM that it is to
 * run, or into memory that it has freed (QEMU 11.1 was seen to die of that). So it is declared alone only once it has
 * said that it reads no more.
 * @param exited as {@link coloExit} gave it
 * @param timeoutMs of each step
 * @throws QmpError; Error if QEMU has not read all that has arrived within the time
 */
export async function failOver(qmp: QmpClient, exited: Promise<void>, timeoutMs: number): Promise<void> {
  await cutPeer(qmp, timeoutMs);
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`QEMU still reads what its lost peer has sent, ${timeoutMs} ms after their connection was cut`)), timeoutMs);
  });
  try {
    await Promise.race([exited, qmp.closed, late]);
  } finally {
    clearTimeout(timer);
  }
  await declareAlone(qmp, timeoutMs);
}

/** The peer is gone for good: this QEMU's VM runs, and is nobody's primary or secondary any more. @throws QmpError */
export async function declareAlone(qmp: QmpClient, timeoutMs: number): Promise<void> {
  await qmp.execute('x-colo-lost-heartbeat', undefined, { timeoutMs });
}
