import { type BpfMap, MapFlag } from 'libbpf-napi';

import { LoaderError } from '../errors.js';
import type { AtomicCodec, Cell, Codec } from './codec.js';

/** A global variable that can only be read: `.rodata` and `.kconfig`. */
export interface Constant<T> {
  /** Bytes from the start of the section. */
  readonly offset: number;
  readonly size: number;
  /** The value now; fills and returns `into` where it is an object. */
  get(into?: T): T;
}

/** A global variable of the program. */
export interface Variable<T> extends Constant<T> {
  set(value: T): void;
}

/** A section before load: a copy of its initial content, handed to libbpf by `store`. */
export class InitialSection {
  readonly #map: BpfMap;
  readonly #section: string;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #changed = false;
  #spent = false;

  constructor(map: BpfMap, section: string) {
    const bytes = map.initialValue;
    if (bytes === undefined) throw new LoaderError('MISMATCH', `Section "${section}" has no initial content to set: the object is not the one this skeleton was made from.`);
    this.#map = map;
    this.#section = section;
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  variable<T>(codec: Codec<T>, offset: number): Variable<T> {
    return {
      offset,
      size: codec.size,
      get: (into) => codec.read(this.#view, offset, into),
      set: (value) => {
        if (this.#spent) throw new LoaderError('READ_ONLY', `A variable of section "${this.#section}" cannot be set in the specs any more: the object is loaded. Set it in the loaded object.`);
        codec.write(this.#view, offset, value);
        this.#changed = true;
      },
    };
  }

  /** Gives the content to libbpf, just before load. */
  store(): void {
    if (this.#changed) this.#map.setInitialValue(this.#bytes);
    this.#spent = true;
  }
}

/**
 * A section of a loaded object. Where the kernel can map it (Linux 5.5), reads and writes go
 * straight to the program's memory; else each one is a system call.
 */
export class LoadedSection {
  readonly #map: BpfMap;
  readonly #mapped: DataView | undefined;
  readonly #copy: { bytes: Uint8Array; view: DataView };

  constructor(map: BpfMap) {
    this.#map = map;
    if ((map.flags & MapFlag.Mmapable) !== 0) {
      const memory = map.mmap();
      this.#mapped = new DataView(memory.buffer, memory.byteOffset, memory.byteLength);
    }
    const bytes = new Uint8Array(this.#mapped === undefined ? map.valueBytes : 0);
    this.#copy = { bytes, view: new DataView(bytes.buffer) };
  }

  variable<T>(codec: Codec<T>, offset: number): Variable<T> {
    const cell = this.#cell(codec, offset);
    const { size } = codec;
    if (cell !== undefined) return { offset, size, get: () => cell.load(), set: (value) => cell.store(value) };
    const mapped = this.#mapped;
    if (mapped !== undefined) {
      return { offset, size, get: (into) => codec.read(mapped, offset, into), set: (value) => codec.write(mapped, offset, value) };
    }
    const { bytes, view } = this.#copy;
    const key = new Uint8Array(4);
    return {
      offset,
      size,
      get: (into) => {
        this.#map.lookup(key, bytes);
        return codec.read(view, offset, into);
      },
      set: (value) => {
        this.#map.lookup(key, bytes);
        codec.write(view, offset, value);
        this.#map.update(key, bytes);
      },
    };
  }

  /** DataView may read and write byte by byte; programs must not see half a number. */
  #cell<T>(codec: Codec<T>, offset: number): Cell<T> | undefined {
    if (this.#mapped === undefined || !('cell' in codec)) return undefined;
    const at = this.#mapped.byteOffset + offset;
    return at % codec.size === 0 ? (codec as AtomicCodec<T>).cell(this.#mapped.buffer, at) : undefined;
  }
}
