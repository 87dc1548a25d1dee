/** Whatever is interrupted or killed, and when: nothing of a lab stays behind. */
import { rmSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { assertInterrupted, colopp, ended, isAlive, LabTrace, ownLab, pressCtrlC, startColopp, untilProtected, vmPid } from './lab-harness.js';

const lab = ownLab('t-cleanup');

test.before(async () => void await lab.down());
test.after(async () => void await lab.down());

/** Some moment while a lab is being made: its network, its agents, the copy of its VM. */
const moments: [fromMs: number, toMs: number][] = [[150, 400], [400, 1200], [1200, 3000]];

for (const [fromMs, toMs] of moments) {
  const atMs = Math.round(fromMs + Math.random() * (toMs - fromMs));

  test(`lab up is interrupted after ${atMs} ms`, async () => {
    const up = startColopp('lab', 'up', '--name', lab.name);
    const end = ended(up);
    const trace = new LabTrace(lab);
    await sleep(atMs);
    await trace.note();
    pressCtrlC(up);
    assertInterrupted(await end);
    await trace.assertGone();
  });

  test(`lab up is killed after ${atMs} ms`, async () => {
    const up = startColopp('lab', 'up', '--name', lab.name);
    const end = ended(up);
    const trace = new LabTrace(lab);
    await sleep(atMs);
    await trace.note();
    up.kill('SIGKILL');
    await end;
    await sleep(100); // what it had started may have gone on
    await trace.note();
    assert.is((await colopp('lab', 'down', '--name', lab.name)).code, 0);
    await trace.assertGone();
  });
}

test('agents are killed, and their VMs live on', async () => {
  await lab.up();
  await untilProtected(lab, 'a');
  const trace = new LabTrace(lab);
  assert.ok(await trace.note() >= 6);
  const statuses = await Promise.all([lab.status('a'), lab.status('b')]);
  for (const { pid } of statuses) process.kill(pid, 'SIGKILL');
  await sleep(200);
  assert.ok(statuses.every((status) => isAlive(vmPid(status))));
  const left = await trace.leftovers();
  assert.ok(left.some((what) => what.startsWith('BPF program')), 'the gates outlive their agents');
  const down = await colopp('lab', 'down', '--name', lab.name);
  assert.is(down.code, 0);
  await trace.assertGone();
});

test('agents and VMs are frozen', async () => {
  await lab.up();
  await untilProtected(lab, 'a');
  const trace = new LabTrace(lab);
  await trace.note();
  for (const status of await Promise.all([lab.status('a'), lab.status('b')])) {
    for (const pid of [status.pid, vmPid(status)]) process.kill(pid, 'SIGSTOP');
  }
  assert.is((await colopp('lab', 'down', '--name', lab.name)).code, 0);
  await trace.assertGone();
});

test("the folder of a lab's agents is gone", async () => {
  await lab.up();
  const trace = new LabTrace(lab);
  await trace.note();
  rmSync(lab.dir, { recursive: true });
  assert.is((await colopp('lab', 'down', '--name', lab.name)).code, 0);
  await trace.assertGone();
});

test.run();
