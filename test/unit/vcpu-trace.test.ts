/** Windows between readings, and their picture. */

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { VcpuRecording } from '../../src/cli/vcpu-recording.js';
import { timelineSvg } from '../../src/cli/vcpu-timeline.js';
import { spanQuantileUs, vcpuExits, windowBetween, type VcpuExit, type VcpuReading, type VcpuTotals } from '../../src/protocol/vcpu-trace.js';

const exits = (count: number): Record<VcpuExit, number> => Object.fromEntries(vcpuExits.map((exit) => [exit, count])) as Record<VcpuExit, number>;

function totals(vcpu: number, change: Partial<VcpuTotals> = {}): VcpuTotals {
  return {
    vcpu, tid: 100 + vcpu, activity: 'running', cpu: 0, runNs: 0, waitNs: 0, sleepNs: 0, preemptedBesideSiblingNs: 0,
    voluntary: 0, involuntary: 0, migrations: 0, waits: [0, 0], runs: [0, 0], exits: null, ...change,
  };
}

const reading = (atNs: number, vcpus: VcpuTotals[], change: Partial<VcpuReading> = {}): VcpuReading =>
  ({ atNs, pid: 1, vcpus, others: { runNs: 0, waitNs: 0 }, ...change });

test('a window holds what has grown, as shares of its length', () => {
  const before = reading(1e9, [totals(0, { runNs: 50e6, waitNs: 10e6, involuntary: 3, waits: [1, 2], exits: exits(1) })]);
  const after = reading(1.1e9, [totals(0, { runNs: 110e6, waitNs: 40e6, sleepNs: 10e6, involuntary: 8, migrations: 1, waits: [1, 5], exits: exits(4) })], { others: { runNs: 150e6, waitNs: 20e6 } });
  const { vcpus: [vcpu], others, fromNs, toNs } = windowBetween(before, after);
  assert.equal([fromNs, toNs], [1e9, 1.1e9]);
  assert.equal(vcpu, {
    vcpu: 0, run: 0.6, wait: 0.3, sleep: 0.1, preemptedBesideSibling: 0, voluntary: 0, involuntary: 5, migrations: 1,
    waits: [0, 3], runs: [0, 0], exits: exits(3),
  });
  assert.equal(others, { run: 1.5, wait: 0.2 });
});

test('another thread begins anew; another process says nothing of the others; nothing is negative or more than all', () => {
  const before = reading(0, [totals(0, { runNs: 5e9 }), totals(1, { runNs: 5e9 })], { others: { runNs: 0, waitNs: 5e9 } });
  const after = reading(1e9, [totals(0, { tid: 999, runNs: 0.5e9 }), totals(1, { runNs: 4e9, waitNs: 3e9 })], { pid: 2, others: { runNs: 9e9, waitNs: 1e9 } });
  const { vcpus, others } = windowBetween(before, after);
  assert.is(vcpus[0]!.run, 0.5);
  assert.is(vcpus[1]!.run, 0);
  assert.is(vcpus[1]!.wait, 1);
  assert.equal(others, { run: 0, wait: 0 });
});

test('a wait that was taken for sleep until it ended does not make a window longer than it is', () => {
  const before = reading(1e9, [totals(0, { sleepNs: 100e6 })]);
  // It had waited since shortly before that reading.
  const after = reading(1.1e9, [totals(0, { sleepNs: 10e6, waitNs: 150e6, runNs: 40e6 })]);
  const [vcpu] = windowBetween(before, after).vcpus;
  assert.equal([vcpu!.run, vcpu!.wait, vcpu!.sleep], [0.4, 0.6, 0]);
});

test('quantiles of a histogram are upper bounds', () => {
  assert.is(spanQuantileUs([0, 0], 0.5), null);
  assert.is(spanQuantileUs([9, 1], 0.5), 2);
  assert.is(spanQuantileUs([9, 1], 0.99), 4);
});

test('a picture shows each vCPU, who was parked, and why', () => {
  const samples = [0, 1, 2, 3].map((i) => ({
    window: windowBetween(
      reading(i * 1e8, [totals(0), totals(1)]),
      reading((i + 1) * 1e8, [totals(0, { runNs: 9e7 }), totals(1, { waitNs: 1e7 })]),
    ),
    active: i === 0 ? [] : i === 3 ? null : [0],
    demand: null,
  }));
  const inputs = { comparing: true, heldPerSecond: 0, heldShare: 0, benefit: null, busy: [], waiting: 0, othersCpus: 0, override: null };
  const recording: VcpuRecording = { vcpus: 2, samples, decisions: [{ atMs: 100, from: 0, to: 1, active: [0], reason: 'a <trial> & more', inputs }] };
  const svg = timelineSvg(recording, 'of "b" <1>');
  assert.match(svg, /<title>of &quot;b&quot; &lt;1&gt;<\/title>/);
  assert.match(svg, 'vCPU 0, 0.00 s: runs 90 %, waits 0 %, paused after commits');
  assert.match(svg, 'vCPU 1, 0.20 s: runs 0 %, waits 10 %, parked');
  assert.match(svg, '1. 0.10 s: 0 -&gt; 1 active (0): a &lt;trial&gt; &amp; more');
  assert.is(svg.match(/fill="url\(#paused\)" pointer/g)?.length, 2, 'both are paused at first');
  assert.is(svg.match(/fill="url\(#parked\)" pointer/g)?.length, 1, 'one is parked then');
  const open = svg.match(/<[a-z]+(?:\s[^>]*[^/])?>/g)!.length;
  assert.is(svg.match(/<\/[a-z]+>/g)!.length, open, 'every element is closed');
  assert.match(timelineSvg({ vcpus: 0, samples: [], decisions: [] }, 'nothing'), /^<svg/);
});

test.run();
