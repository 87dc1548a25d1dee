import { Command } from 'commander';
import { junitXml, resultText, summaryText } from '../drill/report.js';
import { runDrill, type DrillResult } from '../drill/run.js';
import { scriptJsonSchema } from '../drill/script.js';
import { loadDrills, shippedDrills, type Drill } from '../drill/shipped.js';
import { Lab } from '../lab/lab.js';
import { UsageError } from './errors.js';
import { interruptible } from './interrupt.js';
import { whole } from './options.js';
import { Progress } from './progress.js';
import { requireWritable, writeResults } from './results.js';

const example = `
A drill is a short file:

  drill: host-lost
  proves: A VM outlives the loss of its host, with its connections and all it has acknowledged.
  lab: { preRelease: true }             # or pair: { agents: { a: /run/colopp/agent.sock } }
  load: { writers: 4, readers: 2 }
  steps:
    - startLoad
    - sleep: 1s..2s                     # chance chooses; --seed repeats it
    - kill: { host: primary, what: host }
    - waitUntil: { host: b, state: active, within: 5s }
    - sleep: 1s
    - stopLoad
  expect:                               # one active host, connections and writes: expected always
    takeovers: 1
    takeoverWithin: 1500ms

For completion and checks in an editor: colopp drill schema > drill.schema.json, and in the file
  # yaml-language-server: $schema=drill.schema.json`;

export function drillCommand(): Command {
  const drill = new Command('drill')
    .description('scripted failures, and what must hold through them')
    .addHelpText('after', `${example}

Examples:
  colopp drill list
  colopp drill run                     all drills that come with colopp
  colopp drill run host-lost my.yaml`);
  drill.command('run')
    .description('run drills one after the other, each in a lab of its own')
    .argument('[file...]', 'files, folders, or names of drills that come with colopp; default: all of those')
    .option('--quick', 'only those of the quick set')
    .option('--repeat <n>', 'run each so often, each time with the next seed', whole(1, 10_000), 1)
    .option('--seed <n>', 'decides everything that is left to chance', whole(0, 2 ** 32 - 1), Date.now() % 1_000_000)
    .option('--junit <file>', 'write the results there, as JUnit XML')
    .option('--json <file>', 'write the results there, as JSON')
    .option('--logs <dir>', 'keep the logs of drills that did not pass there')
    .option('--keep', 'stop at the first drill that fails, and leave its lab up')
    .option('--name <name>', 'name of the lab', 'drill')
    .addHelpText('after', `
Examples:
  colopp drill run
  colopp drill run --quick --junit drills.xml
  colopp drill run host-lost --repeat 20 --seed 7

Exit codes: 0 all passed, 1 one failed, 2 a file is wrong or a drill could not be run (which is no pass).`)
    .action(run);
  drill.command('check')
    .description('tell every mistake in drill files, with line, column and what to write')
    .addHelpText('after', `
Examples:
  colopp drill check my.yaml
  colopp drill check drills/*.yaml`)
    .argument('<file...>', 'files, folders, or names')
    .action(check);
  drill.command('list')
    .description('the drills that come with colopp, and what each proves')
    .option('--json', 'print JSON')
    .addHelpText('after', `
Examples:
  colopp drill list
  colopp drill list --json | jq -r '.[].drill'`)
    .action(list);
  drill.command('schema')
    .description('the JSON schema of drill files, for editors')
    .addHelpText('after', `
Examples:
  colopp drill schema > drill.schema.json`)
    .action(() => void process.stdout.write(`${JSON.stringify(scriptJsonSchema(), null, 2)}\n`));
  return drill;
}

interface Options {
  quick?: boolean; repeat: number; seed: number; junit?: string; json?: string; logs?: string; keep?: boolean; name: string;
}

async function run(words: string[], options: Options): Promise<void> {
  const drills = choose(words, options.quick === true);
  requireWritable(options.junit, options.json);
  await interruptible(async (signal) => {
    const results = await runAll(drills, options, signal);
    if (results.length > 0) process.stdout.write(summaryText(results));
    writeResults([options.junit, () => junitXml(results)], [options.json, () => `${JSON.stringify(results, null, 2)}\n`]);
    signal.throwIfAborted();
    process.exitCode = results.some(({ outcome }) => outcome === 'failed') ? 1 : results.some(({ outcome }) => outcome === 'not run') ? 2 : 0;
  });
}

/** @returns the results of all that were over before an interruption */
async function runAll(drills: readonly Drill[], options: Options, signal: AbortSignal): Promise<DrillResult[]> {
  // What a killed run left behind is in nobody's way.
  const leftover = new Lab(options.name);
  if (process.geteuid?.() === 0 && await leftover.exists()) await leftover.down();
  const results: DrillResult[] = [];
  for (let round = 0; round < options.repeat; round++) {
    for (const { script } of drills) {
      const result = await runOne(script, options, options.seed + round, signal);
      if (signal.aborted) return results;
      results.push(result);
      if (options.keep && result.outcome === 'failed') {
        process.stdout.write(`The lab "${options.name}" is as it was then. Take it down: colopp lab down --name ${options.name}\n`);
        return results;
      }
    }
  }
  return results;
}

async function runOne(script: Drill['script'], options: Options, seed: number, signal: AbortSignal): Promise<DrillResult> {
  const progress = new Progress(process.stdout);
  progress.title(`${script.drill}: ${script.proves}`);
  const result = await runDrill(script, {
    labName: options.name, seed, logDir: options.logs, keep: options.keep === true, signal,
    onProgress: (step, done) => (done === undefined ? progress.start(step) : progress.done(done)),
  });
  if (!signal.aborted) process.stdout.write(resultText(result));
  return result;
}

/** Everything is read, and every mistake told, before anything is run. */
function choose(words: readonly string[], quick: boolean): Drill[] {
  const drills = (words.length === 0 ? shippedDrills() : loadDrills(words)).filter(({ script }) => !quick || script.quick);
  if (drills.length === 0) throw new UsageError(`None of these drills belongs to the quick set: ${words.join(', ')}.`);
  return drills;
}

function check(words: string[]): void {
  for (const { file, script } of loadDrills(words)) process.stdout.write(`${file}: ${script.drill} can be run.\n`);
}

function list(options: { json?: boolean }): void {
  const drills = shippedDrills().map(({ file, script: { drill, proves, quick } }) => ({ drill, proves, quick, file }));
  if (options.json) return void process.stdout.write(`${JSON.stringify(drills, null, 2)}\n`);
  const width = Math.max(...drills.map(({ drill }) => drill.length));
  for (const { drill, proves, quick } of drills) process.stdout.write(`${drill.padEnd(width)}  ${quick ? 'quick' : '     '}  ${proves}\n`);
}
