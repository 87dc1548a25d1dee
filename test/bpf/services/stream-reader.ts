/**
 * The ground on which the reference parsers stand: a stream that is there as a whole, read one
 * character at a time. They are written from the protocols' descriptions, slowly and plainly, to be
 * compared with what runs in the kernel.
 */

/** What a stream of requests contains. Offsets are those behind a request's last byte. */
export interface Reading {
  /** Where provably read-only requests end. */
  reads: number[];
  /** Where other complete requests end. */
  writes: number[];
  /** Something nobody can follow comes after the last of them. */
  lost: boolean;
  /** The stream ends inside a request. */
  partial: boolean;
}

class EndOfStream extends Error {}
class Unreadable extends Error {}

/** Ends the reading: from here on nobody knows where a request begins. */
export function unreadable(): never {
  throw new Unreadable();
}

export class StreamReader {
  #at = 0;

  constructor(readonly text: string) {}

  get at(): number {
    return this.#at;
  }

  /** The next character, which stays. */
  peek(): string {
    if (this.#at >= this.text.length) throw new EndOfStream();
    return this.text[this.#at]!;
  }

  next(): string {
    const character = this.peek();
    this.#at++;
    return character;
  }

  expect(wanted: string): void {
    for (const character of wanted) if (this.next() !== character) unreadable();
  }

  /** One of these texts (which do not begin alike), in any case of letters. */
  oneOf(...texts: string[]): void {
    const first = this.peek().toLowerCase();
    const text = texts.find((candidate) => candidate[0] === first) ?? unreadable();
    for (const character of text) if (this.next().toLowerCase() !== character) unreadable();
  }

  /** Characters as long as they match. */
  while(pattern: RegExp, most = Infinity): string {
    let taken = '';
    while (pattern.test(this.peek())) {
      if (taken.length === most) unreadable();
      taken += this.next();
    }
    return taken;
  }

  /** So many characters, whatever they are. */
  take(count: number): string {
    const taken = this.text.slice(this.#at, this.#at + count);
    this.#at += taken.length;
    if (taken.length < count) throw new EndOfStream();
    return taken;
  }

  /** A whole number without sign or leading zeros. */
  number(digitsMax = 8): number {
    if (this.peek() === '0') {
      this.next();
      if (/[0-9]/.test(this.peek())) unreadable();
      return 0;
    }
    const digits = this.while(/[0-9]/, digitsMax);
    if (digits === '') unreadable();
    return Number(digits);
  }
}

/** Reads requests until the stream ends; `request` reads one and says what it is. */
export function readRequests(text: string, request: (from: StreamReader) => 'read' | 'write'): Reading {
  const from = new StreamReader(text);
  const reading: Reading = { reads: [], writes: [], lost: false, partial: false };
  while (from.at < text.length) {
    try {
      const kind = request(from);
      (kind === 'read' ? reading.reads : reading.writes).push(from.at);
    } catch (error) {
      if (error instanceof Unreadable) reading.lost = true;
      else if (error instanceof EndOfStream) reading.partial = true;
      else throw error;
      break;
    }
  }
  return reading;
}
