import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

import { LoaderError } from '../errors.js';
import { writeAtomically } from './files.js';

const KERNEL_BTF = '/sys/kernel/btf/vmlinux';

export interface VmlinuxOptions {
  /** A `vmlinux.h` to use as it is. */
  readonly vmlinux?: string | undefined;
  /** BTF to make one from; default: the running kernel's. */
  readonly btf?: string | undefined;
}

/**
 * The directory that holds `vmlinux.h`, in `cache`. It is made once for each BTF. Undefined where
 * the running kernel has no BTF and none was given: objects that need none still compile.
 */
export async function vmlinuxDirectory(options: VmlinuxOptions, cache: string): Promise<string | undefined> {
  if (options.vmlinux !== undefined && options.btf !== undefined) {
    throw new LoaderError('BAD_USAGE', 'Both a vmlinux.h and BTF to make one from were given: give one of them.');
  }
  const source = options.vmlinux ?? options.btf ?? KERNEL_BTF;
  if (source === KERNEL_BTF && !existsSync(KERNEL_BTF)) return undefined;
  let bytes: Buffer;
  try {
    bytes = readFileSync(source);
  } catch (cause) {
    throw new LoaderError('NO_VMLINUX', `Cannot read ${source} for vmlinux.h: ${(cause as Error).message}.`, { cause });
  }
  const directory = join(cache, `vmlinux-${createHash('sha256').update(bytes).digest('hex').slice(0, 16)}`);
  const file = join(directory, 'vmlinux.h');
  if (!existsSync(file)) {
    mkdirSync(directory, { recursive: true });
    writeAtomically(file, options.vmlinux === undefined ? await dump(source) : bytes);
  }
  return directory;
}

/** BTF as C. The native add-on is only needed here, so that all else works without it. */
async function dump(source: string): Promise<string> {
  try {
    const { Btf } = await import('libbpf-napi');
    return Btf.load(source).dumpC();
  } catch (cause) {
    throw new LoaderError(
      'NO_VMLINUX',
      `Cannot make vmlinux.h from the BTF in ${source}: ${(cause as Error).message}`,
      { cause },
    );
  }
}
