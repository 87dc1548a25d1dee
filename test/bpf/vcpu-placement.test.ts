/** Placing threads, as the kernel then reports and schedules them. */

import { execFileSync } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { getScheduling, setScheduling, ThreadError } from 'thread-sched';
import { VcpuPlacement } from '../../src/dataplane/vcpu-placement.js';
import { VcpuTracer } from '../../src/dataplane/vcpu-tracer.js';
import { windowBetween } from '../../src/protocol/vcpu-trace.js';
import { Threads } from './vcpu-threads.js';

const cpus = Array.from({ length: availableParallelism() }, (_, cpu) => cpu);
let vm: Threads;
const scheduling = () => vm.threads.map(({ tid }) => getScheduling(tid));

test.before.each(async () => {
  vm = await Threads.start('spin:0', 'spin:0', 'spin:0', 'brief:0');
  for (const { tid } of vm.threads) setScheduling(tid, { cpus });
});

test.after.each(() => vm.end());

test('one active of four: it has a CPU of its own, the others share one as idle work', () => {
  const placement = new VcpuPlacement();
  const before = scheduling();
  placement.place(vm.threads, [2]);
  const [parked, , active] = scheduling();
  assert.equal(active, { policy: 'other', priority: 0, cpus: [cpus[0]] });
  assert.equal(parked, { policy: 'idle', priority: 0, cpus: [cpus.at(-1)] });
  assert.equal(scheduling().filter(({ policy }) => policy === 'idle').length, 3);
  assert.equal(placement.cpus(vm.threads), cpus, 'what it may use is what it could use before');
  placement.restore();
  assert.equal(scheduling(), before);
});

test('the active get the CPU: parked threads run when nobody else does', async () => {
  const placement = new VcpuPlacement();
  const tracer = VcpuTracer.open(3);
  try {
    const spinners = vm.threads.slice(0, 3);
    for (const { tid } of spinners) setScheduling(tid, { cpus: [cpus[0]!] }); // all they may use
    tracer.follow(vm.pid, spinners);
    await sleep(100); // until each of them has been seen: parked, it may take long
    placement.place(spinners, [1]);
    await sleep(100);
    const before = tracer.read();
    await sleep(600);
    const [first, active, third] = windowBetween(before, tracer.read()).vcpus;
    assert.ok(active!.run > 10 * (first!.run + third!.run), `active ran ${active!.run}, parked ${first!.run} and ${third!.run}`);
    assert.ok(first!.wait > 0.8 && third!.wait > 0.8, `parked threads are runnable, and wait: ${first!.wait}, ${third!.wait}`);
    placement.restore();
    const then = tracer.read();
    await sleep(600);
    const equals = windowBetween(then, tracer.read()).vcpus;
    for (const { run } of equals) assert.ok(run > 0.3 * Math.max(...equals.map((vcpu) => vcpu.run)), 'and then at full weight again');
  } finally {
    tracer.close();
  }
});

test('who is active may change; all active is as it was before', () => {
  const placement = new VcpuPlacement();
  const before = scheduling();
  placement.place(vm.threads, [0]);
  placement.place(vm.threads, [1, 0]);
  const [first, second, third] = scheduling();
  assert.equal(first!.cpus, [cpus[0]], 'keeps its CPU');
  assert.is(second!.policy, 'other');
  assert.is(third!.policy, 'idle');
  placement.place(vm.threads, [3]);
  assert.equal(scheduling().map(({ policy }) => policy), ['idle', 'idle', 'idle', 'other']);
  placement.place(vm.threads, [3, 1, 2, 0]);
  assert.equal(scheduling(), before);
});

test('a thread that has its own ways gets them back', () => {
  const { tid } = vm.threads[0]!;
  setScheduling(tid, { policy: 'batch', cpus: [cpus.at(-1)!] });
  const placement = new VcpuPlacement();
  placement.place(vm.threads, [1]);
  assert.is(getScheduling(tid).policy, 'idle');
  placement.restore();
  assert.equal(getScheduling(tid), { policy: 'batch', priority: 0, cpus: [cpus.at(-1)!] });
});

test('what cannot be given back to one thread keeps nobody else from full weight', () => {
  const { tid } = vm.threads[0]!;
  execFileSync('chrt', ['--deadline', '--sched-runtime', '1000000', '--sched-period', '10000000', '--pid', '0', `${tid}`]);
  assert.is(getScheduling(tid).policy, 'deadline');
  const placement = new VcpuPlacement();
  placement.place(vm.threads, [1]);
  placement.restore();
  assert.equal(scheduling().slice(1), Array(3).fill({ policy: 'other', priority: 0, cpus }));
  assert.equal(getScheduling(tid).cpus, cpus);
});

test('threads that end are no trouble', async () => {
  const placement = new VcpuPlacement();
  placement.place(vm.threads, [0]);
  const { tid } = vm.threads[3]!;
  vm.say('\n');
  for (let tries = 0; tries < 100 && isAlive(tid); tries++) await sleep(20);
  assert.not(isAlive(tid));
  placement.place(vm.threads, [1]);
  assert.is(getScheduling(vm.threads[1]!.tid).policy, 'other');
  placement.restore();
  await vm.end();
  placement.place(vm.threads, [1]);
  assert.equal(placement.cpus(vm.threads), []);
  placement.restore();
});

test('what cannot be is refused with a reason', () => {
  assert.throws(() => getScheduling(0), /0 is not the id of a thread/);
  assert.throws(() => setScheduling(vm.threads[0]!.tid, { cpus: [9000] }), /9000 is not the number of a CPU/);
  assert.throws(() => setScheduling(vm.threads[0]!.tid, { cpus: [] }), (error: ThreadError) => error.code === 'EINVAL');
  assert.throws(() => getScheduling(0x7fff_fff0), (error: ThreadError) => error instanceof ThreadError && error.code === 'ESRCH');
});

function isAlive(tid: number): boolean {
  try {
    getScheduling(tid);
    return true;
  } catch {
    return false;
  }
}

test.run();
