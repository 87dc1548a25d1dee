/**
 * Every way in which C lays out data, through a real map and both ways: what the program in
 * skeleton/shapes.bpf.c writes is read by the generated code, and what the generated code writes
 * is compared byte by byte by the program.
 */
import { copyFileSync } from 'node:fs';
import { join } from 'node:path';
import { build } from 'bpf-ts-loader';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { compileStrictly, fixtures, scratch } from './skeleton-support.js';

const directory = scratch('skeleton-shapes');
copyFileSync(join(fixtures, 'shapes.bpf.c'), join(directory, 'shapes.bpf.c'));
await build({ dir: directory });
const module = await compileStrictly(directory)('shapes.skel.js');
const objects = module['openShapes']().load();
process.on('exit', () => objects.close());

type Expected = { [field: string]: unknown };

/** Values of `expected` are in `actual`, which may have more: accessors to the same bytes. */
function matches(actual: unknown, expected: unknown, where: string): void {
  if (typeof expected === 'object' && expected !== null && !ArrayBuffer.isView(expected)) {
    assert.type(actual, 'object', where);
    if (Array.isArray(expected)) assert.is((actual as unknown[]).length, expected.length, `${where}.length`);
    for (const [key, value] of Object.entries(expected)) matches((actual as Expected)[key], value, `${where}.${key}`);
  } else {
    assert.equal(actual, expected, where);
  }
}

const packet = new Uint8Array(64);

/** C writes and TypeScript reads, TypeScript writes and C reads; `value` is what both should mean. */
function roundTrip(name: string, codec: string, value: Expected): void {
  const map = objects.maps[`map_${name}`];
  test(`${name}: what C writes is read`, () => {
    assert.is(objects.programs[`fill_${name}`].testRun({ data: packet }).retval, 0);
    matches(map.lookup(0), value, name);
  });

  test(`${name}: a caller's object is filled in place`, () => {
    const into = module[codec].create();
    assert.is(map.lookup(0, into), into);
    matches(into, value, name);
  });

  test(`${name}: what TypeScript writes is what C would have written, padding included`, () => {
    // Bytes of ones beneath: whatever is not written shows.
    map.raw.update(Uint8Array.of(1, 0, 0, 0), new Uint8Array(map.raw.valueBytes).fill(0xff));
    map.update(1, module[codec].create(value));
    assert.is(
      objects.programs[`check_${name}`].testRun({ data: packet }).retval,
      0,
      'offset + 1 of the first difference',
    );
  });

  test(`${name}: a value read and written again is the same bytes`, () => {
    map.update(0, map.lookup(1));
    assert.equal(map.raw.lookup(Uint8Array.of(0, 0, 0, 0)), map.raw.lookup(Uint8Array.of(1, 0, 0, 0)));
  });
}

roundTrip('integers', 'Integers', {
  u8: 200,
  s8: -100,
  u16: 60000,
  s16: -30000,
  u32: 4000000000,
  s32: -2000000000,
  u64: 0xfedcba9876543210n,
  s64: -81985529216486896n,
  u128: 0xfedcba98765432100123456789abcdefn,
  s128: -0x0123456789abcdefn,
});

roundTrip('choices', 'Choices', {
  yes: true,
  no: false,
  tiny: 250,
  color: -2,
  big: 0x8000000000000001n,
  no_zero: [1, 1, 1],
  row: [true, false, true],
});

roundTrip('texts', 'Texts', {
  name: 'café',
  full: 'full',
  rows: ['one', 'two\udcff'],
  empty: '',
  raw: Uint8Array.of(0, 1, 2, 254, 255),
  steps: Int8Array.of(-1, 0, 1),
});

roundTrip('bitfields', 'Bitfields', {
  a: 5,
  b: 1,
  c: -11,
  d: 0x654321,
  wide: 0xfedcba9876n,
  deep: -123456n,
  flag: true,
  color: 7,
  last: 2,
});

