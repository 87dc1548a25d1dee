import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { resp, respCommands } from './services/reference-resp.js';
import { bytesOf, loadClassifier, mutate, randomNumbers, words } from './services-support.js';

const classifier = await loadClassifier();

/** A request as clients send it. */
const request = (...strings: string[]): string =>
  `*${strings.length}\r\n${strings.map((s) => `$${s.length}\r\n${s}\r\n`).join('')}`;

const stream = (text: string): string => classifier.stream('resp', bytesOf(text));
const get = request('GET', 'key');
const set = request('SET', 'key', 'value');

const cases: [what: string, text: string, flags: string][] = [
  ['a read', get, 'read'],
  ['in any case of letters', request('gEt', 'key'), 'read'],
  ['a read without arguments', request('PING'), 'read'],
  ['a read with an empty argument', request('GET', ''), 'read'],
  ['a read of many keys', request('MGET', ...Array.from({ length: 40 }, (_, i) => `key:${i}`)), 'read'],
  ['arguments are not looked at', request('ECHO', '*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\n'), 'read'],
  ['a write', set, 'write'],
  ['an unknown command', request('FT.SEARCH', 'index', '*'), 'write'],
  ['a name longer than any', request('GETGETGETGETGETGETGETGETGETGETGETGETGET', 'key'), 'write'],
  ['a name of exactly sixteen', request('ZREVRANGEBYSCORE', 'z', '1', '0'), 'read'],
  ['a name that begins like a read', request('GETSET', 'a', 'b'), 'write'],
  ['a name that ends in a zero', request('GET\0', 'a'), 'write'],
  ['a name with a zero inside', request('GE\0T', 'a'), 'write'],
  ['a name with a letter above ASCII', request('G\xc5T', 'a'), 'write'],
  ['a name that differs from a read in one bit', request('SORT\x7fRO', 'a'), 'write'],
  ['a name as long as its word', request('GETRANGE', 'a', '0', '1'), 'read'],
  ['an empty name', request(''), 'write'],
  ['reads in a row', get + get + get, 'read'],
  ['a write among reads', get + set + get, 'read write'],
  ['an unfinished read', get + get.slice(0, -1), 'read partial'],
  ['an unfinished write', set.slice(0, -3), 'write partial'],
  ['nothing but a beginning', '*', 'partial'],
  ['the longest length', '*2\r\n$3\r\nGET\r\n$99999999\r\n', 'partial'],

  ['MULTI', request('MULTI') + get + request('EXEC'), 'write'],
  ['after EXEC reads are reads again', request('MULTI') + request('EXEC') + get, 'read write'],
  ['EXEC with an argument ends nothing', request('MULTI') + request('EXEC', 'x') + get, 'write'],
  ['DISCARD ends nothing', request('MULTI') + request('DISCARD') + get, 'write'],
  ['EXEC without MULTI', request('EXEC') + get, 'read write'],
  ['a script', request('EVAL', 'return 1', '0') + get, 'read write'],
  ['what clients send when they connect', request('HELLO', '3') + request('CLIENT', 'SETINFO', 'LIB-NAME', 'x') + request('client', 'setname', 'x') + request('SELECT', '1') + get, 'read write'],
  ['CLIENT alone', request('CLIENT') + get, 'read write'],
  ['CLIENT ID', request('CLIENT', 'ID') + get, 'read write'],
  ['CLIENT TRACKING', request('CLIENT', 'TRACKING', 'ON') + get, 'write lost'],
  ['CLIENT REPLY', request('CLIENT', 'REPLY', 'OFF') + get, 'write lost'],
  ['CLIENT with a long subcommand', request('CLIENT', 'x'.repeat(30)) + get, 'write lost'],
  ['CLIENT with an empty subcommand', request('CLIENT', '') + get, 'write lost'],
  ['CONFIG GET', request('CONFIG', 'GET', 'save') + request('config', 'get', 'appendonly'), 'read'],
  ['CONFIG with another subcommand', request('CONFIG', 'GETX', 'save') + request('CONFIG', 'RESETSTAT'), 'write'],
  ['CONFIG SET', request('CONFIG', 'SET', 'save', 'get') + get, 'read write'],
  ['CONFIG alone', request('CONFIG') + get, 'read write'],
  ['CONFIG with a long subcommand', request('CONFIG', 'x'.repeat(30)) + get, 'write lost'],
  ['CONFIG GET while requests are queued', request('MULTI') + request('CONFIG', 'GET', 'save') + request('EXEC') + get, 'read write'],
  ['CLIENT after CONFIG', request('CONFIG', 'GET', 'save') + request('CLIENT', 'GET'), 'read write lost'],
  ['SUBSCRIBE', get + request('SUBSCRIBE', 'news') + get, 'read write lost'],
  ['BLPOP', request('BLPOP', 'list', '0'), 'write lost'],

  ['an inline command', 'GET key\r\n', 'write lost'],
  ['an empty line', '\r\n', 'write lost'],
  ['an empty array', '*0\r\n', 'write lost'],
  ['a null array', '*-1\r\n', 'write lost'],
  ['a null string', '*2\r\n$3\r\nGET\r\n$-1\r\n', 'write lost'],
  ['a plus sign', '*+2\r\n', 'write lost'],
  ['a leading zero', '*02\r\n', 'write lost'],
  ['a space', '*2 \r\n', 'write lost'],
  ['no number', '*\r\n', 'write lost'],
  ['too many strings', '*1048577\r\n', 'write lost'],
  ['as many as allowed', '*1048576\r\n$4\r\nMGET\r\n', 'partial'],
  ['a length of nine digits', '*2\r\n$3\r\nGET\r\n$100000000\r\n', 'write lost'],
  ['a length that would overflow', '*2\r\n$3\r\nGET\r\n$18446744073709551619\r\n', 'write lost'],
  ['a bare LF', '*2\n$3\nGET\n$1\na\n', 'write lost'],
  ['a bare CR', '*2\r$3', 'write lost'],
  ['no CR LF behind the name', '*2\r\n$3\r\nGETxx$1\r\na\r\n', 'write lost'],
  ['no CR LF behind a string', '*2\r\n$3\r\nGET\r\n$1\r\naxx', 'write lost'],
  ['a name longer than its length', '*2\r\n$3\r\nGETX\r\n$1\r\na\r\n', 'write lost'],
  ['something else than a string', '*2\r\n:3\r\n', 'write lost'],
  ['another protocol', 'GET / HTTP/1.1\r\n\r\n', 'write lost'],
  ['TLS', '\x16\x03\x01\x02\x00\x01', 'write lost'],
];
for (const [what, text, flags] of cases) test(what, () => assert.is(stream(text), flags));

