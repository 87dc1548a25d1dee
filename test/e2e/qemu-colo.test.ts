import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { locateQemu, type QemuProcess } from '../../src/qemu/index.js';
import { ColoPair, type GuestImage } from '../bench/colo-pair.js';

/** What we believe of QEMU's COLO, shown by a real pair over our relay; no networking. */

const GUEST_FILE = fileURLToPath(new URL('../../../build/guest/guest.json', import.meta.url));

interface Context {
  folder: string;
  pair: ColoPair;
}

const colo = suite<Context>('colo over the relay');

colo.before.each(async (context) => {
  const guest = JSON.parse(await readFile(GUEST_FILE, 'utf8')) as GuestImage;
  context.folder = await mkdtemp(join(tmpdir(), 'colopp-colo-'));
  const { signal } = new AbortController();
  context.pair = await ColoPair.start('relay', await locateQemu(), guest, context.folder, signal);
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

/**
 * The sequence of section 2 of the design. COLO_EXIT is no part of it: a QEMU that notices the
 * broken link by itself says it before, with the reason `error`.
 */
async function failOver(vm: QemuProcess): Promise<void> {
  await vm.qmp.execute('yank', { instances: [{ type: 'migration' }] }, { oob: true });
  await vm.qmp.execute('x-colo-lost-heartbeat');
  await until('the failover', () => isRunning(vm));
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
  await pair.vm('primary').kill();
  pair.cut('primary');
  await failOver(secondary);
  await until('COLO_EXIT', async () => left.length > 0);
  assert.equal(left, ['secondary']);
});

colo('when the link dies in the middle of a checkpoint, both can run on', async ({ pair }) => {
  await pair.checkpoint();
  const primary = pair.vm('primary');
  const stopped = new Promise<void>((resolve) => primary.qmp.on('STOP', () => resolve()));
  let commits = 0;
  primary.qmp.on('RESUME', () => commits++);
  const attempt = pair.checkpoint();
  attempt.catch(() => {});
  await stopped;
  pair.cut('secondary');
  assert.is(commits, 0, 'the link was cut before the commit');
  await failOver(primary);
  await failOver(pair.vm('secondary'));
  assert.is(commits, 1, 'the primary goes on, which QEMU tells like any commit');
});

colo.run();
