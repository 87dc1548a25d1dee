import { readdirSync } from 'node:fs';
import { delimiter, isAbsolute, join } from 'node:path';

import { LoaderError } from '../errors.js';
import { run } from './run.js';

/** clang 12 is the first with everything that BTF map definitions and CO-RE need. */
const MIN_VERSION = 12;

export interface Clang {
  readonly path: string;
  /** First line of `clang --version`. */
  readonly version: string;
}

/** Finds the compiler: the one asked for, or the newest `clang-N` or `clang` on the PATH. */
export async function findClang(wanted?: string): Promise<Clang> {
  for (const path of wanted === undefined ? candidates() : [wanted]) {
    const result = await run(path, ['--version']).catch(() => undefined);
    const version = result?.stdout.split('\n', 1)[0]?.trim() ?? '';
    const major = Number(/clang version (\d+)/.exec(version)?.[1] ?? 0);
    if (major >= MIN_VERSION) return { path, version };
    if (wanted !== undefined) {
      const why =
        result === undefined ? 'it cannot be started' : major > 0 ? `it is version ${major}` : 'it is no clang';
      throw new LoaderError(
        'NO_COMPILER',
        `"${wanted}" cannot be used as the compiler: ${why}, and clang ${MIN_VERSION} or newer is needed.`,
      );
    }
  }
  throw new LoaderError(
    'NO_COMPILER',
    `No clang ${MIN_VERSION} or newer is on the PATH: install one (on Debian: apt install clang), or name it with --clang.`,
  );
}

/** `clang-19`, `clang-18`, ..., and plain `clang` last: it is often the oldest. */
function candidates(): string[] {
  const found = new Map<string, number>();
  for (const directory of (process.env['PATH'] ?? '').split(delimiter)) {
    let names: string[];
    try {
      names = readdirSync(directory);
    } catch {
      continue;
    }
    for (const name of names) {
      const match = /^clang(?:-(\d+))?$/.exec(name);
      const path = join(directory, name);
      if (match !== null && !found.has(path)) found.set(path, Number(match[1] ?? 0));
    }
  }
  return [...found].sort(([, a], [, b]) => b - a).map(([path]) => path);
}

/** The name that libbpf's `bpf_tracing.h` gives this machine. */
export function targetArch(arch: string = process.arch): string {
  const names: Record<string, string> = {
    x64: 'x86',
    arm64: 'arm64',
    arm: 'arm',
    ppc64: 'powerpc',
    s390x: 's390',
    riscv64: 'riscv',
    loong64: 'loongarch',
    mips64el: 'mips',
  };
  return names[arch] ?? arch;
}

/**
 * Where the host's compiler finds C headers. For the target "bpf" clang leaves out the
 * machine-dependent ones (`asm/types.h`), without which `linux/types.h` does not compile.
 */
export async function systemIncludes(clang: Clang): Promise<string[]> {
  const { stderr } = await run(clang.path, ['-v', '-E', '-x', 'c', '/dev/null', '-o', '/dev/null']);
  const list = /#include <\.\.\.> search starts here:\n([\s\S]*?)\nEnd of search list/.exec(stderr)?.[1] ?? '';
  return list
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line.startsWith('/'));
}

/**
 * Takes the debugging information off an object, which is most of its size: BTF is all that
 * anybody will read. Without llvm-strip beside the compiler the object stays as it is.
 */
export async function stripDebug(clang: Clang, object: string): Promise<void> {
  const { stdout } = await run(clang.path, ['-print-prog-name=llvm-strip']);
  const strip = stdout.trim();
  if (isAbsolute(strip)) await run(strip, ['--strip-debug', object]);
}
