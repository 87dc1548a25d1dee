/**
 * How the kernel schedules a thread of any process: its policy, and the CPUs it may run on. Linux
 * has one pair of system calls for each (sched(7)); Node.js has neither.
 */

import { createRequire } from 'node:module';
import { getSystemErrorName } from 'node:util';

const native = createRequire(import.meta.url)('../build/Release/thread_sched.node') as {
  getPolicy(tid: number): number;
  getPriority(tid: number): number;
  setPolicy(tid: number, policy: number, priority: number): number;
  getAffinity(tid: number, mask: Uint8Array): number;
  setAffinity(tid: number, mask: Uint8Array): number;
};

/** Policies by the kernel's number; `ext` since Linux 6.12. */
const policies = { other: 0, fifo: 1, rr: 2, batch: 3, idle: 5, deadline: 6, ext: 7 } as const;
export type Policy = keyof typeof policies;

/** As many as the native side has room for. */
const maskBytes = 1024;
/** Children begin with the default; it comes with the policy, and is no part of it. */
const resetOnFork = 0x40000000;

export interface Scheduling {
  policy: Policy;
  /** Of `fifo` and `rr`: 1 to 99; else 0. */
  priority: number;
  /** CPUs that the thread may run on, ascending. */
  cpus: number[];
}

/** A thread's scheduling could not be read or set. `code` is the errno's name: `ESRCH` if there is no such thread. */
export class ThreadError extends Error {
  readonly code: string;
  readonly operation: string;
  readonly errno: number;
  readonly tid: number;

  constructor(operation: string, tid: number, errno: number) {
    const code = getSystemErrorName(-errno);
    super(`cannot ${operation} thread ${tid}: ${code === 'ESRCH' ? 'it has ended' : code}`);
    this.name = 'ThreadError';
    this.code = code;
    this.operation = operation;
    this.errno = errno;
    this.tid = tid;
  }
}

/** @param tid thread id; that of a process is its first thread. @throws ThreadError */
export function getScheduling(tid: number): Scheduling {
  check(tid);
  const number = native.getPolicy(tid);
  const priority = native.getPriority(tid);
  const mask = new Uint8Array(maskBytes);
  const failed = native.getAffinity(tid, mask);
  if (number < 0 || priority < 0 || failed) throw new ThreadError('read the scheduling of', tid, failed || -Math.min(number, priority));
  const policy = Object.entries(policies).find(([, value]) => value === (number & ~resetOnFork))?.[0] as Policy | undefined;
  if (policy === undefined) throw new RangeError(`thread ${tid} has a scheduling policy of number ${number}, which is none that is known`);
  return { policy, priority, cpus: cpusOf(mask) };
}

/** Changes what is given, and leaves the rest. A thread's nice value is kept. @throws ThreadError */
export function setScheduling(tid: number, { policy, priority, cpus }: Partial<Scheduling>): void {
  check(tid);
  if (policy !== undefined) {
    if (policy === 'deadline') throw new RangeError('the policy "deadline" needs times, which cannot be set here');
    const failed = native.setPolicy(tid, policies[policy], priority ?? 0);
    if (failed) throw new ThreadError(`make ${JSON.stringify(policy)} the policy of`, tid, failed);
  }
  if (cpus !== undefined) {
    const failed = native.setAffinity(tid, maskOf(cpus));
    if (failed) throw new ThreadError(`set the CPUs of`, tid, failed);
  }
}

/** Zero would be the calling thread, and a negative number none. */
function check(tid: number): void {
  if (!Number.isSafeInteger(tid) || tid < 1 || tid > 0x7fff_ffff) throw new RangeError(`${tid} is not the id of a thread`);
}

function maskOf(cpus: readonly number[]): Uint8Array {
  const mask = new Uint8Array(maskBytes);
  for (const cpu of cpus) {
    if (!Number.isInteger(cpu) || cpu < 0 || cpu >= 8 * maskBytes) throw new RangeError(`${cpu} is not the number of a CPU`);
    mask[cpu >> 3]! |= 1 << (cpu & 7);
  }
  return mask;
}

function cpusOf(mask: Uint8Array): number[] {
  return [...mask].flatMap((byte, at) => [0, 1, 2, 3, 4, 5, 6, 7].filter((bit) => byte & (1 << bit)).map((bit) => 8 * at + bit));
}
