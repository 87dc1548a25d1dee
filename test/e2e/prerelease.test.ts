/** Declared services: replies to reads leave before a checkpoint, and a takeover contradicts none. */
import { setTimeout as sleep } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { ClientProcess } from '../../src/drill/client-process.js';
import { passed, runDemoRound } from '../../src/drill/demo.js';
import { seededRandom } from '../../src/drill/random.js';
import { demoGuest } from '../../src/lab/lab.js';
import { addresses } from '../../src/lab/topology.js';
import { fetchInLab, ownLab, protectTimeoutMs, untilProtected, vmPid } from './lab-harness.js';

const lab = ownLab('t-early');
/** No checkpoint of its own accord, so that what leaves has not waited for one. */
const checkpoint = { periodMs: 60_000 };

test.before(async () => {
  await lab.down();
  await lab.up({ preRelease: true, overrides: { a: { checkpoint }, b: { checkpoint } } });
  await untilProtected(lab, 'a');
  await lab.waitForGuest(protectTimeoutMs);
});
test.after(async () => {
  await lab.down();
});

async function clientsOf(kinds: { writers: number; readers: number }): Promise<ClientProcess> {
  const { ports } = demoGuest();
  const clients = new ClientProcess(lab.topology.client);
  await clients.start({ guest: addresses.guest, redisPort: ports.redis, httpPort: ports.http, ...kinds });
  return clients;
}

test('every input reaches the log of the other host, in order and without gaps', async () => {
  await fetchInLab(lab, `http://${addresses.guest}/1m`);
  await sleep(200);
  const { output } = await lab.status('a');
  const { inputLog } = await lab.status('b');
  assert.ok(output.inputSeq > 10, `${output.inputSeq} inputs`);
  assert.is(output.loggedSeq, output.inputSeq);
  assert.is(inputLog!.log.gaps, 0);
  assert.is(inputLog!.mode, 'standby');
});

test('replies to reads go on while no checkpoint can commit; no reply to a write leaves', async () => {
  const clients = await clientsOf({ writers: 2, readers: 6 });
  await sleep(1000);
  const secondary = vmPid(await lab.status('b'));
  process.kill(secondary, 'SIGSTOP');
  let sinceNs: bigint;
  let acknowledged: number;
  try {
    await sleep(50); // a commit that was complete already may still release
    sinceNs = process.hrtime.bigint();
    ({ acknowledged } = await clients.progress());
    const before = (await lab.status('a')).output.services;
    // Not longer: clients whose replies wait repeat their requests, and a repeated
    // request may say something else, so it puts its service in doubt.
    await sleep(150);
    const after = (await lab.status('a')).output.services;
    await sleep(800);
    assert.is((await clients.progress()).acknowledged, acknowledged, 'writes wait');
    const [redis, http] = [0, 1].map((i) => after[i]!.prereleasedPackets - before[i]!.prereleasedPackets);
    assert.is(redis, 0, 'nothing of the service that is in doubt left early');
    assert.ok(http! > 3, `${http} replies of the read-only service left early`);
  } finally {
    process.kill(secondary, 'SIGCONT');
  }
  const outcome = await clients.stop(sinceNs);
  clients.kill();
  assert.equal(outcome.reports.filter(({ broken }) => broken !== undefined), []);
  assert.is(outcome.lost, 0);
});

test('once the writes have committed, the service answers early again', async () => {
  const clients = await clientsOf({ writers: 1, readers: 0 });
  await sleep(500);
  await clients.stop(0n);
  clients.kill();
  await sleep(1500);
  const before = (await lab.status('a')).output.services[0]!;
  const reading = new ClientProcess(lab.topology.client);
  const { ports } = demoGuest();
  await reading.start({ guest: addresses.guest, redisPort: ports.redis, httpPort: ports.http, writers: 0, readers: 1, redisReaders: 0 });
  await sleep(300);
  await reading.stop(0n);
  reading.kill();
  const after = (await lab.status('a')).output.services[0]!;
  assert.is(after.openWrites, 0);
  assert.ok(after.heldPackets.doubt >= before.heldPackets.doubt);
});

test('the host dies: connections old and new survive, no write is lost, no read goes back', async () => {
  await lab.down();
  const round = await runDemoRound({
    labName: lab.name, vcpus: 1, preRelease: true, writers: 4, readers: 3, redisReaders: 2, newcomers: 2,
    loadSeconds: 1.5, jitterSeconds: 1, random: seededRandom(7), keep: false, signal: new AbortController().signal, onProgress: () => {},
  });
  assert.equal(round.connections.broken, []);
  assert.is(round.writes.lost, 0);
  assert.ok(passed(round));
});

test.run();
