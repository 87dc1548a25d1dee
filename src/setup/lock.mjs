import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const POLL_MS = 200;

/**
 * Hold `file` while this process is at work, so that two set-ups of one checkout take turns. A lock whose owner has
 * died is taken over.
 *
 * @param {string} file
 * @param {{ signal: AbortSignal, onWait: (ownerPid: number) => void }} options `onWait` is called once if it has to wait
 * @returns {Promise<() => void>} releases it
 */
export async function acquireLock(file, { signal, onWait }) {
  mkdirSync(dirname(file), { recursive: true });
  const own = identity(process.pid);
  let announced = false;
  for (;;) {
    try {
      writeFileSync(file, JSON.stringify(own), { flag: 'wx' });
      return () => rmSync(file, { force: true });
    } catch (error) {
      if (/** @type {NodeJS.ErrnoException} */ (error).code !== 'EEXIST') throw error;
    }
    const owner = readOwner(file);
    // A number alone is not enough: it may belong to another process by now.
    if (owner === undefined || identity(owner.pid).startTicks !== owner.startTicks) {
      rmSync(file, { force: true });
      continue;
    }
    if (!announced) onWait(owner.pid);
    announced = true;
    await sleep(POLL_MS, undefined, { signal });
  }
}

/**
 * @param {string} file
 * @returns {{ pid: number, startTicks: string } | undefined}
 */
function readOwner(file) {
  try {
    return JSON.parse(readFileSync(file, 'utf8'));
  } catch {
    return undefined;
  }
}

/**
 * @param {number} pid
 * @returns {{ pid: number, startTicks: string }} `startTicks` is empty when there is no such process
 */
function identity(pid) {
  try {
    // proc(5): field 22, counted behind the name, which may itself hold spaces and parentheses.
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return { pid, startTicks: stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? '' };
  } catch {
    return { pid, startTicks: '' };
  }
}
