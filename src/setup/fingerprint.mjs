import { createHash } from 'node:crypto';
import { readFileSync, readdirSync, statSync } from 'node:fs';
import { join, relative } from 'node:path';

/** Folders that hold products, never inputs. */
const PRODUCTS = new Set(['node_modules', 'dist', '.git']);

/**
 * SHA-256 over the names and contents of files, and over plain values, independent of order of listing, of time
 * stamps and of where the checkout lies. A missing file counts as such: its appearing later changes the result.
 *
 * @param {{ root: string, files?: readonly string[], folders?: readonly string[], accept?: (path: string) => boolean, values?: unknown }} input
 *   `files` and `folders` are relative to `root`; `accept` filters what is found in `folders`
 * @returns {string} hexadecimal digest
 */
export function fingerprint({ root, files = [], folders = [], accept = () => true, values }) {
  const hash = createHash('sha256');
  hash.update(JSON.stringify(values ?? null));
  const found = folders.flatMap((folder) => [...walk(join(root, folder))]).map((path) => relative(root, path)).filter(accept);
  for (const path of [...new Set([...files, ...found])].sort()) {
    hash.update(`\0${path}\0`);
    const full = join(root, path);
    const present = statSync(full, { throwIfNoEntry: false })?.isFile() ?? false;
    hash.update(present ? createHash('sha256').update(readFileSync(full)).digest() : 'missing');
  }
  return hash.digest('hex');
}

/**
 * Every file below `folder`, products excluded.
 * @param {string} folder
 * @returns {Generator<string>}
 */
export function* walk(folder) {
  if (!statSync(folder, { throwIfNoEntry: false })?.isDirectory()) return;
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    if (PRODUCTS.has(entry.name)) continue;
    const path = join(folder, entry.name);
    if (entry.isDirectory()) yield* walk(path);
    else if (entry.isFile()) yield path;
  }
}
