/** Builds BPF objects byte by byte, sound ones and others: what no compiler would write. */

const encoder = new TextEncoder();

class Strings {
  readonly #parts: Uint8Array[] = [Uint8Array.of(0)];
  #length = 1;

  add(text: string): number {
    if (text === '') return 0;
    const bytes = encoder.encode(`${text}\0`);
    const offset = this.#length;
    this.#parts.push(bytes);
    this.#length += bytes.length;
    return offset;
  }

  bytes(): Uint8Array {
    return concat(this.#parts);
  }
}

export function concat(parts: Uint8Array[]): Uint8Array {
  return new Uint8Array(Buffer.concat(parts));
}

function words(values: number[]): Uint8Array {
  return new Uint8Array(Uint32Array.from(values, (value) => value >>> 0).buffer);
}

export interface Member {
  name: string;
  type: number;
  bitOffset: number;
  bits?: number;
}

/** Types of a `.BTF` section; each method returns the new type's number. */
export class BtfBuilder {
  readonly #strings = new Strings();
  readonly #types: Uint8Array[] = [];

  raw(name: string, kind: number, count: number, sizeOrType: number, rest: number[] = [], flag = false): number {
    this.#types.push(
      words([this.#strings.add(name), (kind << 24) | count | (flag ? 0x80000000 : 0), sizeOrType, ...rest]),
    );
    return this.#types.length;
  }

  int(name: string, size: number, signed = false, bits = size * 8): number {
    return this.raw(name, 1, 0, size, [(signed ? 1 << 24 : 0) | bits]);
  }

  pointer(type: number): number {
    return this.raw('', 2, 0, type);
  }

  array(type: number, length: number): number {
    return this.raw('', 3, 0, 0, [type, type, length]);
  }

  struct(name: string, size: number, members: Member[], union = false): number {
    const bitfields = members.some(({ bits }) => bits !== undefined);
    const rest = members.flatMap((member) => {
      const offset = bitfields ? ((member.bits ?? 0) << 24) | member.bitOffset : member.bitOffset;
      return [this.#strings.add(member.name), member.type, offset];
    });
    return this.raw(name, union ? 5 : 4, members.length, size, rest, bitfields);
  }

  enumeration(name: string, size: number, values: [string, number][]): number {
    return this.raw(
      name,
      6,
      values.length,
      size,
      values.flatMap(([label, value]) => [this.#strings.add(label), value]),
    );
  }

  typedef(name: string, type: number): number {
    return this.raw(name, 8, 0, type);
  }

  variable(name: string, type: number): number {
    return this.raw(name, 14, 0, type, [1]);
  }

  section(name: string, size: number, variables: { type: number; offset: number; size: number }[]): number {
    const rest = variables.flatMap(({ type, offset, size: bytes }) => [type, offset, bytes]);
    return this.raw(name, 15, variables.length, size, rest);
  }

  bytes(): Uint8Array {
    const types = concat(this.#types);
    const strings = this.#strings.bytes();
    const header = words([0x0001eb9f, 24, 0, types.length, types.length, strings.length]);
    return concat([header, types, strings]);
  }
}

export interface SectionSpec {
  name: string;
  bytes: Uint8Array;
  type?: number;
  flags?: number;
}

export interface SymbolSpec {
  name: string;
  /** Name of its section. */
  section: string;
  value?: number;
  info?: number;
}

/** An ELF64 file for BPF with these sections, a symbol table and string tables. */
export function elf(sections: SectionSpec[], symbols: SymbolSpec[] = [], machine = 247): Uint8Array {
  const names = new Strings();
  const symbolNames = new Strings();
  const indexOf = (name: string): number => sections.findIndex((section) => section.name === name) + 1;
  const symbolTable = [new Uint8Array(24)];
  for (const { name, section, value = 0, info = (1 << 4) | 1 } of symbols) {
    const entry = new DataView(new ArrayBuffer(24));
    entry.setUint32(0, symbolNames.add(name), true);
    entry.setUint8(4, info);
    entry.setUint16(6, indexOf(section), true);
    entry.setBigUint64(8, BigInt(value), true);
    symbolTable.push(new Uint8Array(entry.buffer));
  }
  const all = [
    ...sections.map((section) => ({ type: 1, flags: 0, link: 0, ...section })),
    { name: '.symtab', type: 2, flags: 0, link: sections.length + 2, bytes: concat(symbolTable) },
    { name: '.strtab', type: 3, flags: 0, link: 0, bytes: symbolNames.bytes() },
  ];
  const headers = [new Uint8Array(64)];
  const bodies: Uint8Array[] = [];
  let offset = 64;
  const place = (name: number, type: number, flags: number, link: number, bytes: Uint8Array): void => {
    const header = new DataView(new ArrayBuffer(64));
    header.setUint32(0, name, true);
    header.setUint32(4, type, true);
    header.setBigUint64(8, BigInt(flags), true);
    header.setBigUint64(24, BigInt(offset), true);
    header.setBigUint64(32, BigInt(bytes.length), true);
    header.setUint32(40, link, true);
    headers.push(new Uint8Array(header.buffer));
    if (type !== 8) {
      bodies.push(bytes);
      offset += bytes.length;
    }
  };
  for (const { name, type, flags, link, bytes } of all) place(names.add(name), type, flags, link, bytes);
  place(names.add('.shstrtab'), 3, 0, 0, names.bytes());
  const file = new DataView(new ArrayBuffer(64));
  file.setUint32(0, 0x7f454c46);
  file.setUint8(4, 2);
  file.setUint8(5, 1);
  file.setUint8(6, 1);
  file.setUint16(16, 1, true);
  file.setUint16(18, machine, true);
  file.setBigUint64(40, BigInt(offset), true);
  file.setUint16(58, 64, true);
  file.setUint16(60, headers.length, true);
  file.setUint16(62, headers.length - 1, true);
  return concat([new Uint8Array(file.buffer), ...bodies, ...headers]);
}

/** An object with one global variable in `.data`, of the type that `types` returns. */
export function objectWithGlobal(types: (btf: BtfBuilder) => number, name = 'value', bytes = 8): Uint8Array {
  const btf = new BtfBuilder();
  const variable = btf.variable(name, types(btf));
  btf.section('.data', 0, [{ type: variable, offset: 0, size: bytes }]);
  return elf(
    [
      { name: '.data', bytes: new Uint8Array(bytes) },
      { name: '.BTF', bytes: btf.bytes() },
    ],
    [{ name, section: '.data' }],
  );
}
