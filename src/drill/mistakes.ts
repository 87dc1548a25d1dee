/** Explains what a schema refuses: which part of the file it is, what is wrong, and what to write. */

import { z } from 'zod';
import { suggestion } from './suggest.js';

/** Where in the file: the value at `path`, or the key `key` of the map there. */
export interface Mistake {
  path: PropertyKey[];
  key?: string;
  what: string;
  /** A sentence. */
  suggestion: string;
}

type Schema = z.core.$ZodType;
type Issue = z.core.$ZodIssue;

/** All mistakes in `value`, in the order of the schema. */
export function findMistakes(schema: Schema, value: unknown, path: PropertyKey[] = []): Mistake[] {
  const result = z.safeParse(schema, value);
  return result.success ? [] : result.error.issues.flatMap((issue) => explain(schema, value, issue, path));
}

function explain(root: Schema, value: unknown, issue: Issue, base: PropertyKey[]): Mistake[] {
  const path = [...base, ...issue.path];
  const schema = schemaAt(root, value, issue.path);
  const found = valueAt(value, issue.path);
  switch (issue.code) {
    case 'unrecognized_keys':
      return issue.keys.map((key) => ({ path, key, what: `unknown key "${key}"`, suggestion: suggestion(key, keysOf(schema)) }));
    case 'invalid_union':
      return explainUnion(schema as Schema, found, path);
    case 'invalid_value': {
      const values = issue.values.map(String);
      if (found === undefined) return [missing(schema, path)];
      return [{ path, what: `there is no "${String(found)}" here`, suggestion: suggestion(String(found), values) }];
    }
    case 'invalid_type':
      if (found === undefined) return [missing(schema, path)];
      return [{ path, what: `${/^Invalid input/.test(issue.message) ? `must be ${kinds[issue.expected] ?? issue.expected}` : issue.message}, not ${shown(found)}`, suggestion: forExample(schema, path) }];
    case 'too_small':
    case 'too_big': {
      const [edge, bound] = issue.code === 'too_small' ? ['at least', issue.minimum] : ['at most', issue.maximum];
      const unit = issue.origin === 'array' ? ' entries' : issue.origin === 'string' ? ' characters' : '';
      const has = issue.origin === 'array' ? `${(found as unknown[]).length}` : issue.origin === 'string' ? `${(found as string).length}` : shown(found);
      return [{ path, what: `must be ${edge} ${bound}${unit}, not ${has}`, suggestion: forExample(schema, path) }];
    }
    default:
      return [{ path, what: /^Invalid/.test(issue.message) ? `cannot be ${shown(found)}` : `${issue.message}, not ${shown(found)}`, suggestion: forExample(schema, path) }];
  }
}

/** Of several forms, the one that was meant tells what is wrong. */
function explainUnion(schema: Schema, value: unknown, path: PropertyKey[]): Mistake[] {
  const options = optionsOf(schema);
  const words = options.flatMap((option) => (isEnum(option) ? Object.values(option._zod.def.entries).map(String) : []));
  const keys = options.flatMap(keysOf);
  const choice = `There are: ${[...words, ...keys].join(', ')}.`;
  const exampleOf = (key: string): string => {
    const [example] = examplesOf(options.map((option) => shapeOf(option)?.[key]).find((found) => found !== undefined));
    return `Write for example: ${key}: ${String(example)}`;
  };
  if (value === null) return [{ path, what: 'nothing stands here', suggestion: choice }];
  if (typeof value === 'string' && keys.includes(value)) return [{ path, what: `"${value}" needs more`, suggestion: exampleOf(value) }];
  if (typeof value === 'string' && words.length > 0) {
    return [{ path, what: `there is no "${value}"`, suggestion: suggestion(value, [...words, ...keys]) }];
  }
  if (!isMap(value) && words.length > 0) {
    const [first] = [value].flat();
    return [{ path, what: `cannot be ${shown(value)}`, suggestion: typeof first === 'string' && keys.includes(first) ? exampleOf(first) : choice }];
  }
  if (isMap(value)) {
    const names = Object.keys(value);
    const known = names.filter((name) => keys.includes(name));
    const plain = names.find((name) => words.includes(name));
    if (known.length === 0 && plain !== undefined) {
      return [{ path, key: plain, what: `"${plain}" needs nothing more`, suggestion: `Write only: ${plain}` }];
    }
    if (known.length === 0 && names.length > 0) {
      return names.map((name) => ({ path, key: name, what: `unknown key "${name}"`, suggestion: suggestion(name, [...keys, ...words]) }));
    }
    const wordy = options.every((option) => keysOf(option).length === 1 || isEnum(option));
    if (wordy && known.length > 1) {
      return [{ path, key: known[1]!, what: `"${known[1]}" does not belong to "${known[0]}"`, suggestion: `Begin an entry of its own with "- ${known[1]}:".` }];
    }
    const meant = meantOption(options, value);
    const mistakes = meant ? findMistakes(meant, value, path) : [];
    if (mistakes.length > 0) return mistakes;
  }
  const scalar = isMap(value) ? undefined : options.find((option) => !shapeOf(option));
  const mistakes = scalar ? findMistakes(scalar, value, path) : [];
  return mistakes.length > 0 ? mistakes : [{ path, what: `cannot be ${shown(value)}`, suggestion: forExample(schema, path) }];
}

