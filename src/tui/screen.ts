/**
 * The terminal, as a grid of lines: ink hands over whole pictures, and only the
 * lines that differ are written, each at its place. Nothing scrolls, nothing
 * flickers, and a slow line carries little.
 */

import { EventEmitter } from 'node:events';
import type { WriteStream } from 'node:tty';

const enterAlternate = '\x1b[?1049h\x1b[?25l';
const leaveAlternate = '\x1b[0m\x1b[?25h\x1b[?1049l';
const clearAll = '\x1b[0m\x1b[2J';
/** More than this unwritten, and the reader is too slow: a picture is left out. */
const mostPendingBytes = 64 * 1024;

export class Screen extends EventEmitter {
  readonly isTTY = true;
  readonly #out: WriteStream;
  readonly #ascii: boolean;
  #lines: string[] = [];
  #picture = '';
  #isOpen = false;
  readonly #onResize = (): void => {
    this.#forget();
    this.emit('resize');
  };
  readonly #onExit = (): void => this.close();

  /** @param ascii the terminal may know nothing but ASCII */
  constructor(out: WriteStream, ascii: boolean) {
    super();
    this.#out = out;
    this.#ascii = ascii;
  }

  get columns(): number {
    return this.#out.columns || 80;
  }

  get rows(): number {
    return this.#out.rows || 24;
  }

  open(): void {
    this.#isOpen = true;
    this.#out.write(enterAlternate + clearAll);
    this.#out.on('resize', this.#onResize);
    process.once('exit', this.#onExit);
  }

  /** Gives the terminal back as it was. */
  close(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#out.off('resize', this.#onResize);
    process.off('exit', this.#onExit);
    this.#out.write(leaveAlternate);
  }

  /** Draws everything anew: something else has written to the terminal. */
  repaint(): void {
    this.#forget();
    this.#draw();
  }

  /** Takes a whole picture. */
  write(picture: string, written?: () => void): boolean {
    // Ink also writes nothing, to learn when all before has been written.
    if (picture !== '') this.#picture = picture;
    this.#draw();
    if (written) setImmediate(written);
    return true;
  }

  #draw(): void {
    if (!this.#isOpen || this.#out.writableLength > mostPendingBytes) return;
    const text = this.#ascii ? this.#picture.replace(/[^\x00-\x7f]/g, '?') : this.#picture;
    const lines = text.split('\n').slice(0, this.rows);
    let changes = '';
    for (let row = 0; row < Math.max(lines.length, this.#lines.length); row++) {
      const line = lines[row] ?? '';
      if (line !== this.#lines[row]) changes += `\x1b[${row + 1};1H\x1b[2K${line}\x1b[0m`;
    }
    this.#lines = lines;
    if (changes !== '') this.#out.write(changes);
  }

  #forget(): void {
    this.#lines = [];
    if (this.#isOpen) this.#out.write(clearAll);
  }
}