roundTrip('squeezed', 'Squeezed', {
  kind: 1,
  length: 0x01020304,
  stamp: 0x1112131415161718n,
  at: { x: -5, y: 6 },
  port: 8080,
  low: 0x55,
  middle: 0x1234,
  high: 0x1abcd,
  across: 0x1234567890abcdefn,
  rest: 0x2a,
});

roundTrip('spread', 'Spread', { first: 1, second: 2n, third: 3, fourth: 4, fifth: 5, point: { x: 6, y: -7 } });

roundTrip('nests', 'Nests', {
  one: { id: 9, sides: { left: 10, right: 11 } },
  line: [
    { x: 1, y: 2 },
    { x: 3, y: 4 },
  ],
  outer: [
    { depth: 1, inner: { value: 100n } },
    { depth: 2, inner: { value: 200n } },
  ],
  grid: [Uint32Array.of(0, 1, 2), Uint32Array.of(10, 11, 12)],
  cube: [
    [
      [
        { x: 0, y: 0 },
        { x: 0, y: -1 },
      ],
      [
        { x: 1, y: 0 },
        { x: 1, y: -1 },
      ],
    ],
  ],
  longs: BigInt64Array.of(-1n, 1n),
  shorts: Uint16Array.of(1, 2, 65535),
  pointers: BigUint64Array.of(0xffff888000001000n, 0n),
  huge: [1n << 100n],
});

roundTrip('unions', 'Unions', {
  family: 10,
  address: module['Address'].create({ words: Uint32Array.of(0x01010101, 0x02020202, 0x03030303, 0x04040404) }),
  low: 0x11223344,
  high: 0x55667788,
  nibble: 0x5,
  other: 0xa,
  end: 99,
});

test('unions: members are views of the same bytes, and the last one set counts', () => {
  objects.programs['fill_unions'].testRun({ data: packet });
  const value = objects.maps['map_unions'].lookup(0);
  assert.is(value.both, 0x5566778811223344n);
  assert.equal(value.point, { x: 0x3344, y: 0x1122 });
  assert.is(value.byte, 0xa5);
  assert.is(value.address.v4, 0x01010101);
  assert.equal(value.address.v6, Uint8Array.of(1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4));
  value.address.v6[15] = 9;
  assert.is(value.address.words[3], 0x09040404, 'an array of numbers is live');
  value.point = { x: 1, y: 2 };
  assert.is(value.both, 0x5566778800020001n);
  value.nibble = 0xf;
  assert.is(value.byte, 0xaf, 'the other bitfield stays');
});

roundTrip('pointers', 'Pointers', { anything: 1n, unknown: 0xffffffffffffffffn, call: 3n, self: 4n });
roundTrip('floats', 'Floats', { single: 1.5, both: Float64Array.of(-2.25, 0.1), twice: 1e300 });

roundTrip('function', 'Function_2', {
  constructor_: 1,
  __proto___: 2,
  prototype_: 3,
  new: 4,
  size: 5,
  read: 6,
  value: 7,
  offset: 8,
  into: 9,
  toString: 10,
  $dollar: 11,
  delete: 12,
});

roundTrip('map', 'Map_2', { array: { one: 1 }, text: { two: 2 } });

test('types that only a pointer mentions have codecs', () => {
  const bytes = Uint8Array.of(3, 0, 0, 0, 7, 0, 0, 0, 1, 2, 3);
  const record = module['Record_2'].read(new DataView(bytes.buffer));
  assert.equal(record, { length: 3, color: module['Color'].COLOR_RED });
  assert.is(module['Record_2'].size, 8, 'a flexible array is no part of it');
  assert.equal(module['Verdict'], { VERDICT_PASS: 0, VERDICT_DROP: 1 });
});

test('values that do not fit are refused', () => {
  const text = module['Texts'].create({ name: 'x'.repeat(17) });
  assert.throws(() => objects.maps['map_texts'].update(1, text), /text of length 17.*room for 16/);
  const raw = module['Texts'].create({ raw: new Uint8Array(6) });
  assert.throws(() => objects.maps['map_texts'].update(1, raw), /array of length 6.*room for 5/);
  assert.throws(() => module['Integers'].read(new DataView(new ArrayBuffer(8))), RangeError);
});

test.run();
