/** The steps that turn a checkout into something that runs; none of them needs root or changes the machine. */
import { createRequire } from 'node:module';
import { existsSync, readFileSync, readdirSync, realpathSync, rmSync, statSync } from 'node:fs';
import { basename, dirname, join, relative } from 'node:path';
import { SetupError } from './errors.mjs';
import { fingerprint, walk } from './fingerprint.mjs';
import { findClang, installedVersions, nodeHeaders } from './packages.mjs';

/** @typedef {import('./steps.mjs').Step} Step */

const ADDONS = ['addon/libbpf-napi', 'addon/tap-hold', 'addon/sd-notify', 'addon/thread-sched', 'addon/fd-pass', 'addon/huge-pages'];
/** Compiled likewise, but for QEMU: there is no TypeScript in it. */
const QEMU_PLUGIN = 'addon/qemu-retranslate';
const PACKAGES = [...ADDONS, 'src/bpf-ts-loader'];
const SKELETONS = 'src/dataplane/skel';
const KERNEL_BTF = '/sys/kernel/btf/vmlinux';

/**
 * @param {string} root the checkout
 * @returns {Step[]}
 */
export function checkoutSteps(root) {
  return [npmPackages(root), ...[...ADDONS, QEMU_PLUGIN].map((addon) => nativeAddon(root, addon)), typescriptPackages(root), bpfObjects(root), typescript(root)];
}

/** @param {string} root @returns {Step} */
function npmPackages(root) {
  return {
    name: 'npm', title: 'npm packages', doing: 'installing what package-lock.json names',
    remedy: 'See that the npm registry can be reached, then run set-up again.',
    inPlace: () => lockfileIsInstalled(root),
    run: async (runner) => {
      await runner.run(process.execPath, [npmCli(), 'ci', '--ignore-scripts', '--include=dev', '--no-audit', '--no-fund', '--loglevel=error'], { cwd: root });
    },
  };
}

/**
 * Whether node_modules holds exactly what the lockfile names: npm notes there what it has installed.
 * @param {string} root
 */
function lockfileIsInstalled(root) {
  const wanted = lockedPackages(join(root, 'package-lock.json'));
  const present = lockedPackages(join(root, 'node_modules/.package-lock.json'));
  return wanted !== undefined && present !== undefined && Object.entries(wanted).every(([path, entry]) =>
    path === '' || (entry.optional === true && present[path] === undefined)
    || (present[path]?.version === entry.version && present[path]?.integrity === entry.integrity && existsSync(join(root, path))));
}

/**
 * @param {string} file
 * @returns {Record<string, { version?: string, integrity?: string, optional?: boolean }> | undefined}
 */
function lockedPackages(file) {
  return existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')).packages : undefined;
}

/** @param {string} root @param {string} addon its folder @returns {Step} */
function nativeAddon(root, addon) {
  const folder = join(root, addon);
  return {
    name: basename(addon), title: `Add-on ${basename(addon)}`, doing: 'compiling for this Node.js',
    remedy: 'Mend what the compiler complains of, then run set-up again.',
    inputs: () => fingerprint({
      root, files: [`${addon}/binding.gyp`, `${addon}/package.json`, 'bpf/wire.h', 'bpf/ip_protocols.h'], folders: [`${addon}/src`],
      values: [process.version, [...installedVersions(['libbpf-dev', 'g++'])]],
    }),
    outputs: () => [productOf(folder)],
    run: async (runner) => {
      const headers = nodeHeaders();
      // Without headers on the machine, node-gyp fetches those of this Node.js itself.
      const args = [nodeGyp(), 'rebuild', '--loglevel=error', '--jobs', 'max', ...(headers === undefined ? [] : [`--nodedir=${headers}`])];
      await runner.run(process.execPath, args, { cwd: folder });
    },
  };
}

/**
 * What node-gyp makes of an add-on: named after its target, less a leading `lib`.
 * @param {string} folder
 */
function productOf(folder) {
  const gyp = join(folder, 'binding.gyp');
  const target = /"target_name":\s*"(?:lib)?(\w+)"/.exec(existsSync(gyp) ? readFileSync(gyp, 'utf8') : '')?.[1];
  return join(folder, 'build/Release', `${target ?? 'unknown'}.node`);
}

/** @param {string} root @returns {Step} */
function typescriptPackages(root) {
  return {
    name: 'packages', title: 'TypeScript packages', doing: `compiling ${PACKAGES.join(', ')}`,
    remedy: 'Mend what the compiler complains of, then run set-up again.',
    inputs: () => fingerprint({
      root, files: ['tsconfig.json', 'package-lock.json', ...PACKAGES.flatMap((path) => [`${path}/tsconfig.json`, `${path}/package.json`])],
      folders: PACKAGES.map((path) => `${path}/lib`),
    }),
    outputs: () => PACKAGES.map((path) => join(root, path, 'dist/index.js')),
    run: async (runner) => {
      await runner.run(process.execPath, [tsc(root), '-b', ...PACKAGES], { cwd: root });
      for (const path of PACKAGES) pruneCompiled(join(root, path, 'dist'), join(root, path, 'lib'));
    },
  };
}

