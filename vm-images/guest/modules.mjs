import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { SetupError } from '../../src/setup/errors.mjs';
import { walk } from '../../src/setup/fingerprint.mjs';

/**
 * Drivers with all the modules they depend on, uncompressed, in an order in which they can be loaded one by one.
 * Dependencies are read from the modules themselves (`.modinfo`), as depmod(8) would; what is built into the kernel
 * is not among them.
 *
 * @param {string} folder holds one folder per kernel release
 * @param {readonly string[]} drivers
 * @param {import('../../src/setup/process.mjs').Runner} runner
 * @returns {Promise<{ file: string, data: Buffer }[]>}
 */
export async function driverModules(folder, drivers, runner) {
  const files = new Map([...walk(folder)].filter((path) => /\.ko(\.xz)?$/.test(path)).map((path) => [moduleName(path), path]));
  /** @type {Map<string, Buffer>} in loading order: a module enters after its dependencies */
  const loaded = new Map();
  const load = (/** @type {string} */ name) => {
    if (loaded.has(name)) return;
    const path = files.get(name);
    if (path === undefined) throw new SetupError('EGUEST', `The kernel package has no module ${name}.`);
    runner.log(`module ${name}: ${path}\n`);
    const data = path.endsWith('.xz') ? execFileSync('xz', ['-dc', path], { maxBuffer: 64 * 1024 * 1024 }) : readFileSync(path);
    for (const dependency of dependencies(data)) load(dependency);
    loaded.set(name, data);
  };
  drivers.forEach(load);
  return [...loaded].map(([name, data]) => ({ file: `${name}.ko`, data }));
}

/** @param {Buffer} data a kernel module */
function dependencies(data) {
  const list = /\0depends=([^\0]*)\0/.exec(data.toString('latin1'))?.[1] ?? '';
  return list.split(',').filter((name) => name !== '').map((name) => name.replaceAll('-', '_'));
}

/** @param {string} path */
function moduleName(path) {
  return basename(path).replace(/\.ko(\.xz)?$/, '').replaceAll('-', '_');
}
