import { readFileSync } from 'node:fs';

import { moduleSource } from './codegen/module.js';
import { identifier } from './codegen/names.js';
import { parseObject } from './object.js';

export interface GenerateOptions {
  /** File name of the object: names the skeleton unless `name` does. */
  readonly file: string;
  /** Name of the skeleton: `gate` gives `openGate()`, `GateSpecs`, `GateObjects`. */
  readonly name?: string;
  /** File the banner names as the source; default: the object's own name. */
  readonly source?: string;
  /** Further BTF types to give codecs to, by their C names. */
  readonly types?: readonly string[];
}

/** Version of this package: part of every banner, and of what makes a build stale. */
export const VERSION = (
  JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as { version: string }
).version;

/** Name of the object in `file`: its base name without `.bpf.o` or `.o`. */
export function objectName(file: string): string {
  const base = file.slice(file.lastIndexOf('/') + 1);
  return identifier(base.replace(/(\.bpf)?\.o$/, ''));
}

/**
 * Generates the typed skeleton of a compiled BPF object.
 *
 * The result depends on nothing but the object's bytes and the options. Throws `LoaderError` for
 * what is no BPF object, is damaged, or is something libbpf would refuse.
 */
export function generate(object: Uint8Array, options: GenerateOptions): string {
  const base = options.file.slice(options.file.lastIndexOf('/') + 1);
  return moduleSource(parseObject(object), object, {
    name: options.name ?? objectName(options.file),
    source: options.source ?? base,
    version: VERSION,
    types: options.types ?? [],
  });
}
