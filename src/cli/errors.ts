/** Errors that come from how colopp was set up or called, not from what happened then. */
const environmentCodes = new Set([
  'CONFIG', 'LAB', 'NETWORK', 'USAGE', 'NEEDS_ROOT', 'NO_BTF', 'NO_RETRANSLATE', 'STATE', 'AGENT_UNREACHABLE',
  'QEMU_VERSION', 'QEMU_COLO', 'QEMU_KVM', 'QEMU_NOT_FOUND', 'QEMU_CONFIG', 'QEMU_START', 'PEER_LISTEN', 'WITNESS', 'RECORDING', 'DRILL_FILE',
]);

/** 2 for wrong usage, configuration or environment, else 1. */
export function exitCodeOf(error: unknown): 1 | 2 {
  const code = (error as { code?: unknown }).code;
  return typeof code === 'string' && environmentCodes.has(code) || error instanceof RangeError ? 2 : 1;
}

/** Of these, what a host that is still booting may get yet: a bridge, an address, memory. */
const passingCodes = new Set(['NETWORK', 'PEER_LISTEN', 'QEMU_START']);
/** EX_TEMPFAIL of sysexits.h. */
const tryAgainExitCode = 75;

/** As {@link exitCodeOf}, but 75 where a service manager had better try again. */
export function serviceExitCodeOf(error: unknown): number {
  const code = (error as { code?: unknown }).code;
  return typeof code === 'string' && passingCodes.has(code) ? tryAgainExitCode : exitCodeOf(error);
}

/** One sentence on standard error, with the code to look up; the stack only for what should never happen. */
export function report(error: unknown): void {
  const expected = error instanceof Error && ('code' in error || error instanceof RangeError);
  const text = expected ? error.message : error instanceof Error ? error.stack ?? error.message : String(error);
  const code = (error as { code?: unknown } | null)?.code;
  process.stderr.write(`colopp${typeof code === 'string' ? ` [${code}]` : ''}: ${text}\n`);
}

/** Wrong usage that commander cannot see. */
export class UsageError extends Error {
  readonly code = 'USAGE';

  constructor(message: string) {
    super(message);
    this.name = 'UsageError';
  }
}
