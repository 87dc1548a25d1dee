import { Command, Option } from 'commander';
import { passed, runDemoRound, summarize, type DemoRound } from '../drill/demo.js';
import { seededRandom } from '../drill/random.js';
import { Lab } from '../lab/lab.js';
import { interruptible } from './interrupt.js';
import { whole } from './options.js';
import { Progress } from './progress.js';
import { requireWritable, writeResults } from './results.js';

interface Options { rounds: number; json?: string; seed: number; vcpus: number; name: string; keep?: boolean; preRelease: boolean; monitor?: boolean; secondary: 'paused' | 'active' }

/** What the demo does by itself, and how: with the monitor nobody kills, repeats or writes figures, and clients read declared services. */
const notForMonitor = ['rounds', 'json', 'seed', 'preRelease', 'secondary', 'keep'] as const satisfies (keyof Options)[];

export function demoCommand(): Command {
  return new Command('demo')
    .description('watch a protected VM outlive its host, with all its connections, on this machine')
    .option('--rounds <n>', 'how often to do it, killing at another moment each time', whole(1, 1000), 1)
    .option('--json <file>', 'write the figures there')
    .option('--seed <n>', 'decides the moments of the kills', whole(0, 2 ** 32 - 1), Date.now() % 1_000_000)
    .option('--vcpus <n>', 'vCPUs of the guest', whole(1, 8), 1)
    .option('--name <name>', 'name of the lab it makes', 'demo')
    .option('--no-pre-release', 'declare no services: replies to reads, too, wait for a checkpoint')
    .addOption(new Option('--secondary <how>', 'whether the VM of host b runs, too: then output leaves as soon as both have said it').choices(['paused', 'active']).default('paused'))
    .option('--keep', 'leave the lab up after the last round')
    .addOption(new Option('--monitor', 'open the monitor instead, and let you do it: f and y move the VM, q ends the demo').conflicts([...notForMonitor]))
    .addHelpText('after', `
Examples:
  colopp demo
  colopp demo --rounds 5 --json demo.json
  colopp demo --monitor
  colopp demo --secondary active

Of the options, only --vcpus and --name go with --monitor.

Exit code 0 only if every connection survived and no acknowledged write was lost.`)
    .action(run);
}

async function run(options: Options): Promise<void> {
  requireWritable(options.json);
  const progress = new Progress(process.stdout);
  await interruptible(async (signal) => {
    try {
      // What a killed demo left behind is in nobody's way.
      const leftover = new Lab(options.name);
      if (process.geteuid?.() === 0 && await leftover.exists()) await leftover.down();
      await (options.monitor ? watch : play)(options, progress, signal);
    } catch (error) {
      progress.failed();
      throw error;
    }
  });
}

async function watch({ name: labName, vcpus }: Options, progress: Progress, signal: AbortSignal): Promise<void> {
  const { isUnharmed, outcomeText, runDemoMonitor } = await import('./demo-monitor.js');
  progress.title('A virtual machine, two hosts, and you');
  const outcome = await runDemoMonitor({ labName, vcpus, signal, progress });
  process.stdout.write(outcomeText(outcome));
  process.exitCode = isUnharmed(outcome) ? 0 : 1;
}

async function play(options: Options, progress: Progress, signal: AbortSignal): Promise<void> {
  const random = seededRandom(options.seed);
  const rounds: DemoRound[] = [];
  for (let i = 1; i <= options.rounds; i++) {
    progress.title(options.rounds === 1 ? 'A virtual machine outlives its host' : `Round ${i} of ${options.rounds}`);
    const round = await runDemoRound({
      labName: options.name, vcpus: options.vcpus, preRelease: options.preRelease, secondary: options.secondary, writers: 8, readers: 4, redisReaders: 2, newcomers: 2, loadSeconds: 2, jitterSeconds: 2, random,
      keep: options.keep === true && i === options.rounds, signal,
      onProgress: (step, done) => done === undefined ? progress.start(step) : progress.done(done),
    });
    rounds.push(round);
    for (const { name, why } of round.connections.broken) process.stdout.write(`  broken: ${name}: ${why}\n`);
  }
  process.stdout.write(summaryText(rounds));
  process.exitCode = rounds.every(passed) ? 0 : 1;
  writeResults([options.json, () => `${JSON.stringify({ ...summarize(rounds), seed: options.seed, perRound: rounds.map(withoutPauses) }, null, 2)}\n`]);
}

function summaryText(rounds: readonly DemoRound[]): string {
  const s = summarize(rounds);
  const good = s.rounds.failed === 0;
  const some = rounds.length > 1;
  const rows: [string, string][] = [
    ['connections', `${s.connections.survived} of ${s.connections.open} open TCP connections survived the loss of the host`],
    ['writes', `${s.writes.lost} of ${s.writes.acknowledged} acknowledged writes were lost (each was read back)`],
    ['failover', `host b noticed after ${s.failover.detectMs.toFixed(0)} ms, took ${s.failover.takeoverMs.toFixed(0)} ms to take over; the first client had its next reply ${s.failover.firstReplyMs.toFixed(0)} ms after the kill${some ? ` (medians; slowest reply ${s.failover.firstReplyMsMax.toFixed(0)} ms)` : ''}`],
    ['replies', `${percent(s.output.early, s.output)} % of the guest's packets left at once, ${s.output.match === 0 ? '' : `${percent(s.output.match, s.output)} % when both VMs had said the same, `}the others waited for a checkpoint`],
    ['checkpoints', `${s.checkpoints.count}, each pausing the guest for ${s.checkpoints.pauseMsP50.toFixed(1)} ms (median; p99 ${s.checkpoints.pauseMsP99.toFixed(1)} ms)`],
    ['guest', s.accel === 'kvm' ? 'ran on KVM' : 'ran under emulation (TCG): slower than KVM, the protocol is the same'],
  ];
  if (some) rows.unshift(['rounds', `${s.rounds.passed} of ${rounds.length} passed; ${rounds.filter((r) => r.killedInCheckpoint).length} kills fell into a checkpoint`]);
  const headline = good ? 'The VM outlived its host. Nobody was cut off, nothing acknowledged was lost.' : 'FAILED: something was lost.';
  return `\n${headline}\n${rows.map(([name, text]) => `  ${name.padEnd(12)} ${text}`).join('\n')}\n`;
}

function percent(part: number, { packets }: { packets: number }): string {
  return packets === 0 ? '0' : (100 * part / packets).toFixed(0);
}

function withoutPauses(round: DemoRound): unknown {
  return { ...round, checkpoints: { count: round.checkpoints.count } };
}
