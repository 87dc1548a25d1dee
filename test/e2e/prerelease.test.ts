/** Declared services: replies to reads leave before a checkpoint, and a takeover contradicts none. */
import { execFile } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { ClientProcess } from '../../src/drill/client-process.js';
import { passed, runDemoRound } from '../../src/drill/demo.js';
import { seededRandom } from '../../src/drill/random.js';
import { demoGuest } from '../../src/lab/lab.js';
import { addresses } from '../../src/lab/topology.js';
import { fetchInLab, ownLab, protectTimeoutMs, until, untilProtected } from './lab-harness.js';

const lab = ownLab('t-early');
/** Long without a checkpoint, so that what leaves has not waited for one. */
const checkpoint = { holdMs: 1500, periodMs: 60_000 };

test.before(async () => {
  await lab.down();
  await lab.up({ preRelease: true, overrides: { a: { checkpoint }, b: { checkpoint } } });
  await untilProtected(lab, 'a');
  await lab.waitForGuest(protectTimeoutMs);
});
test.after(async () => {
  await lab.down();
});

/** What Redis answers to one GET over a new connection. */
async function inClientNamespace(netns: string, host: string, port: number): Promise<string> {
  const request = '*2\\r\\n$3\\r\\nGET\\r\\n$4\\r\\nnone\\r\\n';
  const script = `require('net').connect(${port}, '${host}', function () { this.write('${request}'); }).once('data', function (d) { process.stdout.write(d); this.destroy(); })`;
  const { stdout } = await promisify(execFile)('ip', ['netns', 'exec', netns, process.execPath, '-e', script], { timeout: 10_000 });
  return stdout;
}

async function clientsOf(kinds: { writers: number; readers: number }): Promise<ClientProcess> {
  const { ports } = demoGuest();
  const clients = new ClientProcess(lab.topology.client);
  await clients.start({ guest: addresses.guest, redisPort: ports.redis, httpPort: ports.http, ...kinds });
  return clients;
}

test('every input reaches the log of the other host, in order and without gaps', async () => {
  await fetchInLab(lab, `http://${addresses.guest}/1m`);
  await until('all is logged', async () => (await lab.status('a')).output.loggedSeq === (await lab.status('a')).output.inputSeq);
  const { output } = await lab.status('a');
  const { inputLog } = await lab.status('b');
  assert.ok(output.inputSeq > 10, `${output.inputSeq} inputs`);
  assert.is(inputLog!.log.gaps, 0);
  assert.is(inputLog!.mode, 'standby');
});

test('replies to reads leave without a checkpoint, replies to writes wait for one', async () => {
  const before = await lab.status('a');
  const sinceNs = process.hrtime.bigint();
  const clients = await clientsOf({ writers: 2, readers: 6 });
  try {
    // Not longer: clients whose replies wait repeat their requests, and a repeated
    // request may say something else, so it puts its service in doubt.
    await sleep(150);
    const { acknowledged } = await clients.progress();
    const after = await lab.status('a');
    assert.is(after.checkpoints.commits, before.checkpoints.commits, 'no checkpoint meanwhile');
    assert.is(acknowledged, 0, 'writes wait');
    const [redis, http] = [0, 1].map((i) => after.output.services[i]!.prereleasedPackets - before.output.services[i]!.prereleasedPackets);
    assert.is(redis, 0, 'nothing of the service that is in doubt left early');
    assert.ok(http! > 0, 'replies of the read-only service left early');
    await sleep(2 * checkpoint.holdMs);
    const outcome = await clients.stop(sinceNs);
    assert.equal(outcome.reports.filter(({ broken }) => broken !== undefined), []);
    assert.ok(outcome.acknowledged > 0);
    assert.is(outcome.lost, 0);
  } finally {
    clients.kill();
  }
});

test('once the writes have committed, the service answers early again', async () => {
  const { ports } = demoGuest();
  const read = async (): Promise<void> => {
    const connection = await inClientNamespace(lab.topology.client, addresses.guest, ports.redis);
    assert.match(connection, /^\$-1/);
  };
  await until('no write is in doubt', async () => {
    const before = (await lab.status('a')).output.services[0]!;
    await read();
    const after = (await lab.status('a')).output.services[0]!;
    return after.openWrites === 0 && after.prereleasedPackets > before.prereleasedPackets;
  }, 20_000);
});

test('the host dies: connections old and new survive, no write is lost, no read goes back', async () => {
  await lab.down();
  const round = await runDemoRound({
    labName: lab.name, vcpus: 1, preRelease: true, secondary: 'paused', writers: 4, readers: 3, redisReaders: 2, newcomers: 2,
    loadSeconds: 1.5, jitterSeconds: 1, random: seededRandom(7), keep: false, signal: new AbortController().signal, onProgress: () => {},
  });
  assert.equal(round.connections.broken, []);
  assert.is(round.writes.lost, 0);
  assert.ok(passed(round));
});

test.run();
