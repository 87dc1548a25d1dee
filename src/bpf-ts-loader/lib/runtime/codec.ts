import { readText, writeText } from './text.js';

/**
 * Reads and writes values of one C type in memory laid out by the kernel's side.
 *
 * Numbers go in as DataView takes them: modulo 2^n, 64 bits and more as bigint.
 */
export interface Codec<T> {
  /** Size of a value in bytes. */
  readonly size: number;
  /** A value of zeros, with the members of `init` put in. */
  create(init?: Partial<T>): T;
  /** Reads the value at `offset` (default 0); fills and returns `into` where the value is an object. */
  read(view: DataView, offset?: number, into?: T): T;
  /** Writes `value` at `offset`: all `size` bytes of it, padding as zeros. */
  write(view: DataView, offset: number, value: T): void;
}

/** Thrown for a value that does not fit its type. */
function tooLong(what: string, length: number, limit: number): RangeError {
  return new RangeError(`Cannot write ${what} of length ${length}: its C type has room for ${limit}.`);
}

/** A place in memory that is read and written in one piece. */
export interface Cell<T> {
  load(): T;
  store(value: T): void;
}

/** The codec of a value that processors handle in one piece: integers, bool, enums, pointers. */
export interface AtomicCodec<T> extends Codec<T> {
  /** The value at `byteOffset`, which must be a multiple of `size`. */
  cell(buffer: ArrayBufferLike, byteOffset: number): Cell<T>;
}

function scalar<T extends number | bigint | boolean>(
  size: number,
  zero: T,
  read: (view: DataView, offset: number) => T,
  write: (view: DataView, offset: number, value: T) => void,
): Codec<T> {
  return { size, create: (init) => (init as T | undefined) ?? zero, read: (view, offset = 0) => read(view, offset), write };
}

type Integers = Int8Array | Uint8Array | Int16Array | Uint16Array | Int32Array | Uint32Array;

function integer(
  cells: (buffer: ArrayBufferLike, byteOffset: number) => Integers,
  size: number,
  read: (view: DataView, offset: number) => number,
  write: (view: DataView, offset: number, value: number) => void,
): AtomicCodec<number> {
  return {
    ...scalar(size, 0, read, write),
    cell(buffer, byteOffset) {
      const one = cells(buffer, byteOffset);
      return { load: () => Atomics.load(one, 0), store: (value) => void Atomics.store(one, 0, value) };
    },
  };
}

function bigInteger(
  cells: (buffer: ArrayBufferLike, byteOffset: number) => BigInt64Array | BigUint64Array,
  read: (view: DataView, offset: number) => bigint,
  write: (view: DataView, offset: number, value: bigint) => void,
): AtomicCodec<bigint> {
  return {
    ...scalar(8, 0n, read, write),
    cell(buffer, byteOffset) {
      const one = cells(buffer, byteOffset);
      return { load: () => Atomics.load(one, 0), store: (value) => void Atomics.store(one, 0, value) };
    },
  };
}

export const u8 = integer((buffer, at) => new Uint8Array(buffer, at, 1), 1, (view, at) => view.getUint8(at), (view, at, value) => view.setUint8(at, value));
export const s8 = integer((buffer, at) => new Int8Array(buffer, at, 1), 1, (view, at) => view.getInt8(at), (view, at, value) => view.setInt8(at, value));
export const u16 = integer((buffer, at) => new Uint16Array(buffer, at, 1), 2, (view, at) => view.getUint16(at, true), (view, at, value) => view.setUint16(at, value, true));
export const s16 = integer((buffer, at) => new Int16Array(buffer, at, 1), 2, (view, at) => view.getInt16(at, true), (view, at, value) => view.setInt16(at, value, true));
export const u32 = integer((buffer, at) => new Uint32Array(buffer, at, 1), 4, (view, at) => view.getUint32(at, true), (view, at, value) => view.setUint32(at, value, true));
export const s32 = integer((buffer, at) => new Int32Array(buffer, at, 1), 4, (view, at) => view.getInt32(at, true), (view, at, value) => view.setInt32(at, value, true));
export const u64 = bigInteger((buffer, at) => new BigUint64Array(buffer, at, 1), (view, at) => view.getBigUint64(at, true), (view, at, value) => view.setBigUint64(at, value, true));
export const s64 = bigInteger((buffer, at) => new BigInt64Array(buffer, at, 1), (view, at) => view.getBigInt64(at, true), (view, at, value) => view.setBigInt64(at, value, true));
/** A pointer: the address as a number, good for comparing and printing. */
export const pointer = u64;

