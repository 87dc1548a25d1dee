import type { AtomicCodec, Codec } from './codec.js';

function scalar<T extends number | bigint | boolean>(
  size: number,
  zero: T,
  read: (view: DataView, offset: number) => T,
  write: (view: DataView, offset: number, value: T) => void,
): Codec<T> {
  return {
    size,
    create: (init) => (init as T | undefined) ?? zero,
    read: (view, offset = 0) => read(view, offset),
    write,
  };
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

export const u8 = integer(
  (buffer, at) => new Uint8Array(buffer, at, 1),
  1,
  (view, at) => view.getUint8(at),
  (view, at, value) => view.setUint8(at, value),
);
export const s8 = integer(
  (buffer, at) => new Int8Array(buffer, at, 1),
  1,
  (view, at) => view.getInt8(at),
  (view, at, value) => view.setInt8(at, value),
);
export const u16 = integer(
  (buffer, at) => new Uint16Array(buffer, at, 1),
  2,
  (view, at) => view.getUint16(at, true),
  (view, at, value) => view.setUint16(at, value, true),
);
export const s16 = integer(
  (buffer, at) => new Int16Array(buffer, at, 1),
  2,
  (view, at) => view.getInt16(at, true),
  (view, at, value) => view.setInt16(at, value, true),
);
export const u32 = integer(
  (buffer, at) => new Uint32Array(buffer, at, 1),
  4,
  (view, at) => view.getUint32(at, true),
  (view, at, value) => view.setUint32(at, value, true),
);
export const s32 = integer(
  (buffer, at) => new Int32Array(buffer, at, 1),
  4,
  (view, at) => view.getInt32(at, true),
  (view, at, value) => view.setInt32(at, value, true),
);
export const u64 = bigInteger(
  (buffer, at) => new BigUint64Array(buffer, at, 1),
  (view, at) => view.getBigUint64(at, true),
  (view, at, value) => view.setBigUint64(at, value, true),
);
export const s64 = bigInteger(
  (buffer, at) => new BigInt64Array(buffer, at, 1),
  (view, at) => view.getBigInt64(at, true),
  (view, at, value) => view.setBigInt64(at, value, true),
);
/** A pointer: the address as a number, good for comparing and printing. */
export const pointer = u64;

export const bool: AtomicCodec<boolean> = {
  ...scalar<boolean>(
    1,
    false,
    (view, at) => view.getUint8(at) !== 0,
    (view, at, value) => view.setUint8(at, value ? 1 : 0),
  ),
  cell(buffer, byteOffset) {
    const one = u8.cell(buffer, byteOffset);
    return { load: () => one.load() !== 0, store: (value) => one.store(value ? 1 : 0) };
  },
};

export const f32: Codec<number> = scalar(
  4,
  0,
  (view, at) => view.getFloat32(at, true),
  (view, at, value) => view.setFloat32(at, value, true),
);
export const f64: Codec<number> = scalar(
  8,
  0,
  (view, at) => view.getFloat64(at, true),
  (view, at, value) => view.setFloat64(at, value, true),
);

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
