import { BpfObject, type BpfMap, type BpfProgram, type OpenOptions } from 'libbpf-napi';

import { LoaderError } from '../errors.js';
import type { Codec } from './codec.js';
import { type Constant, InitialSection, LoadedSection, type Variable } from './globals.js';
import { KeyedMap, PerCpuMap, QueueMap } from './maps.js';
import { RingBufferMap, UserRingMap } from './ring-buffer.js';

/** Opens the object inside a generated module. */
export function openObject(name: string, base64: string, options: OpenOptions): BpfObject {
  return BpfObject.open(Buffer.from(base64, 'base64'), { name, ...options });
}

/** The map called `name`, or for `.rodata` and the like the one that holds that section. */
function mapOf(object: BpfObject, name: string): BpfMap {
  const named = object.maps.get(name);
  if (named !== undefined) return named;
  for (const map of object.maps.values()) if (map.sectionName === name) return map;
  throw new LoaderError(
    'MISMATCH',
    `The object "${object.name}" has no map "${name}": it is not the one this skeleton was made from.`,
  );
}

function programOf(object: BpfObject, name: string): BpfProgram {
  const program = object.programs.get(name);
  if (program === undefined) {
    throw new LoaderError(
      'MISMATCH',
      `The object "${object.name}" has no program "${name}": it is not the one this skeleton was made from.`,
    );
  }
  return program;
}

/** Base of the generated specs: an object that is open and not loaded yet. */
export abstract class ObjectSpecs {
  /** The untyped object. */
  readonly object: BpfObject;
  readonly #sections = new Map<string, InitialSection>();

  constructor(object: BpfObject) {
    this.object = object;
  }

  protected map(name: string): BpfMap {
    return mapOf(this.object, name);
  }

  protected program(name: string): BpfProgram {
    return programOf(this.object, name);
  }

  protected variable<T>(section: string, codec: Codec<T>, offset: number): Variable<T> {
    let initial = this.#sections.get(section);
    if (initial === undefined) this.#sections.set(section, (initial = new InitialSection(this.map(section), section)));
    return initial.variable(codec, offset);
  }

  protected constant<T>(section: string, codec: Codec<T>, offset: number): Constant<T> {
    return this.variable(section, codec, offset);
  }

  protected loaded(): BpfObject {
    for (const section of this.#sections.values()) section.store();
    this.object.load();
    return this.object;
  }

  protected async loadedAsync(): Promise<BpfObject> {
    for (const section of this.#sections.values()) section.store();
    await this.object.loadAsync();
    return this.object;
  }

  /** Gives the object up, if it will not be loaded. Idempotent. */
  close(): void {
    this.object.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** Base of the generated objects: maps and programs in the kernel. */
export abstract class LoadedObject {
  /** The untyped object. */
  readonly object: BpfObject;
  readonly #sections = new Map<string, LoadedSection>();

  constructor(object: BpfObject) {
    this.object = object;
  }

  protected map(name: string): BpfMap {
    return mapOf(this.object, name);
  }

  protected program(name: string): BpfProgram {
    return programOf(this.object, name);
  }

  protected keyed<K, V>(name: string, key: Codec<K>, value: Codec<V>): KeyedMap<K, V> {
    return new KeyedMap(this.map(name), key, value);
  }

  protected perCpu<K, V>(name: string, key: Codec<K>, value: Codec<V>): PerCpuMap<K, V> {
    return new PerCpuMap(this.map(name), key, value);
  }

  protected queue<V>(name: string, value: Codec<V>): QueueMap<V> {
    return new QueueMap(this.map(name), value);
  }

  protected ringBuffer(name: string): RingBufferMap {
    return new RingBufferMap(this.map(name));
  }

  protected userRing(name: string): UserRingMap {
    return new UserRingMap(this.map(name));
  }

  protected variable<T>(section: string, codec: Codec<T>, offset: number): Variable<T> {
    let loaded = this.#sections.get(section);
    if (loaded === undefined) this.#sections.set(section, (loaded = new LoadedSection(this.map(section))));
    return loaded.variable(codec, offset);
  }

  protected constant<T>(section: string, codec: Codec<T>, offset: number): Constant<T> {
    return this.variable(section, codec, offset);
  }

  /** Closes the object: its maps and programs go, unless pinned, attached or held elsewhere. Idempotent. */
  close(): void {
    this.object.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