export const bool: AtomicCodec<boolean> = {
  ...scalar<boolean>(1, false, (view, at) => view.getUint8(at) !== 0, (view, at, value) => view.setUint8(at, value ? 1 : 0)),
  cell(buffer, byteOffset) {
    const one = u8.cell(buffer, byteOffset);
    return { load: () => one.load() !== 0, store: (value) => one.store(value ? 1 : 0) };
  },
};

export const f32: Codec<number> = scalar(4, 0, (view, at) => view.getFloat32(at, true), (view, at, value) => view.setFloat32(at, value, true));
export const f64: Codec<number> = scalar(8, 0, (view, at) => view.getFloat64(at, true), (view, at, value) => view.setFloat64(at, value, true));

export const u128: Codec<bigint> = scalar(
  16,
  0n,
  (view, at) => (view.getBigUint64(at + 8, true) << 64n) | view.getBigUint64(at, true),
  writeWide,
);
export const s128: Codec<bigint> = scalar(
  16,
  0n,
  (view, at) => (view.getBigInt64(at + 8, true) << 64n) | view.getBigUint64(at, true),
  writeWide,
);

function writeWide(view: DataView, at: number, value: bigint): void {
  view.setBigUint64(at, value, true);
  view.setBigUint64(at + 8, value >> 64n, true);
}

/** A number of type `codec` of which only the values of enum `E` are expected. */
export function enumOf<E extends number | bigint>(codec: Codec<number> | Codec<bigint>): Codec<E> {
  return codec as unknown as Codec<E>;
}

/**
 * `char[length]`: text up to the first NUL, or all of it where there is none. Bytes that are no
 * UTF-8 become lone surrogates (0x80 is U+DC80) and are written back as they were. Give data that
 * is no text the C type `__u8[]` instead.
 */
export function text(length: number): Codec<string> {
  return {
    size: length,
    create: (init) => (init as string | undefined) ?? '',
    read: (view, offset = 0) => readText(view, offset, length),
    write(view, offset, value) {
      if (!writeText(view, offset, length, value)) throw tooLong('text', Buffer.byteLength(value), length);
    },
  };
}

type Numbers = { length: number; [index: number]: number };
type BigNumbers = { length: number; [index: number]: bigint };

function numbers<T extends Numbers>(stride: number, create: () => T, element: Codec<number>, length: number): Codec<T> {
  return {
    size: length * stride,
    create: (init) => (init as T | undefined) ?? create(),
    read(view, offset = 0, into = create()) {
      for (let i = 0; i < length; i++) into[i] = element.read(view, offset + i * stride);
      return into;
    },
    write(view, offset, value) {
      if (value.length > length) throw tooLong('an array', value.length, length);
      for (let i = 0; i < length; i++) element.write(view, offset + i * stride, value[i] ?? 0);
    },
  };
}

function bigNumbers<T extends BigNumbers>(create: () => T, element: Codec<bigint>, length: number): Codec<T> {
  return {
    size: length * 8,
    create: (init) => (init as T | undefined) ?? create(),
    read(view, offset = 0, into = create()) {
      for (let i = 0; i < length; i++) into[i] = element.read(view, offset + i * 8);
      return into;
    },
    write(view, offset, value) {
      if (value.length > length) throw tooLong('an array', value.length, length);
      for (let i = 0; i < length; i++) element.write(view, offset + i * 8, value[i] ?? 0n);
    },
  };
}

/** Beyond this, one short-lived view and a block copy beat a loop over bytes. */
const SHORT_BYTES = 64;

/** `__u8[length]`. A shorter value is filled up with zeros. */
export function u8s(length: number): Codec<Uint8Array> {
  return {
    size: length,
    create: (init) => (init as Uint8Array | undefined) ?? new Uint8Array(length),
    read(view, offset = 0, into = new Uint8Array(length)) {
      if (length > SHORT_BYTES) into.set(new Uint8Array(view.buffer, view.byteOffset + offset, length));
      else for (let i = 0; i < length; i++) into[i] = view.getUint8(offset + i);
      return into;
    },
    write(view, offset, value) {
      if (value.length > length) throw tooLong('an array', value.length, length);
      for (let i = 0; i < length; i++) view.setUint8(offset + i, value[i] ?? 0);
    },
  };
}

