/**
 * C strings. Bytes that are no UTF-8 become lone surrogates (0x80 is U+DC80), which no valid text
 * contains, and are written back as they were: a key that was read finds its entry again.
 */

/** Longest text put together character by character; beyond it, the decoder is quicker. */
const SHORT_TEXT = 24;
const ESCAPE = 0xdc00;
const ESCAPED = /([\udc80-\udcff])/u;

const strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
const encoder = new TextEncoder();

/** The text in the `length` bytes at `offset`, up to the first NUL if there is one. */
export function readText(view: DataView, offset: number, length: number): string {
  let end = 0;
  let ascii = 0;
  for (; end < length; end++) {
    const byte = view.getUint8(offset + end);
    if (byte === 0) break;
    ascii |= byte;
  }
  if (end > SHORT_TEXT || ascii > 127) return decode(new Uint8Array(view.buffer, view.byteOffset + offset, end));
  let text = '';
  for (let i = 0; i < end; i++) text += String.fromCharCode(view.getUint8(offset + i));
  return text;
}

function decode(bytes: Uint8Array): string {
  try {
    return strict.decode(bytes);
  } catch {
    return decodeEscaping(bytes);
  }
}

/** Decodes the longest valid pieces, and escapes the bytes between them. */
function decodeEscaping(bytes: Uint8Array): string {
  let text = '';
  for (let at = 0; at < bytes.length;) {
    const lead = bytes[at] as number;
    const size = lead < 0x80 ? 1 : lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    try {
      text += strict.decode(bytes.subarray(at, at + size));
      at += size;
    } catch {
      text += String.fromCharCode(ESCAPE + lead);
      at++;
    }
  }
  return text;
}

/** Writes `text` into the `length` bytes at `offset`, with zeros after it; false if it does not fit. */
export function writeText(view: DataView, offset: number, length: number, text: string): boolean {
  const room = new Uint8Array(view.buffer, view.byteOffset + offset, length);
  let end = 0;
  for (const piece of ESCAPED.test(text) ? text.split(ESCAPED) : [text]) {
    const code = piece.length === 1 ? piece.charCodeAt(0) - ESCAPE : 0;
    if (code >= 0x80 && code <= 0xff) {
      if (end === length) return false;
      room[end++] = code;
    } else {
      const { read, written } = encoder.encodeInto(piece, room.subarray(end));
      if (read < piece.length) return false;
      end += written;
    }
  }
  room.fill(0, end);
  return true;
}
