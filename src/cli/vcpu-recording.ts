/** What an agent tells of its vCPUs over a span of time, as windows between its answers. */

import { setTimeout as sleep } from 'node:timers/promises';
import type { VcpusReport } from '../agent/vcpus.js';
import type { VcpuDecision, VcpuDemand } from '../protocol/vcpu-policy.js';
import { windowBetween, type VcpuWindow } from '../protocol/vcpu-trace.js';

/** One window, and how things stood at its end. */
export interface VcpuSample {
  window: VcpuWindow;
  /** The active vCPUs; null where none is parked because the host is not a secondary. */
  active: number[] | null;
  demand: VcpuDemand | null;
}

export interface VcpuRecording {
  /** vCPUs of the VM. */
  vcpus: number;
  samples: VcpuSample[];
  /** Decisions that fell in that time, by CLOCK_MONOTONIC. */
  decisions: VcpuDecision[];
}

/** Reads again and again, until `signal` aborts. What cannot be read for a moment, while QEMU starts, is passed over. */
export async function* sample(read: () => Promise<VcpusReport>, intervalMs: number, signal: AbortSignal): AsyncGenerator<VcpuSample & { report: VcpusReport }> {
  let before = (await read()).reading;
  while (!signal.aborted) {
    await sleep(intervalMs, undefined, { signal }).catch(() => {});
    if (signal.aborted) return;
    const report = await read();
    const { reading, active, demand } = report;
    if (before && reading) yield { window: windowBetween(before, reading), active, demand, report };
    before = reading;
  }
}

/** Records for `seconds`, or until `signal` aborts. */
export async function record(read: () => Promise<VcpusReport>, options: { seconds: number; intervalMs: number; signal: AbortSignal; onSample?: (sample: VcpuSample) => void }): Promise<VcpuRecording> {
  const deadlineMs = performance.now() + options.seconds * 1000;
  const samples: VcpuSample[] = [];
  let last: VcpusReport | undefined;
  for await (const { report, ...one } of sample(read, options.intervalMs, options.signal)) {
    samples.push(one);
    options.onSample?.(one);
    last = report;
    if (performance.now() >= deadlineMs) break;
  }
  const fromMs = (samples[0]?.window.fromNs ?? 0) / 1e6;
  return { vcpus: last?.of ?? 0, samples, decisions: (last?.decisions ?? []).filter(({ atMs }) => atMs >= fromMs) };
}
