import type { Btf, BtfMember, BtfType } from '../btf.js';
import { LoaderError } from '../errors.js';
import { identifier, memberName, Names, pascal } from './names.js';

/** How values of one C type look in TypeScript, and how they are read and written. */
export type Shape =
  /** A value read by one expression: integers, floats, bool, pointers, enums. */
  | {
      kind: 'scalar';
      /** Name of the codec in the runtime: `u32`, `pointer`, ... */
      codec: Scalar;
      /** The enum the number belongs to. */
      enum: EnumShape | undefined;
      bytes: number;
    }
  /** `char[N]`. */
  | { kind: 'text'; length: number; bytes: number }
  /** Bytes whose meaning TypeScript has no type for, such as `long double`. */
  | { kind: 'bytes'; length: number; bytes: number }
  | { kind: 'array'; element: Shape; length: number; bytes: number }
  | RecordShape;

export type Scalar =
  'u8' | 's8' | 'u16' | 's16' | 'u32' | 's32' | 'u64' | 's64' | 'u128' | 's128' | 'f32' | 'f64' | 'bool' | 'pointer';

export interface EnumShape {
  readonly id: number;
  readonly name: string;
  readonly codec: Scalar;
}

export interface RecordShape {
  readonly kind: 'record';
  readonly id: number;
  readonly name: string;
  readonly union: boolean;
  readonly bytes: number;
  readonly fields: readonly Field[];
  /** Flexible array members: no part of the record's size, so no fields. */
  readonly tails: readonly { name: string; offset: number; type: number }[];
}

/** One field of a record, members of anonymous structs and unions included, as C names them. */
export interface Field {
  readonly name: string;
  readonly cName: string;
  readonly type: number;
  readonly shape: Shape;
  /** Byte offset from the start of the record; of a bitfield, that of the byte its first bit is in. */
  readonly offset: number;
  /** A bitfield: where in its first byte it begins, and how many bits it has. */
  readonly bits: { readonly shift: number; readonly count: number } | undefined;
  /** Shares its bytes with other fields: a member of a union. */
  readonly overlaid: boolean;
}

const MAX_NESTING = 64;
const MAX_FIELDS = 500_000;

type Composite = BtfType & { kind: 'struct' | 'union' };

/**
 * Turns BTF types into shapes, each once. `records` and `enums` hold what has been met, inner
 * records before those that contain them.
 */
export class Shapes {
  readonly records: RecordShape[] = [];
  readonly enums: EnumShape[] = [];
  readonly #btf: Btf;
  readonly #names: Names;
  readonly #byId = new Map<number, Shape>();
  readonly #open = new Set<number>();
  readonly #wanted = new Map<number, string>();
  readonly #reserved = new Map<number, string>();
  #fields = 0;

  constructor(btf: Btf, names: Names) {
    this.#btf = btf;
    this.#names = names;
  }

  /**
   * Gives every named struct, union and enum that values of `roots` contain its name, in the order
   * of their BTF numbers, before any name is made up for an anonymous one.
   */
  reserve(roots: readonly number[]): void {
    const met = new Set<number>();
    const queue = [...roots];
    for (let id = queue.pop(); id !== undefined; id = queue.pop()) {
      const resolved = this.#named(id);
      if (met.has(resolved)) continue;
      met.add(resolved);
      const type = this.#btf.get(resolved);
      if (type.kind === 'array') queue.push(type.type);
      else if (type.kind === 'struct' || type.kind === 'union')
        queue.push(...type.members.map((member) => member.type));
    }
    for (const id of [...met].sort((a, b) => a - b)) {
      const type = this.#btf.get(id);
      if (type.kind !== 'struct' && type.kind !== 'union' && (type.kind !== 'enum' || type.values.length === 0))
        continue;
      const name = type.name || this.#wanted.get(id);
      if (name) this.#reserved.set(id, this.#names.claim(pascal(name)));
    }
  }

  /** The type behind `id`'s typedefs; notes a typedef's name for a type that has none of its own. */
  #named(id: number): number {
    const resolved = this.#btf.resolve(id);
    for (let at = id; at !== resolved;) {
      const type = this.#btf.get(at);
      if (!('type' in type)) break;
      if (type.kind === 'typedef' && type.type === resolved && !this.#wanted.has(resolved))
        this.#wanted.set(resolved, type.name);
      at = type.type;
    }
    return resolved;
  }

