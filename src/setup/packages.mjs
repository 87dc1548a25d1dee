/** The Debian packages of the machine itself: which are needed, which are missing, and how they get here. */
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, readFileSync, readdirSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { DEBIAN_KEYRING, debianMirror } from './host.mjs';
import { SetupError } from './errors.mjs';

/** @typedef {import('./host.mjs').Host} Host */

/** First libbpf with `bpf_program__attach_tcx`. */
const LIBBPF_MIN = { major: 1, minor: 3 };
/** First clang whose BTF can describe 64-bit enumerations, which the kernel's own BTF holds. */
const CLANG_MAJOR_MIN = 15;
/** The clang to install where none is new enough: both Debian 12 and 13 carry it. */
const CLANG_MAJOR_PREFERRED = 19;

/** Needed by everyone: to build, and to run two hosts and a client on one machine. */
const BASE = ['ca-certificates', 'g++', 'iproute2', 'libelf-dev', 'make', 'pkgconf', 'python3', 'xz-utils', 'zlib1g-dev'];

/** Needed in addition, by purpose. @type {Record<string, readonly string[]>} */
const BY_PURPOSE = {
  demo: [],
  test: ['procps', 'tmux'],
  bench: ['redis-tools', 'wrk'],
  nested: [],
};

/** What set-up can be run for. */
export const PURPOSES = Object.keys(BY_PURPOSE);

const SOURCES_FILE = '/etc/apt/sources.list.d/colopp-backports.sources';
const POLICY_FILE = '/usr/sbin/policy-rc.d';
const POLICY = '#!/bin/sh\n# colopp set-up: no service starts while packages are installed\nexit 101\n';

/**
 * Packages that are needed for `purpose` and not installed, or too old.
 *
 * @param {string} purpose
 * @returns {string[]}
 */
export function missingPackages(purpose) {
  const wanted = [...BASE, ...(BY_PURPOSE[purpose] ?? [])];
  const installed = installedVersions([...wanted, 'libbpf-dev']);
  const missing = wanted.filter((name) => !installed.has(name));
  if (!isLibbpfRecent(installed.get('libbpf-dev'))) missing.push('libbpf-dev');
  if (findClang() === undefined) missing.push('clang');
  // The fuzzers' runtime is of the same version as the compiler.
  if (purpose === 'test' && installedVersions([fuzzerRuntime(findClang())]).size === 0) missing.push('libclang-rt');
  if (nodeHeaders() === undefined && nodeIsDebians()) missing.push('libnode-dev');
  return missing;
}

/**
 * Install `packages` as `missingPackages` named them.
 *
 * @param {readonly string[]} packages
 * @param {Host} host
 * @param {import('./process.mjs').Runner} runner
 */
export async function installPackages(packages, host, runner) {
  const env = { DEBIAN_FRONTEND: 'noninteractive', NEEDRESTART_SUSPEND: '1' };
  const options = ['-q', '-o', 'DPkg::Lock::Timeout=600', '-o', 'Acquire::Retries=3', '-o', 'Dpkg::Options::=--force-confold', '--no-install-recommends', '-y'];
  const fromBackports = host.release === 12 && packages.includes('libbpf-dev');
  // A run that was interrupted inside dpkg leaves packages half configured: finish them first.
  await runner.run('dpkg', ['--configure', '-a'], { env, uninterruptible: true });
  if (fromBackports) enableBackports(host);
  await runner.run('apt-get', ['-q', '-o', 'DPkg::Lock::Timeout=600', 'update'], { env });

  const names = packages.filter((name) => name !== 'clang' && name !== 'libclang-rt' && !(fromBackports && name === 'libbpf-dev'));
  if (packages.includes('clang')) names.push(clangPackage());
  if (packages.includes('libclang-rt')) names.push(fuzzerRuntime(findClang() ?? clangPackage()));
  // With what it depends on from the same suite, and first: libraries and their headers must be of one version.
  const installs = fromBackports ? [['-t', `${host.codename}-backports`, 'libbpf-dev'], names] : [names];
  const wanted = installs.filter((list) => list.length > 0).map((list) => [...options, 'install', ...list]);
  for (const args of wanted) await runner.run('apt-get', ['--download-only', ...args], { env });

  const ownPolicy = !existsSync(POLICY_FILE) || readFileSync(POLICY_FILE, 'utf8') === POLICY;
  if (ownPolicy) writeFileSync(POLICY_FILE, POLICY, { mode: 0o755 });
  try {
    // Everything is downloaded: what is left is short, and must not be cut off in the middle.
    for (const args of wanted) await runner.run('apt-get', args, { env, uninterruptible: true });
  } finally {
    if (ownPolicy) rmSync(POLICY_FILE, { force: true });
  }
  const libbpf = installedVersions(['libbpf-dev']).get('libbpf-dev');
  if (!isLibbpfRecent(libbpf)) {
    throw new SetupError('ELIBBPF', `Debian ${host.codename} offers ${libbpf === undefined ? 'no libbpf-dev' : `libbpf-dev ${libbpf}`}; ${LIBBPF_MIN.major}.${LIBBPF_MIN.minor} or later is needed.`);
  }
}

