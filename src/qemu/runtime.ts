import { execFile } from 'node:child_process';
import { access, constants, open } from 'node:fs/promises';
import { delimiter, isAbsolute, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { z } from 'zod';
import { QemuError } from './errors.js';

const run = promisify(execFile);

/** The oldest QEMU whose COLO works unpatched. */
export const MIN_QEMU_MAJOR = 11;

/** How to run a QEMU: put its own arguments after `argv`, and `env` over the environment. */
export interface QemuRuntime {
  argv: readonly [string, ...string[]];
  env: Readonly<Record<string, string>>;
  /** Where it came from, for people. */
  origin: string;
}

export interface LocateOptions {
  /** A QEMU binary named by the configuration; nothing else is then tried. */
  explicitPath?: string | undefined;
  /** What the runtime builder wrote. Default: build/qemu/runtime.json of this project. */
  runtimeFile?: string | undefined;
  /** Where to look for the system's QEMU. Default: the environment's PATH. */
  searchPath?: string | undefined;
}

const BINARY = 'qemu-system-x86_64';
const MAX_RUNTIME_FILE_BYTES = 64 * 1024;

const runtimeSchema = z.object({
  version: z.string(),
  argvPrefix: z.tuple([z.string()], z.string()),
  env: z.record(z.string(), z.string()),
});

/** Compiled, this file is dist/src/qemu/runtime.js. */
const DEFAULT_RUNTIME_FILE = fileURLToPath(
  new URL('../../../build/qemu/runtime.json', import.meta.url),
);

/**
 * Finds the QEMU to use: the one named explicitly, else the private runtime, else the system's if
 * it is new enough. Throws QemuError `QEMU_NOT_FOUND` or `QEMU_VERSION`, with the remedy.
 */
export async function locateQemu(options: LocateOptions = {}): Promise<QemuRuntime> {
  const { explicitPath, runtimeFile = DEFAULT_RUNTIME_FILE } = options;
  if (explicitPath !== undefined) {
    if (!isAbsolute(explicitPath) || !(await isExecutable(explicitPath))) {
      throw new QemuError(
        'QEMU_NOT_FOUND',
        `the configured QEMU ${explicitPath} is not an executable file given by its absolute path`,
      );
    }
    return await checked({ argv: [explicitPath], env: {}, origin: `configured ${explicitPath}` });
  }
  const stored = await readRuntime(runtimeFile);
  if (stored) return await checked(stored);
  for (const folder of (options.searchPath ?? process.env['PATH'] ?? '').split(delimiter)) {
    const candidate = join(folder, BINARY);
    if (isAbsolute(candidate) && (await isExecutable(candidate))) {
      return await checked({ argv: [candidate], env: {}, origin: `system ${candidate}` });
    }
  }
  throw new QemuError(
    'QEMU_NOT_FOUND',
    `no QEMU on this host: neither ${runtimeFile} nor ${BINARY} on the search path; run \`npm run setup\``,
  );
}

/** The version a QEMU binary states, as `major.minor.micro`. */
export async function qemuVersion(runtime: QemuRuntime): Promise<string> {
  const [program, ...args] = runtime.argv;
  try {
    const { stdout } = await run(program, [...args, '--version'], {
      env: qemuEnvironment(runtime),
      timeout: 10_000,
      maxBuffer: 64 * 1024,
    });
    const version = /^QEMU emulator version (\d+\.\d+\.\d+)/.exec(stdout)?.[1];
    if (version) return version;
    throw new Error(`it says ${JSON.stringify(stdout.slice(0, 80))}`);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message.trim() : String(cause);
    throw new QemuError('QEMU_NOT_FOUND', `cannot run QEMU (${runtime.origin}): ${why}`, { cause });
  }
}

/** What a QEMU started by us sees: nothing of our environment but the search path. */
export function qemuEnvironment(runtime: QemuRuntime): Record<string, string> {
  return { PATH: process.env['PATH'] ?? '/usr/sbin:/usr/bin:/sbin:/bin', ...runtime.env };
}

/** Throws `QEMU_VERSION` if `version` is too old to replicate a VM. */
export function requireVersion(version: string, origin: string): void {
  if (Number.parseInt(version, 10) >= MIN_QEMU_MAJOR) return;
  throw new QemuError(
    'QEMU_VERSION',
    `QEMU ${version} (${origin}) cannot replicate a VM: COLO works unpatched from version ${MIN_QEMU_MAJOR} on; run \`npm run setup\` to get a private QEMU`,
  );
}

async function checked(runtime: QemuRuntime): Promise<QemuRuntime> {
  requireVersion(await qemuVersion(runtime), runtime.origin);
  return runtime;
}

async function readRuntime(path: string): Promise<QemuRuntime | undefined> {
  let file;
  try {
    file = await open(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw unreadable(path, error);
  }
  try {
    const { size } = await file.stat();
    if (size > MAX_RUNTIME_FILE_BYTES) throw new Error(`it has ${size} bytes`);
    const { argvPrefix, env } = runtimeSchema.parse(JSON.parse(await file.readFile('utf8')));
    return { argv: argvPrefix, env, origin: `private ${path}` };
  } catch (error) {
    throw unreadable(path, error);
  } finally {
    await file.close();
  }
}

function unreadable(path: string, cause: unknown): QemuError {
  const why = cause instanceof Error ? cause.message : String(cause);
  return new QemuError(
    'QEMU_NOT_FOUND',
    `cannot use the QEMU runtime described by ${path}: ${why}; remove it and run \`npm run setup\``,
    { cause },
  );
}

async function isExecutable(path: string): Promise<boolean> {
  return await access(path, constants.X_OK).then(
    () => true,
    () => false,
  );
}
