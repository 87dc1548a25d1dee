/** Mirrored inputs get lost on the replication network: slower, visible, and still nothing is contradicted. */
import { setTimeout as sleep } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { ClientProcess } from '../../src/drill/client-process.js';
import { Cables } from '../../src/lab/cables.js';
import { demoGuest } from '../../src/lab/lab.js';
import { addresses, setCables } from '../../src/lab/topology.js';
import { assertUnharmed, fetchInLab, ownLab, protectTimeoutMs, until, untilProtected, vmPid } from './lab-harness.js';

const lab = ownLab('t-loss');
/** No checkpoint comes by itself. */
const checkpoint = { periodMs: 600_000 };
let cables: Cables;
let clients: ClientProcess | undefined;

const lose = (share: number): Promise<void> => cables.spoil({ host: 'a', network: 'replication', direction: 'from', of: 'mirror', drop: share, delay: 0, delayMs: 0 });
const logged = async (): Promise<boolean> => {
  const { inputSeq, loggedSeq } = (await lab.status('a')).output;
  return inputSeq === loggedSeq;
};

test.before(async () => {
  await lab.down();
  await lab.up({ preRelease: true, overrides: { a: { checkpoint }, b: { checkpoint } } });
  cables = await Cables.attach(lab.topology, demoGuest().mac);
  await untilProtected(lab, 'a');
  await lab.waitForGuest(protectTimeoutMs);
});
test.after(async () => {
  clients?.kill();
  cables?.close();
  await lab.down();
});

test('a reply whose request was lost on its way to the log waits for a checkpoint, not for ever', async () => {
  await until('all is logged', logged);
  await lose(1);
  const before = (await lab.status('a')).checkpoints.commits;
  await fetchInLab(lab, `http://${addresses.guest}/1k`);
  assert.ok((await lab.status('a')).checkpoints.commits > before);
});

test('the last input is lost, which no later one gives away: the primary notices that nothing is acknowledged', async () => {
  // With a fetch the last thing that comes is a client's acknowledgement, which nobody answers.
  await fetchInLab(lab, `http://${addresses.guest}/1k`);
  await until('a checkpoint makes up for it', logged, 5000);
  await lose(0);
});

for (const share of [0.01, 0.1]) {
  test(`${share * 100} % are lost: clients get right answers, and status tells`, async () => {
    const before = { a: await lab.status('a'), b: await lab.status('b') };
    await lose(share);
    clients = await connect();
    await sleep(3000);
    await assertUnharmed(clients, process.hrtime.bigint() - 1_000_000_000n);
    await lose(0);
    const after = { a: await lab.status('a'), b: await lab.status('b') };
    assert.ok((await cables.report()).droppedFrames > 0);
    assert.ok(after.b.inputLog!.log.gaps > before.b.inputLog!.log.gaps, 'gaps are counted');
    const early = after.a.output.services.map(({ prereleasedPackets }, i) => prereleasedPackets - before.a.output.services[i]!.prereleasedPackets);
    assert.ok(early.some((packets) => packets > 0), 'some still left early');
    await until('the gaps are repaired', logged);
  });
}

test('the host dies while a tenth is lost: every connection goes on, no write is lost', async () => {
  await lose(0.1);
  clients = await connect();
  await sleep(2000);
  const doomed = await lab.status('a');
  const down = setCables(lab.topology, 'a', 'down');
  for (const pid of [doomed.pid, vmPid(doomed)]) process.kill(pid, 'SIGKILL');
  await down;
  await lab.waitFor('b', 'active', (s) => s.active, 10_000);
  const activeNs = process.hrtime.bigint();
  await sleep(3000);
  await assertUnharmed(clients, activeNs);
});

async function connect(): Promise<ClientProcess> {
  const started = new ClientProcess(lab.topology.client);
  const { ports } = demoGuest();
  await started.start({ guest: addresses.guest, redisPort: ports.redis, httpPort: ports.http, writers: 2, readers: 2, redisReaders: 2, newcomers: 1 });
  return started;
}

test.run();
