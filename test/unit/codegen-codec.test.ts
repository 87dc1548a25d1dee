/** The codecs that generated code is made of, on plain memory. */
import {
  array,
  bigBits,
  bits,
  bool,
  f64,
  inspect,
  putBigBits,
  putBits,
  s128,
  s16s,
  shown,
  signedBigBits,
  signedBits,
  text,
  u32,
  u64s,
  u8s,
  u128,
  type Codec,
} from 'bpf-ts-loader/runtime';
import { decode, encode } from 'bpf-ts-loader/runtime';
import { test } from 'uvu';
import * as assert from 'uvu/assert';

function roundTrip<T>(codec: Codec<T>, value: T): void {
  assert.equal(decode(codec, encode(codec, value)), value);
}

test('text: up to the first NUL, or all of it', () => {
  assert.is(decode(text(8), Uint8Array.from(Buffer.from('ab\0garba'))), 'ab');
  assert.is(decode(text(4), Uint8Array.from(Buffer.from('abcd'))), 'abcd');
  assert.is(decode(text(4), new Uint8Array(4)), '');
  assert.equal(encode(text(6), 'é'), Uint8Array.of(0xc3, 0xa9, 0, 0, 0, 0));
  for (const value of ['plain', 'naïve', '日本語', '😀', '\ufeffmark', 'x'.repeat(200)]) roundTrip(text(256), value);
});

test('text: bytes that are no UTF-8 survive', () => {
  const cases = [
    [0xff],
    [0xc3],
    [0x61, 0x80, 0x62],
    [0xf0, 0x9f, 0x98],
    [0xed, 0xa0, 0x80],
    [0xe2, 0x28, 0xa1],
    [0xc3, 0xa9, 0xfe, 0xc3, 0xa9],
  ];
  for (const bytes of cases) {
    const padded = Uint8Array.from({ length: 16 }, (_, i) => bytes[i] ?? 0);
    assert.equal(encode(text(16), decode(text(16), padded)), padded, bytes.join());
  }
});

test('text: too long is refused, not cut', () => {
  assert.equal(encode(text(4), 'four'), Uint8Array.from(Buffer.from('four')));
  assert.throws(
    () => encode(text(4), 'fiver'),
    (error: Error) => error instanceof RangeError && /length 5.*room for 4/.test(error.message),
  );
  assert.throws(() => encode(text(3), 'aéé'), RangeError);
});

test('wide integers', () => {
  roundTrip(u128, (1n << 128n) - 1n);
  roundTrip(s128, -1n);
  roundTrip(s128, -(1n << 127n));
  assert.equal(encode(s128, -2n), Uint8Array.of(0xfe, ...new Array<number>(15).fill(0xff)));
});

test('arrays: filled up with zeros, never cut', () => {
  assert.equal(encode(u8s(4), Uint8Array.of(1)), Uint8Array.of(1, 0, 0, 0));
  assert.equal(encode(array(u32, 2), [7]), Uint8Array.of(7, 0, 0, 0, 0, 0, 0, 0));
  assert.throws(() => encode(u8s(1), new Uint8Array(2)), /length 2.*room for 1/);
  assert.throws(() => encode(array(bool, 1), [true, false]), RangeError);
  roundTrip(s16s(3), Int16Array.of(-1, 0, 1));
  roundTrip(u64s(2), BigUint64Array.of(1n, 1n << 63n));
  roundTrip(array(text(4), 2), ['a', 'bc']);
  roundTrip(u8s(1000), new Uint8Array(1000).fill(3));
});

test('what is given is filled in place', () => {
  const bytes = new Uint8Array(4);
  assert.is(u8s(4).read(new DataView(Uint8Array.of(1, 2, 3, 4).buffer), 0, bytes), bytes);
  assert.equal(bytes, Uint8Array.of(1, 2, 3, 4));
  const rows = [Int16Array.of(0), Int16Array.of(0)];
  const [first] = rows;
  array(s16s(1), 2).read(new DataView(Uint8Array.of(1, 0, 2, 0).buffer), 0, rows);
  assert.is(rows[0], first);
  assert.equal(rows, [Int16Array.of(1), Int16Array.of(2)]);
});

test('bitfields at every place', () => {
  for (const [count, shift] of [
    [1, 0],
    [3, 7],
    [13, 5],
    [25, 7],
    [32, 7],
    [17, 3],
  ] as const) {
    const view = new DataView(new ArrayBuffer(10));
    const value = 2 ** count - 1 - (count > 1 ? 2 : 0);
    putBits(view, 1, shift, count, value);
    assert.is(bits(view, 1, shift, count), value, `${count} bits at ${shift}`);
    assert.is(signedBits(view, 1, shift, count), value - 2 ** count);
    assert.is(view.getUint8(0), 0);
  }
  const view = new DataView(new ArrayBuffer(10));
  putBigBits(view, 1, 7, 64, -2n);
  assert.is(bigBits(view, 1, 7, 64), (1n << 64n) - 2n);
  assert.is(signedBigBits(view, 1, 7, 64), -2n);
});

test('doubles are what they are', () => roundTrip(f64, 0.1));

test('a record with shared bytes is printed with its members', () => {
  class Shared {
    plain = 1;
    get member(): number {
      return 2;
    }
    [inspect](): object {
      return shown(this);
    }
  }
  assert.equal(shown(new Shared()), { plain: 1, member: 2 });
});

test.run();