test('every read command is a read, every other is not', () => {
  for (const name of respCommands.read) assert.is(stream(request(name, 'a', 'b')), 'read', name);
  for (const name of respCommands.takeOver) assert.is(stream(request(name, 'a')), 'write lost', name);
  const writes = `
    APPEND ASKING AUTH BGSAVE BITFIELD BITOP COMMAND CONFIG COPY DEBUG DECR DEL DISCARD DUMP EVAL EVALSHA EVAL_RO
    EXPIRE FCALL FCALL_RO FLUSHALL FLUSHDB GEOADD GEORADIUS GEORADIUSBYMEMBER GEORADIUSBYMEMBER_RO GEOSEARCHSTORE
    GETDEL GETEX GETSET HDEL HELLO HINCRBY HRANDFIELD HSCAN HSET HTTL INCR INFO LASTSAVE LINSERT LMOVE LPOP LPUSH
    LREM LSET LTRIM MEMORY MIGRATE MOVE MSET MULTI OBJECT PERSIST PEXPIRE PFADD PFCOUNT PFMERGE PSETEX PTTL PUBLISH
    PUBSUB QUIT RANDOMKEY READONLY READWRITE RENAME RESET RESTORE ROLE RPOP RPOPLPUSH RPUSH SADD SAVE SCAN SCRIPT
    SDIFFSTORE SELECT SET SETBIT SETEX SETNX SETRANGE SHUTDOWN SINTERSTORE SLOWLOG SMOVE SORT SPOP SPUBLISH
    SRANDMEMBER SREM SSCAN SUNIONSTORE SWAPDB TIME TOUCH TTL UNLINK UNSUBSCRIBE UNWATCH WATCH XACK XADD XAUTOCLAIM
    XCLAIM XDEL XGROUP XINFO XPENDING XTRIM ZADD ZDIFFSTORE ZINCRBY ZINTERSTORE ZPOPMAX ZPOPMIN ZRANDMEMBER
    ZRANGESTORE ZREM ZREMRANGEBYSCORE ZSCAN ZUNIONSTORE`;
  for (const name of writes.trim().split(/\s+/)) assert.is(stream(request(name, 'a', 'b')), 'write', name);
});

