import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

import { LoaderError } from '../errors.js';
import { generate, VERSION } from '../generate.js';
import { type Clang, findClang, stripDebug, systemIncludes, targetArch } from './clang.js';
import { Hashes, writeAtomically, writeIfChanged } from './files.js';
import { run } from './run.js';
import { vmlinuxDirectory } from './vmlinux.js';

export interface BuildOptions {
  /** Directory with the `*.bpf.c` files. */
  readonly dir: string;
  /** Where `NAME.bpf.o` go; default `dir`. */
  readonly outObj?: string;
  /** Where `NAME.skel.ts` go; default `dir`. */
  readonly outTs?: string;
  /** Further directories to look for headers in. */
  readonly include?: readonly string[];
  /** A `vmlinux.h` to use; default: made from BTF. */
  readonly vmlinux?: string;
  /** BTF to make `vmlinux.h` from; default: the running kernel's. */
  readonly btf?: string;
  /** The compiler; default: the newest clang on the PATH. */
  readonly clang?: string;
  /** Further arguments for the compiler. */
  readonly cflags?: readonly string[];
  /** Compiles what is up to date, too. */
  readonly force?: boolean;
  /** Called as each object is done. */
  readonly onProgress?: (built: BuiltObject) => void;
}

export interface BuiltObject {
  readonly name: string;
  readonly object: string;
  readonly skeleton: string;
  /** Nothing had changed, so nothing was done. */
  readonly upToDate: boolean;
  readonly timeMs: number;
  /** What the compiler said about an object it did compile. */
  readonly warnings: string;
}

export interface BuildResult {
  readonly clang: string;
  readonly objects: readonly BuiltObject[];
}

/** What an object was made from; it is made again when any of it differs. */
interface Record {
  key: string;
  inputs: { [file: string]: string };
  outputs: { [file: string]: string };
}

interface Context {
  readonly clang: Clang;
  readonly args: readonly string[];
  readonly cache: string;
  readonly outObj: string;
  readonly outTs: string;
  readonly force: boolean;
  readonly hashes: Hashes;
}

/**
 * Compiles every `*.bpf.c` of a directory and generates its skeleton. An object whose source,
 * headers, compiler and options are unchanged is left alone.
 *
 * Throws `LoaderError`; of several objects that fail, with the messages of all.
 */
export async function build(options: BuildOptions): Promise<BuildResult> {
  const dir = resolve(options.dir);
  const sources = sourcesIn(dir);
  const outObj = resolve(options.outObj ?? dir);
  const cache = join(outObj, '.bpf-ts-loader');
  const clang = await findClang(options.clang);
  const vmlinux = await vmlinuxDirectory({ vmlinux: options.vmlinux, btf: options.btf }, cache);
  const includes = [
    dir,
    ...(options.include ?? []).map((path) => resolve(path)),
    ...(vmlinux === undefined ? [] : [vmlinux]),
  ];
  const context: Context = {
    clang,
    cache,
    outObj,
    outTs: resolve(options.outTs ?? dir),
    force: options.force ?? false,
    hashes: new Hashes(),
    args: [
      ...['-target', 'bpf', '-mcpu=v3', '-O2', '-g', '-Wall', `-D__TARGET_ARCH_${targetArch()}`],
      ...includes.flatMap((path) => ['-I', path]),
      ...(await systemIncludes(clang)).flatMap((path) => ['-idirafter', path]),
      ...(options.cflags ?? []),
    ],
  };
  mkdirSync(cache, { recursive: true });

  const objects: BuiltObject[] = [];
  const failures: LoaderError[] = [];
  const queue = sources.map((source, index) => ({ source, index }));
  const worker = async (): Promise<void> => {
    for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
      try {
        const built = await buildOne(context, join(dir, next.source));
        objects[next.index] = built;
        options.onProgress?.(built);
      } catch (error) {
        if (!(error instanceof LoaderError)) throw error;
        failures.push(error);
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(availableParallelism(), sources.length) }, worker));
  const [first] = failures;
  if (first !== undefined)
    throw new LoaderError(first.code, failures.map((failure) => failure.message).join('\n\n'), { cause: first });
  return { clang: clang.version, objects };
}

function sourcesIn(dir: string): string[] {
  let names: string[];
  try {
    names = readdirSync(dir);
  } catch (cause) {
    throw new LoaderError('IO', `Cannot build ${dir}: ${(cause as Error).message}.`, { cause });
  }
  const sources = names.filter((name) => name.endsWith('.bpf.c')).sort();
  if (sources.length === 0) throw new LoaderError('BAD_USAGE', `Cannot build ${dir}: there is no *.bpf.c file in it.`);
  return sources;
}

