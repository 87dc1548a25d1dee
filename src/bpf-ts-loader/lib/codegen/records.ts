import type { Btf, BtfType } from '../btf.js';
import { type Codecs, isBig, withEnum } from './codecs.js';
import { cDeclaration } from './ctype.js';
import { access, commentText, memberName, propertyKey } from './names.js';
import { type EnumShape, type Field, type RecordShape, type Shape, typedArrayOf, typeOf } from './shapes.js';

/** Longer arrays of bytes are left to their codec, which copies them as a block. */
const MAX_INLINE_BYTES = 64;

type Range = { start: number; end: number };

/** An enum as a constant object and the union of its values. */
export function enumSource(btf: Btf, shape: EnumShape): string[] {
  const type = btf.get(shape.id) as BtfType & { kind: 'enum' };
  const suffix = type.size === 8 ? 'n' : '';
  return [
    `/** ${commentText(cDeclaration(btf, shape.id))}: ${plural(type.size, 'byte')}, ${type.signed ? 'signed' : 'unsigned'}. */`,
    `export const ${shape.name} = {`,
    ...type.values.map(({ name, value }) => `  ${propertyKey(memberName(name))}: ${value}${suffix},`),
    '} as const;',
    `export type ${shape.name} = (typeof ${shape.name})[keyof typeof ${shape.name}];`,
    '',
  ];
}

/**
 * A struct or union: its type and its codec under one name.
 *
 * A struct is an interface. Where fields share bytes (a union, or a struct with an anonymous one),
 * it is a class that keeps those bytes and reads and writes them as each member: what was set last
 * counts, as in C.
 */
export class RecordWriter {
  readonly #btf: Btf;
  readonly #codecs: Codecs;

  constructor(btf: Btf, codecs: Codecs) {
    this.#btf = btf;
    this.#codecs = codecs;
  }

  source(record: RecordShape): string[] {
    return record.fields.some((field) => field.overlaid) ? this.#class(record) : this.#interface(record);
  }

  #interface(record: RecordShape): string[] {
    const { name, fields } = record;
    const use = this.#codecs.use.bind(this.#codecs);
    const reads = fields.map((field) => this.#readInto(field));
    const writes = [
      ...this.#zeroing(record),
      ...fields.map((field) => this.#write(field, 'view', plus('offset', field.offset), access('value', field.name))),
    ];
    // A struct without members leaves parameters unused, and compilers may complain of those.
    const [view, offset] = reads.length > 0 ? ['view', 'offset'] : ['_view', '_offset'];
    return [
      ...this.#header(record),
      `export interface ${name} {`,
      ...fields.flatMap((field) => [
        `  ${this.#fieldDoc(field)}`,
        `  ${propertyKey(field.name)}: ${typeOf(field.shape)};`,
      ]),
      '}',
      `export const ${name}: ${use('Codec')}<${name}> = {`,
      `  size: ${record.bytes},`,
      '  create(init) {',
      `    const value: ${name} = {`,
      ...fields.map((field) => `      ${propertyKey(field.name)}: ${this.#zero(field.shape)},`),
      '    };',
      '    return init === undefined ? value : Object.assign(value, init);',
      '  },',
      `  read(${view}, ${offset} = 0, into = ${name}.create()) {`,
      ...reads.map((line) => `    ${line}`),
      '    return into;',
      '  },',
      fields.length > 0
        ? '  write(view, offset, value) {'
        : writes.length > 0
          ? '  write(view, offset) {'
          : '  write() {',
      ...writes.map((line) => `    ${line}`),
      '  },',
      '};',
      '',
    ];
  }

  #class(record: RecordShape): string[] {
    const { name, fields } = record;
    const own = fields.filter((field) => !field.overlaid);
    const overlaid = fields.filter((field) => field.overlaid);
    const shared = merge(overlaid.map(rangeOf));
    // Kept at the same alignment as in the record, so that arrays in it can be live views.
    const base = Math.floor((shared[0]?.start ?? 0) / 16) * 16;
    const bytes = (shared.at(-1)?.end ?? 0) - base;
    const copy = this.#codecs.use('copyBytes');
    return [
      ...this.#header(record),
      `export class ${name} {`,
      `  static readonly size = ${record.bytes};`,
      `  static create(init?: Partial<${name}>): ${name} {`,
      `    return Object.assign(new ${name}(), init);`,
      '  }',
      `  static read(view: DataView, offset = 0, into = new ${name}()): ${name} {`,
      ...own.map((field) => `    ${this.#readInto(field)}`),
      ...shared.map(
        ({ start, end }) =>
          `    ${copy}(view, ${plus('offset', start)}, into.#shared, ${start - base}, ${end - start});`,
      ),
      '    return into;',
      '  }',
      `  static write(view: DataView, offset: number, value: ${name}): void {`,
      ...this.#zeroing(record).map((line) => `    ${line}`),
      ...shared.map(
        ({ start, end }) =>
          `    ${copy}(value.#shared, ${start - base}, view, ${plus('offset', start)}, ${end - start});`,
      ),
      ...own.map(
        (field) => `    ${this.#write(field, 'view', plus('offset', field.offset), access('value', field.name))}`,
      ),
      '  }',
      '',
      ...own.flatMap((field) => [
        `  ${this.#fieldDoc(field)}`,
        `  ${propertyKey(field.name)}: ${typeOf(field.shape)} = ${this.#zero(field.shape)};`,
      ]),
      `  readonly #shared = new DataView(new ArrayBuffer(${bytes}));`,
      '',
      ...overlaid.flatMap((field) => this.#accessors(field, base)),
      `  [${this.#codecs.use('inspect')}](): Record<string, unknown> {`,
      `    return ${this.#codecs.use('shown')}(this);`,
      '  }',
      '}',
      '',
    ];
  }

  #accessors(field: Field, base: number): string[] {
    const key = propertyKey(field.name);
    const at = field.offset - base;
    const type = typeOf(field.shape);
    const { value, readonly, note } = this.#shared(field, at);
    return [
      `  ${this.#fieldDoc(field, note)}`,
      `  get ${key}(): ${readonly} {`,
      `    return ${value};`,
      '  }',
      `  set ${key}(value: ${type}) {`,
      ...(field.bits === undefined
        ? []
        : [`    ${this.#codecs.use('clearBits')}(this.#shared, ${at}, ${field.bits.shift}, ${field.bits.count});`]),
      `    ${this.#write(field, 'this.#shared', String(at), 'value')}`,
      '  }',
    ];
  }

