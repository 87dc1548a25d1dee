import type { BpfMap, UpdateMode } from 'libbpf-napi';

import { LoaderError } from '../errors.js';
import type { Codec } from './codec.js';

/** Bytes with a view of them, used again for every call: lookups allocate nothing but their result. */
class Scratch {
  readonly bytes: Uint8Array;
  readonly view: DataView;

  constructor(size: number) {
    this.bytes = new Uint8Array(size);
    this.view = new DataView(this.bytes.buffer);
  }
}

function checkSize(raw: BpfMap, what: string, codec: Codec<unknown>, size: number): void {
  if (codec.size === size) return;
  const sizes = `${size} bytes in the kernel and ${codec.size} in the skeleton`;
  throw new LoaderError(
    'MISMATCH',
    `The ${what} of map "${raw.name}" has ${sizes}: generate the skeleton again, or use the map's \`raw\` handle.`,
  );
}

/** The keys of a map, as bytes and as values. */
class Keys<K> {
  readonly #raw: BpfMap;
  readonly #codec: Codec<K>;
  readonly #scratch: Scratch;

  constructor(raw: BpfMap, codec: Codec<K>) {
    checkSize(raw, 'key', codec, raw.keySize);
    this.#raw = raw;
    this.#codec = codec;
    this.#scratch = new Scratch(raw.keySize);
  }

  /** Bytes of `key`, good until the next call. */
  encode(key: K): Uint8Array {
    this.#codec.write(this.#scratch.view, 0, key);
    return this.#scratch.bytes;
  }

  /** The key number `index` of a batch. */
  at(batch: DataView, index: number): K {
    return this.#codec.read(batch, index * this.#raw.keySize);
  }

