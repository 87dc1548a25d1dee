/** A protected guest, in the lab: what clients see, what is held, and when checkpoints happen. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { AgentStatus } from '../../src/agent/agent.js';
import { demoGuest } from '../../src/lab/lab.js';
import { addresses } from '../../src/lab/topology.js';
import { redisMix } from '../bench/load.js';
import { assertUnharmed, colopp, fetchInLab, ownLab, protectTimeoutMs, startClients, until, untilProtected, vmPid } from './lab-harness.js';
import { FrameWitness } from './frame-witness.js';

const lab = ownLab('t-protect');
const periodMs = 700;
let witness: FrameWitness;

test.before(async () => {
  await lab.down();
  await lab.up({ overrides: { a: { checkpoint: { periodMs } }, b: { checkpoint: { periodMs } } } });
  await untilProtected(lab, 'a');
  await lab.waitForGuest(protectTimeoutMs);
  witness = await FrameWitness.start(lab);
});
test.after(async () => {
  witness?.close();
  await lab.down();
});

/** The primary's status once the guest has said all it had to, the farewells of closed connections too: nothing is held, and nothing new comes. */
async function quietOutput(): Promise<AgentStatus> {
  let status = await lab.status('a');
  await until('the guest is quiet and nothing is held', async () => {
    const earlier = status;
    await sleep(250);
    status = await lab.status('a');
    return status.output.heldPackets === 0 && status.output.everHeldPackets === earlier.output.everHeldPackets;
  }, protectTimeoutMs);
  return status;
}

/** Segments that TCP has sent again in a namespace, as nothing was heard for too long. */
function lossProbes(netns: string): number {
  const [names = '', values = ''] = execFileSync('ip', ['netns', 'exec', netns, 'cat', '/proc/net/netstat'], { encoding: 'utf8' })
    .split('\n').filter((line) => line.startsWith('TcpExt:'));
  return Number(values.split(' ')[names.split(' ').indexOf('TCPLossProbes')]);
}

test('every reply arrives, and none that was not held until a commit', async () => {
  const before = await quietOutput();
  await witness.forget();
  const sinceNs = process.hrtime.bigint();
  const clients = await startClients(lab, { writers: 4, readers: 2 });
  await sleep(1500);
  const outcome = await assertUnharmed(clients, sinceNs);
  clients.kill();
  const after = await quietOutput();
  const replies = outcome.reports.reduce((sum, report) => sum + report.replies, 0);
  const held = after.output.everHeldPackets - before.output.everHeldPackets;
  const released = after.output.releasedPackets - before.output.releasedPackets;
  const passed = after.output.passedPackets - before.output.passedPackets;
  assert.ok(held >= replies, `${replies} replies, ${held} held packets`);
  assert.is(released, held, 'all that was held was released');
  assert.is(after.output.droppedPackets, before.output.droppedPackets);
  assert.ok(passed <= 10, `only neighbour discovery passes unheld, not ${passed} packets`);
  const { a, b } = await witness.read();
  assert.is(a.frames, released + passed, 'what left the host is what was released, and neighbour discovery');
  assert.is(b.frames, 0, 'the secondary is silent');
  assert.ok(after.checkpoints.commits - before.checkpoints.commits >= 10, 'checkpoints commit');
  assert.ok(after.checkpoints.pauseMsP50! > 0);
});

test('a checkpoint loses no input', async () => {
  const { client } = lab.topology;
  const before = lossProbes(client);
  const seconds = 4;
  const target = { netns: client, host: addresses.guest, port: demoGuest().ports.redis, connections: 4, seconds, signal: AbortSignal.timeout(60_000) };
  const requests = (await redisMix(target, 1, 400)).rps * seconds;
  // A client says its last request again if it gets no answer for 200 ms. It was one of some sixty.
  const probes = lossProbes(client) - before;
  assert.ok(probes <= requests / 400, `${probes} of ${requests} requests had to be said again`);
});

test('the agents have no huge pages made for them, and their VMs have', async () => {
  for (const host of ['a', 'b'] as const) {
    const { pid, vm } = await lab.status(host);
    const allowed = (of: number): string | undefined => /^THP_enabled:\s+(\d)$/m.exec(readFileSync(`/proc/${of}/status`, 'utf8'))?.[1];
    assert.equal([allowed(pid), allowed(vm.pid ?? 0)], ['0', '1'], host);
  }
});

test('while the secondary cannot commit, no reply leaves', async () => {
  const clients = await startClients(lab);
  const secondary = vmPid(await lab.status('b'));
  const sinceNs = process.hrtime.bigint();
  process.kill(secondary, 'SIGSTOP');
  try {
    await sleep(300); // a commit that was complete already may still release
    const stuck = await clients.progress();
    const seen = (await witness.read()).a.frames;
    await sleep(1000);
    assert.is((await clients.progress()).acknowledged, stuck.acknowledged);
    assert.is((await witness.read()).a.frames, seen, 'no frame of the guest leaves');
    assert.ok((await lab.status('a')).output.heldPackets > 0, 'replies wait');
    assert.ok((await lab.status('a')).protected, 'a slow secondary is no lost secondary');
  } finally {
    process.kill(secondary, 'SIGCONT');
  }
  await sleep(500);
  await assertUnharmed(clients, sinceNs);
  clients.kill();
});

test('a large page arrives intact', async () => {
  const body = (await fetchInLab(lab, `http://${addresses.guest}/1m`)).toString('latin1');
  assert.is(body.length, 1024 * 1024);
  for (let at = 0; at < body.length; at += 16) {
    if (Number.parseInt(body.slice(at, at + 15), 16) !== at) assert.unreachable(`it is wrong at ${at}`);
  }
});

test('IPv6 clients are served and their replies held too', async () => {
  const before = await lab.status('a');
  const sinceNs = process.hrtime.bigint();
  const clients = await startClients(lab, { guest: addresses.guest6 });
  await sleep(500);
  const outcome = await assertUnharmed(clients, sinceNs);
  clients.kill();
  const replies = outcome.reports.reduce((sum, report) => sum + report.replies, 0);
  const after = await lab.status('a');
  assert.ok(after.output.everHeldPackets - before.output.everHeldPackets >= replies);
});

test('colopp checkpoint waits for its commit; an idle guest is checkpointed at the period', async () => {
  const before = await lab.status('a');
  const end = await colopp('checkpoint', '--lab', lab.name, '--json');
  assert.is(end.code, 0, end.stderr);
  assert.ok((JSON.parse(end.stdout) as { pauseMs: number }).pauseMs > 0);
  const asked = await lab.status('a');
  assert.ok(asked.checkpoints.commits > before.checkpoints.commits);
  await sleep(periodMs * 3.5);
  const idle = await lab.status('a');
  const commits = idle.checkpoints.commits - asked.checkpoints.commits;
  const held = idle.output.everHeldPackets - asked.output.everHeldPackets;
  assert.ok(commits >= 2 && commits <= 4 + held, `${commits} commits in 3.5 periods, with ${held} packets held`);
});

test('only the primary makes checkpoints', async () => {
  const end = await colopp('checkpoint', '--lab', lab.name, '--host', 'b');
  assert.is(end.code, 1);
  assert.match(end.stderr, 'asked for at the primary');
});

test.run();
