import { basename, join } from 'node:path';
import { SetupError } from '../../src/setup/errors.mjs';

/**
 * Shared libraries of a program, as paths below `root`: what the unpacked loader itself would load.
 * @param {string} root
 * @param {string} program
 * @param {import('../../src/setup/process.mjs').Runner} runner
 * @returns {Promise<string[]>}
 */
export async function sharedLibraries(root, program, runner) {
  const folder = join(root, 'usr/lib/x86_64-linux-gnu');
  const loader = join(root, 'usr/lib64/ld-linux-x86-64.so.2');
  const listed = await runner.run(loader, ['--inhibit-cache', '--library-path', folder, '--list', join(root, program)]);
  const names = [...listed.matchAll(/^\s+(\S+) => (\S+) /gm)].map(([, name = '', path = '']) => {
    if (!path.startsWith(root)) throw new SetupError('EIMAGE', `${program} needs the library ${name}, which no downloaded package holds.`);
    return `usr/lib/x86_64-linux-gnu/${basename(name)}`;
  });
  return [...new Set([...names.filter((name) => !name.includes('ld-linux')), 'usr/lib64/ld-linux-x86-64.so.2'])].sort();
}