/** @param {string} root @returns {Step} */
function bpfObjects(root) {
  const folders = ['bpf', 'src/bpf-ts-loader/lib', 'addon/libbpf-napi/lib', 'addon/libbpf-napi/src'];
  return {
    name: 'bpf', title: 'BPF objects', doing: 'compiling bpf/ and generating its skeletons',
    remedy: 'Mend what the compiler complains of, then run set-up again.',
    inputs: () => fingerprint({
      root, folders, accept: (path) => !path.endsWith('vmlinux.h'),
      values: [findClang(), [...installedVersions(['libbpf-dev'])], existsSync(KERNEL_BTF) ? fingerprint({ root: '/', files: [KERNEL_BTF.slice(1)] }) : 'no BTF'],
    }),
    outputs: () => programs(root).flatMap((name) => [join(root, 'build/bpf', `${name}.bpf.o`), join(root, SKELETONS, `${name}.skel.ts`)]),
    run: async (runner) => {
      if (!existsSync(KERNEL_BTF)) {
        throw new SetupError('EBTF', `The running kernel offers no BTF (${KERNEL_BTF} does not exist).`, {
          exitCode: 2, remedy: 'Start a kernel built with CONFIG_DEBUG_INFO_BTF, as all of Debian\'s are.',
        });
      }
      const clang = findClang();
      const cli = join(root, 'src/bpf-ts-loader/dist/cli.js');
      const args = [cli, 'build', 'bpf', '--out-obj', 'build/bpf', '--out-ts', SKELETONS, ...(clang === undefined ? [] : ['--clang', clang])];
      await runner.run(process.execPath, args, { cwd: root });
    },
  };
}

/** @param {string} root names of the BPF programs, without suffix */
function programs(root) {
  return existsSync(join(root, 'bpf')) ? readdirSync(join(root, 'bpf')).filter((name) => name.endsWith('.bpf.c')).map((name) => name.slice(0, -'.bpf.c'.length)) : [];
}

/** @param {string} root @returns {Step} */
function typescript(root) {
  return {
    name: 'typescript', title: 'TypeScript', doing: 'checking and compiling colopp',
    remedy: 'Mend what the compiler complains of, then run set-up again.',
    inputs: () => fingerprint({
      root, files: ['tsconfig.json', 'package.json', 'package-lock.json'], folders: ['src', 'test', 'vm-images', ...ADDONS.map((path) => `${path}/lib`)],
      accept: (path) => /\.(tsx?|mjs|json)$/.test(path),
    }),
    outputs: () => [join(root, 'dist/root.tsbuildinfo')],
    run: async (runner) => {
      await runner.run(process.execPath, [tsc(root), '-b'], { cwd: root });
      // Set-up itself is JavaScript; its types are checked all the same.
      await runner.run(process.execPath, [tsc(root), '-p', 'src/setup'], { cwd: root });
      for (const folder of ['src', 'test']) pruneCompiled(join(root, 'dist', folder), join(root, folder));
    },
  };
}

/**
 * Remove compiled files whose source is gone, which the compiler leaves behind: a test that was deleted must not go
 * on running.
 * @param {string} products
 * @param {string} sources
 */
function pruneCompiled(products, sources) {
  for (const path of walk(products)) {
    const stem = /^(.*?)(\.d\.ts|\.js)(\.map)?$/.exec(relative(products, path))?.[1];
    if (stem !== undefined && !['.ts', '.tsx'].some((suffix) => existsSync(join(sources, stem + suffix)))) rmSync(path);
  }
}

/** @param {string} root */
function tsc(root) {
  return join(root, 'node_modules/typescript/bin/tsc');
}

/** The npm that goes with this Node.js: the one that runs us, else the one on the path. */
function npmCli() {
  const folders = (process.env['PATH'] ?? '').split(':');
  const candidates = [process.env['npm_execpath'], ...folders.map((folder) => join(folder, 'npm'))];
  for (const path of candidates) {
    if (path && statSync(path, { throwIfNoEntry: false })?.isFile() && /npm(-cli\.js)?$/.test(path)) return realpathSync(path);
  }
  throw new SetupError('ENPM', 'No npm was found on the path.', { exitCode: 2, remedy: 'Install the npm that belongs to this Node.js.' });
}

/** The node-gyp that npm itself brings. */
function nodeGyp() {
  const npm = npmCli();
  try {
    return createRequire(npm).resolve('node-gyp/bin/node-gyp.js');
  } catch (cause) {
    throw new SetupError('ENODEGYP', `The npm in ${dirname(npm)} brings no node-gyp.`, { cause, remedy: 'Install node-gyp beside it (on Debian: the package node-gyp).' });
  }
}
