import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { memcached } from './services/reference-memcached.js';
import { bytesOf, loadClassifier, mutate, randomNumbers, words } from './services-support.js';

const classifier = await loadClassifier();
const stream = (text: string): string => classifier.stream('memcached', bytesOf(text));

const get = 'get key\r\n';
const set = 'set key 0 0 7\r\nget a\r\n\r\n';
const longKey = 'k'.repeat(250);

const cases: [what: string, text: string, flags: string][] = [
  ['get', get, 'read'],
  ['gets', 'gets key\r\n', 'read'],
  ['get of many keys', `get${' some:key'.repeat(200)}\r\n`, 'read'],
  ['a key above ASCII', 'get caf\xe9\r\n', 'read'],
  ['version', 'version\r\n', 'read'],
  ['mn', 'mn\r\n', 'read'],
  ['mg', 'mg key\r\n', 'read'],
  ['mg with flags that only read', 'mg key b c f k q s v Oabc\r\n', 'read'],
  ['mg with a long key', `mg ${longKey} v\r\n`, 'read'],
  ['reads in a row', `${get}mg key v\r\nmn\r\n${get}`, 'read'],
  ['an unfinished read', get + get.slice(0, -1), 'read partial'],
  ['nothing but a beginning', 'ge', 'partial'],

  ...[...'ENRTIhltuxPL0'].map((flag): [string, string, string] => [`mg with ${flag}`, `mg key v ${flag}30 k\r\n${get}`, 'read write']),
  ['set', set, 'write'],
  ['its data is not looked at', set + get, 'read write'],
  ['set of nothing', `set key 0 0 0\r\n\r\n${get}`, 'read write'],
  ['set with a key of 250', `set ${longKey} 0 0 1\r\na\r\n${get}`, 'read write'],
  ['set with large numbers', `set key 1999999999 1999999999 1\r\na\r\n${get}`, 'read write'],
  ['noreply', `set key 0 0 1 noreply\r\na\r\n${get}`, 'read write'],
  ['cas', `cas key 0 0 1 1234567890123456789\r\na\r\n${get}`, 'read write'],
  ['cas noreply', `cas key 0 0 1 5 noreply\r\na\r\n${get}`, 'read write'],
  ['ms', `ms key 1\r\na\r\n${get}`, 'read write'],
  ['ms with flags', `ms key 1 F5 T0 I c O${'x'.repeat(40)} q k MS\r\na\r\n${get}`, 'read write'],
  ...['add', 'replace', 'append', 'prepend'].map((verb): [string, string, string] => [verb, `${verb} key 1 2 3\r\nabc\r\n${get}`, 'read write']),
  ...['delete key', 'incr key 1', 'decr key 1', 'touch key 9', 'gat 9 key', 'gats 9 a b', 'md key q', 'ma key', 'me key', 'stats', 'stats items'].map(
    (line): [string, string, string] => [line, `${line}\r\n${get}`, 'read write'],
  ),
  ['an unfinished data block', set.slice(0, -1), 'write partial'],

  ['a bare LF', 'get key\n', 'write lost'],
  ['a bare CR', 'get a\rset b\r\n', 'write lost'],
  ['a zero', 'get a\0b\r\n', 'write lost'],
  ['an empty line', '\r\n', 'write lost'],
  ['leading space', ` ${get}`, 'write lost'],
  ['capitals', 'GET key\r\n', 'write lost'],
  ['a verb nobody knows', 'getx key\r\n', 'write lost'],
  ['a long verb', 'cache_memlimit 1\r\n', 'write lost'],
  ['no key', 'get\r\n', 'write lost'],
  ['an empty key', 'get \r\n', 'write lost'],
  ['two spaces', 'get  key\r\n', 'write lost'],
  ['arguments of version', 'version 1\r\n', 'write lost'],
  ['mg with trailing space', 'mg key \r\n', 'write lost'],
  ['mg with two spaces', 'mg key  v\r\n', 'write lost'],
  ['quit', 'quit\r\n', 'write lost'],
  ['watch', 'watch\r\n', 'write lost'],
  ['flush_all', 'flush_all\r\n', 'write lost'],
  ['the binary protocol', '\x80\x00\x00\x03key', 'write lost'],
  ['set with a key of 251', `set ${longKey}k 0 0 1\r\na\r\n`, 'write lost'],
  ['set without length', 'set key 0 0\r\n', 'write lost'],
  ['set with a negative length', 'set key 0 0 -1\r\n', 'write lost'],
  ['set with a signed length', 'set key 0 0 +1\r\n', 'write lost'],
  ['set with a leading zero', 'set key 0 0 01\r\na\r\n', 'write lost'],
  ['set with a length of nine digits', 'set key 0 0 100000000\r\n', 'write lost'],
  ['set with flags too large', 'set key 2000000000 0 1\r\na\r\n', 'write lost'],
  ['set with a negative time', 'set key 0 -1 1\r\na\r\n', 'write lost'],
  ['set with letters', 'set key a 0 1\r\na\r\n', 'write lost'],
  ['set with something else than noreply', 'set key 0 0 1 noreplY\r\na\r\n', 'write lost'],
  ['set with too many words', 'set key 0 0 1 noreply x\r\na\r\n', 'write lost'],
  ['set with two spaces', 'set key 0  0 1\r\na\r\n', 'write lost'],
  ['set whose data is longer than its length', 'set key 0 0 1\r\nab\r\n', 'write lost'],
  ['cas without its number', 'cas key 0 0 1\r\na\r\n', 'write lost'],
  ['cas with a number of 20 digits', 'cas key 0 0 1 12345678901234567890\r\na\r\n', 'write lost'],
  ['ms without length', 'ms key\r\n', 'write lost'],
  ['ms in its first form', 'ms key S1\r\na\r\n', 'write lost'],
  ['ms with nine flags', 'ms key 1 a b c d e f g h i\r\na\r\n', 'write lost'],
  ['ms with trailing space', 'ms key 1 \r\na\r\n', 'write lost'],
];
for (const [what, text, flags] of cases) test(what, () => assert.is(stream(text), flags));