async function buildOne(context: Context, source: string): Promise<BuiltObject> {
  const started = performance.now();
  const file = source.slice(source.lastIndexOf('/') + 1);
  const name = file.slice(0, -'.bpf.c'.length);
  const object = join(context.outObj, `${name}.bpf.o`);
  const skeleton = join(context.outTs, `${name}.skel.ts`);
  const recordFile = join(context.cache, `${name}.json`);
  const key = JSON.stringify([generatorId(), context.clang.version, context.args, source]);
  const done = (upToDate: boolean, warnings: string): BuiltObject => {
    return { name, object, skeleton, upToDate, timeMs: performance.now() - started, warnings };
  };
  if (!context.force && isFresh(readRecord(recordFile), key, [object, skeleton], context.hashes)) return done(true, '');

  rmSync(recordFile, { force: true });
  const { inputs, warnings } = await compile(context, source, object);
  writeIfChanged(skeleton, skeletonOf(object, file));
  const hash = (files: string[]): { [file: string]: string } => {
    for (const output of [object, skeleton]) context.hashes.forget(output);
    return Object.fromEntries(files.map((path) => [path, context.hashes.of(path)]));
  };
  const record: Record = { key, inputs: hash(inputs), outputs: hash([object, skeleton]) };
  writeAtomically(recordFile, JSON.stringify(record));
  return done(false, warnings);
}

function skeletonOf(object: string, source: string): string {
  try {
    return generate(readFileSync(object), { file: object, source });
  } catch (cause) {
    if (!(cause instanceof LoaderError)) throw cause;
    throw new LoaderError(cause.code, `Cannot generate a skeleton of ${source}: ${cause.message}`, { cause });
  }
}

async function compile(
  context: Context,
  source: string,
  object: string,
): Promise<{ inputs: string[]; warnings: string }> {
  const { clang, args } = context;
  const temporary = `${object}.${process.pid}.tmp`;
  const depfile = `${temporary}.d`;
  mkdirSync(dirname(object), { recursive: true });
  try {
    const result = await run(clang.path, [...args, '-MD', '-MF', depfile, '-c', source, '-o', temporary]);
    if (result.status !== 0) {
      const hint = /'vmlinux\.h' file not found/.test(result.stderr)
        ? '\nThe running kernel has no BTF to make vmlinux.h from: give --vmlinux or --btf.'
        : '';
      throw new LoaderError(
        'COMPILE_FAILED',
        `${clang.path} could not compile ${source}:\n${result.stderr.trim()}${hint}`,
      );
    }
    await stripDebug(clang, temporary);
    writeIfChanged(object, readFileSync(temporary));
    return { inputs: dependencies(readFileSync(depfile, 'utf8')), warnings: result.stderr.trim() };
  } finally {
    rmSync(temporary, { force: true });
    rmSync(depfile, { force: true });
  }
}

/** The prerequisites in a make rule as clang writes it. */
export function dependencies(rule: string): string[] {
  const list = rule.replaceAll('\\\n', ' ').replace(/^.*?:\s/, '');
  return [...list.matchAll(/(?:\\.|[^\s\\])+/g)].map(([word]) =>
    resolve(word.replace(/\\(.)/g, '$1').replaceAll('$$', '$')),
  );
}

function readRecord(file: string): Record | undefined {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as Record;
  } catch {
    return undefined;
  }
}

function isFresh(record: Record | undefined, key: string, outputs: string[], hashes: Hashes): boolean {
  if (record?.key !== key) return false;
  const same = ([file, hash]: [string, string]): boolean => hashes.of(file) === hash;
  return (
    outputs.every((file) => record.outputs[file] !== undefined) &&
    Object.entries(record.outputs).every(same) &&
    Object.entries(record.inputs).every(same)
  );
}

let generator: string | undefined;

/** Stands for the generator: its version, and its code for those who work on it. */
function generatorId(): string {
  if (generator === undefined) {
    const hash = createHash('sha256').update(VERSION);
    const root = fileURLToPath(new URL('..', import.meta.url));
    for (const file of readdirSync(root, { recursive: true, encoding: 'utf8' }).sort()) {
      if (file.endsWith('.js') && statSync(join(root, file)).isFile()) hash.update(readFileSync(join(root, file)));
    }
    generator = hash.digest('hex');
  }
  return generator;
}
