import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { isDnsQuery } from './services/reference-dns.js';
import { bytesOf, loadClassifier, mutate, randomNumbers } from './services-support.js';

const classifier = await loadClassifier();
const datagram = (text: string): string => classifier.datagram('dns', bytesOf(text));

const u16 = (value: number): string => String.fromCharCode(value >> 8, value & 255);
const name = (text: string): string => (text === '' ? '' : text.split('.').map((label) => String.fromCharCode(label.length) + label).join('')) + '\0';

interface Query {
  flags?: number;
  counts?: [number, number, number, number];
  name?: string;
  type?: number;
  class?: number;
  behind?: string;
}

function query(given: Query = {}): string {
  const { flags = 0x0100, counts = [1, 0, 0, given.behind ? 1 : 0], behind = '' } = given;
  return `\x12\x34${u16(flags)}${counts.map(u16).join('')}${given.name ?? name('www.example.org')}${u16(given.type ?? 1)}${u16(given.class ?? 1)}${behind}`;
}

const opt = (options = '', ttl = '\0\0\0\0'): string => `\0${u16(41)}${u16(1232)}${ttl}${u16(options.length)}${options}`;
const cookie = `${u16(10)}${u16(8)}abcdefgh`;
const longest = name(['a'.repeat(63), 'b'.repeat(63), 'c'.repeat(63), 'd'.repeat(35)].join('.')); // 229 bytes

const cases: [what: string, text: string, flags: string][] = [
  ['a query', query(), 'read'],
  ['of the root', query({ name: name('') }), 'read'],
  ['of any type', query({ type: 255 }), 'read'],
  ['of a new type', query({ type: 65 }), 'read'],
  ['without recursion', query({ flags: 0 }), 'read'],
  ['with AD and CD', query({ flags: 0x0130 }), 'read'],
  ['with EDNS', query({ behind: opt() }), 'read'],
  ['with a cookie', query({ behind: opt(cookie) }), 'read'],
  ['with padding', query({ behind: opt(`${u16(12)}${u16(400)}${'\0'.repeat(400)}`) }), 'read'],
  ['with DO set', query({ behind: opt('', '\0\0\x80\0') }), 'read'],
  ['as long as it can be', query({ name: longest, behind: opt() }), 'read'],
  ['of many labels', query({ name: '\x01a'.repeat(110) + '\0' }), 'read'],

  ['a response', query({ flags: 0x8180 }), 'write'],
  ['a notification', query({ flags: 4 << 11 }), 'write'],
  ['an update', query({ flags: 5 << 11 }), 'write'],
  ['truncated', query({ flags: 0x0200 }), 'write'],
  ['with an error code', query({ flags: 3 }), 'write'],
  ['with the reserved bit', query({ flags: 0x0040 }), 'write'],
  ['no question', query({ counts: [0, 0, 0, 0] }), 'write'],
  ['two questions', query({ counts: [2, 0, 0, 0] }) + name('a') + u16(1) + u16(1), 'write'],
  ['with an answer', query({ counts: [1, 1, 0, 0] }), 'write'],
  ['with an authority', query({ counts: [1, 0, 1, 0] }), 'write'],
  ['with two records behind', query({ counts: [1, 0, 0, 2], behind: opt() }), 'write'],
  ['zone transfer', query({ type: 252 }), 'write'],
  ['incremental zone transfer', query({ type: 251 }), 'write'],
  ['TKEY', query({ type: 249 }), 'write'],
  ['type OPT', query({ type: 41 }), 'write'],
  ['type 0', query({ type: 0 }), 'write'],
  ['class CHAOS', query({ class: 3 }), 'write'],
  ['any class', query({ class: 255 }), 'write'],
  ['a compressed name', query({ name: '\xc0\x0c' }), 'write'],
  ['an extended label', query({ name: '\x41a\0' }), 'write'],
  ['a name that does not end', query().slice(0, 20), 'write'],
  ['a name of more than 255', query({ name: '\x01a'.repeat(127) + '\x01a\0' }), 'write'],
  ['a label more than it may have', query({ name: name(['a'.repeat(63), 'b'.repeat(63), 'c'.repeat(63), 'd'.repeat(36)].join('.')), behind: opt() }), 'write'],
  ['signed', query({ behind: `${name('key')}${u16(250)}${u16(255)}\0\0\0\0${u16(0)}` }), 'write'],
  ['EDNS with a name', query({ behind: `\x01a${opt()}` }), 'write'],
  ['EDNS of another version', query({ behind: opt('', '\0\x01\0\0') }), 'write'],
  ['EDNS with an error', query({ behind: opt('', '\x01\0\0\0') }), 'write'],
  ['EDNS shorter than it says', query({ behind: opt(cookie).slice(0, -1) }), 'write'],
  ['EDNS longer than it says', query({ behind: `${opt(cookie)}x` }), 'write'],
  ['EDNS that is not announced', query({ counts: [1, 0, 0, 0], behind: opt() }), 'write'],
  ['EDNS that is announced only', query({ counts: [1, 0, 0, 1] }), 'write'],
  ['bytes behind', `${query()}x`, 'write'],
  ['nothing but a header', query().slice(0, 12), 'write'],
  ['less than a header', query().slice(0, 11), 'write'],
  ['nothing', '', 'write'],
];
for (const [what, text, flags] of cases) test(what, () => assert.is(datagram(text), flags));

test('every query that is cut short is a write', () => {
  const whole = query({ behind: opt(cookie) });
  for (let length = 0; length < whole.length; length++) assert.is(datagram(whole.slice(0, length)), 'write', `${length}`);
});

test('several datagrams in one packet are a write', () => {
  const ctx = new Uint8Array(192);
  new DataView(ctx.buffer).setUint32(176, 100, true); // gso_size of struct __sk_buff
  assert.is(classifier.datagram('dns', bytesOf(query()), ctx), 'write');
});

test('over TCP it is a write', () => {
  assert.is(classifier.stream('dns', bytesOf(u16(query().length) + query())), 'write lost');
});

test('protocols over TCP are writes over UDP', () => {
  for (const protocol of ['resp', 'http', 'memcached', 'never'] as const) {
    assert.is(classifier.datagram(protocol, bytesOf('get key\r\n')), 'write');
  }
});

test('fixed rules hold whatever the bytes are', () => {
  const anything = bytesOf('SET / \r\n\0\xff');
  assert.is(classifier.datagram('readOnly', anything), 'read');
  assert.is(classifier.stream('readOnly', anything), 'read');
  assert.is(classifier.stream('never', anything), 'write');
});

test('whatever is made of a query, the kernel agrees with the reference', () => {
  const random = randomNumbers(1035);
  const pick = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)]!;
  let reads = 0;
  let writes = 0;
  for (let round = 0; round < 20_000; round++) {
    const sound = query({ name: pick([name('www.example.org'), name(''), name('a'), longest]), type: pick([1, 28, 255, 252, 41]), behind: pick(['', opt(), opt(cookie)]) });
    const text = round % 4 === 0 ? sound : mutate(sound, '\0\x01\x02\x03\x29\x3f\xc0\x80', random);
    const payload = bytesOf(text);
    const wanted = isDnsQuery(payload) ? 'read' : 'write';
    assert.is(classifier.datagram('dns', payload), wanted, payload.toString());
    if (wanted === 'read') reads++;
    else writes++;
  }
  assert.ok(reads > 3000 && writes > 3000, `${reads} reads, ${writes} writes`);
});

test.run();
