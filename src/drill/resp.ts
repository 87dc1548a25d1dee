/** Just enough of the Redis protocol for a client that remembers what it was told. */

import { createConnection, type Socket } from 'node:net';

export type Reply = string | number | null | Reply[] | Error;

/** One connection to Redis. Never reconnects: its end is a finding. */
export class RespConnection {
  readonly #socket: Socket;
  readonly #waiting: { resolve: (reply: Reply) => void; reject: (error: Error) => void }[] = [];
  #input: Buffer = Buffer.alloc(0);
  #failure: Error | undefined;

  static connect(host: string, port: number, timeoutMs: number): Promise<RespConnection> {
    return new Promise((resolve, reject) => {
      const socket = createConnection({ host, port, noDelay: true });
      const timer = setTimeout(() => socket.destroy(new Error(`no connection within ${timeoutMs} ms`)), timeoutMs);
      socket.once('error', reject);
      socket.once('connect', () => {
        clearTimeout(timer);
        socket.off('error', reject);
        resolve(new RespConnection(socket));
      });
    });
  }

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('data', (chunk: Buffer) => this.#read(chunk));
    socket.on('error', (error) => this.#fail(error));
    socket.on('close', () => this.#fail(new Error('the connection was closed')));
  }

  /** Sends a command; replies come in the order of the commands. Rejects when the connection ends. */
  command(...words: string[]): Promise<Reply> {
    if (this.#failure) return Promise.reject(this.#failure);
    const parts = words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`);
    this.#socket.write(`*${words.length}\r\n${parts.join('')}`);
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
  }

  close(): void {
    this.#socket.destroy();
  }

  #read(chunk: Buffer): void {
    this.#input = this.#input.length === 0 ? chunk : Buffer.concat([this.#input, chunk]);
    let offset = 0;
    for (;;) {
      const parsed = parse(this.#input, offset);
      if (!parsed) break;
      offset = parsed.end;
      this.#waiting.shift()?.resolve(parsed.reply);
    }
    this.#input = this.#input.subarray(offset);
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    for (const { reject } of this.#waiting.splice(0)) reject(this.#failure);
  }
}

/** @returns undefined if the reply at `start` is not complete yet */
function parse(input: Buffer, start: number): { reply: Reply; end: number } | undefined {
  const lineEnd = input.indexOf('\r\n', start);
  if (lineEnd < 0) return undefined;
  const line = input.toString('utf8', start + 1, lineEnd);
  const end = lineEnd + 2;
  switch (input[start]) {
    case 0x2b: return { reply: line, end }; // +
    case 0x2d: return { reply: new Error(line), end }; // -
    case 0x3a: return { reply: Number(line), end }; // :
    case 0x24: { // $
      const bytes = Number(line);
      if (bytes < 0) return { reply: null, end };
      if (input.length < end + bytes + 2) return undefined;
      return { reply: input.toString('utf8', end, end + bytes), end: end + bytes + 2 };
    }
    case 0x2a: { // *
      const items: Reply[] = [];
      let next = end;
      for (let i = 0; i < Number(line); i++) {
        const item = parse(input, next);
        if (!item) return undefined;
        items.push(item.reply);
        next = item.end;
      }
      return { reply: items, end: next };
    }
    default:
      throw new Error(`this is not a Redis reply: ${line.slice(0, 40)}`);
  }
}
