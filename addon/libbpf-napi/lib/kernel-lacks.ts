// Some attachments fail with nothing but "no such file". If the kernel lacks what they need, that is
// the reason to give.
import { existsSync } from 'node:fs';
import { BpfError, bpfError } from './error.js';
import { kernelConfigValue } from './kernel-config.js';

type Need = 'kprobes' | 'uprobes' | 'tracefs';

const tracefsRoots = ['/sys/kernel/tracing/events', '/sys/kernel/debug/tracing/events'];

const lacks: Record<Need, () => string | undefined> = {
  kprobes: () =>
    kernelConfigValue('CONFIG_KPROBES') === 'n' ? 'this kernel has no kprobes (CONFIG_KPROBES is not set)' : undefined,
  uprobes: () =>
    kernelConfigValue('CONFIG_UPROBES') === 'n' ? 'this kernel has no uprobes (CONFIG_UPROBES is not set)' : undefined,
  tracefs: () =>
    tracefsRoots.some((root) => existsSync(root))
      ? undefined
      : 'tracefs is not mounted (mount -t tracefs tracefs /sys/kernel/tracing)',
};

// What a section's own way of attaching needs.
const sections: readonly (readonly [RegExp, Need])[] = [
  [/^\??k(?:ret)?(?:probe|syscall|session)/, 'kprobes'],
  [/^\??u(?:ret)?(?:probe|sdt|session)/, 'uprobes'],
  [/^\??t(?:race)?p(?:oint)?\//, 'tracefs'],
];

/** What a program of this section needs to be attached. */
export function needOfSection(section: string): Need | undefined {
  return sections.find(([pattern]) => pattern.test(section))?.[1];
}

/** Runs `attach`; an error of it names what the kernel lacks, if it lacks `need`. */
export function needing<T>(need: Need | undefined, subject: string, attach: () => T): T {
  try {
    return attach();
  } catch (error) {
    const why = need !== undefined && error instanceof BpfError ? lacks[need]() : undefined;
    if (why === undefined) throw error;
    const { operation, errno, log } = error as BpfError;
    throw Object.assign(bpfError(operation, subject, errno, `${why}\n${log ?? ''}`), { cause: error });
  }
}
