#!/usr/bin/env node
import { readFileSync, writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';

import { build, type BuiltObject } from './build/build.js';
import { LoaderError } from './errors.js';
import { generate, VERSION } from './generate.js';

const USAGE = `bpf-ts-loader ${VERSION}: compiled BPF objects as typed TypeScript modules

bpf-ts-loader gen OBJECT.bpf.o [-o FILE.ts]   generate the skeleton of an object
  -o, --output FILE    write it there (default: standard output)
      --name NAME      call it NAME (default: from the file's name)
      --type TYPE      give this BTF type a codec, too; may be repeated

bpf-ts-loader build DIR                       compile DIR/*.bpf.c and generate
      --out-obj DIR    where the objects go (default: beside the sources)
      --out-ts DIR     where the skeletons go (default: beside the sources)
      --include DIR    further directory of headers; may be repeated
      --vmlinux FILE   vmlinux.h to use
      --btf FILE       BTF to make vmlinux.h from (default: the running kernel's)
      --clang FILE     compiler (default: the newest clang on the PATH)
      --cflag FLAG     further argument of the compiler; may be repeated (--cflag=-DX)
      --force          build also what is up to date
      --quiet          say nothing of what went well
`;

/** 0: done; 1: it could not be done; 2: the command line is wrong. */
async function main(argv: string[]): Promise<number> {
  const [command, ...rest] = argv;
  switch (command) {
    case 'gen':
      return gen(rest);
    case 'build':
      return buildDirectory(rest);
    case '-h':
    case '--help':
    case 'help':
      process.stdout.write(USAGE);
      return 0;
    case '-V':
    case '--version':
      process.stdout.write(`${VERSION}\n`);
      return 0;
    default:
      process.stderr.write(
        command === undefined ? USAGE : `bpf-ts-loader: there is no command "${command}"; see bpf-ts-loader --help.\n`,
      );
      return 2;
  }
}

function gen(args: string[]): number {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      output: { type: 'string', short: 'o' },
      name: { type: 'string' },
      type: { type: 'string', multiple: true, default: [] },
    },
  });
  const file = only(positionals, 'gen', 'object');
  let object: Uint8Array;
  try {
    object = readFileSync(file);
  } catch (cause) {
    throw new LoaderError('IO', `Cannot read the object: ${(cause as Error).message}.`, { cause });
  }
  let source: string;
  try {
    source = generate(object, {
      file,
      types: values.type,
      ...(values.name === undefined ? {} : { name: values.name }),
    });
  } catch (cause) {
    if (cause instanceof LoaderError)
      throw new LoaderError(cause.code, `Cannot generate a skeleton of ${file}: ${cause.message}`, { cause });
    throw cause;
  }
  if (values.output === undefined) process.stdout.write(source);
  else writeFileSync(values.output, source);
  return 0;
}

async function buildDirectory(args: string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      'out-obj': { type: 'string' },
      'out-ts': { type: 'string' },
      include: { type: 'string', multiple: true, default: [] },
      vmlinux: { type: 'string' },
      btf: { type: 'string' },
      clang: { type: 'string' },
      cflag: { type: 'string', multiple: true, default: [] },
      force: { type: 'boolean', default: false },
      quiet: { type: 'boolean', default: false },
    },
  });
  const onProgress = (built: BuiltObject): void => {
    if (built.warnings !== '') process.stderr.write(`${built.warnings}\n`);
    if (!values.quiet)
      process.stdout.write(
        `${built.name}: ${built.upToDate ? 'up to date' : 'built'} (${Math.round(built.timeMs)} ms)\n`,
      );
  };
  await build({
    dir: only(positionals, 'build', 'directory'),
    include: values.include,
    cflags: values.cflag,
    force: values.force,
    onProgress,
    ...(values['out-obj'] === undefined ? {} : { outObj: values['out-obj'] }),
    ...(values['out-ts'] === undefined ? {} : { outTs: values['out-ts'] }),
    ...(values.vmlinux === undefined ? {} : { vmlinux: values.vmlinux }),
    ...(values.btf === undefined ? {} : { btf: values.btf }),
    ...(values.clang === undefined ? {} : { clang: values.clang }),
  });
  return 0;
}

function only(positionals: string[], command: string, what: string): string {
  const [first, ...others] = positionals;
  if (first === undefined || others.length > 0) {
    throw new LoaderError(
      'BAD_USAGE',
      `"${command}" takes one ${what}, and ${positionals.length === 0 ? 'none was' : `${positionals.length} were`} given; see bpf-ts-loader --help.`,
    );
  }
  return first;
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  const usage = error instanceof TypeError && 'code' in error && String(error.code).startsWith('ERR_PARSE_ARGS');
  if (!(error instanceof LoaderError) && !usage) throw error;
  process.stderr.write(`bpf-ts-loader: ${(error as Error).message}\n`);
  process.exitCode = usage || (error as LoaderError).code === 'BAD_USAGE' ? 2 : 1;
}
