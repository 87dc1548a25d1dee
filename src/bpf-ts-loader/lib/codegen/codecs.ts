import { Names } from './names.js';
import { type EnumShape, type Scalar, type Shape, typedArrayOf } from './shapes.js';

/** DataView's name for each scalar it knows. */
const DATAVIEW: Partial<Record<Scalar, string>> = {
  u8: 'Uint8',
  s8: 'Int8',
  u16: 'Uint16',
  s16: 'Int16',
  u32: 'Uint32',
  s32: 'Int32',
  u64: 'BigUint64',
  s64: 'BigInt64',
  f32: 'Float32',
  f64: 'Float64',
  pointer: 'BigUint64',
};

/** Whether values are bigint: integers of 64 bits and more, and pointers. */
export function isBig(codec: Scalar): boolean {
  return /^[us](64|128)$|^pointer$/.test(codec);
}

/**
 * The module's codecs that are no records (arrays, text, enums): one constant each, declared
 * before its first use. `imports` collects what the module needs from the runtime.
 */
export class Codecs {
  readonly imports = new Set<string>();
  readonly #names: Names;
  readonly #known = new Map<string, string>();
  readonly #declare: (line: string) => void;

  constructor(names: Names, declare: (line: string) => void) {
    this.#names = names;
    this.#declare = declare;
  }

  /** Notes that the module uses `name` of the runtime. */
  use(name: string): string {
    this.imports.add(name);
    return name;
  }

  /** The expression that names the codec of `shape`. */
  of(shape: Shape): string {
    switch (shape.kind) {
      case 'record':
        return shape.name;
      case 'scalar':
        return shape.enum === undefined ? this.use(shape.codec) : this.#enum(shape.enum);
      case 'text':
        return this.#constant(`text${shape.length}`, () => `${this.use('text')}(${shape.length})`);
      case 'bytes':
        return this.#constant(`u8x${shape.length}`, () => `${this.use('u8s')}(${shape.length})`);
      case 'array': {
        const plain =
          shape.element.kind === 'scalar' && typedArrayOf(shape.element) !== undefined
            ? shape.element.codec
            : undefined;
        if (plain !== undefined) {
          return this.#constant(
            `${plain}x${shape.length}`,
            () => `${this.use(`${plain === 'pointer' ? 'u64' : plain}s`)}(${shape.length})`,
          );
        }
        const element = this.of(shape.element);
        const stem = element.charAt(0).toLowerCase() + element.slice(1);
        return this.#constant(
          `${stem}x${shape.length}`,
          () => `${this.use('array')}(${element}, ${shape.length})`,
          `${element}[${shape.length}]`,
        );
      }
    }
  }

  #enum(shape: EnumShape): string {
    const stem = shape.name.charAt(0).toLowerCase() + shape.name.slice(1);
    return this.#constant(
      `${stem}Codec`,
      () => `${this.use('enumOf')}<${shape.name}>(${this.use(shape.codec)})`,
      `enum ${shape.name}`,
    );
  }

  #constant(wanted: string, value: () => string, key = wanted): string {
    let name = this.#known.get(key);
    if (name === undefined) {
      const expression = value();
      name = this.#names.claim(wanted);
      this.#known.set(key, name);
      this.#declare(`const ${name} = ${expression};`);
    }
    return name;
  }

  /** Expression for the value at byte `at` of `view`; fills `into` where the value is an object. */
  read(shape: Shape, view: string, at: string, into?: string): string {
    if (shape.kind !== 'scalar')
      return `${this.of(shape)}.read(${view}, ${at}${into === undefined || shape.kind === 'text' ? '' : `, ${into}`})`;
    return withEnum(shape.enum, this.#number(shape.codec, view, at));
  }

  #number(codec: Scalar, view: string, at: string): string {
    if (codec === 'bool') return `${view}.getUint8(${at}) !== 0`;
    const method = DATAVIEW[codec];
    if (method === undefined) return `${this.use(codec)}.read(${view}, ${at})`;
    return `${view}.get${method}(${at}${codec === 'u8' || codec === 's8' ? '' : ', true'})`;
  }

  /** Statement that writes `value` at byte `at` of `view`. */
  write(shape: Shape, view: string, at: string, value: string): string {
    if (shape.kind !== 'scalar') return `${this.of(shape)}.write(${view}, ${at}, ${value});`;
    const { codec } = shape;
    if (codec === 'bool') return `${view}.setUint8(${at}, ${value} ? 1 : 0);`;
    const method = DATAVIEW[codec];
    if (method === undefined) return `${this.use(codec)}.write(${view}, ${at}, ${value});`;
    return `${view}.set${method}(${at}, ${value}${codec === 'u8' || codec === 's8' ? '' : ', true'});`;
  }

  /** Expression for a zero of `shape`. */
  zero(shape: Shape, enumValues: (id: number) => readonly bigint[]): string {
    if (shape.kind === 'text') return "''";
    if (shape.kind !== 'scalar') return `${this.of(shape)}.create()`;
    if (shape.codec === 'bool') return 'false';
    const [zero, type] = isBig(shape.codec) ? ['0n', 'bigint'] : ['0', 'number'];
    if (shape.enum === undefined) return zero;
    // Where the enum has no zero, a zeroed field still is one.
    return enumValues(shape.enum.id).includes(0n)
      ? `${zero} as ${shape.enum.name}`
      : `${zero} as ${type} as ${shape.enum.name}`;
  }
}

export function withEnum(shape: EnumShape | undefined, expression: string): string {
  return shape === undefined ? expression : `${expression} as ${shape.name}`;
}
