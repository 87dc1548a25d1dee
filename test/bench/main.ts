/** `npm run bench -- NAME [--json FILE]`: what is fast, measured beside a peer in the same run. */

import { Command, CommanderError, InvalidArgumentError, Option } from 'commander';
import { exitCodeOf, report } from '../../src/cli/errors.js';
import { whole } from '../../src/cli/options.js';
import type { ComparisonOptions } from './comparison.js';
import { modes, type Mode } from './modes.js';
import type { VcpuBenchOptions } from './vcpu.js';

/** Of all benches: each takes its own. */
type Options = ComparisonOptions & VcpuBenchOptions;

/** Each writes its figures to `jsonPath`, if given, and a summary to standard output. */
interface Bench {
  about: string;
  load: () => Promise<{ run: (jsonPath: string | undefined, options: Options) => Promise<void> }>;
  /** It compares modes of running the guest, these unless others are asked for, and takes the options of that. */
  compares?: readonly Mode[];
  /** It takes rounds and seconds, and a rate. */
  paced?: true;
}

const benches: Record<string, Bench> = {
  checkpoint: {
    about: 'pause of a checkpoint over a connection of our agents, against the same QEMU over its own TCP channel',
    load: () => import('./checkpoint.js'),
  },
  codec: {
    about: 'generated codecs of bpf-ts-loader, against DataView code written by hand',
    load: () => import('./codec.js'),
  },
  trace: {
    about: 'tracing vCPUs: what it costs a context switch',
    load: () => import('./trace.js'),
  },
  vcpu: {
    about: 'what a secondary costs its host and gives its primary: fully active, as the policy decides, paused',
    load: () => import('./vcpu.js'),
    paced: true,
  },
  gate: {
    about: 'cost of the gate per packet, against an empty program',
    load: () => import('./gate.js'),
  },
  hold: {
    about: 'packets per second through the hold thread, against a plain read/write loop over the same taps',
    load: () => import('./hold.js'),
  },
  redis: {
    about: 'GET, SET and a 95/5 mix: pre-release, with and without auto, against no protection, commits alone, and stock COLO',
    load: () => import('./redis.js'),
    compares: ['unprotected', 'prerelease', 'commit', 'auto', 'stockColo'],
  },
  http: {
    about: 'pages of 1 KiB and 1 MiB, likewise',
    load: () => import('./http.js'),
    compares: ['unprotected', 'prerelease', 'commit', 'stockColo'],
  },
  compare: {
    about: 'an active secondary: reads, writes, and replies that differ on each VM, against commits alone and stock COLO',
    load: () => import('./compare.js'),
    compares: ['prerelease', 'commit', 'compare', 'auto', 'stockColo'],
  },
};

const program = new Command('bench')
  .description('Measure one thing, beside a peer, in one run.')
  .exitOverride()
  .showHelpAfterError('(add --help for the options and examples)')
  .addHelpText('after', `
Examples:
  npm run bench -- checkpoint --json checkpoint.json
  npm run bench -- redis --rounds 5 --modes unprotected,commit
  npm run bench -- redis --connections 50 --modes commit`);

for (const [name, { about, load, compares, paced }] of Object.entries(benches)) {
  const command = program.command(name).description(about).option('--json <file>', 'write the figures there');
  if (compares || paced) {
    command
      .option('--rounds <n>', 'how often each mode is started and measured', whole(1, 100), 3)
      .option('--seconds <n>', 'how long each load is measured in a round', whole(1, 600), 3);
  }
  if (paced) command.option('--rate <n>', 'requests a second of all clients together, at most', whole(1, 1_000_000), 500);
  if (compares) {
    command
      .option('--vcpus <n>', 'vCPUs of the guest', whole(1, 8), 1)
      .option('--connections <n>', 'of clients, each with one request under way', whole(1, 200), 4)
      .addOption(new Option('--modes <list>', `which of ${modes.join(',')}`).argParser(modeList).default([...compares], compares.join(',')));
  }
  command.action(async ({ json, ...options }: { json?: string } & Options) => {
    await (await load()).run(json, options);
  });
}

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

function modeList(text: string): Mode[] {
  const chosen = text.split(',');
  const unknown = chosen.find((name) => !modes.includes(name as Mode));
  if (unknown !== undefined) throw new InvalidArgumentError(`There is no mode ${JSON.stringify(unknown)}; there are ${modes.join(', ')}.`);
  return modes.filter((mode) => chosen.includes(mode));
}
