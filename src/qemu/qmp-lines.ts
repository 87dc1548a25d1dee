/** Thrown when one line grows past its limit; the bytes so far are dropped, not kept. */
export class LineTooLongError extends Error {
  override readonly name = 'LineTooLongError';

  constructor(readonly limitBytes: number) {
    super(`a line longer than ${limitBytes} bytes`);
  }
}

const NEWLINE = 0x0a;

/**
 * Cuts a byte stream into lines. Holds at most `limitBytes` of an unfinished line, and its work
 * is linear in the bytes, however the stream is fragmented.
 */
export class LineSplitter {
  readonly #limitBytes: number;
  /** The unfinished line: `#heldBytes` of this buffer, which doubles as it fills. */
  #held = Buffer.alloc(0);
  #heldBytes = 0;

  constructor(limitBytes: number) {
    this.#limitBytes = limitBytes;
  }

  /** Feeds bytes; calls `onLine` for each line completed by them, without its line ending. */
  push(chunk: Buffer, onLine: (line: string) => void): void {
    let start = 0;
    for (;;) {
      const newline = chunk.indexOf(NEWLINE, start);
      const end = newline === -1 ? chunk.length : newline;
      if (this.#heldBytes + end - start > this.#limitBytes) {
        this.#release();
        throw new LineTooLongError(this.#limitBytes);
      }
      if (newline === -1) {
        this.#hold(chunk.subarray(start));
        return;
      }
      let line = chunk.subarray(start, end);
      if (this.#heldBytes > 0) {
        this.#hold(line);
        line = this.#held.subarray(0, this.#heldBytes);
      }
      const text = line.toString('utf8').trimEnd();
      this.#release();
      onLine(text);
      start = end + 1;
    }
  }

  #hold(part: Buffer): void {
    const needed = this.#heldBytes + part.length;
    if (needed > this.#held.length) {
      const grown = Buffer.allocUnsafe(Math.min(this.#limitBytes, needed * 2));
      this.#held.copy(grown, 0, 0, this.#heldBytes);
      this.#held = grown;
    }
    part.copy(this.#held, this.#heldBytes);
    this.#heldBytes = needed;
  }

  #release(): void {
    this.#held = Buffer.alloc(0);
    this.#heldBytes = 0;
  }
}
