/** Two labs side by side, and the lab's commands: one of them with limits so tight that every packet meets them. */
import { setTimeout as sleep } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { AgentStatus } from '../../src/agent/agent.js';
import { callAgent } from '../../src/agent/control.js';
import { assertRefused, assertUnharmed, colopp, LabTrace, ownLab, protectTimeoutMs, startClients, untilProtected } from './lab-harness.js';

const first = ownLab('t-twin-1');
const second = ownLab('t-twin-2');
/** Nothing but the limit of held packets starts a checkpoint in the second lab. */
const never = { holdMs: 10_000, periodMs: 3_600_000, maxHeldPackets: 4 };

test.before(async () => {
  await Promise.all([first.down(), second.down()]);
  await second.up({ overrides: { a: { checkpoint: never }, b: { checkpoint: never } } });
});
test.after(async () => {
  await Promise.all([first.down(), second.down()]);
});

test('colopp lab up ends when the guest is protected and serves', async () => {
  const end = await colopp('lab', 'up', '--name', first.name);
  assert.is(end.code, 0, end.stderr);
  assert.match(end.stdout, /state +protected/);
  assert.ok((await first.status('a')).protected);
  const clients = await startClients(first);
  clients.kill();
});

test('colopp lab up does not touch a lab that is there', async () => {
  const before = await first.status('a');
  assertRefused(await colopp('lab', 'up', '--name', first.name), /The lab "t-twin-1" exists already\. Take it down first: colopp lab down --name t-twin-1/);
  const after = await first.status('a');
  assert.is(after.pid, before.pid);
  assert.ok(after.protected);
});

test('colopp lab status shows both, each with what its agents say', async () => {
  await untilProtected(second, 'a');
  const { stdout } = await colopp('lab', 'status', '--json');
  const labs = JSON.parse(stdout) as { name: string; hosts: Record<string, AgentStatus | null> }[];
  for (const lab of [first, second]) {
    const hosts = labs.find(({ name }) => name === lab.name)?.hosts;
    assert.is(hosts?.['a']?.role, 'primary');
    assert.is(hosts?.['b']?.role, 'secondary');
  }
  const text = await colopp('lab', 'status');
  for (const lab of [first, second]) assert.match(text.stdout, `${lab.name}/b`);
});

test('colopp status prints JSON and text that agree', async () => {
  const json = JSON.parse((await colopp('status', '--lab', first.name, '--json')).stdout) as AgentStatus;
  const { stdout } = await colopp('status', '--lab', first.name);
  assert.match(stdout, `agent ${json.pid}`);
  assert.match(stdout, `process ${json.vm.pid}`);
  assert.match(stdout, /peer +b, heard \d+ ms ago/);
});

test('a limit of held packets starts a checkpoint at once', async () => {
  await second.waitForGuest(protectTimeoutMs);
  // A connection alone reaches no limit: to connect, it needs checkpoints that are asked for.
  const asking = setInterval(() => void callAgent(second.socket('a'), { command: 'checkpoint' }).catch(() => {}), 100);
  const clients = await startClients(second, { writers: 8, readers: 0 }).finally(() => clearInterval(asking));
  const before = { ...await second.status('a'), ...await clients.progress() };
  await sleep(1500);
  const after = { ...await second.status('a'), ...await clients.progress() };
  clients.kill();
  const writes = after.acknowledged - before.acknowledged;
  const commits = after.checkpoints.commits - before.checkpoints.commits;
  assert.ok(commits >= 10 && writes >= 2 * commits, `${commits} commits, ${writes} writes acknowledged in 1.5 s`);
});

test('a failover in one lab, and its end, are nothing to the other', async () => {
  const bystander = await second.status('a');
  const clients = await startClients(first);
  await sleep(300);
  const end = await colopp('failover', '--lab', first.name, '--host', 'b', '--json');
  assert.is(end.code, 0, end.stderr);
  assert.ok((JSON.parse(end.stdout) as AgentStatus).active);
  const sinceNs = process.hrtime.bigint();
  await sleep(700);
  await assertUnharmed(clients, sinceNs);
  clients.kill();
  const trace = new LabTrace(first);
  assert.ok(await trace.note() >= 6, 'programs are attached on both hosts');
  const down = await colopp('lab', 'down', '--name', first.name);
  assert.is(down.code, 0);
  assert.match(down.stdout, /Lab "t-twin-1" is down: \d+ processes ended, 4 namespaces removed/);
  await trace.assertGone();
  const after = await second.status('a');
  assert.ok(after.protected);
  assert.is(after.pid, bystander.pid);
  assert.is(after.vm.pid, bystander.vm.pid);
});

test.run();
