// The binary format (Documentation/bpf/btf.rst): a header, type records one after the other, and
// strings. Written by compilers and other people's tools, so every offset is checked.
import type { BtfType } from './btf-types.js';

const MAGIC = 0xeb9f;
const HEADER_BYTES = 24;
const RECORD_BYTES = 12;

const kinds = [
  'void',
  'int',
  'ptr',
  'array',
  'struct',
  'union',
  'enum',
  'fwd',
  'typedef',
  'volatile',
  'const',
  'restrict',
  'func',
  'func_proto',
  'var',
  'datasec',
  'float',
  'decl_tag',
  'type_tag',
  'enum64',
] as const;

// Bytes that follow a record: a fixed part and a part per element (`vlen`).
const extras: Record<(typeof kinds)[number], readonly [fixed: number, perElement: number]> = {
  void: [0, 0],
  int: [4, 0],
  ptr: [0, 0],
  array: [12, 0],
  struct: [0, 12],
  union: [0, 12],
  enum: [0, 8],
  fwd: [0, 0],
  typedef: [0, 0],
  volatile: [0, 0],
  const: [0, 0],
  restrict: [0, 0],
  func: [0, 0],
  func_proto: [0, 8],
  var: [4, 0],
  datasec: [0, 12],
  float: [0, 0],
  decl_tag: [4, 0],
  type_tag: [0, 0],
  enum64: [0, 12],
};

const linkages = ['static', 'global', 'extern'] as const;

function malformed(why: string): Error {
  return Object.assign(new Error(`the BTF is malformed: ${why}`), { code: 'ERR_BTF_MALFORMED' });
}

/** The type records and strings of one BTF blob; of a module's, on top of the kernel's (`base`). */
export class BtfData {
  readonly #view: DataView;
  readonly #bytes: Uint8Array;
  readonly #little: boolean;
  /** Where each type's record begins. */
  readonly #offsets: Uint32Array;
  readonly #stringsAt: number;
  readonly #stringBytes: number;
  readonly #strings = new Map<number, string>();
  readonly #types: (BtfType | undefined)[] = [];

  constructor(
    bytes: Uint8Array,
    private readonly base?: BtfData,
  ) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    if (bytes.byteLength < HEADER_BYTES) throw malformed('it is shorter than its header');
    this.#little = this.#view.getUint16(0, true) === MAGIC;
    if (!this.#little && this.#view.getUint16(0, false) !== MAGIC) throw malformed('it lacks the magic number');
    const headerBytes = this.#u32(4);
    const typesAt = headerBytes + this.#u32(8);
    const typesEnd = typesAt + this.#u32(12);
    this.#stringsAt = headerBytes + this.#u32(16);
    this.#stringBytes = this.#u32(20);
    if (typesEnd > bytes.byteLength || this.#stringsAt + this.#stringBytes > bytes.byteLength) {
      throw malformed('its sections lie outside of it');
    }
    const offsets: number[] = [];
    for (let at = typesAt; at < typesEnd; ) {
      if (at + RECORD_BYTES > typesEnd) throw malformed('a type record is cut off');
      offsets.push(at);
      const info = this.#u32(at + 4);
      const kind = kinds[(info >>> 24) & 0x1f];
      if (kind === undefined || kind === 'void') throw malformed(`type ${offsets.length} has an unknown kind`);
      const [fixed, perElement] = extras[kind];
      at += RECORD_BYTES + fixed + perElement * (info & 0xffff);
      if (at > typesEnd) throw malformed('a type record is cut off');
    }
    this.#offsets = Uint32Array.from(offsets);
  }

