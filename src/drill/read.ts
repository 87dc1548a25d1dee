/** Reads drill files. Every mistake is told with its line, its column and what to write instead. */

import { readFileSync } from 'node:fs';
import { isMap, isScalar, LineCounter, parseDocument, visit, type Document, type Node } from 'yaml';
import { findMistakes, type Mistake } from './mistakes.js';
import { findDisorder } from './order.js';
import { scriptSchema, type Script } from './script.js';

const largestFileBytes = 256 * 1024;
const mostProblems = 20;

/** A mistake in a drill file; line and column begin at 1. */
export interface Problem { line: number; column: number; what: string; suggestion: string }

/** A drill file that cannot be used. The message has one line for each mistake. */
export class DrillFileError extends Error {
  readonly code = 'DRILL_FILE';
  readonly problems: readonly Problem[];

  constructor(source: string, problems: readonly Problem[], options?: ErrorOptions) {
    const lines = problems.slice(0, mostProblems).map(({ line, column, what, suggestion }) => `${source}:${line}:${column}: ${what}. ${suggestion}`);
    if (problems.length > mostProblems) lines.push(`${source}: ... and ${problems.length - mostProblems} mistakes more.`);
    super(lines.join('\n'), options);
    this.name = 'DrillFileError';
    this.problems = problems;
  }
}

/** @throws DrillFileError */
export function loadDrill(path: string): Script {
  let text: string;
  try {
    const bytes = readFileSync(path);
    if (bytes.length > largestFileBytes) throw new Error(`it has ${bytes.length} bytes, more than ${largestFileBytes}`);
    text = bytes.toString('utf8');
  } catch (cause) {
    const what = `the file cannot be read: ${(cause as Error).message}`;
    throw new DrillFileError(path, [{ line: 1, column: 1, what, suggestion: 'See "colopp drill list" for those that come with colopp.' }], { cause });
  }
  return parseDrill(text, path);
}

/**
 * @param source named in errors
 * @throws DrillFileError
 */
export function parseDrill(text: string, source: string): Script {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, strict: true, uniqueKeys: true });
  const problemAt = (offset: number, what: string, suggestion: string): Problem => {
    const { line, col: column } = lines.linePos(offset);
    return { line, column, what, suggestion };
  };
  const malformed = [...document.errors, ...document.warnings].map((error) => problemAt(
    error.pos[0],
    `not valid YAML: ${error.message.split('\n')[0]!.replace(/ at line \d+.*$/, '').replace(/:$/, '')}`,
    cures[error.code] ?? 'Check the indentation, and the colons, quotes and brackets around it.',
  ));
  if (malformed.length > 0) throw new DrillFileError(source, malformed);
  let value: unknown;
  try {
    value = document.toJS({ maxAliasCount: 100 });
  } catch (cause) {
    let at = 0;
    visit(document, { Alias: (_key, { range }) => { at = range?.[0] ?? 0; return visit.BREAK; } });
    throw new DrillFileError(source, [problemAt(at, `not usable YAML: ${(cause as Error).message}`, 'Write out what the alias stands for, or put quotes around it.')], { cause });
  }
  if (value === null) throw new DrillFileError(source, [problemAt(0, 'the file is empty', 'See "colopp drill --help" for an example.')]);
  const refuse = (mistakes: readonly Mistake[]): void => {
    if (mistakes.length === 0) return;
    const problems = mistakes.map((mistake) => problemAt(offsetOf(document, mistake), describe(mistake), mistake.suggestion));
    throw new DrillFileError(source, problems.sort((one, other) => one.line - other.line || one.column - other.column));
  };
  refuse(findMistakes(scriptSchema, value));
  const script = scriptSchema.parse(value);
  refuse(findDisorder(script));
  return script;
}

/** What is wrong, with the place in words. */
function describe({ path, what }: Mistake): string {
  const place = path.map((part) => (typeof part === 'number' ? `${part + 1}` : String(part))).join('.');
  return place === '' ? what : `${place}: ${what}`;
}

/** Where it stands; what is missing has no place of its own, so the nearest that has. */
function offsetOf(document: Document, { path, key }: Mistake): number {
  for (let depth = path.length; depth >= 0; depth--) {
    const node = document.getIn(path.slice(0, depth), true) as Node | undefined;
    if (!node?.range) continue;
    if (depth < path.length || key === undefined || !isMap(node)) return node.range[0];
    const pair = node.items.find((item) => isScalar(item.key) && String(item.key.value) === key);
    return (pair?.key as Node | undefined)?.range?.[0] ?? node.range[0];
  }
  return 0;
}

const cures: Record<string, string> = {
  TAB_AS_INDENT: 'Indent with spaces.',
  DUPLICATE_KEY: 'Keep one of them.',
  BAD_INDENT: 'Indent it as its neighbours are, and close the brackets before it.',
  MISSING_CHAR: 'Add what is missing, or the end of the quote or bracket before it.',
  MULTILINE_IMPLICIT_KEY: 'Put a ":" behind the key, or close the quote or bracket before it.',
  BLOCK_AS_IMPLICIT_KEY: 'Put each key on a line of its own.',
  BAD_SCALAR_START: 'Put quotes around it.',
  BAD_ALIAS: 'Put quotes around it, if "*" is meant as a letter.',
  BAD_DQ_ESCAPE: 'Use single quotes, or double the backslash.',
  MULTIPLE_DOCS: 'Put each drill into a file of its own.',
  TAG_RESOLVE_FAILED: 'Remove the tag, or put quotes around it.',
  UNEXPECTED_TOKEN: 'Remove it, or close the quote or bracket before it.',
};
