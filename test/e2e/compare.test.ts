/** The mode auto: under writes the secondary's VM runs, output leaves as soon as both have said it, and a takeover loses nothing. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { setCables } from '../../src/lab/topology.js';
import { demoGuest } from '../../src/lab/lab.js';
import { assertUnharmed, ownLab, protectTimeoutMs, startClients, until, untilProtected, vmPid } from './lab-harness.js';

const lab = ownLab('t-compare');
/** A busy machine takes its time to run two VMs. */
const trialTimeoutMs = 60_000;

test.before(async () => {
  await lab.down();
  const overrides = { mode: 'auto', services: [{ port: demoGuest().ports.redis, protocol: 'resp' }] };
  await lab.up({ overrides: { a: overrides, b: overrides } });
  await untilProtected(lab, 'a');
  await lab.waitForGuest(protectTimeoutMs);
});
test.after(async () => {
  await lab.down();
});

test('output that waits is a reason to compare, and what both say leaves; then the host dies', async () => {
  const before = await lab.status('a');
  assert.equal([before.compare.mode, before.compare.comparing, before.output.releasedBy.match], ['auto', false, 0]);
  const clients = await startClients(lab, { writers: 4, readers: 1 });
  try {
    await until('matches release output', async () => (await lab.status('a')).output.releasedBy.match >= 100, trialTimeoutMs);
    const doomed = await lab.status('a');
    assert.match(doomed.compare.reason, /\S/);
    assert.ok(doomed.protected);
    const sinceNs = process.hrtime.bigint();
    const cables = setCables(lab.topology, 'a', 'down');
    for (const pid of [doomed.pid, vmPid(doomed)]) process.kill(pid, 'SIGKILL');
    await cables;
    await lab.waitFor('b', 'active', (status) => status.active, 10_000);
    await until('every client has a reply', async () => (await clients.progress(sinceNs + 300_000_000n)).waiting === 0);
    await assertUnharmed(clients, sinceNs + 300_000_000n);
  } finally {
    clients.kill();
  }
});

test.run();
