/** Where drills are: those that come with colopp, files, and folders of files. */

import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { DrillFileError, loadDrill } from './read.js';
import type { Script } from './script.js';

/** From dist/src/drill to the sources: drills are data, and are not compiled. */
const folder = fileURLToPath(new URL('../../../src/drill/drills/', import.meta.url));

export interface Drill { file: string; script: Script }

/** The mistakes of several files. */
export class DrillFilesError extends Error {
  readonly code = 'DRILL_FILE';

  constructor(errors: readonly DrillFileError[]) {
    super(errors.map(({ message }) => message).join('\n'));
    this.name = 'DrillFilesError';
  }
}

/** All that come with colopp, the quick ones first. */
export function shippedDrills(): Drill[] {
  return loadDrills([folder]).sort((one, other) => Number(other.script.quick) - Number(one.script.quick));
}

/**
 * @param words names of drills that come with colopp, files, or folders of files
 * @throws DrillFilesError with every mistake of every file
 */
export function loadDrills(words: readonly string[]): Drill[] {
  const wrong: DrillFileError[] = [];
  const orNote = <T>(find: () => T[]): T[] => {
    try {
      return find();
    } catch (error) {
      if (!(error instanceof DrillFileError)) throw error;
      wrong.push(error);
      return [];
    }
  };
  const files = words.flatMap((word) => orNote(() => filesOf(word)));
  const drills = files.flatMap((file) => orNote(() => [{ file, script: loadDrill(file) }]));
  if (wrong.length > 0) throw new DrillFilesError(wrong);
  return drills;
}

function filesOf(word: string): string[] {
  const shipped = join(folder, `${word}.yaml`);
  if (/^[a-z0-9-]+$/.test(word) && statSync(shipped, { throwIfNoEntry: false })?.isFile()) return [shipped];
  if (!statSync(word, { throwIfNoEntry: false })?.isDirectory()) return [word];
  const names = readdirSync(word).filter((name) => /\.ya?ml$/.test(name)).sort();
  if (names.length > 0) return names.map((name) => join(word, name));
  throw new DrillFileError(word, [{ line: 1, column: 1, what: 'no file in this folder is a drill', suggestion: 'The name of a drill ends in ".yaml" or ".yml".' }]);
}
