#!/usr/bin/env node
/**
 * `npm run setup`: from a fresh checkout on a fresh Debian to everything in place. It runs before TypeScript exists,
 * hence plain JavaScript.
 */
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { QEMU_MAJOR_MIN, SUITE as QEMU_SUITE, SYSTEM_QEMU, buildRuntime } from '../../vm-images/runtime/build.mjs';
import { SUITE as GUEST_SUITE, buildGuest } from '../../vm-images/guest/build.mjs';
import { buildOuterKernel, buildOuterRoot } from '../../vm-images/nested/build.mjs';
import { ROOT_SUITE, SUITES } from '../../vm-images/nested/suites.mjs';
import { checkoutSteps } from './checkout.mjs';
import { SetupError } from './errors.mjs';
import { fingerprint } from './fingerprint.mjs';
import { debianMirror, inspectHost } from './host.mjs';
import { acquireLock } from './lock.mjs';
import { PURPOSES, installPackages, missingPackages } from './packages.mjs';
import { Reporter, runSteps } from './steps.mjs';

/** @typedef {import('./steps.mjs').Step} Step */

const USAGE = `Usage: npm run setup -- [--for ${PURPOSES.join('|')}] [--only build] [--kernel K]

Installs what is missing on this machine (Debian 12 or later, as root) and builds
colopp. What is in place already is left alone.

  --for PURPOSE   what the machine is to be ready for (default: demo)
  --only build    compile the checkout only; needs no root and changes nothing
                  outside it
  --kernel K      with --for nested: make the outer VM for the kernel of Debian K,
                  ${SUITES.join(', ')} or all (default: ${SUITES[0]})
  --help          this text

Products are in build/ and dist/, the output of each step in build/log/.
COLOPP_DEBIAN_MIRROR names a Debian mirror to use instead of the one in this
machine's apt sources.
`;

const ROOT = fileURLToPath(new URL('../../', import.meta.url)).replace(/\/$/, '');
const BUILD = join(ROOT, 'build');

/**
 * The steps that prepare the machine and the images.
 * @param {import('./host.mjs').Host} host
 * @param {string} purpose
 * @returns {Step[]}
 */
function machineSteps(host, purpose) {
  let missing = missingPackages(purpose);
  const qemu = join(BUILD, 'qemu');
  const guest = join(BUILD, 'guest');
  return [
    {
      name: 'debian', title: 'Debian packages', doing: `installing ${missing.join(', ')}`,
      remedy: 'See that apt works (`apt-get update`, `dpkg --configure -a`), then run set-up again.',
      inPlace: () => missing.length === 0,
      run: async (runner) => {
        await installPackages(missing, host, runner);
        missing = missingPackages(purpose);
        if (missing.length > 0) throw new SetupError('EPACKAGES', `apt installed everything, yet these are still missing: ${missing.join(', ')}.`);
      },
    },
    {
      name: 'qemu', title: 'QEMU runtime', doing: `fetching QEMU ${QEMU_MAJOR_MIN} or later from Debian ${QEMU_SUITE}`,
      remedy: 'Run set-up again.',
      inputs: () => fingerprint({
        root: ROOT, folders: ['vm-images/runtime'], files: ['src/setup/debs.mjs'],
        // What is built holds absolute paths; and the system's own QEMU, if new enough, needs no building at all.
        values: [ROOT, statSync(SYSTEM_QEMU, { throwIfNoEntry: false })?.mtimeMs],
      }),
      outputs: () => [join(qemu, 'runtime.json')],
      run: async (runner) => {
        await buildRuntime({ folder: qemu, mirror: debianMirror(host.codename), runner });
      },
    },
    {
      name: 'guest', title: 'Guest image', doing: `building the demo guest from Debian ${GUEST_SUITE}`,
      remedy: 'Run set-up again.',
      inputs: () => fingerprint({ root: ROOT, folders: ['vm-images/guest'], files: ['src/setup/debs.mjs'], values: ROOT }),
      outputs: () => [join(guest, 'guest.json')],
      run: async (runner) => {
        await buildGuest({ folder: guest, mirror: debianMirror(host.codename), runner });
      },
    },
  ];
}

/**
 * The steps that make the VM in which the nested tests run.
 * @param {import('./host.mjs').Host} host
 * @param {readonly import('../../vm-images/nested/suites.mjs').Suite[]} kernels
 * @returns {Step[]}
 */
