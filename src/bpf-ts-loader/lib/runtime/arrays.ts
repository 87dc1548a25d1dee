import type { Codec } from './codec.js';
import { f32, f64, s16, s32, s64, s8, u16, u32, u64 } from './scalars.js';
import { readText, writeText } from './text.js';

/** Thrown for a value that does not fit its type. */
function tooLong(what: string, length: number, limit: number): RangeError {
  return new RangeError(`Cannot write ${what} of length ${length}: its C type has room for ${limit}.`);
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
export const u64s = (length: number): Codec<BigUint64Array> =>
  bigNumbers(() => new BigUint64Array(length), u64, length);
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
