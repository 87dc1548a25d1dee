import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { http } from './services/reference-http.js';
import { bytesOf, loadClassifier, mutate, randomNumbers, words } from './services-support.js';

const classifier = await loadClassifier();
const stream = (text: string): string => classifier.stream('http', bytesOf(text));

/** A request with the given headers and content. */
const request = (line: string, headers: readonly string[] = [], content = ''): string =>
  `${line} HTTP/1.1\r\n${['Host: example.org', ...headers].map((header) => `${header}\r\n`).join('')}\r\n${content}`;

const get = request('GET /');
const post = request('POST /form', ['Content-Length: 5'], 'GET /');

const cases: [what: string, text: string, flags: string][] = [
  ['GET', get, 'read'],
  ['HEAD', request('HEAD /a?b=c%20d'), 'read'],
  ['OPTIONS', request('OPTIONS /'), 'read'],
  ['no headers at all', 'GET / HTTP/1.1\r\n\r\n', 'read'],
  ['what a browser sends', request('GET /index.html', ['User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36', 'Accept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8', 'Accept-Language: de', 'Accept-Encoding: gzip', 'Connection: keep-alive', 'Cookie: a=b; c=d', 'Upgrade-Insecure-Requests: 1', 'Sec-CH-UA-Full-Version-List: "x"', 'If-None-Match: "abc"']), 'read'],
  ['a name longer than any that matters', request('GET /', ['Access-Control-Request-Private-Network: true', `${'X'.repeat(100)}: 1`]), 'read'],
  ['a name as long as a token', request('GET /', [`${'X'.repeat(31)}: 1`, `${'X'.repeat(32)}: 1`, `${'X'.repeat(33)}: 1`]), 'read'],
  ['long values and targets', request(`GET /${'a'.repeat(200)}`, [`X: ${'b'.repeat(300)}`]), 'read'],
  ['values of all lengths', request('GET /', Array.from({ length: 40 }, (_, i) => `A: ${'b'.repeat(i)}`)), 'read'],
  ['letters above ASCII in a value', request('GET /', ['X: caf\xe9']), 'read'],
  ['an empty value', request('GET /', ['X:', 'Y: ']), 'read'],
  ['no space before a value', request('GET /', ['Content-Length:0', 'Connection:close']), 'read'],
  ['an empty content', request('GET /', ['Content-Length: 0']), 'read'],
  ['names that only begin like others', request('GET /', ['Content-Lengths: 5', 'Content-Length-X: 5', 'Content-Type: a', 'Connections: x', 'Upgrade-X: 1', 'Expected: 1', 'X-Forwarded-For: 1']), 'read'],
  ['Connection: Keep-Alive', request('GET /', ['CONNECTION: Keep-Alive']), 'read'],
  ['requests in a row', get + request('HEAD /') + get, 'read'],
  ['an unfinished request', get + get.slice(0, -1), 'read partial'],
  ['nothing but a beginning', 'GE', 'partial'],

  ['POST', post, 'write'],
  ['its content is not looked at', post + get + request('PUT /x', ['content-length: 120'], get.repeat(5).slice(0, 120)) + get, 'read write'],
  ['POST without content', request('POST /', ['Content-Length: 0']) + get, 'read write'],
  ['POST that does not say how long it is', request('POST /') + get, 'write lost'],
  ['DELETE without content', request('DELETE /x') + get, 'read write'],
  ['DELETE with content', request('DELETE /x', ['Content-Length: 2'], 'ab') + get, 'read write'],
  ['PATCH', request('PATCH /x', ['Content-Length: 2'], 'ab'), 'write'],
  ['an unfinished content', post.slice(0, -1), 'write partial'],
  ['GET with content', request('GET /', ['Content-Length: 3'], 'abc') + get, 'read write'],
  ['a method in a header', request('GET /', ['X-HTTP-Method-Override: DELETE']) + request('GET /', ['x-http-method: PUT']), 'write'],
  ['a method in another header', request('GET /', ['X-Method-Override: DELETE']), 'write'],

  ['a chunked content', request('POST /', ['Transfer-Encoding: chunked'], '0\r\n\r\n'), 'write lost'],
  ['a chunked GET', request('GET /', ['transfer-encoding: chunked']), 'write lost'],
  ['Expect', request('POST /', ['Content-Length: 5', 'Expect: 100-continue']), 'write lost'],
  ['Upgrade', request('GET /', ['Connection: Upgrade', 'Upgrade: websocket']), 'write lost'],
  ['Upgrade without Connection', request('GET /', ['Upgrade: h2c']), 'write lost'],
  ['Connection that names headers', request('GET /', ['Connection: close, X-Secret']), 'write lost'],
  ['Connection that is empty', request('GET /', ['Connection:']), 'write lost'],
  ['Connection with a longer word', request('GET /', ['Connection: keep-alives']), 'write lost'],
  ['two lengths', request('GET /', ['Content-Length: 0', 'Content-Length: 0']), 'write lost'],
  ['a list of lengths', request('GET /', ['Content-Length: 0, 0']), 'write lost'],
  ['a negative length', request('GET /', ['Content-Length: -1']), 'write lost'],
  ['a signed length', request('GET /', ['Content-Length: +0']), 'write lost'],
  ['a leading zero', request('GET /', ['Content-Length: 00']), 'write lost'],
  ['a length in hexadecimal', request('GET /', ['Content-Length: 0x5']), 'write lost'],
  ['a length with space behind it', request('GET /', ['Content-Length: 0 ']), 'write lost'],
  ['a length of nine digits', request('POST /', ['Content-Length: 100000000']), 'write lost'],
  ['no length', request('GET /', ['Content-Length: ']), 'write lost'],
  ['space behind a name', request('GET /', ['Content-Length : 5']), 'write lost'],
  ['a folded line', request('GET /', ['X: a', ' b']), 'write lost'],
  ['an underscore in a name', request('GET /', ['Content_Length: 5']), 'write lost'],
  ['no name', request('GET /', [': a']), 'write lost'],
  ['no colon', request('GET /', ['Hello']), 'write lost'],
  ['a tab in a value', request('GET /', ['X:\ta']), 'write lost'],
  ['a zero in a value', request('GET /', ['X: \0']), 'write lost'],
  ['DEL in a value', request('GET /', ['X: \x7f']), 'write lost'],
  ['a bare LF', 'GET / HTTP/1.1\nHost: a\n\n', 'write lost'],
  ['a bare LF in the headers', 'GET / HTTP/1.1\r\nX: a\nContent-Length: 5\r\n\r\n', 'write lost'],
  ['a bare CR in a value', request('GET /', ['X: a\rContent-Length: 5']), 'write lost'],
  ['a bare LF at the end', 'GET / HTTP/1.1\r\nX: a\r\n\n', 'write lost'],
  ['an empty line first', `\r\n${get}`, 'write lost'],
  ['HTTP/1.0', 'GET / HTTP/1.0\r\n\r\n', 'write lost'],
  ['HTTP/0.9', 'GET /\r\n', 'write lost'],
  ['HTTP/2', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 'write lost'],
  ['an absolute target', request('GET http://example.org/'), 'write lost'],
  ['the asterisk', request('OPTIONS *'), 'write lost'],
  ['an empty target', request('GET '), 'write lost'],
  ['two spaces', request('GET  /'), 'write lost'],
  ['a space in the target', request('GET /a b'), 'write lost'],
  ['a tab behind the target', 'GET /\tHTTP/1.1\r\n\r\n', 'write lost'],
  ['letters above ASCII in the target', request('GET /caf\xe9'), 'write lost'],
  ['small letters', request('get /'), 'write lost'],
  ['CONNECT', request('CONNECT example.org:443'), 'write lost'],
  ['TRACE', request('TRACE /'), 'write lost'],
  ['a method nobody knows', request('PROPFIND /'), 'write lost'],
  ['a method that begins like another', request('GETS /'), 'write lost'],
  ['TLS', '\x16\x03\x01\x02\x00\x01', 'write lost'],
];
for (const [what, text, flags] of cases) test(what, () => assert.is(stream(text), flags));

