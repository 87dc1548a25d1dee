/**
 * `npm run test:nested`: boots a VM with a kernel of our choice, in which KVM works, and runs there what needs one.
 *
 *     npm run test:nested                          Debian forky's kernel, as CI does
 *     npm run test:nested -- --kernel all          every kernel that is supported
 *     npm run test:nested -- --kernel bookworm doctor lab
 */
import { spawn } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Command, CommanderError, Option } from 'commander';
import { locateQemu, probeKvm, probeNested, type NestedProbe } from '../../src/qemu/index.js';
import { whole } from '../../src/cli/options.js';
import { Progress } from '../../src/cli/progress.js';
import { tapPump } from '../bpf/tap-pump.js';
import { breakGate } from './break-bpf.js';
import { ringThroughPorts } from './emulation.js';
import type { Order } from './messages.js';
import { lastLines, runOuterVm } from './outer-vm.js';
import { Report } from './report.js';
import { steps } from './steps.js';

const root = fileURLToPath(new URL('../../../', import.meta.url)).replace(/\/$/, '');
const images = join(root, 'build/nested');
/** Of the project: what the lab knows of its guest. */
const guestFile = 'build/guest/guest.json';
/** As in vm-images/nested/suites.mjs, which is not compiled. */
const suites = ['forky', 'trixie', 'bookworm'] as const;
const consoleLines = 30;
/** How many times slower a lab may be in the outer VM than on the machine that its limits are made for. */
const slowdowns = { kvm: 2, tcg: 15 } as const;

interface Options { kernel: typeof suites[number] | 'all'; accel: 'auto' | 'kvm' | 'tcg'; memory: number; breakBpf?: boolean }

async function main(): Promise<number> {
  const command = new Command('npm run test:nested --')
    .description('run the nested tests: labs with KVM guests, in a VM with a kernel of our choice')
    .argument('[words...]', 'only the steps whose names hold one of these words')
    .addOption(new Option('--kernel <suite>', 'the Debian whose kernel to use').choices([...suites, 'all']).default('forky'))
    .addOption(new Option('--accel <which>', 'what the outer VM runs on').choices(['auto', 'kvm', 'tcg']).default('auto'))
    .option('--memory <mib>', 'memory of the outer VM', whole(2048, 1024 * 1024), 3072)
    .option('--break-bpf', 'spoil a BPF program on purpose, to see that the tests notice')
    .exitOverride()
    .addHelpText('after', `
Examples:
  npm run test:nested
  npm run test:nested -- --kernel all
  npm run test:nested -- --kernel bookworm doctor bpf

Reports are in build/nested/results/KERNEL: report.txt, junit.xml and the console.
Exit codes: 0 all passed, 1 something failed, 2 wrong usage or environment.`);
  try {
    command.parse();
  } catch (error) {
    return error instanceof CommanderError && error.exitCode === 0 ? 0 : 2;
  }
  const unknown = command.args.filter((word) => !steps.some(({ name }) => name.includes(word)));
  if (unknown.length > 0) {
    process.stderr.write(`No step's name holds "${unknown.join('" or "')}". There are: ${steps.map(({ name }) => name).join(', ')}.\n`);
    return 2;
  }
  const options = command.opts<Options>();
  const interruption = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, () => interruption.abort());

  // It travels on a kernel command line, where words end at white space.
  if (/\s/.test(root)) {
    process.stderr.write(`The checkout lies in "${root}": the nested tests need a path without white space.\n`);
    return 2;
  }
  const prepared = await setUp(options.kernel);
  if (prepared !== 0) return prepared;
  tapPump(); // the outer VM has no compiler
  const runtime = await locateQemu();
  const nested = options.accel === 'auto' ? await probeNested(await probeKvm(runtime)) : { accel: options.accel, reason: `The outer VM runs on ${options.accel}, as asked.` };
  process.stdout.write(`${nested.reason}\n`);
  const emulated = nested.accel === 'tcg';
  const replace = {
    ...options.breakBpf ? await breakGate(root) : {},
    ...emulated ? { [guestFile]: ringThroughPorts(readFileSync(join(root, guestFile), 'utf8')) } : {},
  };
  const order: Order = { only: command.args, slowdown: slowdowns[nested.accel], emulated, replace };
  const sum = { passed: 0, failed: 0 };
  for (const suite of options.kernel === 'all' ? suites : [options.kernel]) {
    if (interruption.signal.aborted) break;
    const { passed, failed } = await runSuite(suite, nested, order, options, interruption.signal);
    sum.passed += passed;
    sum.failed += failed;
  }
  process.stdout.write(`${sum.passed} passed, ${sum.failed} failed\n`);
  return interruption.signal.aborted ? 130 : sum.failed > 0 ? 1 : 0;
}

/** Makes what is missing of the outer VM. @returns its exit code */
async function setUp(kernel: string): Promise<number> {
  const child = spawn(process.execPath, [join(root, 'src/setup/setup.mjs'), '--for', 'nested', '--kernel', kernel], { stdio: 'inherit' });
  return new Promise((resolve) => {
    child.once('error', () => resolve(2));
    child.once('exit', (status) => resolve(status ?? 130));
  });
}

async function runSuite(suite: string, nested: NestedProbe, order: Order, options: Options, signal: AbortSignal): Promise<Report> {
  const results = join(images, 'results', suite);
  mkdirSync(results, { recursive: true });
  const consoleFile = join(results, 'console.log');
  writeFileSync(consoleFile, '');
  const report = new Report(suite);
  report.facts.push(['outer VM', nested.reason]);
  const progress = new Progress(process.stdout);
  progress.title(`Nested tests on the kernel of Debian ${suite}`);
  progress.start('start the outer VM');
  const startedMs = performance.now();
  let stepStartedMs = startedMs;
  const publish = (): void => {
    writeFileSync(join(results, 'report.txt'), report.toText());
    writeFileSync(join(results, 'junit.xml'), report.toJUnit());
  };
  const cutOff = await runOuterVm({
    runtime: await locateQemu(), accel: nested.accel, project: root, images, suite, memoryMiB: options.memory, consoleFile, order,
    startLimitMs: 180_000, graceMs: 60_000, signal,
    onNews: (news) => {
      report.take(news);
      stepStartedMs = news.type === 'step' ? performance.now() : stepStartedMs;
      if (news.type === 'begin') progress.done(news.kernel);
      else if (news.type === 'step') progress.start(news.name);
      else if (news.type === 'verdict') {
        progress.done(news.verdict === 'passed' ? 'passed' : `FAILED: ${news.detail.split('\n')[0]}`);
        publish(); // a run takes minutes: what is known can be read meanwhile
      }
    },
  });
  if (cutOff !== undefined) {
    progress.failed();
    process.stdout.write(`${cutOff}\n`);
    report.cutOff(cutOff, lastLines(consoleFile, consoleLines), performance.now() - stepStartedMs);
  }
  publish();
  for (const step of report.steps.filter(({ verdict }) => verdict !== 'passed')) {
    process.stdout.write(`\n${`${step.name}: ${step.detail}\n${step.output}`.trimEnd().split('\n').slice(-40).join('\n').replace(/^/gm, '    | ')}\n`);
  }
  process.stdout.write(`  ${((performance.now() - startedMs) / 1000).toFixed(0)} s in all; report: ${relative(process.cwd(), join(results, 'report.txt'))}\n`);
  return report;
}

try {
  process.exitCode = await main();
} catch (error) {
  process.stderr.write(`${(error as Error).message}\n`);
  process.exitCode = 2;
}
