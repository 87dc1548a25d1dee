/** Small disks for labs: a file system of a fixed size that can be filled without harm to the machine. */

import { execFile } from 'node:child_process';
import { closeSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { LabError } from './errors.js';

const run = promisify(execFile);
const filler = 'filler';
const pieceBytes = 4096;

/** Puts an empty disk of `sizeMiB` at `dir`, which must be there and empty. */
export async function mountDisk(dir: string, sizeMiB: number): Promise<void> {
  await run('mount', ['-t', 'tmpfs', '-o', `size=${sizeMiB}m,mode=700`, 'colopp-disk', dir]).catch((cause: unknown) => {
    throw new LabError(`A disk of ${sizeMiB} MiB cannot be mounted at ${dir}: ${(cause as Error).message}`, { cause });
  });
}

/** Takes away the disks below `dir`. */
export async function unmountDisks(dir: string): Promise<void> {
  const points = readFileSync('/proc/self/mounts', 'utf8').split('\n').map((line) => line.split(' ')[1] ?? '');
  for (const point of points.filter((path) => path.startsWith(`${dir}/`))) await run('umount', ['--lazy', point]);
}

/** Leaves no byte free on the disk at `dir`. */
export function fillDisk(dir: string): void {
  const fd = openSync(join(dir, filler), 'w', 0o600);
  try {
    // The large pieces leave a rest that only small ones fit into.
    for (const bytes of [1024 * pieceBytes, pieceBytes, 1]) while (writeAll(fd, bytes));
  } finally {
    closeSync(fd);
  }
}

/** @returns false if there was no room for all of it */
function writeAll(fd: number, bytes: number): boolean {
  try {
    return writeSync(fd, Buffer.alloc(bytes)) === bytes;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error;
    return false;
  }
}

/** Undoes {@link fillDisk}. */
export function freeDisk(dir: string): void {
  rmSync(join(dir, filler), { force: true });
}
