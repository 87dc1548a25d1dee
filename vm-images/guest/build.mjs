/**
 * The guest of demo, tests and benchmarks: a Debian kernel and an initramfs with busybox, redis-server and nginx.
 * Packages are downloaded and unpacked, never installed. The same packages and files give the same bytes; each build
 * lies in a folder named after its content, and `guest.json` says which one is current.
 */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { PrivateApt } from '../../src/setup/debs.mjs';
import { SetupError } from '../../src/setup/errors.mjs';
import { walk } from '../../src/setup/fingerprint.mjs';
import { Tree } from './cpio.mjs';
import { sharedLibraries } from './libraries.mjs';
import { driverModules } from './modules.mjs';

/** The guest is the same whatever Debian the host runs. */
export const SUITE = 'trixie';
/** The kernel for virtual machines: far fewer drivers, so a faster start. */
const KERNEL_PACKAGE = 'linux-image-cloud-amd64';
const PACKAGES = ['busybox-static', 'redis-server', 'nginx'];
const PROGRAMS = ['usr/bin/redis-server', 'usr/sbin/nginx'];
const DRIVERS = ['virtio_net'];

/** Network address of the guest unless its user says otherwise, and the card it is bound to. */
const ADDRESS_V4 = '10.77.0.10/24';
const MAC = '52:54:00:c0:10:01';
const MEMORY_MIB = 192;

/**
 * Kernel command line, without addresses.
 * - A VM that is paused for checkpoints loses time against its host: no watchdog may take that for a hang, and no
 *   clock comparison may take it for an unstable TSC.
 * - Nothing waits for entropy, and nothing is mitigated: it is a demo, under emulation more often than not.
 */
const APPEND = [
  'console=ttyS0', 'quiet', 'panic=-1',
  'tsc=reliable', 'no_timer_check', 'nowatchdog', 'nosoftlockup', 'rcupdate.rcu_cpu_stall_suppress=1',
  'random.trust_cpu=on', 'mitigations=off', 'rcupdate.rcu_expedited=1', 'cryptomgr.notests',
  '8250.nr_uarts=1', 'i8042.noaux',
].join(' ');

/**
 * What a QEMU command line needs to know of the guest.
 * Add `colopp.ip=ADDRESS/PREFIX` (and `colopp.ip6=`, `colopp.gw=`) to `append`.
 * @typedef {{ kernel: string, initrd: string, append: string, addressV4: string, mac: string, memoryMiB: number,
 *   ports: { redis: number, http: number }, packages: Record<string, string> }} Guest
 */

/**
 * Build the guest below `folder` and describe it in `FOLDER/guest.json`.
 *
 * @param {{ folder: string, mirror: string, runner: import('../../src/setup/process.mjs').Runner }} options
 * @returns {Promise<Guest>}
 * @throws {SetupError} `EDEBS`, `EGUEST`
 */
