/**
 * Debian packages taken apart without being installed: a private apt, with its own sources, lists and (empty) state,
 * resolves and verifies them; nothing of the machine's own package state is read or changed, and no maintainer
 * script ever runs.
 */
import { existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DEBIAN_KEYRING } from './host.mjs';
import { SetupError } from './errors.mjs';

/** @typedef {import('./process.mjs').Runner} Runner */
/** @typedef {{ name: string, version: string, path: string }} Deb */

export class PrivateApt {
  /**
   * @param {{ runner: Runner, folder: string, mirror: string, suite: string }} options
   *   `folder` receives lists and packages; it is the caller's to remove
   */
  constructor({ runner, folder, mirror, suite }) {
    this.runner = runner;
    this.suite = suite;
    this.mirror = mirror;
    this.archives = join(folder, 'archives');
    mkdirSync(join(folder, 'lists', 'partial'), { recursive: true });
    mkdirSync(join(this.archives, 'partial'), { recursive: true });
    writeFileSync(join(folder, 'status'), '');
    const signedBy = existsSync(DEBIAN_KEYRING) ? `Signed-By: ${DEBIAN_KEYRING}\n` : '';
    writeFileSync(join(folder, 'debian.sources'), `Types: deb\nURIs: ${mirror}\nSuites: ${suite}\nComponents: main\n${signedBy}`);
    /** The machine's apt.conf stays in force: it may name a proxy or credentials. */
    this.options = Object.entries({
      'APT::Architecture': 'amd64',
      'APT::Architectures': 'amd64',
      'APT::Install-Recommends': 'false',
      // The folder may lie where apt's own unprivileged user cannot look.
      'APT::Sandbox::User': 'root',
      'Acquire::Languages': 'none',
      'Acquire::Retries': '3',
      'Dir::Cache': folder,
      'Dir::Cache::archives': this.archives,
      'Dir::Etc::Preferences': '/dev/null',
      'Dir::Etc::PreferencesParts': '/dev/null',
      'Dir::Etc::SourceList': join(folder, 'debian.sources'),
      'Dir::Etc::SourceParts': '/dev/null',
      'Dir::State::Lists': join(folder, 'lists'),
      'Dir::State::status': join(folder, 'status'),
    }).flatMap(([key, value]) => ['-o', `${key}=${value}`]);
  }

  /** Fetch and verify the suite's package lists. */
  async update() {
    await this.#apt('apt-get', ['-q', '--error-on=any', 'update'], `the package lists of Debian ${this.suite}`);
  }

  /**
   * Download `packages` with everything they depend on.
   * @param {readonly string[]} packages
   */
  async downloadClosure(packages) {
    await this.#apt('apt-get', ['-q', '-y', '--download-only', 'install', ...packages], packages.join(', '));
  }

  /**
   * Download `packages` alone.
   * @param {readonly string[]} packages
   */
  async download(packages) {
    await this.#apt('apt-get', ['-q', 'download', ...packages], packages.join(', '), this.archives);
  }

  /**
   * Names of the packages that `name` depends on directly.
   * @param {string} name
   */
  async dependencies(name) {
    const text = await this.#apt('apt-cache', ['depends', name], `the dependencies of ${name}`);
    return [...text.matchAll(/^\s+Depends: (\S+)$/gm)].map(([, dependency]) => /** @type {string} */ (dependency));
  }

  /**
   * All packages downloaded so far, by name.
   * @returns {Deb[]}
   */
  downloaded() {
    return readdirSync(this.archives).filter((file) => file.endsWith('.deb')).sort().map((file) => {
      // apt names them NAME_VERSION_ARCH.deb, with the colon of an epoch written %3a.
      const [name = '', version = ''] = file.split('_');
      return { name, version: version.replaceAll('%3a', ':'), path: join(this.archives, file) };
    });
  }

  /**
   * Unpack all downloaded packages into `root`.
   * @param {string} root
   */
  async unpack(root) {
    mkdirSync(root, { recursive: true });
    for (const deb of this.downloaded()) await this.runner.run('dpkg-deb', ['-x', deb.path, root]);
  }

  /**
   * @param {string} program
   * @param {string[]} args
   * @param {string} subject for the error
   * @param {string} [cwd]
   */
  async #apt(program, args, subject, cwd) {
    try {
      return await this.runner.run(program, [...this.options, ...args], { env: { DEBIAN_FRONTEND: 'noninteractive' }, ...(cwd ? { cwd } : {}) });
    } catch (error) {
      this.runner.signal.throwIfAborted();
      throw new SetupError('EDEBS', `Could not get ${subject} from ${this.mirror} (suite ${this.suite}).`, {
        cause: error,
        remedy: `See that the mirror can be reached and carries ${this.suite}, or set COLOPP_DEBIAN_MIRROR to one that does; then run set-up again.`,
      });
    }
  }
}

/**
 * Remove what programs never read: manuals, translations and the like.
 * @param {string} root
 */
export function removeDocumentation(root) {
  for (const path of ['usr/share/doc', 'usr/share/man', 'usr/share/locale', 'usr/share/info', 'usr/share/lintian', 'usr/share/bug']) {
    rmSync(join(root, path), { recursive: true, force: true });
  }
}
