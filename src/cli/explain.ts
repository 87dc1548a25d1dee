import { readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { getSystemErrorMap } from 'node:util';
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
  const entry = explanation(entries, code);
  if (entry === undefined) throw new UsageError(`There is no code ${code.slice(0, 40)}. All there are: colopp explain`);
  return entry;
}

/** What the page says of a code; of those of the operating system that it does not know, what the system says. */
export function explanation(entries: Map<string, string>, code: string): string | undefined {
  const name = code.toUpperCase();
  const entry = entries.get(name);
  if (entry !== undefined) return entry;
  if (name.startsWith('LIBBPF_ERRNO__')) return 'An error of libbpf itself. The message says what was tried, and what libbpf said.';
  const errno = name in constants.errno ? constants.errno[name as keyof typeof constants.errno] : undefined;
  return errno === undefined ? undefined : `The operating system refuses something: ${getSystemErrorMap().get(-errno)?.[1] ?? `error ${errno}`}. The message says what was tried, and on what.`;
}

/** The first sentence of each. */
function listOf(entries: Map<string, string>): string {
  const width = Math.max(...[...entries.keys()].map((code) => code.length));
  return [...entries].map(([code, body]) => `${code.padEnd(width)}  ${/^[^]*?[.:](?=\s|$)/.exec(body)?.[0] ?? body}\n`).join('');
}
