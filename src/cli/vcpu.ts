/** `colopp vcpu`: what the VM's vCPUs do, and how many of the secondary's are active. */

import { Command, InvalidArgumentError } from 'commander';
import type { VcpusReport } from '../agent/vcpus.js';
import { spanQuantileUs, type VcpuActivityWindow } from '../protocol/vcpu-trace.js';
import { ask, onAgent, print, type Target } from './operate.js';
import { whole } from './options.js';
import { requireWritable, writeResults } from './results.js';
import { record, sample, type VcpuRecording, type VcpuSample } from './vcpu-recording.js';
import { timelineSvg } from './vcpu-timeline.js';

export function vcpuCommand(): Command {
  return new Command('vcpu')
    .description("watch the VM's vCPUs, and say how many of the secondary's are active")
    .addHelpText('after', `
Examples:
  colopp vcpu top
  colopp vcpu trace --seconds 30 --svg vcpus.svg
  colopp vcpu set auto`)
    .addCommand(topCommand())
    .addCommand(traceCommand())
    .addCommand(setCommand());
}

function topCommand(): Command {
  return onAgent('top', 'a live table of the vCPUs', `  colopp vcpu top
  colopp vcpu top --lab lab --host b
  colopp vcpu top --count 1 --json`)
    .option('--interval <ms>', 'time between two tables', whole(100, 60_000), 1000)
    .option('--count <n>', 'end after so many', whole(1, 1_000_000))
    .action(async (options: Target & { interval: number; count?: number }) => {
      const interruption = interruptible();
      let left = options.count ?? Infinity;
      for await (const { report, ...one } of sample(() => ask<VcpusReport>(options, 'vcpus'), options.interval, interruption)) {
        if (options.json) process.stdout.write(`${JSON.stringify(one)}\n`);
        else process.stdout.write(`${process.stdout.isTTY ? '\x1b[H\x1b[2J' : ''}${tableText(report, one)}\n`);
        if (--left <= 0) return;
      }
    });
}

function traceCommand(): Command {
  return onAgent('trace', 'record the vCPUs for a while', `  colopp vcpu trace --seconds 10
  colopp vcpu trace --seconds 30 --svg vcpus.svg      then open it in a browser
  colopp vcpu trace --lab lab --host b --seconds 5 --json > trace.json`)
    .option('--seconds <n>', 'for so long', whole(1, 3600), 10)
    .option('--interval <ms>', 'length of a window', whole(20, 10_000), 100)
    .option('--svg <file>', 'draw a timeline there')
    .action(async (options: Target & { seconds: number; interval: number; svg?: string }) => {
      requireWritable(options.svg);
      const recording = await record(() => ask<VcpusReport>(options, 'vcpus'), {
        seconds: options.seconds, intervalMs: options.interval, signal: interruptible(),
        onSample: progress(options),
      });
      if (process.stderr.isTTY && !options.json) process.stderr.write('\r\x1b[K');
      if (recording.samples.length === 0) throw new Error('Nothing was recorded: there is no VM on that host, or its kernel cannot trace (see the log of the agent).');
      print(options, recording, summaryText(recording));
      writeResults([options.svg, () => timelineSvg(recording, `vCPUs on ${options.lab === undefined ? 'this host' : `host ${options.host ?? 'a'} of lab ${options.lab}`}`)]);
    });
}

function setCommand(): Command {
  return onAgent('set', 'say how many vCPUs are active while the host is the secondary', `  colopp vcpu set auto          by the load
  colopp vcpu set 0             paused after every commit
  colopp vcpu set 2 --lab lab --host b`)
    .argument('<n|auto>', 'how many', active)
    .action(async (activeVcpus: 'auto' | number, target: Target) => {
      const report = await ask<VcpusReport>(target, 'active-vcpus', { activeVcpus });
      print(target, report, activeVcpus === 'auto' ? 'The load decides from now on.' : `Set to ${activeVcpus}. It counts at once on a secondary, and waits there until a host becomes one.`);
    });
}

/** Aborts on Ctrl-C, which then is a proper end. */
function interruptible(): AbortSignal {
  const interruption = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, () => interruption.abort());
  return interruption.signal;
}

