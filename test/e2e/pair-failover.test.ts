/**
 * Every way in which a host, its agent or its QEMU can go, with clients connected, one after the
 * other in one lab. Each test but the last leaves the pair protected, with the hosts' parts as they fall.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { ClientProcess } from '../../src/drill/client-process.js';
import { setCables, type HostName } from '../../src/lab/topology.js';
import {
  assertUnharmed, colopp, firstReplyMs, isAlive, other, ownLab, protectTimeoutMs, startClients, until, untilProtected, vmPid,
} from './lab-harness.js';
import { FrameWitness } from './frame-witness.js';

/** The promise is 1.5 s from the loss to the first reply, on a machine with nothing else to do. */
const promiseMs = 1500;

const lab = ownLab('t-failover');
let witness: FrameWitness | undefined;
let clients: ClientProcess | undefined;
/** Who is the primary; tests change it. */
let primary: HostName = 'a';

/** A lab whose primary is host a, with a guest that serves. */
async function freshLab(): Promise<void> {
  witness?.close();
  await lab.down();
  await lab.up();
  await untilProtected(lab, 'a');
  await lab.waitForGuest(protectTimeoutMs);
  witness = await FrameWitness.start(lab);
  primary = 'a';
}

test.before(freshLab);
test.before.each(async () => {
  // One test's failure is not the next one's.
  await untilProtected(lab, primary, 3000).catch(freshLab);
  clients = await startClients(lab);
  await sleep(400);
  await witness!.forget();
});
test.after.each(() => clients?.kill());
test.after(async () => {
  witness?.close();
  await lab.down();
});

/**
 * The secondary takes over within the promised time, its clients go on, and from its first word on
 * the old primary says none.
 */
async function assertTakenOver(sinceNs: bigint): Promise<void> {
  const heir = other(primary);
  await lab.waitFor(heir, 'active', (s) => s.active, 10_000);
  await sleep(700);
  const outcome = await assertUnharmed(clients!, sinceNs + 300_000_000n); // replies from before the loss may still be on their way
  const seen = await witness!.read();
  assert.ok(seen[heir].frames > 0);
  assert.ok(seen[primary].lastMs < seen[heir].firstMs, `the old primary spoke ${(seen[primary].lastMs - seen[heir].firstMs).toFixed(1)} ms after the new one had begun`);
  const takenMs = firstReplyMs(outcome, sinceNs);
  assert.ok(takenMs <= promiseMs, `the first reply came after ${takenMs.toFixed(0)} ms`);
  primary = heir;
}

/** The secondary was lost: the primary goes on within about a second, with the same connections. */
async function assertGoesOnAlone(sinceNs: bigint): Promise<void> {
  const status = await lab.waitFor(primary, 'alone', (s) => s.active && !s.protected, 2000);
  assert.ok(Number(process.hrtime.bigint() - sinceNs) / 1e6 < promiseMs, 'within the promised time');
  assert.is(status.output.mode, 'pass');
  const aloneNs = process.hrtime.bigint();
  await sleep(700);
  const outcome = await assertUnharmed(clients!, aloneNs);
  assert.ok(firstReplyMs(outcome, sinceNs) <= promiseMs);
  assert.is((await lab.status(primary)).output.heldPackets, 0);
  assert.is((await witness!.read())[other(primary)].frames, 0, 'the secondary never spoke');
}

test('the host is lost: agent, QEMU and cables at once', async () => {
  const doomed = await lab.status(primary);
  const host = primary;
  const sinceNs = process.hrtime.bigint();
  const cables = setCables(lab.topology, host, 'down');
  for (const pid of [doomed.pid, vmPid(doomed)]) process.kill(pid, 'SIGKILL');
  await cables;
  await assertTakenOver(sinceNs);
  await setCables(lab.topology, host, 'up');
  await lab.startAgent(host);
  await untilProtected(lab, primary);
});

for (const asked of ['primary', 'secondary'] as const) {
  test(`colopp failover, asked at the ${asked}`, async () => {
    const host = asked === 'primary' ? primary : other(primary);
    const sinceNs = process.hrtime.bigint();
    const end = await colopp('failover', '--lab', lab.name, '--host', host);
    assert.is(end.code, 0, end.stderr);
    assert.match(end.stdout, asked === 'primary' ? 'has handed the VM over' : 'runs the VM now');
    await assertTakenOver(sinceNs);
    await untilProtected(lab, primary);
  });
}

test("the primary's agent alone is killed: its QEMU lives on, but is not heard", async () => {
  const doomed = await lab.status(primary);
  const host = primary;
  const sinceNs = process.hrtime.bigint();
  process.kill(doomed.pid, 'SIGKILL');
  await assertTakenOver(sinceNs);
  assert.ok(isAlive(vmPid(doomed)), 'QEMU needs no agent to live');
  await lab.startAgent(host);
  await until('the old VM is given up', () => !isAlive(vmPid(doomed)));
  await untilProtected(lab, primary);
  const seen = await witness!.read();
  assert.ok(seen[host].lastMs < seen[primary].firstMs, 'not heard after the restart either');
});

