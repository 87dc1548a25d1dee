/**
 * The QEMU that runs protected VMs. COLO works from QEMU 11 on; where the system's own is older, a private copy from
 * a later Debian is laid into a folder and started through that folder's own dynamic loader: no chroot, no mounts,
 * and nothing of the system's libraries is replaced.
 */
import { existsSync, mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { PrivateApt, removeDocumentation } from '../../src/setup/debs.mjs';
import { SetupError } from '../../src/setup/errors.mjs';
import { probeQemu } from './probe.mjs';

/** First QEMU whose COLO works unpatched. */
export const QEMU_MAJOR_MIN = 11;
/** The Debian suite the private copy comes from. */
export const SUITE = 'forky';
/** Where a system QEMU would be. */
export const SYSTEM_QEMU = '/usr/bin/qemu-system-x86_64';

/**
 * How to start a QEMU: `[...argvPrefix, ...arguments]` with `env` added to the environment.
 * @typedef {{ version: string, argvPrefix: string[], env: Record<string, string> }} Runtime
 */

/**
 * Find or build the runtime and describe it in `FOLDER/runtime.json`.
 *
 * @param {{ folder: string, mirror: string, runner: import('../../src/setup/process.mjs').Runner }} options
 * @returns {Promise<Runtime>}
 * @throws {SetupError} `EDEBS`, `EQEMU`
 */
export async function buildRuntime({ folder, mirror, runner }) {
  const runtime = await systemRuntime(runner) ?? await privateRuntime({ folder, mirror, runner });
  mkdirSync(folder, { recursive: true });
  const description = join(folder, 'runtime.json');
  writeFileSync(`${description}.new`, `${JSON.stringify(runtime, null, 2)}\n`);
  renameSync(`${description}.new`, description);
  return runtime;
}

/**
 * @param {import('../../src/setup/process.mjs').Runner} runner
 * @returns {Promise<Runtime | undefined>}
 */
async function systemRuntime(runner) {
  if (!existsSync(SYSTEM_QEMU)) return undefined;
  const version = parseVersion(await runner.run(SYSTEM_QEMU, ['-version']));
  return Number.parseInt(version, 10) >= QEMU_MAJOR_MIN ? { version, argvPrefix: [SYSTEM_QEMU], env: {} } : undefined;
}

/**
 * @param {{ folder: string, mirror: string, runner: import('../../src/setup/process.mjs').Runner }} options
 * @returns {Promise<Runtime>}
 */
async function privateRuntime({ folder, mirror, runner }) {
  const scratch = `${folder}.new`;
  const retired = `${folder}.old`;
  for (const path of [scratch, retired]) rmSync(path, { recursive: true, force: true });
  try {
    const apt = new PrivateApt({ runner, folder: join(scratch, 'apt'), mirror, suite: SUITE });
    await apt.update();
    await apt.downloadClosure(['qemu-system-x86']);
    const root = join(scratch, 'root');
    await apt.unpack(root);
    removeDocumentation(root);
    rmSync(join(scratch, 'apt'), { recursive: true });
    await describe(root, runner); // proves it before it replaces an older one
    // The old one gives way at once; programs started from it live on.
    if (existsSync(folder)) renameSync(folder, retired);
    renameSync(scratch, folder);
  } finally {
    for (const path of [scratch, retired]) rmSync(path, { recursive: true, force: true });
  }
  return describe(join(folder, 'root'), runner);
}

/**
 * Describe the QEMU in `root`, having seen it start a machine.
 * @param {string} root
 * @param {import('../../src/setup/process.mjs').Runner} runner
 * @returns {Promise<Runtime>}
 */
async function describe(root, runner) {
  const libraries = join(root, 'usr/lib/x86_64-linux-gnu');
  const argvPrefix = [
    join(libraries, 'ld-linux-x86-64.so.2'),
    // The system's cache of libraries belongs to another C library.
    '--inhibit-cache', '--library-path', libraries,
    join(root, 'usr/bin/qemu-system-x86_64'),
    '-L', join(root, 'usr/share/qemu'), '-L', join(root, 'usr/share/seabios'),
  ];
  const env = { QEMU_MODULE_DIR: join(libraries, 'qemu') };
  const version = parseVersion(await runner.run(/** @type {string} */ (argvPrefix[0]), [...argvPrefix.slice(1), '-version'], { env }));
  if (!(Number.parseInt(version, 10) >= QEMU_MAJOR_MIN)) {
    throw new SetupError('EQEMU', `Debian ${SUITE} carries QEMU ${version}; ${QEMU_MAJOR_MIN} or later is needed.`, {
      remedy: 'Set COLOPP_DEBIAN_MIRROR to a mirror that is up to date.',
    });
  }
  const runtime = { version, argvPrefix, env };
  for (const machine of ['q35', 'pc']) await probeQemu(runtime, machine, runner);
  return runtime;
}

/** @param {string} text what `-version` prints */
function parseVersion(text) {
  return /version (\d+\.\d+\.\d+)/.exec(text)?.[1] ?? 'unknown';
}
