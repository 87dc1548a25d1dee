/** `npm run bench -- NAME [--json FILE]`: what is fast, measured beside a peer in the same run. */

import { Command } from 'commander';

/** Each writes its figures to `jsonPath`, if given, and a summary to standard output. */
const benches: Record<string, { about: string; load: () => Promise<{ run: (jsonPath?: string) => Promise<void> }> }> = {
  checkpoint: {
    about: 'pause of a checkpoint through our relay, against the same QEMU over its own TCP channel',
    load: () => import('./checkpoint.js'),
  },
  codec: {
    about: 'generated codecs of bpf-ts-loader, against DataView code written by hand',
    load: () => import('./codec.js'),
  },
  gate: {
    about: 'cost of the gate per packet, against an empty program',
    load: () => import('./gate.js'),
  },
};

const program = new Command('bench')
  .description('Measure one thing, beside a peer, in one run.')
  .argument('<name>', `one of: ${Object.keys(benches).join(', ')}`)
  .option('--json <file>', 'write the figures there')
  .addHelpText('after', `\n${Object.entries(benches).map(([name, { about }]) => `  ${name.padEnd(12)} ${about}`).join('\n')}\n\nExample:\n  npm run bench -- checkpoint --json checkpoint.json`)
  .action(async (name: string, options: { json?: string }) => {
    const bench = benches[name];
    if (!bench) {
      process.stderr.write(`There is no benchmark "${name}". There are: ${Object.keys(benches).join(', ')}.\n`);
      process.exitCode = 2;
      return;
    }
    await (await bench.load()).run(options.json);
  });

await program.parseAsync();