  /** How a member of a union is read: arrays of numbers as live views, records as copies. */
  #shared(field: Field, at: number): { value: string; readonly: string; note: string } {
    const { shape } = field;
    const type = typeOf(shape);
    if (field.bits !== undefined)
      return { value: this.#bits(field, 'this.#shared', String(at)), readonly: type, note: '' };
    const view =
      shape.kind === 'bytes' ? 'Uint8Array' : shape.kind === 'array' ? typedArrayOf(shape.element) : undefined;
    const stride = shape.kind === 'array' ? shape.element.bytes : 1;
    if (view !== undefined && at % stride === 0) {
      const length = shape.kind === 'array' || shape.kind === 'bytes' ? shape.length : 0;
      return { value: `new ${view}(this.#shared.buffer, ${at}, ${length})`, readonly: type, note: '' };
    }
    const value = this.#codecs.read(shape, 'this.#shared', String(at));
    if (shape.kind === 'scalar' || shape.kind === 'text') return { value, readonly: type, note: '' };
    const readonly = type.endsWith('[]') ? `readonly ${type}` : `Readonly<${type}>`;
    return {
      value,
      readonly: shape.kind === 'record' && isClass(shape) ? type : readonly,
      note: '; a copy, to change it assign it back',
    };
  }

  #header(record: RecordShape): string[] {
    const tails = record.tails.map(
      ({ name, offset, type }) =>
        ` * From offset ${offset} on follow ${commentText(cDeclaration(this.#btf, type, name))}.`,
    );
    const head = `${commentText(cDeclaration(this.#btf, record.id))}: ${plural(record.bytes, 'byte')}.`;
    return tails.length === 0 ? [`/** ${head} */`] : ['/**', ` * ${head}`, ...tails, ' */'];
  }

  #fieldDoc(field: Field, note = ''): string {
    const { bits } = field;
    const place =
      bits === undefined
        ? `offset ${field.offset}, ${plural(field.shape.bytes, 'byte')}`
        : `offset ${field.offset}, ${bits.count === 1 ? `bit ${bits.shift}` : `bits ${bits.shift}-${bits.shift + bits.count - 1}`}`;
    const width = bits === undefined ? '' : `:${bits.count}`;
    return `/** ${commentText(cDeclaration(this.#btf, field.type, field.cName))}${width}; ${place}${note} */`;
  }

  #zero(shape: Shape): string {
    return this.#codecs.zero(shape, (id) =>
      (this.#btf.get(id) as BtfType & { kind: 'enum' }).values.map(({ value }) => value),
    );
  }

  #readInto(field: Field): string {
    const { shape } = field;
    const target = access('into', field.name);
    const at = plus('offset', field.offset);
    if (field.bits !== undefined) return `${target} = ${this.#bits(field, 'view', at)};`;
    if (shape.kind === 'scalar' || shape.kind === 'text') return `${target} = ${this.#codecs.read(shape, 'view', at)};`;
    const loop = this.#numbersInto(shape, at, target);
    return loop ?? `${this.#codecs.read(shape, 'view', at, target)};`;
  }

  /** Numbers are read in a loop on the spot: a codec for all arrays would be slower for each. */
  #numbersInto(shape: Shape, at: string, target: string): string | undefined {
    if (shape.kind !== 'array' || typedArrayOf(shape.element) === undefined) return undefined;
    if (shape.element.bytes === 1 && shape.length > MAX_INLINE_BYTES) return undefined;
    const stride = shape.element.bytes;
    const value = this.#codecs.read(shape.element, 'view', `${at} + ${stride === 1 ? 'i' : `i * ${stride}`}`);
    return `for (let i = 0; i < ${shape.length}; i++) ${target}[i] = ${value};`;
  }

  /** The value of a bitfield. */
  #bits(field: Field, view: string, at: string): string {
    const { shape, bits } = field;
    if (shape.kind !== 'scalar' || bits === undefined) throw new TypeError('not a bitfield');
    const { shift, count } = bits;
    const signed = shape.codec.startsWith('s');
    const window = Math.ceil((shift + count) / 8);
    let value: string;
    if (isBig(shape.codec)) {
      value = `${this.#codecs.use(signed ? 'signedBigBits' : 'bigBits')}(${view}, ${at}, ${shift}, ${count})`;
    } else if (window > 2) {
      value = `${this.#codecs.use(signed ? 'signedBits' : 'bits')}(${view}, ${at}, ${shift}, ${count})`;
    } else {
      const word = window === 1 ? `${view}.getUint8(${at})` : `${view}.getUint16(${at}, true)`;
      if (signed) value = `(${word} << ${32 - shift - count}) >> ${32 - count}`;
      else value = `${shift === 0 ? word : `(${word} >> ${shift})`} & ${hex(2 ** count - 1)}`;
    }
    if (shape.codec === 'bool') return `(${value}) !== 0`;
    return shape.enum === undefined ? value : withEnum(shape.enum, `(${value})`);
  }

  /** Statement that writes a field; of a bitfield, into bits that are zero. */
  #write(field: Field, view: string, at: string, value: string): string {
    const { shape, bits } = field;
    if (bits === undefined) return this.#codecs.write(shape, view, at, value);
    if (shape.kind !== 'scalar') throw new TypeError('not a bitfield');
    const { shift, count } = bits;
    const window = Math.ceil((shift + count) / 8);
    if (isBig(shape.codec)) return `${this.#codecs.use('putBigBits')}(${view}, ${at}, ${shift}, ${count}, ${value});`;
    if (window > 2) return `${this.#codecs.use('putBits')}(${view}, ${at}, ${shift}, ${count}, ${value});`;
    const number = shape.codec === 'bool' ? `(${value} ? 1 : 0)` : `(${value} & ${hex(2 ** count - 1)})`;
    const shifted = shift === 0 ? number : `(${number} << ${shift})`;
    return window === 1
      ? `${view}.setUint8(${at}, ${view}.getUint8(${at}) | ${shifted});`
      : `${view}.setUint16(${at}, ${view}.getUint16(${at}, true) | ${shifted}, true);`;
  }

  /** Zeroes what no field writes whole: padding, and the bytes of bitfields. */
  #zeroing(record: RecordShape): string[] {
    const covered = merge(record.fields.filter((field) => field.bits === undefined || field.overlaid).map(rangeOf));
    const lines: string[] = [];
    let at = 0;
    for (const { start, end } of [...covered, { start: record.bytes, end: record.bytes }]) {
      if (start > at) lines.push(this.#zeroRange(at, start - at));
      at = Math.max(at, end);
    }
    return lines;
  }

  #zeroRange(start: number, bytes: number): string {
    const at = plus('offset', start);
    if (bytes === 1) return `view.setUint8(${at}, 0);`;
    if (bytes === 2) return `view.setUint16(${at}, 0);`;
    if (bytes === 4) return `view.setUint32(${at}, 0);`;
    return `${this.#codecs.use('zeroBytes')}(view, ${at}, ${bytes});`;
  }
}

export function isClass(record: RecordShape): boolean {
  return record.fields.some((field) => field.overlaid);
}

function rangeOf(field: Field): Range {
  const bytes = field.bits === undefined ? field.shape.bytes : Math.ceil((field.bits.shift + field.bits.count) / 8);
  return { start: field.offset, end: field.offset + bytes };
}

function merge(ranges: Range[]): Range[] {
  const merged: Range[] = [];
  for (const range of [...ranges].sort((a, b) => a.start - b.start)) {
    const last = merged.at(-1);
    if (last !== undefined && range.start <= last.end) last.end = Math.max(last.end, range.end);
    else merged.push({ ...range });
  }
  return merged;
}

function plus(base: string, offset: number): string {
  return offset === 0 ? base : `${base} + ${offset}`;
}

function hex(value: number): string {
  return `0x${value.toString(16)}`;
}

export function plural(count: number, unit: string): string {
  return `${count} ${unit}${count === 1 ? '' : 's'}`;
}
