/** The troubleshooting page has an entry for every code that the product uses, and for nothing else. */
import { readdirSync, readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { explanation, troubleshooting } from '../../src/cli/explain.js';

const root = fileURLToPath(new URL('../../../', import.meta.url));
const entries = troubleshooting(readFileSync(join(root, 'src/cli/TROUBLESHOOTING.md'), 'utf8'));

/** Everywhere a code is born: an error's class or call, a list of codes, an event, a refusal. */
const births = [
  /\bcode(?::|\s*=|\s*\?\?=)\s*'([A-Z][A-Z_]+)'/g,
  /new \w*Error\(\s*(?:[\w .]+ \? [\w.]+ : )?'([A-Z][A-Z_]+)'/g,
  /\brefused\('([A-Z][A-Z_]+)'/g,
  /(?:#note|#say|\bwarn)\(.*?'([A-Z][A-Z_]+)'/g,
  /#onBroken\('([A-Z][A-Z_]+)'/g,
];
/** `type SomethingCode = 'A' | 'B'`, `const SOMETHING_CODES = ['A', 'B']`, `readonly code: 'A' | 'B'`. */
const lists = [/type \w+Code\s*=([^;]+);/g, /\w+_CODES = \[([^\]]+)\]/g, /readonly code: ('[^;]+);/g];

function sources(folder: string): string[] {
  return readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => /\.(ts|tsx|mjs)$/.test(name) && !/\.skel\.ts$|\.d\.ts$|(^|\/)(dist|build|node_modules)\//.test(name))
    .map((name) => join(folder, name));
}

function usedCodes(): Map<string, string> {
  const codes = new Map<string, string>();
  for (const path of ['src', 'addon', 'vm-images'].flatMap(sources)) {
    const text = readFileSync(join(root, path), 'utf8');
    for (const birth of births) for (const [, code] of text.matchAll(birth)) codes.set(code!, path);
    for (const list of lists) for (const [, members] of text.matchAll(list)) for (const [, code] of members!.matchAll(/'([A-Z][A-Z_]+)'/g)) codes.set(code!, path);
  }
  return codes;
}

test('every code has an entry', () => {
  const codes = usedCodes();
  assert.ok(codes.size > 70, `only ${codes.size} codes were found: has the way they are written changed?`);
  const missing = [...codes].filter(([code]) => !entries.has(code)).map(([code, path]) => `${code} (${path})`);
  assert.equal(missing, [], 'add them to src/cli/TROUBLESHOOTING.md: what it means, and what to do');
});

test('no entry is about a code that is no more', () => {
  const codes = usedCodes();
  const isOfTheSystem = (code: string): boolean => code in constants.errno || code === 'ENOTSUPP' || code === 'ERR_DLOPEN_FAILED';
  assert.equal([...entries.keys()].filter((code) => !codes.has(code) && !isOfTheSystem(code)), []);
});

test('every entry says something', () => {
  for (const [code, text] of entries) assert.ok(text.length > 20 && /[.`]$/.test(text), `${code}: ${text}`);
});

test('what the operating system says is explained, be it usual or not', () => {
  assert.match(explanation(entries, 'einval')!, /verifier/);
  assert.match(explanation(entries, 'EXDEV')!, /cross-device link/);
  assert.match(explanation(entries, 'LIBBPF_ERRNO__RELOC')!, /libbpf/);
  for (const code of Object.keys(constants.errno)) assert.type(explanation(entries, code), 'string', code);
  assert.is(explanation(entries, 'ENOTHING'), undefined);
});

test.run();