/** A stream longer than a frame of the tests; the flags of all frames. */
function inFrames(text: string, frameBytes: number): string {
  const payload = bytesOf(text);
  let all = 0;
  classifier.begin('http');
  for (let at = 0; at < payload.byteLength; at += frameBytes) {
    all = (all & ~8) | classifier.next(payload.subarray(at, at + frameBytes));
  }
  return words(all);
}

test('headers have a limit, to the byte', () => {
  const empty = request('GET /', ['X: ']).length;
  const fits = request('GET /', [`X: ${'a'.repeat(16384 - empty)}`]);
  const exceeds = request('GET /', [`X: ${'a'.repeat(16385 - empty)}`]);
  assert.is(fits.length, 16384);
  for (const frameBytes of [2999, 1460, 1000, 97, 1]) {
    assert.is(inFrames(fits + get, frameBytes), 'read', `${frameBytes}`);
    assert.is(inFrames(exceeds, frameBytes), 'write lost', `${frameBytes}`);
  }
});

test('a megabyte of content is jumped over', () => {
  const text = get + request('PUT /file', ['Content-Length: 1048576'], 'G'.repeat(1 << 20)) + get;
  for (const frameBytes of [2999, 1460]) assert.is(inFrames(text, frameBytes), 'read write');
});

test('a packet that ends with a content ends the write', () => {
  classifier.begin('http');
  assert.is(words(classifier.next(bytesOf(post.slice(0, -3)))), 'write partial');
  assert.is(words(classifier.next(bytesOf(post.slice(-3)))), 'write');
  assert.is(words(classifier.next(bytesOf(get))), 'read');
});

test('whatever is made of a stream, the kernel never sees a read that the reference does not', () => {
  const random = randomNumbers(1989);
  const pick = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)]!;
  const lines = ['GET /', 'GET /index.html', 'HEAD /', 'OPTIONS /a', 'POST /', 'PUT /x', 'DELETE /x', 'GET /?a=b'];
  const headers = ['Accept: */*', 'Connection: keep-alive', 'Connection: close', 'Connection: upgrade', 'Content-Length: 0', 'Content-Length: 4', 'X-HTTP-Method-Override: PUT', 'X-Long-Name-That-Means-Nothing-At-All: 1', 'Transfer-Encoding: chunked', 'Expect: 100-continue', 'Cookie: abcdefghijklmnopqrstuvwxyz=0123456789'];
  let lost = 0;
  let reads = 0;
  for (let round = 0; round < 6000; round++) {
    let text = '';
    for (let requests = 1 + Math.floor(random() * 4); requests > 0; requests--) {
      const chosen = Array.from({ length: Math.floor(random() * 3) }, () => pick(headers.slice(0, random() < 0.7 ? 6 : headers.length)));
      text += request(pick(lines), chosen, chosen.includes('Content-Length: 4') ? 'abcd' : '');
    }
    if (round % 5 !== 0) text = mutate(text, '\r\n: GETPOSContent-Length0123456789/', random);
    if (text === '') continue;
    const reading = http(text);
    classifier.compare('http', bytesOf(text), reading, random);
    lost += Number(reading.lost);
    reads += reading.reads.length;
  }
  assert.ok(lost > 1000 && reads > 2000, `${lost} lost, ${reads} reads`);
});

test.run();
