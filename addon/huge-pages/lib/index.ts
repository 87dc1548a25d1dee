/**
 * Whether this process may get transparent huge pages (prctl(2), PR_SET_THP_DISABLE).
 *
 * A process that must answer in time is better off without: the kernel's khugepaged makes huge pages of small ones at
 * the lowest priority, holding the lock on the process's memory. Where the CPUs are busy it is kept from going on, and
 * every page fault of the process waits for it: seconds were seen.
 */

import { createRequire } from 'node:module';
import { getSystemErrorName } from 'node:util';

const native = createRequire(import.meta.url)('../build/Release/huge_pages.node') as {
  allowed(): number;
  allow(whether: boolean): number;
};

/** @throws Error with the errno's name */
export function hugePagesAllowed(): boolean {
  const allowed = native.allowed();
  if (allowed < 0) throw new Error(`cannot ask for the process's use of huge pages: ${getSystemErrorName(allowed)}`);
  return allowed === 1;
}

/** For this process, and for those it starts from now on. @throws Error with the errno's name */
export function allowHugePages(allowed: boolean): void {
  const errno = native.allow(allowed);
  if (errno !== 0) throw new Error(`cannot set the process's use of huge pages: ${getSystemErrorName(-errno)}`);
}

/** What `start` starts may have huge pages, whether or not this process may. */
export function withHugePages<T>(start: () => T): T {
  const before = hugePagesAllowed();
  allowHugePages(true);
  try {
    return start();
  } finally {
    allowHugePages(before);
  }
}