/**
 * The newest clang that can compile the BPF programs.
 * @returns {string | undefined} absolute path
 */
export function findClang() {
  const versioned = readdirSync('/usr/bin').map((name) => /^clang-(\d+)$/.exec(name)?.[1]).filter((major) => Number(major) >= CLANG_MAJOR_MIN);
  const newest = versioned.sort((a, b) => Number(b) - Number(a))[0];
  return newest === undefined ? undefined : `/usr/bin/clang-${newest}`;
}

/**
 * The folder to hand to node-gyp as `--nodedir`, when the headers of this very Node.js are on the machine.
 * @returns {string | undefined}
 */
export function nodeHeaders() {
  const prefix = dirname(dirname(realpathSync(process.execPath)));
  if (existsSync(join(prefix, 'include/node/common.gypi'))) return prefix;
  if (nodeIsDebians() && existsSync('/usr/include/nodejs/common.gypi')) return '/usr/include/nodejs';
  return undefined;
}

/** Whether this Node.js is the one Debian packages (whose headers are a package of their own). */
function nodeIsDebians() {
  return realpathSync(process.execPath) === '/usr/bin/node' && query('${Maintainer}', ['nodejs']).includes('debian.');
}

/**
 * Installed packages and their versions; others are not in the result.
 * @param {readonly string[]} names
 * @returns {Map<string, string>}
 */
export function installedVersions(names) {
  const rows = query('${db:Status-Abbrev} ${Package} ${Version}\\n', names).split('\n').map((row) => row.split(/\s+/));
  return new Map(rows.filter(([state]) => state === 'ii').map(([, name = '', version = '']) => [name, version]));
}

/**
 * @param {string} format
 * @param {readonly string[]} names
 */
function query(format, names) {
  // It ends with status 1 when one of them is not known, having printed the others.
  return spawnSync('dpkg-query', ['-W', '-f', format, ...names], { encoding: 'utf8' }).stdout ?? '';
}

/**
 * Whether the libbpf in a package of this version has all that is needed.
 * @param {string | undefined} version e.g. `1:1.4.6-1~bpo12+1`; the epoch is Debian's own and says nothing
 */
export function isLibbpfRecent(version) {
  const [, major = 0, minor = 0] = (/^(?:\d+:)?(\d+)\.(\d+)/.exec(version ?? '') ?? []).map(Number);
  return major > LIBBPF_MIN.major || (major === LIBBPF_MIN.major && minor >= LIBBPF_MIN.minor);
}

/** @param {string | undefined} clang its path or package, which both end in the version */
function fuzzerRuntime(clang) {
  return `libclang-rt-${/\d+$/.exec(clang ?? '')?.[0] ?? CLANG_MAJOR_PREFERRED}-dev`;
}

function clangPackage() {
  const names = execFileSync('apt-cache', ['pkgnames', 'clang-'], { encoding: 'utf8' }).split('\n');
  const majors = names.map((name) => Number(/^clang-(\d+)$/.exec(name)?.[1])).filter((major) => major >= CLANG_MAJOR_MIN).sort((a, b) => b - a);
  const major = majors.includes(CLANG_MAJOR_PREFERRED) ? CLANG_MAJOR_PREFERRED : majors[0];
  if (major === undefined) {
    throw new SetupError('ECLANG', `No clang of version ${CLANG_MAJOR_MIN} or later is offered by this machine's apt sources.`, {
      remedy: 'Add Debian\'s component main to the apt sources.',
    });
  }
  return `clang-${major}`;
}

/**
 * Add the machine's own mirror of the backports suite, unless some source offers it already.
 * @param {Host} host
 */
function enableBackports(host) {
  const suite = `${host.codename}-backports`;
  const offered = execFileSync('apt-get', ['indextargets', '--format', '$(RELEASE) $(COMPONENT)', 'Created-By: Packages'], { encoding: 'utf8' });
  if (offered.split('\n').includes(`${suite} main`)) return;
  const signedBy = existsSync(DEBIAN_KEYRING) ? `Signed-By: ${DEBIAN_KEYRING}\n` : '';
  writeFileSync(SOURCES_FILE, `Types: deb\nURIs: ${debianMirror(host.codename)}\nSuites: ${suite}\nComponents: main\n${signedBy}`);
}
