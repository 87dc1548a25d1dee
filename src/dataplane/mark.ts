import { randomInt } from 'node:crypto';

/** A mark for packets that nobody can guess; never 0. */
export function newMark(): number {
  return randomInt(1, 2 ** 32 - 1);
}