test('a megabyte is jumped over, in frames of any size', () => {
  const payload = bytesOf(get + request('SET', 'key', '*'.repeat(1 << 20)) + get);
  classifier.begin('resp');
  let all = 0;
  for (let at = 0; at < payload.byteLength; at += 2999) {
    const flags = classifier.next(payload.subarray(at, at + 2999));
    if (at > 2999 && at + 2999 * 2 < payload.byteLength) assert.is(words(flags), 'write partial', `${at}`);
    all = (all & ~8) | flags;
  }
  assert.is(words(all), 'read write');
});

test('every packet of a write says so, and none of the reads around it', () => {
  const trace = [...classifier.trace('resp', bytesOf(get + set + get))].map(words);
  assert.is(trace[get.length - 1], 'read');
  const named = get.length + '*3\r\n$3\r\nSET\r\n'.length;
  assert.ok(trace.slice(0, get.length - 1).every((flags) => flags === 'partial'));
  assert.ok(trace.slice(named - 1, get.length + set.length - 1).every((flags) => flags === 'write partial'));
  assert.is(trace[get.length + set.length - 1], 'write');
  assert.is(trace.at(-1), 'read');
});

test('a stream that is lost stays lost', () => {
  classifier.begin('resp');
  assert.is(words(classifier.next(bytesOf('x'))), 'write lost');
  assert.is(words(classifier.next(bytesOf(get))), 'write lost');
  assert.is(words(classifier.next(bytesOf(''))), 'write lost');
});

test('an empty packet says nothing', () => {
  classifier.begin('resp');
  assert.is(words(classifier.next(bytesOf(''))), '');
});

test('hundreds of requests in a packet', () => {
  classifier.begin('resp');
  assert.is(words(classifier.next(bytesOf(request('PING').repeat(214)))), 'read');
});

test('whatever is made of a stream, the kernel never sees a read that the reference does not', () => {
  const random = randomNumbers(20181);
  const pick = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)]!;
  const commands = [...respCommands.read, ...respCommands.read, ...respCommands.read, 'SET', 'DEL', 'MULTI', 'EXEC', 'CLIENT', 'CONFIG', 'BLPOP', 'GETEX', 'SORT'];
  const strings = ['', 'a', 'key:1', 'ID', 'SETNAME', '\r\n', '$3\r\n', 'x'.repeat(70)];
  let lost = 0;
  let reads = 0;
  for (let round = 0; round < 6000; round++) {
    let text = '';
    for (let requests = 1 + Math.floor(random() * 5); requests > 0; requests--) {
      const name = random() < 0.5 ? pick(commands) : pick(commands).toLowerCase();
      text += request(name, ...Array.from({ length: Math.floor(random() * 4) }, () => pick(strings)));
    }
    if (round % 5 !== 0) text = mutate(text, '*$\r\n0123456789GETSet', random);
    if (text === '') continue;
    const reading = resp(text);
    classifier.compare('resp', bytesOf(text), reading, random);
    lost += Number(reading.lost);
    reads += reading.reads.length;
  }
  // Both kinds were there in numbers.
  assert.ok(lost > 1000 && reads > 3000, `${lost} lost, ${reads} reads`);
});

test.run();
