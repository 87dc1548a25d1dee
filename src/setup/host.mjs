import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { SetupError } from './errors.mjs';

/** Keyring of Debian's archives, as its own package installs it. */
export const DEBIAN_KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg';

/**
 * What set-up needs to know of the machine.
 * @typedef {{ release: number, codename: string }} Host `release` is 12 for bookworm, 13 for trixie, Infinity for testing and sid
 */

/**
 * Check the preconditions that no step can mend, and describe the machine.
 *
 * @returns {Host}
 * @throws {SetupError} exit code 2: no root, another processor, another system, an older Debian
 */
export function inspectHost() {
  if (process.getuid?.() !== 0) {
    throw refused('EROOT', 'Set-up installs Debian packages and must run as root.', 'Run it again as root, e.g. `sudo npm run setup`.');
  }
  if (process.arch !== 'x64') {
    throw refused('EARCH', `This machine is ${process.arch}; the guest image and its QEMU are built for x86-64 only.`, 'Use an x86-64 machine.');
  }
  const [nodeMajor = 0] = process.versions.node.split('.').map(Number);
  if (nodeMajor < 20) {
    throw refused('ENODE', `This is Node.js ${process.versions.node}; 20 or later is needed.`, 'Install Node.js 20 or later with its npm.');
  }
  const release = parseOsRelease(existsSync('/etc/os-release') ? readFileSync('/etc/os-release', 'utf8') : '');
  if (release.ID !== 'debian' || !existsSync('/usr/bin/apt-get')) {
    throw refused('EDEBIAN', `This machine runs ${release.PRETTY_NAME ?? 'an unknown system'}; set-up knows Debian only.`, 'Use Debian 12 or later.');
  }
  // Testing and unstable carry no VERSION_ID.
  const number = release.VERSION_ID === undefined ? Number.POSITIVE_INFINITY : Number(release.VERSION_ID);
  if (!(number >= 12)) {
    throw refused('EDEBIAN', `This is Debian ${release.VERSION_ID}; 12 (bookworm) or later is needed.`, 'Use Debian 12 or later.');
  }
  return { release: number, codename: release.VERSION_CODENAME ?? 'sid' };
}

/**
 * @param {string} text contents of os-release(5)
 * @returns {Record<string, string | undefined>}
 */
export function parseOsRelease(text) {
  return Object.fromEntries([...text.matchAll(/^([A-Z_]+)=(?:"([^"]*)"|(\S*))$/gm)].map(([, key, quoted, bare]) => [key, quoted ?? bare]));
}

/**
 * The mirror this machine takes its own Debian packages from, so that other suites come from the same place.
 * apt itself is asked: sources may be in either of two formats, in any number of files.
 *
 * @param {string} codename suite of the machine
 * @returns {string} address of an archive, with `dists/` below it
 * @throws {SetupError} `EMIRROR`
 */
export function debianMirror(codename) {
  const override = process.env['COLOPP_DEBIAN_MIRROR'];
  if (override) return override;
  const listed = execFileSync('apt-get', ['indextargets', '--format', '$(REPO_URI) $(RELEASE) $(COMPONENT)', 'Created-By: Packages'], { encoding: 'utf8' });
  const rows = listed.split('\n').map((line) => line.split(' '));
  const [mirror] = rows.find(([, suite, component]) => suite === codename && component === 'main')
    ?? rows.find(([, suite, component]) => (suite === 'testing' || suite === 'unstable' || suite === 'stable') && component === 'main')
    ?? [];
  if (!mirror) {
    throw new SetupError('EMIRROR', `None of this machine's apt sources offers the component main of Debian ${codename}.`, {
      exitCode: 2, remedy: 'Add one to /etc/apt/sources.list, or set COLOPP_DEBIAN_MIRROR to the address of a Debian mirror.',
    });
  }
  return mirror.replace(/\/+$/, '');
}

/**
 * @param {string} code
 * @param {string} message
 * @param {string} remedy
 */
function refused(code, message, remedy) {
  return new SetupError(code, message, { remedy, exitCode: 2 });
}
