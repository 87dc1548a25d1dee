/** What the classes of this package share. */
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

/** The native classes, by name. */
export const native = createRequire(import.meta.url)('../build/Release/tap_hold.node') as { readonly [name: string]: unknown };

/** A tap of ours that could not be made or used. */
export class TapHoldError extends Error {
  readonly code: string;
  readonly operation: string;
  readonly errno: number;

  constructor(message: string, operation: string, errno: number, options?: ErrorOptions) {
    super(message, options);
    this.name = 'TapHoldError';
    this.code = 'TAP_HOLD';
    this.operation = operation;
    this.errno = errno;
  }
}

/** Makes a native object. @throws TapHoldError that names `what` */
export function makeNative<A extends unknown[], T>(what: string, make: new (...args: A) => T, ...args: A): T {
  try {
    return new make(...args);
  } catch (cause) {
    const { message, operation, errno } = cause as Error & { operation?: string; errno?: number };
    throw new TapHoldError(`${what} could not be made: ${message}.`, operation ?? 'open', errno ?? 0, { cause });
  }
}

export function checkIfname(ifname: string): string {
  if (!/^[A-Za-z0-9_.-]{1,15}$/.test(ifname)) {
    throw new RangeError(`A tap cannot be named ${JSON.stringify(ifname)}: use 1 to 15 letters, digits, "_", "." or "-".`);
  }
  return ifname;
}

/** Packets for the device that its queue had no room for; 0 for a device that is gone. */
export function transmitDrops(ifname: string): number {
  const line = readFileSync('/proc/net/dev', 'utf8').split('\n').find((text) => text.trimStart().startsWith(`${ifname}:`));
  // Eight figures of what was received, then: bytes, packets, errors, drops.
  return Number(line?.slice(line.indexOf(':') + 1).trim().split(/\s+/)[11] ?? 0);
}

export function bounded(name: string, value: number, low: number, high: number): number {
  if (!Number.isSafeInteger(value) || value < low || value > high) {
    throw new RangeError(`${name} must be a whole number from ${low} to ${high}, not ${value}.`);
  }
  return value;
}
