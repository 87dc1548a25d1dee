/** Damaged and hostile objects: each is a LoaderError or a module, soon, and never anything else. */
import { generate, LoaderError, type LoaderErrorCode } from 'bpf-ts-loader';
import ts from 'typescript';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { BtfBuilder, concat, elf, objectWithGlobal } from './codegen-support.js';

const LIMIT_MS = 2000;

function refused(object: Uint8Array, code: LoaderErrorCode, message: RegExp): void {
  const started = performance.now();
  try {
    generate(object, { file: 'x.bpf.o' });
  } catch (error) {
    assert.instance(error, LoaderError, String((error as Error).stack));
    assert.is((error as LoaderError).code, code, (error as LoaderError).message);
    assert.match((error as LoaderError).message, message);
    assert.ok(performance.now() - started < LIMIT_MS, 'it took too long');
    return;
  }
  assert.unreachable('it was accepted');
}

/** The module of `object`, which must be sound TypeScript. */
function accepted(object: Uint8Array): string {
  const started = performance.now();
  const text = generate(object, { file: 'x.bpf.o' });
  assert.ok(performance.now() - started < LIMIT_MS, 'it took too long');
  const { diagnostics = [] } = ts.transpileModule(text, {
    reportDiagnostics: true,
    compilerOptions: { target: ts.ScriptTarget.ES2023, module: ts.ModuleKind.ESNext },
  });
  assert.equal(
    diagnostics.map(({ messageText }) => messageText),
    [],
  );
  return text;
}

/** A small object that is sound: a global struct, a map, a program. */
function sound(): Uint8Array {
  const btf = new BtfBuilder();
  const u32 = btf.int('unsigned int', 4);
  const point = btf.struct('point', 8, [
    { name: 'x', type: u32, bitOffset: 0 },
    { name: 'y', type: u32, bitOffset: 32 },
  ]);
  const number = (value: number): number => btf.pointer(btf.array(u32, value));
  const definition = btf.struct('', 32, [
    { name: 'type', type: number(1), bitOffset: 0 },
    { name: 'max_entries', type: number(16), bitOffset: 64 },
    { name: 'key', type: btf.pointer(u32), bitOffset: 128 },
    { name: 'value', type: btf.pointer(point), bitOffset: 192 },
  ]);
  const map = btf.variable('points', definition);
  const global = btf.variable('origin', point);
  btf.section('.maps', 32, [{ type: map, offset: 0, size: 32 }]);
  btf.section('.data', 0, [{ type: global, offset: 0, size: 8 }]);
  return elf(
    [
      { name: 'tc', bytes: new Uint8Array(16), flags: 4 },
      { name: '.maps', bytes: new Uint8Array(32) },
      { name: '.data', bytes: new Uint8Array(8) },
      { name: '.BTF', bytes: btf.bytes() },
    ],
    [
      { name: 'run', section: 'tc', info: (1 << 4) | 2 },
      { name: 'points', section: '.maps' },
      { name: 'origin', section: '.data' },
    ],
  );
}

test('the object that is to be damaged is sound', () => {
  const text = accepted(sound());
  assert.match(text, /points: this\.keyed\('points', u32, Point\)/);
  assert.match(text, /run: this\.program\('run'\)/);
  assert.match(text, /origin: this\.variable\('\.data', Point, 0\)/);
});

test('every beginning of an object', () => {
  const object = sound();
  for (let length = 0; length < object.length; length++) {
    assert.throws(
      () => generate(object.subarray(0, length), { file: 'x' }),
      (error: unknown) => error instanceof LoaderError,
      `the first ${length} bytes`,
    );
  }
});

test('bytes changed at random', () => {
  let state = 12345;
  const random = (below: number): number => {
    // mulberry32: the same every run
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * below);
  };
  const object = sound();
  const odd = [0, 1, 0x7f, 0x80, 0xff];
  let refusals = 0;
  for (let round = 0; round < 4000; round++) {
    const damaged = Uint8Array.from(object);
    for (let change = 0; change <= random(6); change++)
      damaged[random(damaged.length)] = random(2) === 0 ? random(256) : (odd[random(odd.length)] as number);
    const started = performance.now();
    try {
      generate(damaged, { file: 'x' });
    } catch (error) {
      assert.instance(error, LoaderError, `round ${round}: ${(error as Error).stack}`);
      refusals++;
    }
    assert.ok(performance.now() - started < LIMIT_MS, `round ${round} took too long`);
  }
  assert.ok(refusals > 500 && refusals < 4000, `${refusals} refusals: the damage reaches what matters, and not always`);
});

test('files that are no BPF objects', () => {
  refused(new Uint8Array(0), 'NOT_AN_OBJECT', /not an ELF object/);
  refused(new TextEncoder().encode('#include "vmlinux.h"\n'), 'NOT_AN_OBJECT', /not an ELF object/);
  refused(elf([], [], 62), 'NOT_AN_OBJECT', /machine 62, not for BPF.*-target bpf/);
  const big = elf([]);
  big[5] = 2;
  refused(big, 'UNSUPPORTED', /little-endian/);
});

test('an object without BTF still has programs', () => {
  const text = accepted(
    elf([{ name: 'xdp', bytes: new Uint8Array(16), flags: 4 }], [{ name: 'pass', section: 'xdp', info: (1 << 4) | 2 }]),
  );
  assert.match(text, /pass: this\.program\('pass'\)/);
  refused(elf([{ name: '.maps', bytes: new Uint8Array(8) }]), 'MALFORMED_BTF', /no BTF: compile with -g/);
});