export const s8s = (length: number): Codec<Int8Array> => numbers(1, () => new Int8Array(length), s8, length);
export const u16s = (length: number): Codec<Uint16Array> => numbers(2, () => new Uint16Array(length), u16, length);
export const s16s = (length: number): Codec<Int16Array> => numbers(2, () => new Int16Array(length), s16, length);
export const u32s = (length: number): Codec<Uint32Array> => numbers(4, () => new Uint32Array(length), u32, length);
export const s32s = (length: number): Codec<Int32Array> => numbers(4, () => new Int32Array(length), s32, length);
export const f32s = (length: number): Codec<Float32Array> => numbers(4, () => new Float32Array(length), f32, length);
export const f64s = (length: number): Codec<Float64Array> => numbers(8, () => new Float64Array(length), f64, length);
export const u64s = (length: number): Codec<BigUint64Array> => bigNumbers(() => new BigUint64Array(length), u64, length);
export const s64s = (length: number): Codec<BigInt64Array> => bigNumbers(() => new BigInt64Array(length), s64, length);

/** `length` values of `element`; a shorter array is filled up with zeros. */
export function array<T>(element: Codec<T>, length: number): Codec<T[]> {
  const create = (): T[] => Array.from({ length }, () => element.create());
  return {
    size: element.size * length,
    create: (init) => (init as T[] | undefined) ?? create(),
    read(view, offset = 0, into = create()) {
      for (let i = 0; i < length; i++) into[i] = element.read(view, offset + i * element.size, into[i]);
      return into;
    },
    write(view, offset, value) {
      if (value.length > length) throw tooLong('an array', value.length, length);
      for (let i = 0; i < length; i++) {
        element.write(view, offset + i * element.size, i < value.length ? (value[i] as T) : element.create());
      }
    },
  };
}

/** Sets `length` bytes to zero. */
export function zeroBytes(view: DataView, offset: number, length: number): void {
  for (let i = 0; i < length; i++) view.setUint8(offset + i, 0);
}

/** Copies `length` bytes from one view to another. */
export function copyBytes(from: DataView, fromOffset: number, to: DataView, toOffset: number, length: number): void {
  let i = 0;
  for (; i + 4 <= length; i += 4) to.setUint32(toOffset + i, from.getUint32(fromOffset + i));
  for (; i < length; i++) to.setUint8(toOffset + i, from.getUint8(fromOffset + i));
}

/** A bitfield of at most 32 bits, beginning `shift` bits into the byte at `offset`. */
export function bits(view: DataView, offset: number, shift: number, count: number): number {
  let value = 0;
  // At most five bytes: exact in a double.
  for (let i = Math.ceil((shift + count) / 8) - 1; i >= 0; i--) value = value * 256 + view.getUint8(offset + i);
  return Math.floor(value / 2 ** shift) % 2 ** count;
}

export function signedBits(view: DataView, offset: number, shift: number, count: number): number {
  const value = bits(view, offset, shift, count);
  return value >= 2 ** (count - 1) ? value - 2 ** count : value;
}

/** A bitfield of at most 64 bits. */
export function bigBits(view: DataView, offset: number, shift: number, count: number): bigint {
  let value = 0n;
  for (let i = Math.ceil((shift + count) / 8) - 1; i >= 0; i--) value = (value << 8n) | BigInt(view.getUint8(offset + i));
  return BigInt.asUintN(count, value >> BigInt(shift));
}

export function signedBigBits(view: DataView, offset: number, shift: number, count: number): bigint {
  return BigInt.asIntN(count, bigBits(view, offset, shift, count));
}

/** Writes a bitfield into bits that are zero. */
export function putBits(view: DataView, offset: number, shift: number, count: number, value: number | boolean): void {
  putBigBits(view, offset, shift, count, BigInt(value));
}

export function putBigBits(view: DataView, offset: number, shift: number, count: number, value: bigint): void {
  let rest = BigInt.asUintN(count, value) << BigInt(shift);
  for (let i = 0; rest !== 0n; i++, rest >>= 8n) {
    view.setUint8(offset + i, view.getUint8(offset + i) | Number(rest & 0xffn));
  }
}

/** Sets the bits of a bitfield to zero. */
export function clearBits(view: DataView, offset: number, shift: number, count: number): void {
  let mask = ((1n << BigInt(count)) - 1n) << BigInt(shift);
  for (let i = 0; mask !== 0n; i++, mask >>= 8n) {
    view.setUint8(offset + i, view.getUint8(offset + i) & ~Number(mask & 0xffn));
  }
}

/** Name of the method by which Node prints an object. */
export const inspect: unique symbol = Symbol.for('nodejs.util.inspect.custom') as typeof inspect;

/** What a record with members that share bytes looks like when printed: all of them. */
export function shown(record: object): Record<string, unknown> {
  const members: Record<string, unknown> = { ...record };
  for (const [name, property] of Object.entries(Object.getOwnPropertyDescriptors(Object.getPrototypeOf(record) as object))) {
    if (property.get !== undefined) members[name] = property.get.call(record);
  }
  return members;
}
