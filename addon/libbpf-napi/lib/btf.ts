import { integer, options as checkOptions, text, wrongType } from './check.js';
import { bpfError } from './error.js';
import { BtfData } from './btf-parse.js';
import type { BtfDeclTag, BtfKind, BtfType } from './btf-types.js';
import { native, type NativeBtf } from './native.js';
import { objectHandle, type BpfObject } from './object.js';

export type * from './btf-types.js';

const POINTER_BYTES = 8;

const header = `#ifndef __VMLINUX_H__
#define __VMLINUX_H__

#ifndef BPF_NO_PRESERVE_ACCESS_INDEX
#pragma clang attribute push (__attribute__((preserve_access_index)), apply_to = record)
#endif

`;
const footer = `
#ifndef BPF_NO_PRESERVE_ACCESS_INDEX
#pragma clang attribute pop
#endif

#endif /* __VMLINUX_H__ */
`;

/**
 * Type information: of the running kernel (`/sys/kernel/btf/vmlinux`), of a kernel module, or of a
 * compiled BPF object. Types are decoded when asked for.
 */
export class Btf {
  readonly #native: NativeBtf;
  readonly #data: BtfData;
  /** Ids of the types of each name, made at the first search. */
  #byName: Map<string, number[]> | undefined;
  #tags: Map<number, BtfDeclTag[]> | undefined;

  private constructor(handle: NativeBtf, base: BtfData | undefined) {
    this.#native = handle;
    this.#data = new BtfData(handle.bytes(), base);
  }

  /**
   * Reads a raw BTF file or an ELF file with a `.BTF` section, or raw BTF in memory.
   * @param given `basePath`: for a kernel module's, the kernel's own
   */
  static load(source: string | Uint8Array, given: { basePath?: string } = {}): Btf {
    const { basePath } = checkOptions<{ basePath?: string }>(given, 'Btf.load', ['basePath']);
    const from = source instanceof Uint8Array ? source : text(source, 'source');
    const base = basePath === undefined ? undefined : Btf.load(text(basePath, 'basePath')).#data;
    return new Btf(new native.NativeBtf(from, basePath), base);
  }

  /**
   * The types of an opened object. Unlike those of the bare file, the sizes of its data sections and
   * the offsets of variables in them are filled in.
   */
  static fromObject(object: BpfObject): Btf {
    const bytes = objectHandle(object).btf();
    if (bytes === undefined) {
      throw bpfError('read the BTF of', `BPF object "${object.name}"`, 61, 'it has none; compile it with -g');
    }
    return new Btf(new native.NativeBtf(bytes, undefined), undefined);
  }

  /** One more than the largest id. */
  get typeCount(): number {
    return this.#data.typeCount;
  }

  /** The type of this id; 0 is void. */
  type(id: number): BtfType {
    return this.#data.type(integer(id, 'type id', 0, this.typeCount - 1));
  }

  /** All types in the order of their ids, without void. */
  *types(): IterableIterator<BtfType> {
    for (let id = 1; id < this.typeCount; id++) yield this.#data.type(id);
  }

  /** The first type of this name, of this kind if given. */
  find(name: string, kind?: BtfKind): BtfType | undefined {
    if (this.#byName === undefined) {
      this.#byName = new Map();
      for (let id = 1; id < this.typeCount; id++) {
        const known = this.#data.name(id);
        const ids = this.#byName.get(known);
        if (ids === undefined) this.#byName.set(known, [id]);
        else ids.push(id);
      }
    }
    for (const id of this.#byName.get(name) ?? []) {
      const type = this.#data.type(id);
      if (kind === undefined || type.kind === kind) return type;
    }
    return undefined;
  }

  /** The type behind typedefs, qualifiers and type tags. */
  resolve(id: number): BtfType {
    let type = this.type(id);
    // Bounded by the number of types: a cycle can only come from a forged file.
    for (let steps = 0; steps <= this.typeCount; steps++) {
      switch (type.kind) {
        case 'typedef':
        case 'const':
        case 'volatile':
        case 'restrict':
        case 'type_tag':
          type = this.type(type.type);
          break;
        default:
          return type;
      }
    }
    throw wrongType('type', 'free of cycles', id);
  }

  /** Bytes of a value of this type; undefined for void, functions and incomplete types. */
  sizeOf(id: number): number | undefined {
    let count = 1;
    let type = this.resolve(id);
    for (let depth = 0; type.kind === 'array' && depth < 64; depth++) {
      count *= type.length;
      type = this.resolve(type.elementType);
    }
    if (type.kind === 'ptr') return count * POINTER_BYTES;
    if (type.kind === 'var') return this.sizeOf(type.type);
    return 'size' in type ? count * type.size : undefined;
  }

  /** Declaration tags on a type and its members. */
  declTags(id: number): readonly BtfDeclTag[] {
    if (this.#tags === undefined) {
      this.#tags = new Map();
      for (const type of this.types()) {
        if (type.kind !== 'decl_tag') continue;
        const tags = this.#tags.get(type.type);
        if (tags === undefined) this.#tags.set(type.type, [type]);
        else tags.push(type);
      }
    }
    return this.#tags.get(id) ?? [];
  }

  /**
   * All types as a C header (`vmlinux.h`), in an order that compiles, with the pragma that makes
   * clang record field accesses for CO-RE.
   */
  dumpC(): string {
    return header + this.#native.dumpC() + footer;
  }

  /** The raw BTF. */
  bytes(): Uint8Array {
    return this.#native.bytes();
  }
}
