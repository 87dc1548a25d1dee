/**
 * Requests of HTTP/1.1 in their plainest spelling, after RFC 9110 and RFC 9112: the grammar below is
 * narrower than theirs, and what lies between the two is unreadable.
 */
import { readRequests, unreadable, type Reading } from './stream-reader.js';

const SAFE = ['GET', 'HEAD', 'OPTIONS'];
const WITH_CONTENT = ['POST', 'PUT', 'PATCH'];
const HEADERS_MAX_BYTES = 16384;

export const http = (text: string): Reading =>
  readRequests(text, (from) => {
    const begin = from.at;
    const method = from.while(/[A-Z]/, 7);
    if (from.next() !== ' ' || ![...SAFE, ...WITH_CONTENT, 'DELETE'].includes(method)) unreadable();
    if (from.peek() !== '/') unreadable();
    from.while(/[\x21-\x7e]/);
    from.expect(' HTTP/1.1\r\n');

    let write = !SAFE.includes(method);
    let length: number | undefined;
    while (from.peek() !== '\r') {
      const name = from.while(/[A-Za-z0-9-]/).toLowerCase();
      if (name === '' || from.next() !== ':') unreadable();
      if (['transfer-encoding', 'upgrade', 'expect'].includes(name)) unreadable();
      if (name === 'content-length') {
        if (length !== undefined) unreadable();
        if (from.peek() === ' ') from.next();
        length = from.number();
        from.expect('\r\n');
      } else if (name === 'connection') {
        if (from.peek() === ' ') from.next();
        from.oneOf('keep-alive\r\n', 'close\r\n');
      } else {
        from.while(/[^\x00-\x1f\x7f]/);
        from.expect('\r\n');
      }
      if (name.startsWith('x-http-m') || name.startsWith('x-method')) write = true;
    }
    from.expect('\r\n');
    if (from.at - begin > HEADERS_MAX_BYTES) unreadable();
    if (WITH_CONTENT.includes(method) && length === undefined) unreadable();
    if (length) {
      write = true;
      from.take(length);
    }
    return write ? 'write' : 'read';
  });
