import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';

/** Writes a file so that it is there whole or not at all. */
export function writeAtomically(file: string, content: string | Uint8Array): void {
  mkdirSync(dirname(file), { recursive: true });
  const temporary = `${file}.${process.pid}.tmp`;
  writeFileSync(temporary, content);
  renameSync(temporary, file);
}

/** Writes a file unless it has that content: its time of change stays what it means. */
export function writeIfChanged(file: string, content: string | Uint8Array): void {
  const wanted = Buffer.from(content);
  try {
    if (readFileSync(file).equals(wanted)) return;
  } catch {
    // It is not there yet.
  }
  writeAtomically(file, wanted);
}

/** Hashes of files, each read once. */
export class Hashes {
  readonly #known = new Map<string, string>();

  /** SHA-256 of the file, or `absent`. */
  of(file: string): string {
    let hash = this.#known.get(file);
    if (hash === undefined) {
      try {
        hash = createHash('sha256').update(readFileSync(file)).digest('hex');
      } catch {
        hash = 'absent';
      }
      this.#known.set(file, hash);
    }
    return hash;
  }

  /** Forgets a file that was written. */
  forget(file: string): void {
    this.#known.delete(file);
  }
}
