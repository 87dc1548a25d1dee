import { LoaderError } from './errors.js';

const decoder = new TextDecoder();

/**
 * A table of NUL-terminated strings, as ELF and BTF have them. Strings may overlap, so a hostile
 * file could make a few bytes mean gigabytes of names: in all, a table gives out no more than a
 * small multiple of its size.
 */
export class StringTable {
  readonly #bytes: Uint8Array;
  readonly #known = new Map<number, string>();
  #budget: number;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#budget = bytes.length * 4 + 65536;
  }

  /** The string that begins at `offset`; undefined where there is none. */
  at(offset: number): string | undefined {
    let text = this.#known.get(offset);
    if (text !== undefined) return text;
    if (offset >= this.#bytes.length) return undefined;
    const end = this.#bytes.indexOf(0, offset);
    if (end < 0) return undefined;
    this.#budget -= end - offset;
    if (this.#budget < 0)
      throw new LoaderError('MALFORMED_ELF', 'The object has names that overlap each other without end.');
    text = decoder.decode(this.#bytes.subarray(offset, end));
    this.#known.set(offset, text);
    return text;
  }
}
