import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { locateQemu, type QmpEvent, type QemuProcess } from '../../src/qemu/index.js';
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

/** The sequence of section 2 of the design; resolves once the VM runs by itself. */
async function failOver(vm: QemuProcess): Promise<QmpEvent> {
  const exit = new Promise<QmpEvent>((resolve) => vm.qmp.on('COLO_EXIT', resolve));
  await vm.qmp.execute('yank', { instances: [{ type: 'migration' }] }, { oob: true });
  await vm.qmp.execute('x-colo-lost-heartbeat');
  await until('the failover', () => isRunning(vm));
  return await exit;
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
  await pair.vm('primary').kill();
  pair.cut('primary');
  const exit = await failOver(pair.vm('secondary'));
  assert.equal(exit.data, { mode: 'secondary', reason: 'request' });
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
  assert.is((await failOver(primary)).name, 'COLO_EXIT');
  assert.is((await failOver(pair.vm('secondary'))).name, 'COLO_EXIT');
});

colo.run();
