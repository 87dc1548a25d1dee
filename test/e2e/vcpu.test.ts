/** Active and parked vCPUs of a real secondary: how they are placed, what is seen of them, and that a takeover gives all of them back. */

import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { getScheduling, type Scheduling } from 'thread-sched';
import { callAgent } from '../../src/agent/control.js';
import type { VcpusReport } from '../../src/agent/vcpus.js';
import type { VcpuRecording } from '../../src/cli/vcpu-recording.js';
import type { ClientProcess } from '../../src/drill/client-process.js';
import { slowdown } from '../../src/lab/slowdown.js';
import type { HostName } from '../../src/lab/topology.js';
import { decide, dwellMs, initialPolicy, type VcpuDecision } from '../../src/protocol/vcpu-policy.js';
import { assertUnharmed, colopp, firstReplyMs, other, ownLab, protectTimeoutMs, startClients, until, untilProtected, vmPid } from './lab-harness.js';

const vcpus = 4;
/** Four emulated vCPUs on two hosts crowd a small machine: a host that is only slow must not count as lost. */
const heartbeat = { intervalMs: 100, missed: 5 };
const takeoverMs = 1500 * slowdown();

const lab = ownLab('t-vcpu');
const scratch = mkdtempSync(join(tmpdir(), 'colopp-vcpu-'));
let clients: ClientProcess | undefined;

const report = async (host: HostName): Promise<VcpusReport> => await callAgent(lab.socket(host), { command: 'vcpus' }) as VcpusReport;
const threads = async (host: HostName): Promise<Scheduling[]> => (await report(host)).reading!.vcpus.map(({ tid }) => getScheduling(tid));

test.before(async () => {
  await lab.down();
  const config = { activeVcpus: 0, heartbeat };
  await lab.up({ vcpus, preRelease: true, overrides: { a: config, b: config } });
  await lab.waitForGuest(2 * protectTimeoutMs);
});
test.after.each(async () => clients?.kill());
test.after(async () => {
  await lab.down();
  rmSync(scratch, { recursive: true, force: true });
});

/** Whoever the primary is by now: a crowded machine may have moved it. */
async function primaryNow(): Promise<HostName> {
  for (;;) {
    const [a, b] = await Promise.all([lab.status('a'), lab.status('b')]);
    for (const status of [a, b]) {
      const host = status.host as HostName;
      if (status.active && status.protected && (host === 'a' ? b : a).protected) return host;
    }
    await sleep(100);
  }
}

/** Sets how many are active on the secondary, and waits until they are. */
async function setActive(host: HostName, k: number): Promise<void> {
  const end = await colopp('vcpu', 'set', String(k), '--lab', lab.name, '--host', host);
  assert.is(end.code, 0, end.stderr);
  await until(`${k} are active`, async () => (await lab.status(host)).vcpus.active?.length === k);
}

test('one of four active: it alone has its weight and a CPU, and is seen to; paused: none is parked', async () => {
  const host = other(await primaryNow());
  const before = await threads(host);
  await setActive(host, 1);
  // Nobody is parked while a checkpoint is on its way.
  await until('three are parked', async () => (await threads(host)).filter(({ policy }) => policy === 'idle').length === 3);
  const placed = await threads(host);
  const [active] = (await lab.status(host)).vcpus.active!;
  const parking = before[0]!.cpus.at(-1)!;
  placed.forEach((scheduling, vcpu) => {
    if (vcpu === active) assert.equal({ ...scheduling, cpus: scheduling.cpus.length }, { ...before[vcpu], cpus: 1 });
    else assert.equal(scheduling, { policy: 'idle', priority: 0, cpus: [parking] });
  });
  const top = await colopp('vcpu', 'top', '--lab', lab.name, '--host', host, '--count', '1', '--interval', '200');
  assert.is(top.code, 0, top.stderr);
  assert.match(top.stdout, /1 of 4 vCPUs are active \(set to 1\)/);
  assert.is(top.stdout.match(/parked$/gm)?.length, 3);
  await setActive(host, 0);
  assert.equal(await threads(host), before);
});

test('a real recording, as figures and as a picture; the policy comes to the same decisions by it each time', async () => {
  const primary = await primaryNow();
  clients = await startClients(lab, { writers: 2, readers: 1 });
  await setActive(other(primary), 1);
  const svg = join(scratch, 'vcpus.svg');
  const end = await colopp('vcpu', 'trace', '--lab', lab.name, '--host', other(primary), '--seconds', '3', '--svg', svg, '--json');
  assert.is(end.code, 0, end.stderr);
  const recording = JSON.parse(end.stdout) as VcpuRecording;
  assert.is(recording.vcpus, vcpus);
  assert.ok(recording.samples.length >= 8, `${recording.samples.length} windows`);
  for (const { window, active, demand } of recording.samples) {
    assert.is(window.vcpus.length, vcpus);
    assert.is(active?.length, 1);
    for (const { run, wait, sleep } of window.vcpus) assert.ok(run >= 0 && wait >= 0 && sleep >= 0 && run + wait + sleep < 1.001);
    assert.is(demand!.run.length, vcpus);
  }
  assert.ok(recording.samples.some(({ demand }) => demand!.outputsPerSecond > 0 && demand!.run.some((run) => run > 0)), 'the primary tells what it is busy with');
  const picture = readFileSync(svg, 'utf8');
  assert.match(picture, /^<svg xmlns/);
  for (const what of ['vCPU 3', 'other work', 'parked']) assert.match(picture, what);

  const replay = (): VcpuDecision[] => {
    const config = { vcpus, cpus: 2 };
    let state = initialPolicy(config);
    return recording.samples.flatMap(({ window, demand }) => {
      const step = decide(state, { atMs: window.toNs / 1e6, comparing: true, demand: demand ?? undefined, window, override: undefined }, config);
      state = step.state;
      return step.decision ?? [];
    });
  };
  const decisions = replay();
  assert.equal(replay(), decisions);
  decisions.forEach(({ atMs, to }, i) => {
    assert.ok(to <= 2);
    if (i > 0) assert.ok(atMs - decisions[i - 1]!.atMs >= dwellMs);
  });
});

for (const k of [1, 0]) {
  test(`a takeover from ${k} of 4 under load: all vCPUs at full weight, and the clients go on`, async () => {
    const primary = await primaryNow();
    const heir = other(primary);
    await setActive(heir, 0);
    const whole = await threads(heir);
    await setActive(heir, k);
    clients = await startClients(lab, { writers: 2, readers: 1 });
    await sleep(1000);
    const doomed = await lab.status(primary);
    const sinceNs = process.hrtime.bigint();
    for (const pid of [doomed.pid, vmPid(doomed)]) process.kill(pid, 'SIGKILL');
    await lab.waitFor(heir, 'active', (s) => s.active, 10_000);
    assert.equal(await threads(heir), whole);
    await sleep(1500);
    const outcome = await assertUnharmed(clients, sinceNs + 1_000_000_000n);
    const takenMs = firstReplyMs(outcome, sinceNs);
    assert.ok(takenMs < takeoverMs, `the first reply came after ${takenMs.toFixed(0)} ms`);
    assert.is((await lab.status(heir)).vcpus.active, null, 'nobody is parked on a host that is no secondary');
    await lab.startAgent(primary);
    await untilProtected(lab, heir, 2 * protectTimeoutMs);
  });
}

test.run();
