import { constants } from 'node:os';
import { getSystemErrorMap } from 'node:util';
import { native } from './native.js';
import { excerpt, verifierLog } from './verifier-log.js';

// enum libbpf_errno of <bpf/libbpf.h>: libbpf's own errors, beyond those of the kernel.
const libbpfErrors: readonly (readonly [name: string, text: string])[] = [
  ['LIBELF', 'libelf failed'],
  ['FORMAT', 'this is not a BPF object'],
  ['KVERSION', "the object's version section is missing or wrong"],
  ['ENDIAN', 'the object is of the other byte order'],
  ['INTERNAL', 'internal error of libbpf'],
  ['RELOC', 'a relocation failed'],
  ['LOAD', 'a program did not load, for an unknown reason'],
  ['VERIFY', 'the verifier refused a program'],
  ['PROG2BIG', 'a program is too big'],
  ['KVER', 'the object is for another kernel version'],
  ['PROGTYPE', 'the kernel does not support this type of program'],
  ['WRNGPID', 'a netlink answer was for another process'],
  ['INVSEQ', 'a netlink answer was out of sequence'],
  ['NLPARSE', 'a netlink answer made no sense'],
];
const FIRST_LIBBPF_ERRNO = 4000;
const ENOTSUPP = 524; // the kernel's own "not supported", which bpf(2) lets out

/** The symbolic name of an errno: `EPERM`, or `LIBBPF_ERRNO__FORMAT` for libbpf's own. */
export function errnoName(errno: number): string {
  if (errno === ENOTSUPP) return 'ENOTSUPP';
  if (errno === constants.errno.EOPNOTSUPP) return 'EOPNOTSUPP'; // Node says ENOTSUP, its other name
  const own = libbpfErrors[errno - FIRST_LIBBPF_ERRNO];
  if (own !== undefined) return `LIBBPF_ERRNO__${own[0]}`;
  return getSystemErrorMap().get(-errno)?.[0] ?? `errno ${errno}`;
}

/**
 * An operation on the kernel's BPF subsystem failed.
 *
 * `message` is a sentence with what was tried, on what, and why it failed; for a program that the
 * verifier refused it carries the lines that matter, and `log` the whole log.
 */
export class BpfError extends Error {
  override readonly name = 'BpfError';

  /** @internal */
  constructor(
    message: string,
    /** What was tried, as a verb: `load`, `attach`, `lookup in`. */
    readonly operation: string,
    /** Positive; the kernel's errno, or libbpf's own number (4000 and up). */
    readonly errno: number,
    /** The verifier's whole log if there is one, else all that libbpf said about the failure. */
    readonly log?: string,
  ) {
    super(message);
  }

  /** The name of `errno`, such as `EPERM`. Stable; meant for comparing. */
  get code(): string {
    return errnoName(this.errno);
  }
}

// What lacks rights can be told how to get them; for root it is somebody else's policy.
function remedy(operation: string, errno: number): string {
  if (errno !== constants.errno.EPERM || !['load', 'attach', 'create'].includes(operation)) return '';
  return process.geteuid?.() === 0
    ? '; root is not enough here: a security module, lockdown or a missing capability forbids it'
    : '; run as root, or with CAP_BPF and CAP_NET_ADMIN or CAP_PERFMON';
}

// Lines of libbpf that only say again that it failed.
const echoes = [
  /^prog '.*': failed to load: -?\d+$/,
  /^failed to load object /,
  /^failed to load BPF skeleton /,
  /^permission error while running as root/,
  /^-- (?:BEGIN|END) PROG LOAD LOG --$/,
];

// libbpf ends each message with a newline and begins it with its own name.
function firstMessages(log: string): string {
  const lines = log
    .split('\n')
    .map((line) => line.replace(/^libbpf: /, '').trim())
    .filter((line) => line !== '' && !echoes.some((echo) => echo.test(line)));
  return lines.slice(0, 3).join('; ');
}

/** What an errno means, in words. */
export function errnoText(errno: number): string {
  return libbpfErrors[errno - FIRST_LIBBPF_ERRNO]?.[1] ?? getSystemErrorMap().get(-errno)?.[1] ?? errnoName(errno);
}

/** Words an error of `operation` on `subject`; `log` is what libbpf, or we, have to say about it. */
export function bpfError(operation: string, subject: string, errno: number, log = ''): BpfError {
  const verifier = verifierLog(log);
  const code = errnoName(errno);
  let message: string;
  if (verifier !== undefined) {
    const who = verifier.program === undefined ? '' : `: the kernel's verifier refused program "${verifier.program}"`;
    message = `cannot ${operation} ${subject}${who} (${code}):\n${excerpt(verifier.text)}`;
  } else {
    const why = firstMessages(log);
    message = `cannot ${operation} ${subject}: ${why === '' ? errnoText(errno) : why} (${code})${remedy(operation, errno)}`;
  }
  const kept = verifier?.text ?? (log === '' ? undefined : log);
  const error = new BpfError(message, operation, errno, kept);
  // The stack begins where the caller called, not here.
  Error.captureStackTrace(error, bpfError);
  return error;
}

native.setErrorFactory(bpfError);