function progress({ json, seconds }: { json?: boolean; seconds: number }): (sample: VcpuSample) => void {
  const startedMs = performance.now();
  return () => {
    if (process.stderr.isTTY && !json) process.stderr.write(`\rrecording, ${((performance.now() - startedMs) / 1000).toFixed(1)} of ${seconds} s`);
  };
}

function active(text: string): 'auto' | number {
  if (text === 'auto') return 'auto';
  try {
    return whole(0, 64)(text);
  } catch {
    throw new InvalidArgumentError('Give "auto" or a whole number from 0 to 64.');
  }
}

/** `beside`: it was preempted, and another vCPU ran meanwhile. */
const columns = ['vCPU', 'thread', 'state', 'on CPU', 'runs', 'waits', 'sleeps', 'preempted', 'beside', 'moved', 'wait p50', 'wait p99', ''] as const;

function tableText({ mode, of, active, reason, reading }: VcpusReport, { window }: VcpuSample): string {
  const spanSeconds = (window.toNs - window.fromNs) / 1e9;
  const rows = window.vcpus.map((vcpu): string[] => {
    const totals = reading?.vcpus.find((one) => one.vcpu === vcpu.vcpu);
    return [
      `${vcpu.vcpu}`, `${totals?.tid ?? ''}`, totals?.activity ?? '', `${totals?.cpu ?? ''}`,
      percent(vcpu.run), percent(vcpu.wait), percent(vcpu.sleep), `${Math.round(vcpu.involuntary / spanSeconds)}/s`, percent(vcpu.preemptedBesideSibling),
      `${Math.round(vcpu.migrations / spanSeconds)}/s`, span(vcpu, 0.5), span(vcpu, 0.99),
      active === null || active.includes(vcpu.vcpu) ? '' : active.length === 0 ? 'paused' : 'parked',
    ];
  });
  const widths = columns.map((name, i) => Math.max(name.length, ...rows.map((row) => row[i]!.length)));
  const line = (cells: readonly string[]): string => cells.map((cell, i) => cell.padStart(widths[i]!)).join('  ').trimEnd();
  const head = active === null ? `${of} vCPUs; ${reason}` : `${active.length} of ${of} vCPUs are active (${mode === 'auto' ? 'auto' : `set to ${mode}`}): ${reason}`;
  const exits = window.vcpus.some(({ exits }) => exits)
    ? [`KVM exits: ${window.vcpus.map(({ vcpu, exits }) => `vCPU ${vcpu} ${Object.entries(exits ?? {}).filter(([, count]) => count > 0).map(([why, count]) => `${why} ${Math.round(count / spanSeconds)}/s`).join(' ') || 'none'}`).join('; ')}`]
    : [];
  return [head, line(columns), ...rows.map(line), ...exits, `other work of this host: ${window.others.run.toFixed(1)} run, ${window.others.wait.toFixed(1)} wait for a CPU`].join('\n');
}

function summaryText({ samples, vcpus, decisions }: VcpuRecording): string {
  const of = (vcpu: number, pick: (window: VcpuActivityWindow) => number): number[] =>
    samples.flatMap(({ window }) => window.vcpus.filter((one) => one.vcpu === vcpu).map(pick));
  const mean = (values: number[]): number => values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length);
  const lines = Array.from({ length: vcpus }, (_, vcpu) =>
    `vCPU ${vcpu}: runs ${percent(mean(of(vcpu, ({ run }) => run)))}, waits ${percent(mean(of(vcpu, ({ wait }) => wait)))}, was preempted ${of(vcpu, ({ involuntary }) => involuntary).reduce((sum, count) => sum + count, 0)} times`);
  const others = mean(samples.map(({ window }) => window.others.run));
  return [
    `${samples.length} windows`, ...lines, `other work of this host: ${others.toFixed(1)} run`,
    ...decisions.map(({ from, to, reason }) => `decided: ${from} -> ${to}: ${reason}`),
  ].join('\n');
}

function span({ waits }: VcpuActivityWindow, q: number): string {
  const us = spanQuantileUs(waits, q);
  return us === null ? '' : us < 1000 ? `<${us} us` : `<${Math.round(us / 1000)} ms`;
}

function percent(share: number): string {
  return `${Math.round(100 * share)} %`;
}