function missing(schema: Schema | undefined, path: PropertyKey[]): Mistake {
  const name = String(path.at(-1));
  const [example] = examplesOf(schema);
  return { path: path.slice(0, -1), what: `"${name}" is missing`, suggestion: `Add for example: ${name}: ${String(example)}` };
}

function forExample(schema: Schema | undefined, path: PropertyKey[]): string {
  const [example] = examplesOf(schema);
  const name = path.filter((part) => typeof part === 'string').at(-1);
  if (example === undefined) return `See "colopp drill schema" for what can be here.`;
  return `Write for example: ${typeof path.at(-1) === 'number' ? '- ' : `${String(name)}: `}${String(example)}`;
}

const kinds: Record<string, string> = {
  string: 'text', number: 'a number', int: 'a whole number', boolean: 'true or false', object: 'a map', array: 'a list',
};

function shown(value: unknown): string {
  if (value === null) return 'empty';
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

// ---- looking into a schema -----------------------------------------------------

const isMap = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null && !Array.isArray(value);
const isEnum = (schema: Schema): schema is z.core.$ZodEnum => schema._zod.def.type === 'enum';

/** As far as it is looked into here. */
interface Def {
  type: string;
  innerType?: Schema;
  in?: Schema;
  element?: Schema;
  shape?: Record<string, Schema>;
  options?: Schema[];
  entries?: Record<string, string>;
}
const defOf = (schema: Schema): Def => schema._zod.def as unknown as Def;

/** What is wrapped in it, or undefined. */
function inside(schema: Schema): Schema | undefined {
  const def = defOf(schema);
  return def.type === 'pipe' ? def.in : def.innerType;
}

/** Without what is wrapped around it. */
function bare(schema: Schema): Schema {
  const inner = inside(schema);
  return inner ? bare(inner) : schema;
}

function shapeOf(schema: Schema | undefined): Record<string, Schema> | undefined {
  return schema && defOf(bare(schema)).shape;
}

function optionsOf(schema: Schema): Schema[] {
  return (defOf(bare(schema)).options ?? []).map(bare);
}

function keysOf(schema: Schema | undefined): string[] {
  if (!schema) return [];
  const shape = shapeOf(schema);
  return shape ? Object.keys(shape) : optionsOf(schema).flatMap(keysOf);
}

/** Of several maps, the one that knows most keys of `value`. */
function meantOption(options: readonly Schema[], value: Record<string, unknown>): Schema | undefined {
  const knows = (option: Schema): number => keysOf(option).filter((key) => key in value).length;
  return options.filter((option) => shapeOf(option)).sort((one, other) => knows(other) - knows(one))[0];
}

function schemaAt(schema: Schema, value: unknown, path: readonly PropertyKey[]): Schema | undefined {
  const [head, ...rest] = path;
  if (head === undefined) return schema;
  const options = optionsOf(schema);
  const shape = shapeOf(options.length > 0 && isMap(value) ? meantOption(options, value) : schema);
  const next = defOf(bare(schema)).element ?? shape?.[String(head)];
  return next && schemaAt(next, valueAt(value, [head]), rest);
}

function valueAt(value: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce<unknown>((inner, part) => (inner as Record<PropertyKey, unknown> | undefined)?.[part], value);
}

/** What may stand there, as its author wrote it. */
function examplesOf(schema: Schema | undefined): unknown[] {
  for (let at = schema; at; at = inside(at)) {
    const examples = (z.globalRegistry.get(at) as { examples?: unknown[] } | undefined)?.examples;
    if (examples) return examples;
  }
  const { type, entries } = schema ? defOf(bare(schema)) : { type: '', entries: undefined };
  return type === 'enum' ? Object.values(entries!) : type === 'number' ? [1] : type === 'boolean' ? [true] : [];
}
