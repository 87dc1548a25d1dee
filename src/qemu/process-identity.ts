import { readFileSync } from 'node:fs';
import { readFile, rename, rm, writeFile } from 'node:fs/promises';
import { z } from 'zod';

/**
 * Which process, for good: a pid alone may be given to another process later, but never with the
 * same start time in the same boot.
 */
export interface ProcessIdentity {
  pid: number;
  /** Start time since boot, in the kernel's clock ticks: field 22 of /proc/PID/stat. */
  startTicks: number;
  bootId: string;
}

const identitySchema = z.object({
  pid: z.number().int().min(2),
  startTicks: z.number().int().nonnegative(),
  bootId: z.string(),
});

/** The identity of a running process; undefined if there is none, or only its zombie. */
export function identify(pid: number): ProcessIdentity | undefined {
  let stat: string;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  } catch {
    return undefined;
  }
  // The second field, the name in parentheses, may hold spaces and parentheses of its own.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const [state, startTicks] = [fields[0], Number(fields[19])];
  if (state === 'Z' || state === 'X' || !Number.isSafeInteger(startTicks)) return undefined;
  return { pid, startTicks, bootId: bootId() };
}

/** Whether exactly this process is still running. */
export function isRunning(identity: ProcessIdentity): boolean {
  const now = identify(identity.pid);
  return (
    now !== undefined && now.startTicks === identity.startTicks && now.bootId === identity.bootId
  );
}

/** Sends a signal to exactly this process; false if it is gone. */
export function signalProcess(identity: ProcessIdentity, signal: NodeJS.Signals): boolean {
  if (!isRunning(identity)) return false;
  try {
    return process.kill(identity.pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false;
    throw error;
  }
}

/** Writes the pid file whole or not at all. */
export async function writePidFile(path: string, identity: ProcessIdentity): Promise<void> {
  const draft = `${path}.${process.pid}.new`;
  try {
    await writeFile(draft, `${JSON.stringify(identity)}\n`, { mode: 0o600 });
    await rename(draft, path);
  } catch (error) {
    await rm(draft, { force: true });
    throw error;
  }
}

/** The process a pid file names, if the file is there, is sound, and the process still runs. */
export async function readPidFile(path: string): Promise<ProcessIdentity | undefined> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
  try {
    const identity = identitySchema.parse(JSON.parse(text));
    return isRunning(identity) ? identity : undefined;
  } catch {
    return undefined;
  }
}

function bootId(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim();
}