export async function buildGuest({ folder, mirror, runner }) {
  const scratch = join(folder, 'new');
  rmSync(scratch, { recursive: true, force: true });
  try {
    const apt = new PrivateApt({ runner, folder: join(scratch, 'apt'), mirror, suite: SUITE });
    await apt.update();
    await apt.downloadClosure(PACKAGES);
    await apt.download([await newestKernel(apt)]);
    const root = join(scratch, 'root');
    await apt.unpack(root);

    const image = join(scratch, 'image');
    mkdirSync(image);
    const kernel = readFileSync(join(root, 'boot', only(readdirSync(join(root, 'boot')), /^vmlinuz-/)));
    const initrd = (await initramfs(root, runner)).toCpio();
    writeFileSync(join(image, 'vmlinuz'), kernel);
    writeFileSync(join(image, 'initrd.img'), initrd);

    const content = createHash('sha256').update(kernel).update(initrd).digest('hex').slice(0, 16);
    const home = join(folder, content);
    if (!existsSync(home)) renameSync(image, home);
    const packages = Object.fromEntries(apt.downloaded().map(({ name, version }) => [name, version]));
    return publish(folder, home, packages);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

/**
 * Point `guest.json` at the image in `home`, and remove older images.
 * @param {string} folder
 * @param {string} home
 * @param {Record<string, string>} packages
 * @returns {Guest}
 */
function publish(folder, home, packages) {
  const guest = {
    kernel: join(home, 'vmlinuz'), initrd: join(home, 'initrd.img'), append: APPEND,
    addressV4: ADDRESS_V4, mac: MAC, memoryMiB: MEMORY_MIB, ports: { redis: 6379, http: 80 }, packages,
  };
  const description = join(folder, 'guest.json');
  writeFileSync(`${description}.new`, `${JSON.stringify(guest, null, 2)}\n`);
  renameSync(`${description}.new`, description);
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    if (entry.isDirectory() && /^[0-9a-f]{16}$/.test(entry.name) && entry.name !== basename(home)) rmSync(join(folder, entry.name), { recursive: true });
  }
  return guest;
}

/** @param {PrivateApt} apt */
async function newestKernel(apt) {
  return only(await apt.dependencies(KERNEL_PACKAGE), /^linux-image-\d/);
}

/**
 * @param {string} root unpacked packages
 * @param {import('../../src/setup/process.mjs').Runner} runner
 * @returns {Promise<Tree>}
 */
async function initramfs(root, runner) {
  const tree = new Tree();
  for (const folder of ['dev', 'proc', 'sys', 'run', 'tmp', 'root', 'var/log', 'var/lib/nginx', 'var/log/nginx']) tree.folder(folder);
  for (const folder of ['bin', 'sbin', 'lib', 'lib64']) tree.link(folder, `usr/${folder}`);
  // The kernel opens these before anything is mounted.
  tree.characterDevice('dev/console', 5, 1);
  tree.characterDevice('dev/null', 1, 3);

  tree.file('usr/bin/busybox', readFileSync(join(root, 'usr/bin/busybox')), 0o755);
  const applets = (await runner.run(join(root, 'usr/bin/busybox'), ['--list'])).trim().split('\n');
  for (const applet of applets.filter((name) => name !== 'busybox')) tree.link(`usr/bin/${applet}`, 'busybox');
  tree.folder('usr/sbin');
  tree.link('init', 'usr/bin/init');

  for (const program of PROGRAMS) {
    tree.file(program, readFileSync(join(root, program)), 0o755);
    for (const library of await sharedLibraries(root, program, runner)) {
      if (!tree.has(library)) tree.file(library, readFileSync(join(root, library)), 0o755);
    }
  }

  const modules = await driverModules(join(root, 'usr/lib/modules'), DRIVERS, runner);
  for (const { file, data } of modules) tree.file(`usr/lib/modules/${file}`, data);
  tree.file('usr/lib/modules/order', modules.map(({ file }) => `${file}\n`).join(''));

  const files = fileURLToPath(new URL('files/', import.meta.url));
  for (const path of walk(files)) {
    tree.file(relative(files, path), readFileSync(path), path.includes('/init.d/') ? 0o755 : 0o644);
  }
  tree.file('etc/passwd', 'root:x:0:0:root:/root:/bin/sh\n');
  tree.file('etc/group', 'root:x:0:\n');
  tree.file('srv/www/1k', page(1024));
  tree.file('srv/www/1m', page(1024 * 1024));
  return tree;
}

/**
 * A page in which every line of 16 bytes says where it stands, so that a client can check any part of it.
 * @param {number} bytes multiple of 16
 */
function page(bytes) {
  return Array.from({ length: bytes / 16 }, (_, line) => `${(line * 16).toString(16).padStart(15, '0')}\n`).join('');
}

/**
 * The one name that fits.
 * @param {string[]} names
 * @param {RegExp} pattern
 */
export function only(names, pattern) {
  const found = names.filter((name) => pattern.test(name));
  if (found.length !== 1) throw new SetupError('EGUEST', `Expected one name like ${pattern} among: ${names.join(', ')}.`);
  return /** @type {string} */ (found[0]);
}