  get #firstId(): number {
    return this.base?.typeCount ?? 1;
  }

  get #firstString(): number {
    return this.base === undefined ? 0 : this.base.stringEnd;
  }

  get stringEnd(): number {
    return this.#firstString + this.#stringBytes;
  }

  /** One more than the largest id; void (0) counts. */
  get typeCount(): number {
    return this.#firstId + this.#offsets.length;
  }

  #u32(at: number): number {
    return this.#view.getUint32(at, this.#little);
  }

  string(offset: number): string {
    if (this.base !== undefined && offset < this.#firstString) return this.base.string(offset);
    const known = this.#strings.get(offset);
    if (known !== undefined) return known;
    const start = this.#stringsAt + offset - this.#firstString;
    const limit = this.#stringsAt + this.#stringBytes;
    if (start >= limit) throw malformed(`string ${offset} lies outside of the strings`);
    const end = this.#bytes.indexOf(0, start);
    if (end < 0 || end >= limit) throw malformed(`string ${offset} does not end`);
    const text = Buffer.from(this.#bytes.buffer, this.#bytes.byteOffset + start, end - start).toString('utf8');
    this.#strings.set(offset, text);
    return text;
  }

  /** The name of a type, without decoding the rest of it. */
  name(id: number): string {
    if (id < this.#firstId) return id === 0 ? '' : (this.base?.name(id) ?? '');
    const at = this.#offsets[id - this.#firstId];
    return at === undefined ? '' : this.string(this.#u32(at));
  }

  type(id: number): BtfType {
    if (id === 0) return { id: 0, kind: 'void', name: '' };
    if (this.base !== undefined && id < this.#firstId) return this.base.type(id);
    return (this.#types[id - this.#firstId] ??= this.#decode(id));
  }

  #list<T>(at: number, count: number, bytes: number, decode: (at: number) => T): T[] {
    return Array.from({ length: count }, (_, i) => decode(at + i * bytes));
  }

  #decode(id: number): BtfType {
    const at = this.#offsets[id - this.#firstId];
    if (at === undefined) throw malformed(`there is no type ${id}`);
    const info = this.#u32(at + 4);
    const vlen = info & 0xffff;
    const flag = info >>> 31 === 1;
    const kind = kinds[(info >>> 24) & 0x1f] ?? 'void';
    const name = this.string(this.#u32(at));
    const word = this.#u32(at + 8); // a size or a type, depending on the kind
    const extra = at + RECORD_BYTES;
    switch (kind) {
      case 'void':
        return { id, kind, name };
      case 'int': {
        const encoding = this.#u32(extra);
        const traits = (encoding >>> 24) & 0xf;
        return {
          id,
          kind,
          name,
          size: word,
          bits: encoding & 0xff,
          bitOffset: (encoding >>> 16) & 0xff,
          signed: (traits & 1) !== 0,
          char: (traits & 2) !== 0,
          bool: (traits & 4) !== 0,
        };
      }
      case 'float':
        return { id, kind, name, size: word };
      case 'array':
        return {
          id,
          kind,
          name,
          elementType: this.#u32(extra),
          indexType: this.#u32(extra + 4),
          length: this.#u32(extra + 8),
        };
      case 'struct':
      case 'union': {
        const members = this.#list(extra, vlen, 12, (m) => {
          const offset = this.#u32(m + 8);
          return {
            name: this.string(this.#u32(m)),
            type: this.#u32(m + 4),
            bitOffset: flag ? offset & 0xffffff : offset,
            bitSize: flag ? offset >>> 24 : 0,
          };
        });
        return { id, kind, name, size: word, members };
      }
      case 'enum': {
        const values = this.#list(extra, vlen, 8, (v) => ({
          name: this.string(this.#u32(v)),
          value: BigInt(flag ? this.#view.getInt32(v + 4, this.#little) : this.#u32(v + 4)),
        }));
        return { id, kind, name, size: word, signed: flag, values };
      }
      case 'enum64': {
        const values = this.#list(extra, vlen, 12, (v) => {
          const bits = (BigInt(this.#u32(v + 8)) << 32n) | BigInt(this.#u32(v + 4));
          return { name: this.string(this.#u32(v)), value: flag ? BigInt.asIntN(64, bits) : bits };
        });
        return { id, kind, name, size: word, signed: flag, values };
      }
      case 'fwd':
        return { id, kind, name, of: flag ? 'union' : 'struct' };
      case 'ptr':
      case 'typedef':
      case 'volatile':
      case 'const':
      case 'restrict':
      case 'type_tag':
        return { id, kind, name, type: word };
      case 'func':
        return { id, kind, name, type: word, linkage: linkages[vlen] ?? 'global' };
      case 'func_proto': {
        const parameters = this.#list(extra, vlen, 8, (p) => ({
          name: this.string(this.#u32(p)),
          type: this.#u32(p + 4),
        }));
        return { id, kind, name, returnType: word, parameters };
      }
      case 'var':
        return { id, kind, name, type: word, linkage: linkages[this.#u32(extra)] ?? 'global' };
      case 'datasec': {
        const variables = this.#list(extra, vlen, 12, (v) => ({
          type: this.#u32(v),
          offset: this.#u32(v + 4),
          size: this.#u32(v + 8),
        }));
        return { id, kind, name, size: word, variables };
      }
      case 'decl_tag':
        return { id, kind, name, type: word, component: this.#view.getInt32(extra, this.#little) };
    }
  }
}