/** A stream longer than a frame of the tests; the flags of all frames. */
function inFrames(text: string, frameBytes: number): string {
  const payload = bytesOf(text);
  let all = 0;
  classifier.begin('memcached');
  for (let at = 0; at < payload.byteLength; at += frameBytes) {
    all = (all & ~8) | classifier.next(payload.subarray(at, at + frameBytes));
  }
  return words(all);
}

test('lines have a limit, to the byte', () => {
  const fits = `get ${'k'.repeat(8192 - 6)}\r\n`;
  const exceeds = `get ${'k'.repeat(8192 - 5)}\r\n`;
  for (const frameBytes of [2999, 1460, 97, 1]) {
    assert.is(inFrames(fits + get, frameBytes), 'read', `${frameBytes}`);
    assert.is(inFrames(exceeds, frameBytes), 'write lost', `${frameBytes}`);
  }
});

test('a megabyte of data is jumped over', () => {
  const text = `${get}set key 0 0 1048576\r\n${'g'.repeat(1 << 20)}\r\n${get}`;
  for (const frameBytes of [2999, 1460]) assert.is(inFrames(text, frameBytes), 'read write');
});

test('whatever is made of a stream, the kernel never sees a read that the reference does not', () => {
  const random = randomNumbers(11211);
  const pick = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)]!;
  const requests = [get, get, get, 'gets a b c\r\n', 'mg key v k\r\n', 'mg key v t\r\n', 'mg key s v Oab q\r\n', 'mn\r\n', 'version\r\n', set,
    'ms key 2 T0 F1\r\nab\r\n', 'cas key 1 2 3 44\r\nabc\r\n', 'add k 0 0 1 noreply\r\na\r\n', 'delete key\r\n', 'incr key 5\r\n', 'touch key 0\r\n', 'stats\r\n', 'gat 1 key\r\n', 'quit\r\n'];
  let lost = 0;
  let reads = 0;
  for (let round = 0; round < 6000; round++) {
    let text = Array.from({ length: 1 + Math.floor(random() * 6) }, () => pick(requests)).join('');
    if (round % 5 !== 0) text = mutate(text, '\r\n  getsmgmn0123456789vkTNR', random);
    if (text === '') continue;
    const reading = memcached(text);
    classifier.compare('memcached', bytesOf(text), reading, random);
    lost += Number(reading.lost);
    reads += reading.reads.length;
  }
  assert.ok(lost > 1000 && reads > 3000, `${lost} lost, ${reads} reads`);
});

test.run();
