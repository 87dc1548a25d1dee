import type { WriteStream } from 'node:tty';

/** Steps of something long, a line each: what, the time so far, how it ended. */
export class Progress {
  readonly #out: WriteStream;
  #step: string | undefined;
  #startedMs = 0;
  #ticker: NodeJS.Timeout | undefined;

  constructor(out: WriteStream) {
    this.#out = out;
  }

  title(text: string): void {
    this.#out.write(`\n${text}\n`);
  }

  start(step: string): void {
    this.#finish('');
    this.#step = step;
    this.#startedMs = performance.now();
    // A terminal shows the seconds pass; a log gets each line once, when it is over.
    if (this.#out.isTTY) {
      this.#draw();
      this.#ticker = setInterval(() => this.#draw(), 500);
      this.#ticker.unref();
    }
  }

  done(result: string): void {
    this.#finish(result);
  }

  failed(): void {
    this.#finish('failed');
  }

  #draw(): void {
    const width = Math.max(40, this.#out.columns - 1);
    const line = `  ${this.#seconds()}  ${this.#step}`;
    this.#out.write(`\r\x1b[K${line.slice(0, width)}`);
  }

  #finish(result: string): void {
    if (this.#step === undefined) return;
    clearInterval(this.#ticker);
    const line = `  ${this.#seconds()}  ${this.#step}${result === '' ? '' : `: ${result}`}`;
    this.#out.write(`${this.#out.isTTY ? '\r\x1b[K' : ''}${line}\n`);
    this.#step = undefined;
  }

  #seconds(): string {
    return `${((performance.now() - this.#startedMs) / 1000).toFixed(1).padStart(6)} s`;
  }
}