test("the primary's QEMU alone is killed", async () => {
  const doomed = await lab.status(primary);
  const sinceNs = process.hrtime.bigint();
  process.kill(vmPid(doomed), 'SIGKILL');
  await assertTakenOver(sinceNs);
  await untilProtected(lab, primary);
});

test('the primary is frozen, and thaws after the takeover', async () => {
  const frozen = await lab.status(primary);
  const host = primary;
  const pids = [frozen.pid, vmPid(frozen)];
  const sinceNs = process.hrtime.bigint();
  for (const pid of pids) process.kill(pid, 'SIGSTOP');
  try {
    await lab.waitFor(other(host), 'active', (s) => s.active, 10_000);
    await sleep(300);
  } finally {
    for (const pid of pids) process.kill(pid, 'SIGCONT');
  }
  await assertTakenOver(sinceNs);
  await until('the old VM is given up', () => !isAlive(vmPid(frozen)));
  await untilProtected(lab, primary);
  const seen = await witness!.read();
  assert.ok(seen[host].lastMs < seen[primary].firstMs, 'not heard after the thaw either');
});

test("the secondary's agent and QEMU are killed", async () => {
  const doomed = await lab.status(other(primary));
  const sinceNs = process.hrtime.bigint();
  for (const pid of [doomed.pid, vmPid(doomed)]) process.kill(pid, 'SIGKILL');
  await assertGoesOnAlone(sinceNs);
  await lab.startAgent(other(primary));
  await untilProtected(lab, primary);
});

test("the secondary's agent alone is killed", async () => {
  const doomed = await lab.status(other(primary));
  const sinceNs = process.hrtime.bigint();
  process.kill(doomed.pid, 'SIGKILL');
  await assertGoesOnAlone(sinceNs);
  await lab.startAgent(other(primary));
  await until('the VM without an agent is given up', () => !isAlive(vmPid(doomed)));
  await untilProtected(lab, primary);
});

test("the secondary's QEMU alone is killed", async () => {
  const doomed = await lab.status(other(primary));
  const sinceNs = process.hrtime.bigint();
  process.kill(vmPid(doomed), 'SIGKILL');
  await assertGoesOnAlone(sinceNs);
  await untilProtected(lab, primary);
});

test('both agents are killed and come back: the VM has lived on', async () => {
  const before = await lab.status(primary);
  for (const host of ['a', 'b'] as const) process.kill((await lab.status(host)).pid, 'SIGKILL');
  await sleep(500);
  for (const host of ['a', 'b'] as const) await lab.startAgent(host);
  assert.is(vmPid(await untilProtected(lab, primary)), vmPid(before), 'it is the same QEMU');
  await assertUnharmed(clients!, process.hrtime.bigint());
});

test('with nobody to ask, a host that was protected stays silent until an operator decides', async () => {
  const [survivor, lost] = [await lab.status(primary), await lab.status(other(primary))];
  for (const pid of [survivor.pid, lost.pid, vmPid(lost)]) process.kill(pid, 'SIGKILL');
  await sleep(400); // its lease has ended
  await witness!.forget();
  await lab.startAgent(primary);
  await lab.waitFor(primary, 'fenced', (s) => s.phase === 'fenced', 2000);
  await sleep(1000);
  assert.is((await witness!.read())[primary].frames, 0, 'not a word');
  const end = await colopp('start-alone', '--lab', lab.name, '--host', primary);
  assert.is(end.code, 0, end.stderr);
  assert.match(end.stdout, /runs the VM in generation \d+, unprotected/);
  const aloneNs = process.hrtime.bigint();
  await sleep(700);
  await assertUnharmed(clients!, aloneNs);
  assert.is(vmPid(await lab.status(primary)), vmPid(survivor), 'it is the same QEMU');
  await lab.startAgent(other(primary));
  await untilProtected(lab, primary);
});

test('an agent that is stopped hands its VM over; the last one ends it', async () => {
  const host = primary;
  const [active, standby] = [await lab.status(host), await lab.status(other(host))];
  const stoppedNs = process.hrtime.bigint();
  process.kill(active.pid, 'SIGTERM');
  await until('the agent and its VM have ended', () => !isAlive(active.pid) && !isAlive(vmPid(active)));
  assert.ok((await lab.status(other(host))).active, 'the other host runs the VM by then');
  await sleep(700);
  await assertUnharmed(clients!, stoppedNs);
  process.kill(standby.pid, 'SIGTERM');
  await until('agent and VM have ended', () => !isAlive(standby.pid) && !isAlive(vmPid(standby)));
  assert.is((await colopp('lab', 'down', '--name', lab.name)).code, 0);
});

test.run();
