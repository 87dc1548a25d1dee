import { readFileSync } from 'node:fs';
import { Argument, Command } from 'commander';
import { UsageError } from './errors.js';

/** The page is read where it is written: beside the sources, not the compiled files. */
const page = new URL('../../../src/cli/TROUBLESHOOTING.md', import.meta.url);

export function explainCommand(): Command {
  return new Command('explain')
    .description('say what a code means, and what to do')
    .addArgument(new Argument('[code]', 'as it stands in an error, in the log, or in the monitor; without it, all codes'))
    .addHelpText('after', `
Examples:
  colopp explain FENCED
  colopp explain`)
    .action((code: string | undefined) => {
      const entries = troubleshooting(readFileSync(page, 'utf8'));
      process.stdout.write(code === undefined ? listOf(entries) : `${entryOf(entries, code)}\n`);
    });
}

/** What the page says, by code. */
export function troubleshooting(text: string): Map<string, string> {
  return new Map([...text.matchAll(/^### (\w+)\n([^]*?)(?=\n##|(?![^]))/gm)].map(([, code, body]) => [code!, body!.trim()]));
}

function entryOf(entries: Map<string, string>, code: string): string {
  const entry = entries.get(code.toUpperCase());
  if (entry === undefined) throw new UsageError(`There is no code ${code.slice(0, 40)}. All there are: colopp explain`);
  return entry;
}

/** The first sentence of each. */
function listOf(entries: Map<string, string>): string {
  const width = Math.max(...[...entries.keys()].map((code) => code.length));
  return [...entries].map(([code, body]) => `${code.padEnd(width)}  ${/^[^]*?[.:](?=\s|$)/.exec(body)?.[0] ?? body}\n`).join('');
}
