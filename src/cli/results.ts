/** Files for the results of something long: what cannot be written is told early, and costs no other result. */

import { closeSync, openSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { UsageError } from './errors.js';

/** To be called before anything is done; what is there already stays as it is. Without a path nothing is asked for. @throws UsageError */
export function requireWritable(...paths: (string | undefined)[]): void {
  attemptAll(paths.map((path) => [path, check]));
}

/** @throws UsageError once all is written that can be */
export function writeResults(...results: [path: string | undefined, text: () => string][]): void {
  attemptAll(results.map(([path, text]) => [path, (to) => writeFileSync(to, text())]));
}

function check(path: string): void {
  const found = statSync(path, { throwIfNoEntry: false });
  if (found?.isFIFO()) return; // who reads it would see its end
  closeSync(openSync(path, 'a'));
  if (!found) rmSync(path);
}

function attemptAll(actions: readonly [path: string | undefined, action: (path: string) => void][]): void {
  const failures = actions.flatMap(([path, action]) => {
    try {
      if (path !== undefined) action(path);
      return [];
    } catch (error) {
      return [`${path}: ${(error as Error).message}`];
    }
  });
  if (failures.length > 0) throw new UsageError(`Results cannot be written to ${failures.join('; ')}. Name a file in a folder that exists.`);
}
