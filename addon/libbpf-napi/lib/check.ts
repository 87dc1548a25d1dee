// Arguments are checked here, before they reach C++. A wrong one is the caller's mistake: a
// TypeError or a RangeError with Node's usual codes, never a BpfError.

function shown(value: unknown): string {
  if (value === null) return 'null';
  if (typeof value === 'string') return JSON.stringify(value.length > 40 ? `${value.slice(0, 40)}...` : value);
  if (typeof value === 'object') return `an instance of ${value.constructor?.name ?? 'Object'}`;
  return typeof value === 'function' ? 'a function' : `${typeof value} ${String(value)}`;
}

export function wrongType(what: string, expected: string, value: unknown): TypeError {
  const error = new TypeError(`${what} must be ${expected}, not ${shown(value)}`);
  return Object.assign(error, { code: 'ERR_INVALID_ARG_TYPE' });
}

export function outOfRange(what: string, expected: string, value: unknown): RangeError {
  const error = new RangeError(`${what} must be ${expected}, not ${shown(value)}`);
  return Object.assign(error, { code: 'ERR_OUT_OF_RANGE' });
}

/** An integer within [min, max]. */
export function integer(value: unknown, what: string, min = 0, max = 0xffff_ffff): number {
  if (typeof value !== 'number') throw wrongType(what, 'a number', value);
  if (!Number.isInteger(value) || value < min || value > max) {
    throw outOfRange(what, `an integer from ${min} to ${max}`, value);
  }
  return value;
}

/** A 64-bit unsigned number, given as bigint or as a safe integer. */
export function u64(value: unknown, what: string): bigint {
  if (typeof value !== 'bigint' && !Number.isSafeInteger(value)) throw wrongType(what, 'a bigint or an integer', value);
  const big = BigInt(value as bigint | number);
  if (big < 0n || big > 0xffff_ffff_ffff_ffffn) throw outOfRange(what, 'from 0 to 2^64 - 1', value);
  return big;
}

export function boolean(value: unknown, what: string): boolean {
  if (typeof value !== 'boolean') throw wrongType(what, 'true or false', value);
  return value;
}

/** A non-empty string that can become a C string. */
export function text(value: unknown, what: string): string {
  if (typeof value !== 'string') throw wrongType(what, 'a string', value);
  if (value === '' || value.includes('\0')) throw outOfRange(what, 'a non-empty string without NUL', value);
  return value;
}

export function optional<T>(value: unknown, what: string, check: (value: unknown, what: string) => T): T | undefined {
  return value === undefined ? undefined : check(value, what);
}

/** A Uint8Array (so also a Buffer), of exactly `size` bytes when given. */
export function bytes(value: unknown, what: string, size?: number): Uint8Array {
  if (!(value instanceof Uint8Array)) throw wrongType(what, 'a Uint8Array', value);
  if (size !== undefined && value.byteLength !== size) {
    const error = new RangeError(`${what} must be ${size} bytes long, not ${value.byteLength}`);
    throw Object.assign(error, { code: 'ERR_OUT_OF_RANGE' });
  }
  return value;
}

export function oneOf<T extends string>(value: unknown, what: string, choices: readonly T[]): T {
  if (typeof value !== 'string' || !choices.includes(value as T)) {
    throw wrongType(what, `one of ${choices.map((choice) => `'${choice}'`).join(', ')}`, value);
  }
  return value as T;
}

/** An options bag: a plain object without unknown names, so that a misspelt option is an error. */
export function options<T extends object>(value: unknown, what: string, names: readonly (keyof T & string)[]): T {
  if (typeof value !== 'object' || value === null) throw wrongType(what, 'an object', value);
  for (const name of Object.keys(value)) {
    if (!(names as readonly string[]).includes(name)) {
      throw outOfRange(`${what}: option`, `one of ${names.join(', ')}`, name);
    }
  }
  return value as T;
}
