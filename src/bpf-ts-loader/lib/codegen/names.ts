/**
 * Names a generated module must not declare: JavaScript's own, and what it imports. Fixed here
 * rather than asked of the running Node, so that output is the same everywhere.
 */
const RESERVED = [
  ...'Array ArrayBuffer BigInt BigInt64Array BigUint64Array Boolean Buffer DataView Date Error Function'.split(' '),
  ...'Float32Array Float64Array Int16Array Int32Array Int8Array Intl Iterator JSON Map Math Number Object'.split(' '),
  ...'Partial Promise Proxy Readonly Record Reflect RegExp Set SharedArrayBuffer String Symbol Uint16Array'.split(' '),
  ...'Uint32Array Uint8Array WeakMap WeakRef WeakSet Infinity NaN undefined globalThis arguments eval'.split(' '),
  ...'break case catch class const continue debugger default delete do else enum export extends false'.split(' '),
  ...'finally for function if import in instanceof new null return super switch this throw true try typeof'.split(' '),
  ...'var void while with implements interface let package private protected public static yield await'.split(' '),
  ...'any bigint boolean never number object string symbol unknown async of type'.split(' '),
];

/** Hands out each name once: the first asker gets it, later ones `name_2`, `name_3`, ... */
export class Names {
  readonly #taken: Set<string>;
  readonly #next = new Map<string, number>();

  constructor(reserved: Iterable<string> = []) {
    this.#taken = new Set(reserved);
  }

  /** A module's top level: what JavaScript and the runtime use is taken. */
  static ofModule(imported: Iterable<string>): Names {
    return new Names([...RESERVED, ...imported]);
  }

  claim(wanted: string): string {
    let name = wanted;
    let n = this.#next.get(wanted) ?? 2;
    for (; this.#taken.has(name); n++) name = `${wanted}_${n}`;
    this.#next.set(wanted, n);
    this.#taken.add(name);
    return name;
  }
}

/** A C name as a TypeScript identifier; C names nearly always are (Rust's, for one, are not). */
export function identifier(name: string): string {
  const clean = name.replace(/[^A-Za-z0-9_$]/g, '_');
  return /^[0-9]/.test(clean) || clean === '' ? `_${clean}` : clean;
}

/** `flow_key` -> `FlowKey`; leading underscores stay, as does one between two digits. */
export function pascal(name: string): string {
  const clean = identifier(name);
  const lead = /^_*/.exec(clean)?.[0] ?? '';
  const body = clean
    .slice(lead.length)
    .split(/_+/)
    .map((word) => word.charAt(0).toUpperCase() + word.slice(1))
    .reduce((text, word) => (/[0-9]$/.test(text) && /^[0-9]/.test(word) ? `${text}_${word}` : text + word), '');
  return lead + (/^[0-9]/.test(body) && lead === '' ? `_${body}` : body || '_');
}

/** Member names that mean something else to JavaScript. */
const UNSAFE_MEMBERS = new Set(['__proto__', 'constructor', 'prototype']);

/** A member's name: the C name, unless JavaScript gives it another meaning. */
export function memberName(name: string): string {
  return UNSAFE_MEMBERS.has(name) ? `${name}_` : name;
}

/** How a member is written in an object literal or a declaration. */
export function propertyKey(name: string): string {
  return /^[A-Za-z_$][A-Za-z0-9_$]*$/.test(name) ? name : quote(name);
}

/** How a member is read: `value.name` or `value["na.me"]`. */
export function access(object: string, name: string): string {
  return /^[A-Za-z_$][A-Za-z0-9_$]*$/.test(name) ? `${object}.${name}` : `${object}[${quote(name)}]`;
}

/** A string literal. */
export function quote(text: string): string {
  return `'${JSON.stringify(text).slice(1, -1).replaceAll('\\"', '"').replaceAll("'", "\\'").replaceAll('\u2028', '\\u2028').replaceAll('\u2029', '\\u2029')}'`;
}

/** Text safe inside a block comment, on one line. */
export function commentText(text: string): string {
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]/g, ' ').replaceAll('*/', '* /');
}
