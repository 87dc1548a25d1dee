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
