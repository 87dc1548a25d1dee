/** The program at the far ends of the tests' taps, compiled once for this checkout: not every machine of the tests has a compiler. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, renameSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';

const source = fileURLToPath(new URL('../../../test/bpf/tap-pump.c', import.meta.url));
const program = fileURLToPath(new URL('../../../build/test/tap-pump', import.meta.url));

const changedMs = (path: string): number => statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0;

/** @returns the path of the program, made if it is missing or older than its source */
export function tapPump(): string {
  if (changedMs(program) > changedMs(source)) return program;
  mkdirSync(dirname(program), { recursive: true });
  // In one step, and only when it is whole: tests may run side by side.
  const made = `${program}.${process.pid}`;
  execFileSync('gcc', ['-O2', '-Wall', '-Wextra', '-o', made, source], { stdio: 'inherit' });
  renameSync(made, program);
  return program;
}