function nestedSteps(host, kernels) {
  const folder = join(BUILD, 'nested');
  const inputs = (/** @type {unknown} */ values) => fingerprint({ root: ROOT, folders: ['vm-images/nested', 'vm-images/guest'], accept: (path) => !path.endsWith('.md'), files: ['src/setup/debs.mjs'], values });
  return [
    {
      name: 'nested-root', title: 'Outer VM', doing: `packing Node.js and QEMU from Debian ${ROOT_SUITE}`, remedy: 'Run set-up again.',
      inputs: () => inputs(ROOT_SUITE), outputs: () => [join(folder, 'root.squashfs')],
      run: (runner) => buildOuterRoot({ folder, mirror: debianMirror(host.codename), runner }),
    },
    ...kernels.map((suite) => ({
      name: `nested-${suite}`, title: `Outer kernel ${suite}`, doing: `fetching the kernel of Debian ${suite}`, remedy: 'Run set-up again.',
      inputs: () => inputs(suite), outputs: () => [join(folder, suite, 'kernel.json')],
      run: (/** @type {import('./process.mjs').Runner} */ runner) => buildOuterKernel({ folder, suite, mirror: debianMirror(host.codename), runner }),
    })),
  ];
}

/**
 * @param {{ purpose: string, kernels: readonly import('../../vm-images/nested/suites.mjs').Suite[], buildOnly: boolean, signal: AbortSignal }} options
 */
async function setUp({ purpose, kernels, buildOnly, signal }) {
  const startedMs = performance.now();
  const host = buildOnly ? undefined : inspectHost();
  process.stdout.write(buildOnly ? 'colopp: building\n' : `colopp: setting up for ${purpose}\n`);
  const release = await acquireLock(join(BUILD, 'setup.lock'), {
    signal, onWait: (pid) => process.stdout.write(`  waiting for another set-up of this checkout (process ${pid})\n`),
  });
  try {
    const machine = host === undefined ? [] : machineSteps(host, purpose);
    const nested = host === undefined || purpose !== 'nested' ? [] : nestedSteps(host, kernels);
    const steps = [...machine, ...nested, ...checkoutSteps(ROOT)];
    await runSteps(steps, { buildDir: BUILD, signal, reporter: new Reporter({ out: process.stdout, root: ROOT, steps }) });
  } finally {
    release();
  }
  process.stdout.write(`Ready in ${((performance.now() - startedMs) / 1000).toFixed(1)} s.\n`);
}

/** @returns {Promise<number>} exit code */
async function main() {
  const interruption = new AbortController();
  /** @type {NodeJS.Signals | undefined} */
  let caught;
  for (const name of /** @type {const} */ (['SIGINT', 'SIGTERM', 'SIGHUP'])) {
    process.on(name, () => {
      // Installing packages is not cut off in the middle: the wait needs an explanation.
      if (caught === undefined) process.stderr.write('\nStopping as soon as it is safe ...\n');
      caught ??= name;
      interruption.abort(new Error(`Set-up was interrupted by ${name}.`));
    });
  }
  try {
    const values = commandLine();
    if (values.help) {
      process.stdout.write(USAGE);
      return 0;
    }
    const purpose = values.for ?? 'demo';
    if (!PURPOSES.includes(purpose)) throw new SetupError('EUSAGE', `--for takes ${PURPOSES.join(', ')}, not "${purpose}".`, { exitCode: 2 });
    if (values.only !== undefined && values.only !== 'build') throw new SetupError('EUSAGE', `--only takes build, not "${values.only}".`, { exitCode: 2 });
    const kernels = values.kernel === 'all' ? SUITES : SUITES.filter((suite) => suite === (values.kernel ?? SUITES[0]));
    if (kernels.length === 0) throw new SetupError('EUSAGE', `--kernel takes ${SUITES.join(', ')} or all, not "${values.kernel}".`, { exitCode: 2 });
    if (values.kernel !== undefined && purpose !== 'nested') throw new SetupError('EUSAGE', '--kernel goes with --for nested only.', { exitCode: 2 });
    await setUp({ purpose, kernels, buildOnly: values.only === 'build', signal: interruption.signal });
    return 0;
  } catch (error) {
    if (caught !== undefined) {
      process.stderr.write('Interrupted. The next run goes on from the last step that ended.\n');
      return caught === 'SIGINT' ? 130 : caught === 'SIGHUP' ? 129 : 143;
    }
    if (!(error instanceof SetupError)) {
      process.stderr.write(`${error instanceof Error ? error.stack : String(error)}\n`);
      return 1;
    }
    process.stderr.write(`[${error.code}] ${error.message}\n${error.remedy === '' ? '' : `${error.remedy}\n`}`);
    return error.exitCode;
  }
}

/** What it was called with. */
function commandLine() {
  try {
    return parseArgs({
      options: { for: { type: 'string', default: 'demo' }, only: { type: 'string' }, kernel: { type: 'string' }, help: { type: 'boolean', short: 'h' } },
    }).values;
  } catch (cause) {
    const { message } = /** @type {Error} */ (cause);
    throw new SetupError('EUSAGE', message, { exitCode: 2, cause });
  }
}

process.exitCode = await main();
