/**
 * `npm test`: runs every compiled suite, each file in a process of its own, and closes with real counts.
 *
 *     npm test                  everything
 *     npm test -- unit          one folder
 *     npm test -- gate peer     files whose path holds one of the words
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { readdirSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { judge, secondTries, type Exit, type Outcome } from './outcome.js';

/** In this order: what is quick and close to the code first. Those on demand run only if a word names them. */
const SUITES: readonly { folder: string; limitMs: number; onDemand?: boolean; realTime?: boolean }[] = [
  { folder: 'unit', limitMs: 120_000 },
  { folder: 'bpf', limitMs: 300_000, realTime: true },
  { folder: 'fuzz', limitMs: 240_000 },
  { folder: 'sim', limitMs: 600_000 },
  { folder: 'e2e', limitMs: 900_000, realTime: true },
  { folder: 'nested', limitMs: 900_000, onDemand: true, realTime: true },
];

/** How long a file that was asked to end may take to clean up. */
const GRACE_MS = 10_000;
/** How much of a file's output is kept. */
const OUTPUT_LIMIT_BYTES = 4 * 1024 * 1024;

interface TestFile {
  readonly name: string;
  readonly path: string;
  readonly limitMs: number;
  readonly onDemand: boolean;
  readonly realTime: boolean;
}

/** Compiled tests of all suites, those first that `SUITES` names first. */
function findTests(root: string): TestFile[] {
  return SUITES.flatMap(({ folder, limitMs, onDemand = false, realTime = false }) => {
    const home = join(root, folder);
    if (!statSync(home, { throwIfNoEntry: false })?.isDirectory()) return [];
    const names = readdirSync(home).filter((name) => name.endsWith('.test.js')).sort();
    return names.map((name) => ({ name: `${folder}/${basename(name, '.test.js')}`, path: join(home, name), limitMs, onDemand, realTime }));
  });
}

/** Run one file to its end, or until its time is over or the run is interrupted. */
async function runFile(file: TestFile, signal: AbortSignal): Promise<{ outcome: Outcome; output: string }> {
  const child = spawn(process.execPath, ['--enable-source-maps', file.path], { detached: true, stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  const keep = (text: string): void => {
    output = (output + text).slice(-OUTPUT_LIMIT_BYTES);
  };
  child.stdout.setEncoding('utf8').on('data', keep);
  child.stderr.setEncoding('utf8').on('data', keep);

  let timedOut = false;
  let killTimer: NodeJS.Timeout | undefined;
  const end = (): void => {
    killGroup(child, 'SIGTERM');
    killTimer ??= setTimeout(() => killGroup(child, 'SIGKILL'), GRACE_MS);
  };
  const timer = setTimeout(() => {
    timedOut = true;
    end();
  }, file.limitMs);
  signal.addEventListener('abort', end, { once: true });

  const exit = await new Promise<Exit>((resolve) => {
    child.once('error', (error) => {
      keep(`${error.message}\n`);
      resolve({ status: 1, signal: null, timedOut });
    });
    // Not `close`: a process the file left behind may hold its output open for ever.
    child.once('exit', (status, exitSignal) => resolve({ status, signal: exitSignal, timedOut }));
  });
  clearTimeout(timer);
  clearTimeout(killTimer);
  signal.removeEventListener('abort', end);
  killGroup(child, 'SIGKILL');
  await drained(child);
  return { outcome: judge(output, exit), output };
}

/** Wait for what is still in the pipes of a process that has ended. */
async function drained(child: ChildProcess): Promise<void> {
  const closed = new Promise<void>((resolve) => {
    if (child.stdout?.readableEnded !== false && child.stderr?.readableEnded !== false) resolve();
    else child.once('close', () => resolve());
  });
  let timer: NodeJS.Timeout | undefined;
  const patience = new Promise<void>((resolve) => (timer = setTimeout(resolve, 1000)));
  await Promise.race([closed, patience]);
  clearTimeout(timer);
  child.stdout?.destroy();
  child.stderr?.destroy();
}

function killGroup(child: ChildProcess, signal: NodeJS.Signals): void {
  try {
    if (child.pid !== undefined) process.kill(-child.pid, signal);
  } catch {
    // ESRCH: the whole group has ended already.
  }
}

async function main(): Promise<number> {
  const interruption = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, () => interruption.abort());

  const words = process.argv.slice(2);
  const all = findTests(fileURLToPath(new URL('.', import.meta.url)));
  const files = all.filter(({ name, onDemand }) => words.length === 0 ? !onDemand : words.some((word) => name.includes(word)));
  if (files.length === 0) {
    process.stderr.write(words.length === 0 ? 'There are no compiled tests.\n' : `No test file is called anything like ${words.join(' or ')}.\n`);
    process.stdout.write('0 passed, 0 failed\n');
    return 1;
  }

  const width = Math.max(...files.map(({ name }) => name.length));
  const run = async (file: TestFile): Promise<Outcome> => {
    process.stdout.write(`${file.name.padEnd(width)}  `);
    const startedMs = performance.now();
    const { outcome, output } = await runFile(file, interruption.signal);
    process.stdout.write(`${describe(outcome)}  ${((performance.now() - startedMs) / 1000).toFixed(1)} s\n`);
    if (outcome.failed > 0) process.stdout.write(output.trimEnd().replace(/^/gm, '    | ') + '\n');
    return outcome;
  };
  const outcomes = new Map<TestFile, Outcome>();
  for (const file of files) {
    if (interruption.signal.aborted) break;
    outcomes.set(file, await run(file));
  }
  const again = interruption.signal.aborted ? [] : secondTries([...outcomes].filter(([, { failed }]) => failed > 0).map(([file]) => file));
  if (again.length > 0) process.stdout.write('a second try, with nothing else under way:\n');
  const flaky: string[] = [];
  for (const file of again) {
    if (interruption.signal.aborted) break;
    const outcome = await run(file);
    if (outcome.failed === 0) flaky.push(file.name);
    outcomes.set(file, outcome);
  }
  const sum = { passed: 0, failed: 0, skipped: 0 };
  for (const outcome of outcomes.values()) {
    sum.passed += outcome.passed;
    sum.failed += outcome.failed;
    sum.skipped += outcome.skipped;
  }
  if (interruption.signal.aborted) {
    process.stdout.write('interrupted: not every file was run to its end\n');
    sum.failed = Math.max(sum.failed, 1);
  }
  if (flaky.length > 0) process.stdout.write(`flaky, which is a defect of the test or of what it tests: ${flaky.join(', ')}\n`);
  if (sum.skipped > 0) process.stdout.write(`${sum.skipped} skipped\n`);
  process.stdout.write(`${sum.passed} passed, ${sum.failed} failed\n`);
  return sum.failed > 0 ? 1 : 0;
}

function describe({ passed, failed, skipped, trouble }: Outcome): string {
  const parts = [`${passed} passed`];
  if (failed > 0) parts.push(`${failed} FAILED${trouble === undefined ? '' : ` (${trouble})`}`);
  if (skipped > 0) parts.push(`${skipped} skipped`);
  return parts.join(', ');
}

process.exitCode = await main();
