/** The drills that come with colopp. */

import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { loadDrill } from './read.js';
import type { Script } from './script.js';

/** From dist/src/drill to the sources: drills are data, and are not compiled. */
const folder = fileURLToPath(new URL('../../../src/drill/drills/', import.meta.url));

export interface Drill { file: string; script: Script }

/** All of them, the quick ones first. */
export function shippedDrills(): Drill[] {
  return drillsIn(folder).sort((one, other) => Number(other.script.quick) - Number(one.script.quick));
}

/**
 * @param word the name of a drill that comes with colopp, a file, or a folder of files
 * @throws DrillFileError
 */
export function findDrills(word: string): Drill[] {
  const shipped = join(folder, `${word}.yaml`);
  if (/^[a-z0-9-]+$/.test(word) && isFile(shipped)) return [{ file: shipped, script: loadDrill(shipped) }];
  if (statSync(word, { throwIfNoEntry: false })?.isDirectory()) return drillsIn(word);
  return [{ file: word, script: loadDrill(word) }];
}

function drillsIn(dir: string): Drill[] {
  const files = readdirSync(dir).filter((name) => /\.ya?ml$/.test(name)).sort().map((name) => join(dir, name));
  return files.map((file) => ({ file, script: loadDrill(file) }));
}

function isFile(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isFile() ?? false;
}
