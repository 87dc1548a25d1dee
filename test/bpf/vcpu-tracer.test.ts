/** The tracer against what the kernel itself says of threads whose behaviour is known. */

import { setTimeout as sleep } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { setScheduling } from 'thread-sched';
import { VcpuTracer, type VcpuThread } from '../../src/dataplane/vcpu-tracer.js';
import { windowBetween, type VcpuReading } from '../../src/protocol/vcpu-trace.js';
import { Threads } from './vcpu-threads.js';

/** Traces `tasks` for a while: what was seen, and what the scheduler has booked meanwhile. */
async function trace(tasks: string[], ms: number): Promise<{ before: VcpuReading; after: VcpuReading; booked: { runNs: number; waitNs: number }[] }> {
  const process = await Threads.start(...tasks);
  const tracer = VcpuTracer.open(tasks.length);
  try {
    tracer.follow(process.pid, process.threads);
    await sleep(50); // until every thread has been seen
    const before = tracer.read();
    const start = process.scheduled();
    await sleep(ms);
    const after = tracer.read();
    const booked = process.scheduled().map((now, i) => ({ runNs: now.runNs - start[i]!.runNs, waitNs: now.waitNs - start[i]!.waitNs }));
    return { before, after, booked };
  } finally {
    tracer.close();
    await process.end();
  }
}

/** The two were read a moment apart, and the scheduler books a span under way only at its next tick. */
function assertNear(seenNs: number, bookedNs: number, what: string): void {
  assert.ok(Math.abs(seenNs - bookedNs) < 0.1 * bookedNs + 30e6, `${what}: traced ${seenNs / 1e6} ms, booked ${bookedNs / 1e6} ms`);
}

test('run and wait are what the scheduler books', async () => {
  const { before, after, booked } = await trace(['spin:0', 'spin:0', 'nap:0'], 1000);
  for (const [i, { runNs, waitNs }] of booked.entries()) {
    const [then, now] = [before.vcpus[i]!, after.vcpus[i]!];
    assertNear(now.runNs - then.runNs, runNs, `run of ${i}`);
    assertNear(now.waitNs - then.waitNs, waitNs, `wait of ${i}`);
    const window = windowBetween(before, after).vcpus[i]!;
    assert.ok(Math.abs(window.run + window.wait + window.sleep - 1) < 0.1, `vCPU ${i} always does one of the three: ${JSON.stringify(window)}`);
  }
});

test('two that compete for one CPU preempt each other, and each waits beside the other', async () => {
  const { before, after } = await trace(['spin:1', 'spin:1'], 600);
  for (const vcpu of windowBetween(before, after).vcpus) {
    assert.ok(vcpu.wait > 0.2, `waits: ${vcpu.wait}`);
    assert.ok(vcpu.preemptedBesideSibling > 0.05 && vcpu.preemptedBesideSibling <= 1.1 * vcpu.wait, `beside its sibling ${vcpu.preemptedBesideSibling} of ${vcpu.wait}`);
    assert.ok(vcpu.involuntary >= 5, `preempted: ${vcpu.involuntary}`);
    assert.is(vcpu.voluntary, 0);
    const sum = (histogram: number[]): number => histogram.reduce((total, count) => total + count, 0);
    assert.ok(sum(vcpu.waits) >= 5 && sum(vcpu.runs) >= 5, 'the histograms count every span');
    assert.is(after.vcpus[vcpu.vcpu]!.cpu, 1);
  }
});

test('one that sleeps does so of its own will', async () => {
  const { before, after } = await trace(['nap:0'], 500);
  const [vcpu] = windowBetween(before, after).vcpus;
  assert.ok(vcpu!.sleep > 0.3, `sleeps: ${vcpu!.sleep}`);
  assert.ok(vcpu!.voluntary >= 20, `${vcpu!.voluntary} times`);
});

test('where it runs, and that it moves', async () => {
  const spinner = await Threads.start('spin:0');
  const tracer = VcpuTracer.open(1);
  const [{ tid }] = spinner.threads as [VcpuThread];
  try {
    tracer.follow(spinner.pid, spinner.threads);
    for (const [moves, cpu] of [1, 0, 1].entries()) {
      assert.is(tracer.read().vcpus[0]!.migrations, moves);
      setScheduling(tid, { cpus: [cpu] });
      for (let tries = 0; tracer.read().vcpus[0]!.cpu !== cpu && tries < 200; tries++) await sleep(10);
      assert.is(tracer.read().vcpus[0]!.cpu, cpu);
    }
  } finally {
    tracer.close();
    await spinner.end();
  }
});

test('what others wait for a CPU is seen', async () => {
  const crowd = await Threads.start('spin:0', 'spin:0', 'spin:0', 'spin:0');
  try {
    const { before, after } = await trace(['nap:1'], 500);
    const { others } = windowBetween(before, after);
    assert.ok(others.run > 0.5, `others run: ${others.run}`);
    assert.ok(others.wait > 1, `others wait: ${others.wait}`);
  } finally {
    await crowd.end();
  }
});

test('threads come and go', async () => {
  const first = await Threads.start('spin:0', 'brief:0');
  const second = await Threads.start('spin:0');
  const tracer = VcpuTracer.open(2);
  try {
    assert.equal(tracer.read().vcpus, [], 'nobody is followed yet');
    tracer.follow(first.pid, first.threads);
    first.say('\n');
    for (let tries = 0; tracer.read().vcpus[1]!.activity !== 'gone' && tries < 100; tries++) await sleep(20);
    assert.is(tracer.read().vcpus[1]!.activity, 'gone');
    const { runNs } = tracer.read().vcpus[0]!;
    tracer.follow(first.pid, first.threads);
    assert.ok(tracer.read().vcpus[0]!.runNs >= runNs, 'the same again changes nothing');
    tracer.follow(second.pid, second.threads);
    const other = tracer.read();
    assert.is(other.vcpus.length, 1);
    assert.is(other.vcpus[0]!.tid, second.threads[0]!.tid);
    assert.ok(other.vcpus[0]!.runNs < 1e9, 'another thread begins anew');
    tracer.unfollow();
    assert.equal(tracer.read().vcpus, []);
    assert.throws(() => tracer.follow(first.pid, [{ vcpu: 2, tid: 1 }]), /no room for vCPU 2/);
  } finally {
    tracer.close();
    await first.end();
    await second.end();
  }
});

test('there is a most of vCPUs', () => {
  assert.throws(() => VcpuTracer.open(0), /1 to 64/);
  assert.throws(() => VcpuTracer.open(65), /1 to 64/);
});

test.run();