  /** The shape of values of type `id`; `hint` names it if it has no name. */
  of(id: number, hint: string): Shape {
    const resolved = this.#named(id);
    const known = this.#byId.get(resolved);
    if (known !== undefined) return known;
    if (this.#open.has(resolved) || this.#open.size > MAX_NESTING) {
      throw new LoaderError(
        'MALFORMED_BTF',
        `The BTF type "${this.#btf.get(resolved).name}" (${resolved}) contains itself or is nested deeper than ${MAX_NESTING} levels.`,
      );
    }
    this.#open.add(resolved);
    const shape = this.#make(resolved, hint);
    this.#open.delete(resolved);
    this.#byId.set(resolved, shape);
    return shape;
  }

  #make(id: number, hint: string): Shape {
    const type = this.#btf.get(id);
    switch (type.kind) {
      case 'int':
        return this.#int(type);
      case 'float':
        if (type.size === 4 || type.size === 8) return scalar(type.size === 4 ? 'f32' : 'f64', type.size);
        return { kind: 'bytes', length: type.size, bytes: type.size };
      case 'ptr':
        return scalar('pointer', 8);
      case 'enum':
        return this.#enum(id, type, hint);
      case 'array': {
        const element = this.#btf.get(this.#btf.resolve(type.type));
        if (element.kind === 'int' && element.name === 'char' && element.size === 1) {
          return { kind: 'text', length: type.length, bytes: type.length };
        }
        return { kind: 'array', element: this.of(type.type, hint), length: type.length, bytes: this.#btf.sizeOf(id) };
      }
      case 'struct':
      case 'union':
        return this.#record(id, type, hint);
      default:
        throw new LoaderError(
          'MALFORMED_BTF',
          `The BTF type "${type.name}" (${id}) of kind "${type.kind}" stands where a value is needed.`,
        );
    }
  }

  #int(type: BtfType & { kind: 'int' }): Shape {
    if (type.bool && type.size === 1) return scalar('bool', 1);
    if (![1, 2, 4, 8, 16].includes(type.size)) return { kind: 'bytes', length: type.size, bytes: type.size };
    return scalar(`${type.signed ? 's' : 'u'}${type.size * 8}` as Scalar, type.size);
  }

  #enum(id: number, type: BtfType & { kind: 'enum' }, hint: string): Shape {
    if (![1, 2, 4, 8].includes(type.size)) {
      throw new LoaderError('MALFORMED_BTF', `The enum "${type.name}" has ${type.size} bytes.`);
    }
    const codec = `${type.signed ? 's' : 'u'}${type.size * 8}` as Scalar;
    // Declared and never defined: only its size is known.
    if (type.values.length === 0) return scalar(codec, type.size);
    const shape: EnumShape = { id, name: this.#nameOf(id, type.name, hint), codec };
    this.enums.push(shape);
    return { ...scalar(codec, type.size), enum: shape };
  }

  #nameOf(id: number, name: string, hint: string): string {
    return this.#reserved.get(id) ?? this.#names.claim(pascal(name || this.#wanted.get(id) || hint));
  }

  #record(id: number, type: Composite, hint: string): RecordShape {
    const name = this.#nameOf(id, type.name, hint);
    const fields: Field[] = [];
    const tails: { name: string; offset: number; type: number }[] = [];
    const members = new Names();
    this.#flatten(type, 0, type.kind === 'union', type.size, 0, ({ member, bitOffset, overlaid }) => {
      const bytes = this.#btf.sizeOf(member.type);
      const offset = Math.floor(bitOffset / 8);
      if (bytes === 0) {
        if (this.#btf.get(this.#btf.resolve(member.type)).kind === 'array')
          tails.push({ name: member.name, offset, type: member.type });
        return;
      }
      const bits = bitfieldOf(this.#btf, member, bitOffset, bytes);
      const end = bits === undefined ? offset + bytes : Math.ceil((bits.offset * 8 + bits.shift + bits.count) / 8);
      if (end > type.size || (bits === undefined && bitOffset % 8 !== 0)) {
        throw new LoaderError(
          'MALFORMED_BTF',
          `The member "${member.name}" of "${type.name}" (${id}) does not lie within its ${type.size} bytes.`,
        );
      }
      fields.push({
        name: members.claim(memberName(member.name)),
        cName: member.name,
        type: member.type,
        shape: this.of(member.type, `${name}_${identifier(member.name)}`),
        offset: bits?.offset ?? offset,
        bits: bits && { shift: bits.shift, count: bits.count },
        overlaid,
      });
    });
    const shape: RecordShape = {
      kind: 'record',
      id,
      name,
      union: type.kind === 'union',
      bytes: type.size,
      fields,
      tails,
    };
    this.records.push(shape);
    return shape;
  }

  /** Visits the members as C names them: those of anonymous structs and unions are the outer one's. */
  #flatten(
    type: Composite,
    base: number,
    overlaid: boolean,
    outerBytes: number,
    depth: number,
    visit: (found: { member: BtfMember; bitOffset: number; overlaid: boolean }) => void,
  ): void {
    if (depth > MAX_NESTING)
      throw new LoaderError(
        'MALFORMED_BTF',
        `The BTF type "${type.name}" is nested deeper than ${MAX_NESTING} levels.`,
      );
    for (const member of type.members) {
      if (++this.#fields > MAX_FIELDS)
        throw new LoaderError('MALFORMED_BTF', `The object's types have more than ${MAX_FIELDS} members.`);
      const bitOffset = base + member.bitOffset;
      if (member.name !== '') {
        visit({ member, bitOffset, overlaid });
        continue;
      }
      const inner = this.#btf.get(this.#btf.resolve(member.type));
      if (inner.kind === 'struct' || inner.kind === 'union') {
        if (bitOffset / 8 + inner.size > outerBytes) {
          throw new LoaderError(
            'MALFORMED_BTF',
            `An anonymous member of "${type.name}" does not lie within its ${outerBytes} bytes.`,
          );
        }
        this.#flatten(inner, bitOffset, overlaid || inner.kind === 'union', outerBytes, depth + 1, visit);
      }
      // Anything else without a name is padding.
    }
  }
}

