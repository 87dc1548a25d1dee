import { readFileSync } from 'node:fs';
import { release } from 'node:os';
import { gunzipSync } from 'node:zlib';
import { outOfRange, text } from './check.js';

const CONFIG_MAX_BYTES = 4 << 20;

let parsed: ReadonlyMap<string, string> | undefined;

function parse(config: string): Map<string, string> {
  const options = new Map<string, string>();
  for (const line of config.split('\n')) {
    const set = /^(CONFIG_\w+)=(.*)$/.exec(line);
    if (set !== null) options.set(set[1] ?? '', (set[2] ?? '').replace(/^"(.*)"$/, '$1'));
  }
  return options;
}

function read(): ReadonlyMap<string, string> | undefined {
  const sources: (() => string)[] = [
    () => gunzipSync(readFileSync('/proc/config.gz'), { maxOutputLength: CONFIG_MAX_BYTES }).toString('utf8'),
    () => readFileSync(`/boot/config-${release()}`, 'utf8'),
  ];
  for (const source of sources) {
    try {
      return parse(source());
    } catch {
      // Not there, or not readable by us: the next one may be.
    }
  }
  return undefined;
}

/** The value of an option of the running kernel's configuration, `n` when off; undefined when it cannot be read. */
export function kernelConfigValue(name: string): string | undefined {
  if (!/^CONFIG_\w+$/.test(text(name, 'option'))) throw outOfRange('option', 'a name like CONFIG_BPF', name);
  parsed ??= read();
  if (parsed === undefined) return undefined;
  return parsed.get(name) ?? 'n';
}
