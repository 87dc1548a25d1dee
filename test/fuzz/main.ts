/** `npm run fuzz`: looks for input that native code cannot bear. */
import { Command, CommanderError, Option } from 'commander';
import { exitCodeOf, report } from '../../src/cli/errors.js';
import { whole } from '../../src/cli/options.js';
import { fuzz, fuzzerNames, fuzzers, type Fuzzer } from './fuzzers.js';

interface Options {
  seconds: number;
  only?: Fuzzer;
}

const interruption = new AbortController();
for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, () => interruption.abort(new Error(`Interrupted by ${name}; what was learned is kept.`)));

const program = new Command('fuzz')
  .description('Fuzz the native code that reads packets. What is learned is kept in build/fuzz/ and is where the next run begins.')
  .option('--seconds <n>', 'how long in all, shared by the fuzzers', whole(3, 1_000_000), 60)
  .addOption(new Option('--only <name>', 'one of them').choices(fuzzerNames))
  .exitOverride()
  .showHelpAfterError('(add --help for the options and examples)')
  .addHelpText('after', `
Fuzzers:
${fuzzerNames.map((name) => `  ${name.padEnd(12)} ${fuzzers[name].about}`).join('\n')}

Examples:
  npm run fuzz
  npm run fuzz -- --seconds 3600 --only compare`)
  .action(async ({ seconds, only }: Options) => {
    const names = only === undefined ? fuzzerNames : [only];
    for (const name of names) {
      const share = Math.max(1, Math.floor(seconds / names.length));
      process.stdout.write(`${name.padEnd(12)} ${fuzzers[name].about}, for ${share} s ...\n`);
      const { runs, coverage } = await fuzz(name, share, interruption.signal);
      process.stdout.write(`${name.padEnd(12)} nothing found in ${runs} runs, ${coverage} edges reached\n`);
    }
  });

try {
  await program.parseAsync();
} catch (error) {
  if (error instanceof CommanderError) {
    process.exitCode = error.exitCode === 0 ? 0 : 2; // commander has said what is wrong
  } else {
    report(error);
    process.exitCode = exitCodeOf(error);
  }
}