function scalar(codec: Scalar, bytes: number): Shape & { kind: 'scalar' } {
  return { kind: 'scalar', codec, enum: undefined, bytes };
}

/** Where a bitfield lies; undefined for a member that is whole bytes of its type's own size. */
function bitfieldOf(
  btf: Btf,
  member: BtfMember,
  bitOffset: number,
  bytes: number,
): { offset: number; shift: number; count: number } | undefined {
  let count = member.bits;
  let first = bitOffset;
  const type = btf.get(btf.resolve(member.type));
  if (count === 0 && type.kind === 'int' && (type.bits !== type.size * 8 || type.bitOffset !== 0) && !type.bool) {
    // Before Linux 4.20 the type of a bitfield, not the member, carried its width.
    count = type.bits;
    first += type.bitOffset;
  }
  if (count === 0 || (count === bytes * 8 && first % 8 === 0)) return undefined;
  if ((type.kind !== 'int' && type.kind !== 'enum') || count > bytes * 8 || bytes > 8) {
    throw new LoaderError(
      'MALFORMED_BTF',
      `The bitfield "${member.name}" has ${count} bits of a ${type.kind} of ${bytes} bytes.`,
    );
  }
  return { offset: Math.floor(first / 8), shift: first % 8, count };
}

/** The type of a shape's values in TypeScript. */
export function typeOf(shape: Shape): string {
  switch (shape.kind) {
    case 'scalar':
      return shape.enum?.name ?? SCALAR_TYPES[shape.codec];
    case 'text':
      return 'string';
    case 'bytes':
      return 'Uint8Array';
    case 'record':
      return shape.name;
    case 'array':
      return typedArrayOf(shape.element) ?? `${typeOf(shape.element)}[]`;
  }
}

const SCALAR_TYPES: Record<Scalar, string> = {
  u8: 'number',
  s8: 'number',
  u16: 'number',
  s16: 'number',
  u32: 'number',
  s32: 'number',
  u64: 'bigint',
  s64: 'bigint',
  u128: 'bigint',
  s128: 'bigint',
  f32: 'number',
  f64: 'number',
  bool: 'boolean',
  pointer: 'bigint',
};

const TYPED_ARRAYS: Partial<Record<Scalar, string>> = {
  u8: 'Uint8Array',
  s8: 'Int8Array',
  u16: 'Uint16Array',
  s16: 'Int16Array',
  u32: 'Uint32Array',
  s32: 'Int32Array',
  u64: 'BigUint64Array',
  s64: 'BigInt64Array',
  f32: 'Float32Array',
  f64: 'Float64Array',
  pointer: 'BigUint64Array',
};

/** Arrays of plain numbers are typed arrays. */
export function typedArrayOf(element: Shape): string | undefined {
  return element.kind === 'scalar' && element.enum === undefined ? TYPED_ARRAYS[element.codec] : undefined;
}
