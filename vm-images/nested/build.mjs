/**
 * The outer VM of the nested tests: a machine of its own in which the lab runs, with a kernel of our choice and with
 * KVM. It consists of a root file system that all kernels share, compressed and never written to, and for each kernel
 * an initramfs with its drivers. The project is not in it: it comes over 9p at start, so that a change of code
 * changes no image.
 */
import { createHash } from 'node:crypto';
import { cpSync, existsSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { PrivateApt } from '../../src/setup/debs.mjs';
import { SetupError } from '../../src/setup/errors.mjs';
import { only } from '../guest/build.mjs';
import { Tree } from '../guest/cpio.mjs';
import { sharedLibraries } from '../guest/libraries.mjs';
import { driverModules } from '../guest/modules.mjs';
import { ROOT_SUITE } from './suites.mjs';

/** @typedef {import('../../src/setup/process.mjs').Runner} Runner */

const PACKAGES = ['busybox-static', 'iproute2', 'libbpf1', 'nodejs', 'qemu-system-x86'];
const PROGRAMS = ['usr/bin/ip', 'usr/bin/node', 'usr/bin/qemu-system-x86_64', 'usr/sbin/bridge', 'usr/sbin/tc'];
/** What our native add-ons are linked with. */
const LIBRARIES = ['libbpf.so.1', 'libelf.so.1', 'libstdc++.so.6', 'libz.so.1'];
/** What the programs read. Of QEMU's firmware only what an x86 machine that starts from a given kernel needs. */
const DATA = [
  'usr/bin/busybox', 'usr/share/nodejs', 'usr/share/seabios',
  ...['kvmvapic.bin', 'linuxboot_dma.bin', 'multiboot_dma.bin', 'pvh.bin'].map((file) => `usr/share/qemu/${file}`),
];
const FOLDERS = ['dev', 'etc', 'proc', 'root', 'run', 'sys', 'tmp', 'var/tmp', 'mnt'];

/** For the outer VM's own devices and file systems. */
const START_DRIVERS = ['virtio_pci', 'virtio_blk', 'virtio_console', 'virtio_rng', '9pnet_virtio', '9p', 'squashfs', 'overlay'];
/** For what colopp and its tests ask of a host; nothing in there loads modules by itself. */
const LAB_DRIVERS = ['tun', 'bridge', 'veth', 'vxlan', 'dummy', 'cls_bpf', 'sch_ingress', 'sch_netem'];
/** Whichever fits the processor. */
const KVM_DRIVERS = ['kvm_amd', 'kvm_intel'];

/**
 * Lay the root file system into `FOLDER/root.squashfs`.
 * @param {{ folder: string, mirror: string, runner: Runner }} options
 * @throws {SetupError} `EDEBS`, `EIMAGE`
 */
export async function buildOuterRoot({ folder, mirror, runner }) {
  await inScratch(join(folder, 'root.new'), async (scratch) => {
    const apt = new PrivateApt({ runner, folder: join(scratch, 'apt'), mirror, suite: ROOT_SUITE });
    await apt.update();
    await apt.downloadClosure([...PACKAGES, 'squashfs-tools']);
    const unpacked = join(scratch, 'unpacked');
    await apt.unpack(unpacked);

    const root = join(scratch, 'root');
    await select(unpacked, root, runner);
    const image = join(scratch, 'root.squashfs');
    // The packer comes from the same packages, and runs through their loader: the machine needs none.
    await runner.run(join(unpacked, 'usr/lib64/ld-linux-x86-64.so.2'), [
      '--inhibit-cache', '--library-path', join(unpacked, 'usr/lib/x86_64-linux-gnu'), join(unpacked, 'usr/bin/mksquashfs'),
      root, image, '-noappend', '-no-progress', '-all-root', '-all-time', '0', '-mkfs-time', '0', '-comp', 'zstd', '-Xcompression-level', '9',
    ]);
    renameSync(image, join(folder, 'root.squashfs'));
  });
}

/**
 * Lay a kernel and its initramfs into `FOLDER/SUITE/`, and describe them in `FOLDER/SUITE/kernel.json`.
 * @param {{ folder: string, suite: import('./suites.mjs').Suite, mirror: string, runner: Runner }} options
 * @throws {SetupError} `EDEBS`, `EIMAGE`
 */
export async function buildOuterKernel({ folder, suite, mirror, runner }) {
  await inScratch(join(folder, `${suite}.new`), async (scratch) => {
    const apt = new PrivateApt({ runner, folder: join(scratch, 'apt'), mirror, suite });
    await apt.update();
    const image = only(await apt.dependencies('linux-image-amd64'), /^linux-image-\d/);
    // Newer Debians keep the kernel and its modules in packages of their own.
    const parts = (await apt.dependencies(image)).filter((name) => /^linux-(base|binary|modules)-\d/.test(name));
    await apt.download([image, ...parts, 'busybox-static']);
    const root = join(scratch, 'root');
    await apt.unpack(root);
    const { release, kernel, config, modules } = findKernel(root);
    const tree = await initramfs(root, modules, runner);
    tree.file(`config-${release}`, config);
    const initrd = tree.toCpio();

    const home = join(scratch, 'home');
    mkdirSync(home);
    writeFileSync(join(home, 'vmlinuz'), kernel);
    writeFileSync(join(home, 'initrd.img'), initrd);
    const content = createHash('sha256').update(kernel).update(initrd).digest('hex').slice(0, 16);
    writeFileSync(join(home, 'kernel.json'), `${JSON.stringify({ suite, release, content }, null, 2)}\n`);
    rmSync(join(folder, suite), { recursive: true, force: true });
    renameSync(home, join(folder, suite));
  });
}

/**
 * @param {string} scratch a folder that exists while `work` is done
 * @param {(scratch: string) => Promise<void>} work
 */
async function inScratch(scratch, work) {
  rmSync(scratch, { recursive: true, force: true });
  try {
    mkdirSync(scratch, { recursive: true });
    await work(scratch);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

/**
 * Copy from `unpacked` to `root` what the outer VM runs, and nothing else.
 * @param {string} unpacked
 * @param {string} root
 * @param {Runner} runner
 */
async function select(unpacked, root, runner) {
  for (const path of FOLDERS) mkdirSync(join(root, path), { recursive: true });
  const copyFile = (/** @type {string} */ path) => {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    cpSync(join(unpacked, path), join(root, path), { dereference: true });
  };
  const library = (/** @type {string} */ name) => `usr/lib/x86_64-linux-gnu/${name}`;
  for (const program of [...PROGRAMS, ...LIBRARIES.map(library)]) {
    copyFile(program);
    for (const path of await sharedLibraries(unpacked, program, runner)) copyFile(path);
  }
  for (const path of DATA) cpSync(join(unpacked, path), join(root, path), { recursive: true, verbatimSymlinks: true });
  rmSync(join(root, 'usr/share/nodejs/@types'), { recursive: true, force: true });
  for (const folder of ['bin', 'sbin', 'lib', 'lib64']) symlinkSync(`usr/${folder}`, join(root, folder));
  const applets = (await runner.run(join(unpacked, 'usr/bin/busybox'), ['--list'])).trim().split('\n');
  for (const applet of applets) {
    if (!['bin', 'sbin'].some((folder) => existsSync(join(root, 'usr', folder, applet)))) symlinkSync('busybox', join(root, 'usr/bin', applet));
  }
  writeFileSync(join(root, 'etc/passwd'), 'root:x:0:0:root:/root:/bin/sh\n');
  writeFileSync(join(root, 'etc/group'), 'root:x:0:\n');
  writeFileSync(join(root, 'etc/hosts'), '127.0.0.1 localhost\n');
  copyOwn(root, 'outer', 'usr/sbin/outer');
}

/**
 * @param {string} root
 * @param {string} file of ours
 * @param {string} path
 */
function copyOwn(root, file, path) {
  writeFileSync(join(root, path), own(file), { mode: 0o755 });
}

/** @param {string} file */
function own(file) {
  return readFileSync(fileURLToPath(new URL(`files/${file}`, import.meta.url)));
}

/**
 * Debian 14 keeps kernels beside their modules, older ones keep them in /boot; Debian 12 has its modules outside /usr.
 * @param {string} root unpacked packages
 */
function findKernel(root) {
  const home = ['usr/lib/modules', 'lib/modules'].map((path) => join(root, path)).find((path) => existsSync(path));
  if (home === undefined) throw new SetupError('EIMAGE', 'The packages of the kernel hold no modules.');
  const release = only(readdirSync(home), /^\d+\./);
  const modules = join(home, release);
  const read = (/** @type {string} */ name) => {
    const path = [join(modules, name), join(root, 'boot', `${name}-${release}`)].find((candidate) => existsSync(candidate));
    if (path === undefined) throw new SetupError('EIMAGE', `The packages hold modules of Linux ${release}, but no ${name} of it.`);
    return readFileSync(path);
  };
  return { release, kernel: read('vmlinuz'), config: read('config'), modules };
}

/**
 * @param {string} root unpacked packages
 * @param {string} modulesFolder
 * @param {Runner} runner
 */
async function initramfs(root, modulesFolder, runner) {
  const builtIn = new Set(readFileSync(join(modulesFolder, 'modules.builtin'), 'utf8').split('\n').map((path) => basename(path, '.ko').replaceAll('-', '_')));
  const drivers = [...START_DRIVERS, ...LAB_DRIVERS, ...KVM_DRIVERS].filter((name) => !builtIn.has(name));
  const modules = await driverModules(modulesFolder, drivers, runner);
  const tree = new Tree();
  for (const folder of ['dev', 'proc', 'sys', 'mnt']) tree.folder(folder);
  tree.link('bin', 'usr/bin');
  tree.link('sbin', 'usr/bin');
  tree.characterDevice('dev/console', 5, 1);
  const busybox = ['usr/bin/busybox', 'bin/busybox'].map((path) => join(root, path)).find((path) => existsSync(path)) ?? '';
  tree.file('usr/bin/busybox', readFileSync(busybox), 0o755);
  for (const applet of ['sh', 'mount', 'mkdir', 'insmod', 'switch_root', 'cat', 'poweroff', 'uname']) tree.link(`usr/bin/${applet}`, 'busybox');
  for (const { file, data } of modules) tree.file(`modules/${file}`, data);
  tree.file('modules/order', modules.map(({ file }) => `${file}\n`).join(''));
  tree.file('init', own('init'), 0o755);
  return tree;
}
