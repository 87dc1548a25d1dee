import { type BpfMap, MapFlag } from 'libbpf-napi';

import { LoaderError } from '../errors.js';
import type { AtomicCodec, Codec } from './codec.js';

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
    if (bytes === undefined)
      throw new LoaderError(
        'MISMATCH',
        `Section "${section}" has no initial content to set: the object is not the one this skeleton was made from.`,
      );
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
        if (this.#spent)
          throw new LoaderError(
            'READ_ONLY',
            `A variable of section "${this.#section}" cannot be set in the specs any more: the object is loaded. Set it in the loaded object.`,
          );
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
  #memory: DataView | undefined;

  constructor(map: BpfMap) {
    this.#map = map;
  }

  variable<T>(codec: Codec<T>, offset: number): Variable<T> {
    const { size } = codec;
    if (this.#map.type === 'arena') return { offset, size, ...this.#inArena(codec, offset) };
    if ((this.#map.flags & MapFlag.Mmapable) === 0) return { offset, size, ...this.#byCalls(codec, offset) };
    // Mapped when first used: an object may have sections that nobody looks at.
    let access: Access<T> | undefined;
    const use = (): Access<T> => (access ??= this.#inMemory(codec, offset));
    return { offset, size, get: (into) => use().get(into), set: (value) => use().set(value) };
  }

  #inMemory<T>(codec: Codec<T>, offset: number): Access<T> {
    if (this.#memory === undefined) {
      const memory = this.#map.mmap();
      this.#memory = new DataView(memory.buffer, memory.byteOffset, memory.byteLength);
    }
    const memory = this.#memory;
    const at = memory.byteOffset + offset;
    // DataView may read and write byte by byte; programs must not see half a number.
    if ('cell' in codec && at % codec.size === 0) {
      const cell = (codec as AtomicCodec<T>).cell(memory.buffer, at);
      return { get: () => cell.load(), set: (value) => cell.store(value) };
    }
    return { get: (into) => codec.read(memory, offset, into), set: (value) => codec.write(memory, offset, value) };
  }

  #byCalls<T>(codec: Codec<T>, offset: number): Access<T> {
    const key = new Uint8Array(4);
    const bytes = new Uint8Array(this.#map.valueBytes);
    const view = new DataView(bytes.buffer);
    return {
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

  /** libbpf alone may map an arena: what is read is a copy of its section. */
  #inArena<T>(codec: Codec<T>, offset: number): Access<T> {
    return {
      get: (into) => {
        const bytes = this.#map.initialValue ?? new Uint8Array(0);
        return codec.read(new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength), offset, into);
      },
      set: () => {
        throw new LoaderError('READ_ONLY', `A variable in the arena "${this.#map.name}" cannot be set after load.`);
      },
    };
  }
}

type Access<T> = Pick<Variable<T>, 'get' | 'set'>;
