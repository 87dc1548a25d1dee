/**
 * Requests of memcached's text protocol, after its doc/protocol.txt and the lines that every edition
 * of its parser accepts.
 */
import { readRequests, unreadable, type Reading, type StreamReader } from './stream-reader.js';

const READ_FLAGS = 'bcfkqsvO';
const STORAGE = ['set', 'add', 'replace', 'append', 'prepend', 'cas'];
const ONE_LINE_WRITES = ['delete', 'incr', 'decr', 'touch', 'gat', 'gats', 'md', 'ma', 'me'];
const LINE_MAX_BYTES = 8192;

const text = /[^\x00-\x1f\x7f]/;
const inWord = /[^\x00-\x20\x7f]/;

function word(from: StreamReader, most?: number): void {
  if (from.while(inWord, most) === '') unreadable();
}

/** A number that fits a signed 32-bit integer for sure. */
function smallNumber(from: StreamReader): void {
  const digits = from.while(/[0-9]/, 10);
  if (digits === '' || (digits.length === 10 && digits[0]! > '1')) unreadable();
}

function dataBlock(from: StreamReader, bytes: number): void {
  from.take(bytes);
  from.expect('\r\n');
}

function storage(from: StreamReader, verb: string): void {
  word(from, 250);
  from.expect(' ');
  if (verb !== 'ms') {
    smallNumber(from);
    from.expect(' ');
    smallNumber(from);
    from.expect(' ');
  }
  const bytes = from.number();
  if (verb === 'cas') {
    from.expect(' ');
    if (from.while(/[0-9]/, 19) === '') unreadable();
  }
  if (verb === 'ms') {
    for (let flags = 0; from.peek() === ' '; flags++) {
      if (flags === 8) unreadable();
      from.next();
      word(from);
    }
  } else if (from.peek() === ' ') {
    from.expect(' noreply');
  }
  from.expect('\r\n');
  dataBlock(from, bytes);
}

function metaGet(from: StreamReader): 'read' | 'write' {
  word(from);
  let kind: 'read' | 'write' = 'read';
  while (from.peek() === ' ') {
    from.next();
    const flag = from.peek();
    word(from);
    if (!READ_FLAGS.includes(flag)) {
      // From here on it is a write, whatever else it says.
      kind = 'write';
      from.while(text);
    }
  }
  return kind;
}

export const memcached = (stream: string): Reading =>
  readRequests(stream, (from) => {
    const begin = from.at;
    let kind: 'read' | 'write' = 'write';
    const verb = from.while(/[a-z]/, 7);
    if (verb === 'version' || verb === 'mn') {
      kind = 'read';
    } else if (verb === 'stats') {
      if (from.peek() === ' ') from.while(text);
    } else {
      if (from.next() !== ' ' || !['get', 'gets', 'mg', 'ms', ...STORAGE, ...ONE_LINE_WRITES].includes(verb)) unreadable();
      if (!inWord.test(from.peek())) unreadable();
      if (verb === 'ms' || STORAGE.includes(verb)) {
        storage(from, verb);
        return 'write';
      }
      if (verb === 'mg') kind = metaGet(from);
      else from.while(text);
      if (verb === 'get' || verb === 'gets') kind = 'read';
    }
    from.expect('\r\n');
    if (from.at - begin > LINE_MAX_BYTES) unreadable();
    return kind;
  });
