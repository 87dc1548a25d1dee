import { LoaderError } from './errors.js';
import { StringTable } from './strings.js';

/**
 * BTF as plain data (Documentation/bpf/btf.rst in the kernel's sources). A type is known by its
 * number; 0 is `void`.
 */
export type BtfType =
  | { kind: 'void'; name: '' }
  | { kind: 'int'; name: string; size: number; signed: boolean; bool: boolean; bits: number; bitOffset: number }
  | { kind: 'float'; name: string; size: number }
  | { kind: 'ptr'; name: ''; type: number }
  | { kind: 'array'; name: ''; type: number; length: number }
  | { kind: 'struct' | 'union'; name: string; size: number; members: BtfMember[] }
  | { kind: 'enum'; name: string; size: number; signed: boolean; values: BtfEnumerator[] }
  | { kind: 'fwd'; name: string; union: boolean }
  | { kind: 'typedef' | 'volatile' | 'const' | 'restrict' | 'type_tag'; name: string; type: number }
  | { kind: 'func'; name: string; type: number }
  | { kind: 'func_proto'; name: ''; returns: number; params: { name: string; type: number }[] }
  | { kind: 'var'; name: string; type: number; linkage: number }
  | { kind: 'datasec'; name: string; size: number; vars: BtfSecVar[] }
  | { kind: 'decl_tag'; name: string; type: number };

type Datasec = BtfType & { kind: 'datasec' };

export interface BtfMember {
  readonly name: string;
  readonly type: number;
  readonly bitOffset: number;
  /** Width of a bitfield; 0 for an ordinary member. */
  readonly bits: number;
}

export interface BtfEnumerator {
  readonly name: string;
  readonly value: bigint;
}

export interface BtfSecVar {
  readonly type: number;
  offset: number;
  size: number;
}

/** Linkage of a variable that other files may name; 0 is static, 2 extern. */
export const VAR_GLOBAL = 1;

const MAGIC = 0xeb9f;
const MAX_DEPTH = 64;
const POINTER_BYTES = 8;

function malformed(why: string): LoaderError {
  return new LoaderError('MALFORMED_BTF', `The object's BTF type information is malformed: ${why}.`);
}

/** The types of one object. */
export class Btf {
  readonly types: readonly BtfType[];
  readonly #sizes = new Map<number, number>();
  readonly #sections = new Map<string, Datasec>();

  constructor(types: readonly BtfType[]) {
    this.types = types;
    for (const type of types)
      if (type.kind === 'datasec' && !this.#sections.has(type.name)) this.#sections.set(type.name, type);
  }

  /** The type with number `id`. */
  get(id: number): BtfType {
    const type = this.types[id];
    if (type === undefined) throw malformed(`type ${id} does not exist (the last is ${this.types.length - 1})`);
    return type;
  }

  /** `id` without const, volatile, restrict, type tags and (unless `keepTypedefs`) typedefs. */
  resolve(id: number, keepTypedefs = false): number {
    for (let depth = 0; depth < MAX_DEPTH; depth++) {
      const type = this.get(id);
      switch (type.kind) {
        case 'typedef':
          if (keepTypedefs) return id;
          id = type.type;
          break;
        case 'const':
        case 'volatile':
        case 'restrict':
        case 'type_tag':
          id = type.type;
          break;
        default:
          return id;
      }
    }
    throw malformed(`type ${id} is a chain of more than ${MAX_DEPTH} typedefs and qualifiers`);
  }

  /** Size in bytes of a value of type `id`. */
  sizeOf(id: number, depth = 0): number {
    const known = this.#sizes.get(id);
    if (known !== undefined) return known;
    if (depth > MAX_DEPTH) throw malformed(`type ${id} is nested deeper than ${MAX_DEPTH} levels`);
    const type = this.get(this.resolve(id));
    let size: number;
    switch (type.kind) {
      case 'int':
      case 'float':
      case 'struct':
      case 'union':
      case 'enum':
        size = type.size;
        break;
      case 'ptr':
        size = POINTER_BYTES;
        break;
      case 'array':
        size = type.length * this.sizeOf(type.type, depth + 1);
        break;
      default:
        throw malformed(`a value of kind "${type.kind}"${type.name && ` ("${type.name}")`} has no size`);
    }
    // Beyond this, arithmetic on offsets would lose precision, and no BPF object has such values.
    if (size > 2 ** 40) throw malformed(`type ${id} has ${size} bytes`);
    this.#sizes.set(id, size);
    return size;
  }

  /** The DATASEC called `name`. */
  section(name: string): Datasec | undefined {
    return this.#sections.get(name);
  }
}

/** Parses a `.BTF` section. All references and names are checked. */
export function parseBtf(bytes: Uint8Array): Btf {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 24) throw malformed('it ends within its header');
  if (view.getUint16(0, true) !== MAGIC) throw malformed('it does not begin with the magic number eb9f');
  const headerBytes = view.getUint32(4, true);
  const typesOffset = headerBytes + view.getUint32(8, true);
  const typesBytes = view.getUint32(12, true);
  const stringsOffset = headerBytes + view.getUint32(16, true);
  const stringsBytes = view.getUint32(20, true);
  if (typesOffset + typesBytes > bytes.length) throw malformed('its types lie outside the section');
  if (stringsOffset + stringsBytes > bytes.length) throw malformed('its strings lie outside the section');
  const strings = bytes.subarray(stringsOffset, stringsOffset + stringsBytes);
  return new Btf(new TypeReader(bytes.subarray(typesOffset, typesOffset + typesBytes), strings).read());
}