test('types that contain themselves', () => {
  refused(
    objectWithGlobal((btf) => btf.struct('loop', 8, [{ name: 'again', type: 1, bitOffset: 0 }])),
    'MALFORMED_BTF',
    /"loop".*contains itself/,
  );
  refused(
    objectWithGlobal((btf) => btf.typedef('t', 1)),
    'MALFORMED_BTF',
    /chain/,
  );
  refused(
    objectWithGlobal((btf) => btf.array(1, 2)),
    'MALFORMED_BTF',
    /nested deeper/,
  );
  refused(
    objectWithGlobal((btf) => btf.struct('', 8, [{ name: '', type: 1, bitOffset: 0 }])),
    'MALFORMED_BTF',
    /nested deeper/,
  );
});

test('types nested without end, and types that multiply', () => {
  refused(
    objectWithGlobal((btf) => {
      let id = btf.int('int', 4, true);
      for (let depth = 0; depth < 5000; depth++)
        id = btf.struct(`s${depth}`, 4, [{ name: 'inner', type: id, bitOffset: 0 }]);
      return id;
    }),
    'MALFORMED_BTF',
    /nested deeper than 64/,
  );
  refused(
    objectWithGlobal((btf) => {
      let id = btf.int('int', 4, true);
      for (let depth = 0; depth < 60; depth++) {
        id = btf.struct(
          '',
          4,
          [
            { name: depth === 0 ? 'a' : '', type: id, bitOffset: 0 },
            { name: depth === 0 ? 'b' : '', type: id, bitOffset: 0 },
          ],
          true,
        );
      }
      return id;
    }),
    'MALFORMED_BTF',
    /more than 500000 members/,
  );
  refused(
    objectWithGlobal((btf) => {
      let id = btf.int('int', 4, true);
      for (let depth = 0; depth < 20; depth++) id = btf.array(id, 0xffffffff);
      return id;
    }),
    'MALFORMED_BTF',
    /bytes/,
  );
});

test('members outside of their struct', () => {
  const member = (bitOffset: number, size: number, bits?: number): Uint8Array =>
    objectWithGlobal((btf) =>
      btf.struct('s', size, [
        { name: 'm', type: btf.int('int', 4, true), bitOffset, ...(bits === undefined ? {} : { bits }) },
      ]),
    );
  accepted(member(0, 4));
  refused(member(8, 4), 'MALFORMED_BTF', /"m".*does not lie within its 4 bytes/);
  refused(member(3, 8), 'MALFORMED_BTF', /does not lie within/);
  refused(member(30, 4, 5), 'MALFORMED_BTF', /does not lie within/);
  refused(member(0, 8, 40), 'MALFORMED_BTF', /40 bits of a int of 4 bytes/);
});

test('names that overlap without end', () => {
  // 40000 symbols, each named by another tail of one string of 2 MB
  const names = new Uint8Array(2_000_001).fill(0x61);
  names[2_000_000] = 0;
  const entries = new DataView(new ArrayBuffer(40_000 * 24));
  for (let i = 0; i < 40_000; i++) entries.setUint32(i * 24, i, true);
  const object = elf([
    { name: '.symtab', type: 2, bytes: new Uint8Array(entries.buffer) },
    { name: '.strtab', type: 3, bytes: names },
  ]);
  const view = new DataView(object.buffer);
  const table = Number(view.getBigUint64(40, true));
  view.setUint32(table + 64 + 40, 2, true); // the first table's names
  view.setUint32(table + 3 * 64 + 4, 1, true); // the builder's own table is none
  refused(object, 'MALFORMED_ELF', /overlap/);
});

test('many types of one name', () => {
  const text = accepted(
    objectWithGlobal(
      (btf) => {
        const int = btf.int('int', 4, true);
        const members = Array.from({ length: 5000 }, (_, i) => ({
          name: `m${i}`,
          type: btf.struct('same', 4, [{ name: 'x', type: int, bitOffset: 0 }]),
          bitOffset: i * 32,
        }));
        return btf.struct('outer', 20000, members);
      },
      'value',
      20000,
    ),
  );
  assert.match(text, /export interface Same_5000 \{/);
});

test('names that would leave their comment or string', () => {
  const evil = '*/ throw 1 /*`${process.exit(1)}\'"\\\n\u2028';
  const btf = new BtfBuilder();
  const type = btf.struct(`${evil}s`, 4, [
    {
      name: `${evil}m`,
      type: btf.enumeration(`${evil}e`, 4, [
        [evil, 0],
        ['__proto__', 1],
      ]),
      bitOffset: 0,
    },
  ]);
  const variable = btf.variable(evil, type);
  btf.section('.data', 0, [{ type: variable, offset: 0, size: 4 }]);
  const object = elf(
    [
      { name: '.data', bytes: new Uint8Array(4) },
      { name: evil, bytes: new Uint8Array(8), flags: 4 },
      { name: 'license', bytes: concat([new TextEncoder().encode(`${evil}\0`)]) },
      { name: '.BTF', bytes: btf.bytes() },
    ],
    [
      { name: evil, section: '.data' },
      { name: `${evil}program`, section: evil, info: (1 << 4) | 2 },
    ],
  );
  const text = accepted(object);
  const { outputText } = ts.transpileModule(text, {
    compilerOptions: { target: ts.ScriptTarget.ES2023, module: ts.ModuleKind.ESNext, removeComments: true },
  });
  const code = outputText.replace(/'(?:[^'\\\n]|\\.)*'/g, "''");
  assert.not.match(code, /throw 1|process\.exit/, 'outside of strings there is nothing of it');
});

test.run();
