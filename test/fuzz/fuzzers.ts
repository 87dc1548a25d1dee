/** The coverage-guided fuzzers: native code that reads what others sent, under the address sanitizer. */
import { execFile, spawn } from 'node:child_process';
import { mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const root = fileURLToPath(new URL('../../../', import.meta.url));
const addon = join(root, 'addon/tap-hold/src');
/** Products and what the fuzzers have learned, which later runs begin with. */
const home = join(root, 'build/fuzz');
/** One input takes microseconds. By the clock, though: on a busy machine a fuzzer in the background may stand still. */
const stuckSeconds = 120;
/** How much of what a fuzzer printed is shown when it has found something. */
const SHOWN_BYTES = 6000;

/** What each is about, and the sources under test. */
export const fuzzers = {
  compare: { about: 'the comparator, under an oracle', maxBytes: 4000, parts: ['compare', 'compare_flow', 'compare_packet', 'queue'] },
  'held-packet': { about: 'the reader of tags', maxBytes: 400, parts: ['held_packet'] },
  'log-frame': { about: 'the readers of frames', maxBytes: 400, parts: ['log_frame', 'compare_packet'] },
} as const;
export type Fuzzer = keyof typeof fuzzers;
export const fuzzerNames = Object.keys(fuzzers) as Fuzzer[];

/** @returns the program's path; compiled anew each time: the sources may have changed */
async function compile(name: Fuzzer): Promise<string> {
  // The one that set-up has seen to have the fuzzers' runtime.
  const major = Math.max(...readdirSync('/usr/bin').map((file) => Number(/^clang-(\d+)$/.exec(file)?.[1] ?? 0)));
  if (major < 15) throw new Error('The fuzzers need clang 15 or later. Run `npm run setup -- --for test`.');
  mkdirSync(home, { recursive: true });
  const program = join(home, `${name}-fuzzer`);
  await promisify(execFile)(`clang-${major}`, [
    '--driver-mode=g++', '-std=c++17', '-O1', '-g', '-Wall', '-Wextra', '-fsanitize=fuzzer,address,undefined', '-fno-sanitize-recover=all',
    '-I', addon, '-I', join(root, 'bpf'), '-I', join(root, 'test/fuzz'), '-I', join(root, 'test/bpf/native'),
    '-o', program, join(root, 'test/fuzz', `${name}.cc`), ...fuzzers[name].parts.map((part) => join(addon, `${part}.cc`)),
  ]);
  return program;
}

export interface FuzzResult {
  runs: number;
  /** Edges of the program that were reached. */
  coverage: number;
}

/**
 * Compiles a fuzzer and runs it for some seconds.
 * @throws Error with the end of its output, which says what it found and where the input is that shows it
 */
export async function fuzz(name: Fuzzer, seconds: number, signal?: AbortSignal): Promise<FuzzResult> {
  const program = await compile(name);
  const corpus = join(home, name);
  mkdirSync(corpus, { recursive: true });
  const child = spawn(program, [
    `-max_total_time=${seconds}`, `-max_len=${fuzzers[name].maxBytes}`, `-timeout=${stuckSeconds}`, '-verbosity=1',
    `-artifact_prefix=${home}/found-${name}-`, corpus,
  ], { stdio: ['ignore', 'ignore', 'pipe'], ...(signal === undefined ? {} : { signal }) });
  let output = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => { output = (output + text).slice(-100_000); });
  const status = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  const done = /#(\d+)\s+DONE\s+cov: (\d+)/.exec(output);
  if (status !== 0 || done === null) {
    throw new Error(`The fuzzer ${name} ended with status ${status}. To see it again, give the input it names below to ${program}.\n${output.slice(-SHOWN_BYTES)}`);
  }
  return { runs: Number(done[1]), coverage: Number(done[2]) };
}