class TypeReader {
  readonly #view: DataView;
  readonly #strings: StringTable;
  #at = 0;

  constructor(types: Uint8Array, strings: Uint8Array) {
    this.#view = new DataView(types.buffer, types.byteOffset, types.byteLength);
    this.#strings = new StringTable(strings);
  }

  read(): BtfType[] {
    const types: BtfType[] = [{ kind: 'void', name: '' }];
    while (this.#at < this.#view.byteLength) types.push(this.#type());
    for (const type of types) {
      for (const id of references(type)) {
        if (id >= types.length)
          throw malformed(`type "${type.name}" refers to type ${id}, and the last is ${types.length - 1}`);
      }
    }
    return types;
  }

  #u32(): number {
    if (this.#at + 4 > this.#view.byteLength) throw malformed('its types end within a type');
    const value = this.#view.getUint32(this.#at, true);
    this.#at += 4;
    return value;
  }

  #name(offset: number): string {
    if (offset === 0) return '';
    const name = this.#strings.at(offset);
    if (name === undefined) throw malformed(`a name lies at ${offset}, outside its strings`);
    return name;
  }

  /** `count` entries of `words` words each must still be there; keeps a hostile count harmless. */
  #entries<T>(count: number, words: number, read: () => T): T[] {
    if (this.#at + count * words * 4 > this.#view.byteLength) throw malformed('its types end within a type');
    return Array.from({ length: count }, read);
  }

  #type(): BtfType {
    const name = this.#name(this.#u32());
    const info = this.#u32();
    const sizeOrType = this.#u32();
    const count = info & 0xffff;
    const flag = info >>> 31 === 1;
    const kind = (info >>> 24) & 0x1f;
    switch (kind) {
      case 1: {
        const encoding = this.#u32();
        if (sizeOrType > 16) throw malformed(`the integer "${name}" has ${sizeOrType} bytes`);
        return {
          kind: 'int',
          name,
          size: sizeOrType,
          signed: ((encoding >>> 24) & 1) !== 0,
          bool: ((encoding >>> 24) & 4) !== 0,
          bits: encoding & 0xff,
          bitOffset: (encoding >>> 16) & 0xff,
        };
      }
      case 2:
        return { kind: 'ptr', name: '', type: sizeOrType };
      case 3: {
        const type = this.#u32();
        this.#u32(); // the index type says nothing about the layout
        return { kind: 'array', name: '', type, length: this.#u32() };
      }
      case 4:
      case 5:
        return {
          kind: kind === 4 ? 'struct' : 'union',
          name,
          size: sizeOrType,
          members: this.#entries(count, 3, () => {
            const member = this.#name(this.#u32());
            const type = this.#u32();
            const offset = this.#u32();
            return flag
              ? { name: member, type, bitOffset: offset & 0xffffff, bits: offset >>> 24 }
              : { name: member, type, bitOffset: offset, bits: 0 };
          }),
        };
      case 6:
        return {
          kind: 'enum',
          name,
          size: sizeOrType,
          signed: flag,
          values: this.#entries(count, 2, () => {
            const enumerator = this.#name(this.#u32());
            const value = this.#u32();
            return { name: enumerator, value: BigInt(flag ? value | 0 : value) };
          }),
        };
      case 7:
        return { kind: 'fwd', name, union: flag };
      case 8:
        return { kind: 'typedef', name, type: sizeOrType };
      case 9:
        return { kind: 'volatile', name, type: sizeOrType };
      case 10:
        return { kind: 'const', name, type: sizeOrType };
      case 11:
        return { kind: 'restrict', name, type: sizeOrType };
      case 12:
        return { kind: 'func', name, type: sizeOrType };
      case 13:
        return {
          kind: 'func_proto',
          name: '',
          returns: sizeOrType,
          params: this.#entries(count, 2, () => ({ name: this.#name(this.#u32()), type: this.#u32() })),
        };
      case 14:
        return { kind: 'var', name, type: sizeOrType, linkage: this.#u32() };
      case 15:
        return {
          kind: 'datasec',
          name,
          size: sizeOrType,
          vars: this.#entries(count, 3, () => ({ type: this.#u32(), offset: this.#u32(), size: this.#u32() })),
        };
      case 16:
        return { kind: 'float', name, size: sizeOrType };
      case 17:
        this.#u32(); // the index of the member or parameter that carries the tag
        return { kind: 'decl_tag', name, type: sizeOrType };
      case 18:
        return { kind: 'type_tag', name, type: sizeOrType };
      case 19:
        return {
          kind: 'enum',
          name,
          size: sizeOrType,
          signed: flag,
          values: this.#entries(count, 3, () => {
            const enumerator = this.#name(this.#u32());
            const value = BigInt(this.#u32()) | (BigInt(this.#u32()) << 32n);
            return { name: enumerator, value: flag ? BigInt.asIntN(64, value) : value };
          }),
        };
      default:
        throw malformed(`a type has the unknown kind ${kind}`);
    }
  }
}

function references(type: BtfType): number[] {
  switch (type.kind) {
    case 'struct':
    case 'union':
      return type.members.map((member) => member.type);
    case 'datasec':
      return type.vars.map((variable) => variable.type);
    case 'func_proto':
      return [type.returns, ...type.params.map((param) => param.type)];
    default:
      return 'type' in type ? [type.type] : [];
  }
}
