import { readFileSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { coloExit, cutPeer, declareAlone, failOver, locateQemu, type QemuProcess } from '../../src/qemu/index.js';
import { ColoPair, type GuestImage } from '../bench/colo-pair.js';

/** What we believe of QEMU's COLO, shown by a real pair over a connection like our agents'; no networking. */

const guest = JSON.parse(readFileSync(fileURLToPath(new URL('../../../build/guest/guest.json', import.meta.url)), 'utf8')) as GuestImage;
const timeoutMs = 10_000;
const pageBytes = 4096;

interface Context {
  folder: string;
  pair: ColoPair;
}

const colo = suite<Context>('colo over a connection that is handed over');

colo.before.each(async (context) => {
  context.folder = await mkdtemp(join(tmpdir(), 'colopp-colo-'));
  const { signal } = new AbortController();
  context.pair = await ColoPair.start('handed', await locateQemu(), guest, context.folder, signal);
});
colo.after.each(async ({ pair, folder }) => {
  await pair.stop();
  await rm(folder, { recursive: true, force: true });
});

async function until(what: string, condition: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 10_000;
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error(`${what} did not happen within 10 s`);
    await sleep(5);
  }
}

const isRunning = async ({ qmp }: QemuProcess) => (await qmp.execute('query-status')).running;

/** Of QEMU's memory for the guest, byte for byte. */
async function guestMemory({ qmp }: QemuProcess, file: string): Promise<Buffer> {
  await qmp.executeUntyped('pmemsave', { val: 0, size: guest.memoryMiB * 2 ** 20, filename: file }, { timeoutMs });
  return await readFile(file);
}

/** Pages in which two memories differ. */
function differentPages(a: Buffer, b: Buffer): number {
  let pages = 0;
  for (let at = 0; at < a.length; at += pageBytes) if (a.compare(b, at, at + pageBytes, at, at + pageBytes) !== 0) pages++;
  return pages;
}

/** Collects the modes in which a QEMU says that it leaves COLO. */
function exits(vm: QemuProcess): string[] {
  const modes: string[] = [];
  vm.qmp.on('COLO_EXIT', ({ data }) => modes.push(data.mode));
  return modes;
}

colo('checkpoints commit; a secondary that is stopped loads them and can be stopped again', async ({ pair }) => {
  for (let i = 0; i < 5; i++) {
    const pauseMs = await pair.checkpoint(); // stops the secondary again
    assert.ok(pauseMs > 0 && pauseMs < 1000, `a pause of ${pauseMs} ms`);
    assert.ok(await isRunning(pair.vm('primary')));
    assert.not(await isRunning(pair.vm('secondary')));
  }
  assert.is((await pair.vm('primary').qmp.execute('query-colo-status')).mode, 'primary');
  assert.is((await pair.vm('secondary').qmp.execute('query-colo-status')).mode, 'secondary');
});

colo('when the primary dies, the paused secondary runs on', async ({ pair }) => {
  await pair.checkpoint();
  const secondary = pair.vm('secondary');
  const left = exits(secondary);
  const exited = coloExit(secondary.qmp);
  await pair.vm('primary').kill();
  pair.cut('primary');
  await failOver(secondary.qmp, exited, timeoutMs);
  await until('the failover', () => isRunning(secondary));
  assert.equal(left, ['secondary']);
});

/** Begins checkpoints until one is caught between its stop and its commit: the secondary's QEMU is frozen then. */
async function freezeInCheckpoint(pair: ColoPair): Promise<void> {
  const [primary, secondary] = [pair.vm('primary'), pair.vm('secondary')];
  for (let tries = 1; tries <= 20; tries++) {
    const off = primary.qmp.on('STOP', () => process.kill(secondary.pid, 'SIGSTOP'));
    const attempt = pair.checkpoint();
    attempt.catch(() => {}); // the one that is caught never ends
    await Promise.race([attempt, sleep(500)]); // one that was past catching has told of its commit by then
    off();
    if (!(await isRunning(primary))) return;
    process.kill(secondary.pid, 'SIGCONT');
    await attempt;
  }
  throw new Error('No checkpoint was caught before its commit.');
}

colo('when the link dies in the middle of a checkpoint, both can run on', async ({ pair }) => {
  await pair.checkpoint();
  const [primary, secondary] = [pair.vm('primary'), pair.vm('secondary')];
  const exited = coloExit(secondary.qmp);
  await freezeInCheckpoint(pair);
  let resumed = 0;
  primary.qmp.on('RESUME', () => resumed++);
  pair.cut('secondary');
  process.kill(secondary.pid, 'SIGCONT');
  await cutPeer(primary.qmp, timeoutMs);
  await declareAlone(primary.qmp, timeoutMs);
  await until('the primary goes on', () => isRunning(primary));
  await failOver(secondary.qmp, exited, timeoutMs);
  await until('the failover', () => isRunning(secondary));
  assert.is(resumed, 1, 'the primary goes on, which QEMU tells like any commit');
});

colo('a secondary is not declared alone before it has read what had arrived', async ({ pair }) => {
  await pair.checkpoint();
  const secondary = pair.vm('secondary');
  const exited = coloExit(secondary.qmp);
  try {
    await failOver(secondary.qmp, new Promise(() => {}), 500);
    assert.unreachable();
  } catch (error) {
    assert.match((error as Error).message, /still reads/);
  }
  await sleep(200);
  assert.not(await isRunning(secondary));
  await failOver(secondary.qmp, exited, timeoutMs); // its connection is cut already
  await until('the failover', () => isRunning(secondary));
});

colo('a secondary that has much to read when its primary dies puts none of it into its VM', async ({ pair, folder }) => {
  await pair.checkpoint();
  const [primary, secondary] = [pair.vm('primary'), pair.vm('secondary')];
  const before = await guestMemory(secondary, join(folder, 'before'));
  const exited = coloExit(secondary.qmp);
  await primary.qmp.executeUntyped('system_reset'); // nothing changes as much memory as a boot
  await sleep(3000);
  const stopped = new Promise<void>((resolve) => primary.qmp.on('STOP', () => {
    process.kill(secondary.pid, 'SIGSTOP');
    resolve();
  }));
  await pair.ask();
  await stopped;
  await sleep(500);
  await primary.kill();
  const failover = failOver(secondary.qmp, exited, timeoutMs);
  process.kill(secondary.pid, 'SIGCONT');
  await failover;
  await until('the failover', () => isRunning(secondary));
  await secondary.qmp.execute('stop');
  // It has run for a moment; the checkpoint that never arrived holds thousands.
  const different = differentPages(before, await guestMemory(secondary, join(folder, 'after')));
  assert.ok(different < 500, `${different} pages have changed`);
});

colo.run();