  *all(): IterableIterator<K> {
    for (const bytes of this.#raw.keys()) yield this.#codec.read(viewOf(bytes));
  }
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** A map from keys to values: hashes, arrays, tries, and those of other kernel objects. */
export class KeyedMap<K, V> {
  /** The untyped map. */
  readonly raw: BpfMap;
  readonly #keys: Keys<K>;
  readonly #value: Codec<V>;
  readonly #scratch: Scratch;

  constructor(raw: BpfMap, key: Codec<K>, value: Codec<V>) {
    checkSize(raw, 'value', value, raw.valueSize);
    this.raw = raw;
    this.#keys = new Keys(raw, key);
    this.#value = value;
    this.#scratch = new Scratch(raw.valueBytes);
  }

  /** The value of `key`, in `into` if given; undefined when there is none. */
  lookup(key: K, into?: V): V | undefined {
    if (this.raw.lookup(this.#keys.encode(key), this.#scratch.bytes) === undefined) return undefined;
    return this.#value.read(this.#scratch.view, 0, into);
  }

  /** Takes the value of `key` out of the map. Hash maps: Linux 5.14. */
  lookupAndDelete(key: K, into?: V): V | undefined {
    if (this.raw.lookupAndDelete(this.#keys.encode(key), this.#scratch.bytes) === undefined) return undefined;
    return this.#value.read(this.#scratch.view, 0, into);
  }

  /** Sets the value of `key`; with mode `noexist` or `exist` only if it is new, or there already. */
  update(key: K, value: V, mode: UpdateMode = 'any'): void {
    this.#value.write(this.#scratch.view, 0, value);
    this.raw.update(this.#keys.encode(key), this.#scratch.bytes, mode);
  }

  /** Removes `key`; false when it was not there. */
  delete(key: K): boolean {
    return this.raw.delete(this.#keys.encode(key));
  }

  /** All keys. The entry of a key that has been given may be deleted. */
  keys(): IterableIterator<K> {
    return this.#keys.all();
  }

  /** All entries, read in batches where the kernel can. Changes meanwhile may be seen or not. */
  *entries(): IterableIterator<[key: K, value: V]> {
    for (const { count, keys, values } of this.raw.batches()) {
      const keyView = viewOf(keys);
      const valueView = viewOf(values);
      for (let i = 0; i < count; i++) {
        yield [this.#keys.at(keyView, i), this.#value.read(valueView, i * this.raw.valueBytes)];
      }
    }
  }

  *values(): IterableIterator<V> {
    for (const [, value] of this.entries()) yield value;
  }

  [Symbol.iterator](): IterableIterator<[key: K, value: V]> {
    return this.entries();
  }
}

/** A map with one value per possible CPU under each key. */
export class PerCpuMap<K, V> {
  /** The untyped map. */
  readonly raw: BpfMap;
  /** Number of values under a key: the possible CPUs. */
  readonly cpus: number;
  readonly #keys: Keys<K>;
  readonly #value: Codec<V>;
  readonly #stride: number;
  readonly #scratch: Scratch;

  constructor(raw: BpfMap, key: Codec<K>, value: Codec<V>) {
    checkSize(raw, 'value', value, raw.valueSize);
    this.raw = raw;
    this.#keys = new Keys(raw, key);
    this.#value = value;
    this.#stride = Math.ceil(raw.valueSize / 8) * 8;
    this.cpus = raw.valueBytes / this.#stride;
    this.#scratch = new Scratch(raw.valueBytes);
  }

  #read(view: DataView, offset: number, into: V[] = []): V[] {
    for (let cpu = 0; cpu < this.cpus; cpu++)
      into[cpu] = this.#value.read(view, offset + cpu * this.#stride, into[cpu]);
    return into;
  }

  /** The values of `key` by CPU, in `into` if given; undefined when there is no such key. */
  lookup(key: K, into?: V[]): V[] | undefined {
    if (this.raw.lookup(this.#keys.encode(key), this.#scratch.bytes) === undefined) return undefined;
    return this.#read(this.#scratch.view, 0, into);
  }

  /** Sets the values of `key`, one for each possible CPU. */
  update(key: K, values: readonly V[], mode: UpdateMode = 'any'): void {
    if (values.length !== this.cpus) {
      throw new LoaderError(
        'BAD_VALUE',
        `Map "${this.raw.name}" holds a value for each of ${this.cpus} CPUs under a key, not ${values.length}.`,
      );
    }
    const { view, bytes } = this.#scratch;
    bytes.fill(0);
    values.forEach((value, cpu) => this.#value.write(view, cpu * this.#stride, value));
    this.raw.update(this.#keys.encode(key), bytes, mode);
  }

  /** Removes `key`; false when it was not there. */
  delete(key: K): boolean {
    return this.raw.delete(this.#keys.encode(key));
  }

  /** All keys. The entry of a key that has been given may be deleted. */
  keys(): IterableIterator<K> {
    return this.#keys.all();
  }

  *entries(): IterableIterator<[key: K, values: V[]]> {
    for (const { count, keys, values } of this.raw.batches()) {
      const keyView = viewOf(keys);
      const valueView = viewOf(values);
      for (let i = 0; i < count; i++) {
        yield [this.#keys.at(keyView, i), this.#read(valueView, i * this.raw.valueBytes)];
      }
    }
  }

  [Symbol.iterator](): IterableIterator<[key: K, values: V[]]> {
    return this.entries();
  }
}

/** A queue or a stack. */
export class QueueMap<V> {
  /** The untyped map. */
  readonly raw: BpfMap;
  readonly #value: Codec<V>;
  readonly #scratch: Scratch;

  constructor(raw: BpfMap, value: Codec<V>) {
    checkSize(raw, 'value', value, raw.valueSize);
    this.raw = raw;
    this.#value = value;
    this.#scratch = new Scratch(raw.valueSize);
  }

  push(value: V): void {
    this.#value.write(this.#scratch.view, 0, value);
    this.raw.push(this.#scratch.bytes);
  }

  /** Takes the next element; undefined when empty. */
  pop(): V | undefined {
    return this.#decode(this.raw.pop());
  }

  /** The next element, left where it is. */
  peek(): V | undefined {
    return this.#decode(this.raw.peek());
  }

  #decode(bytes: Uint8Array | undefined): V | undefined {
    return bytes && this.#value.read(viewOf(bytes));
  }
}
