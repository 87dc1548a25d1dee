/** Just enough of the Redis protocol for a client that remembers what it was told. */

import type { Socket } from 'node:net';
import { connectTo } from './connect.js';

export type Reply = string | number | null | Reply[] | Error;

const mostReplyBytes = 64 * 1024 * 1024;
const deepestArray = 8;

/** One connection to Redis. Never reconnects: its end is a finding, and so is a reply that nobody asked for. */
export class RespConnection {
  readonly #socket: Socket;
  readonly #waiting: { resolve: (reply: Reply) => void; reject: (error: Error) => void }[] = [];
  #input: Buffer = Buffer.alloc(0);
  #failure: Error | undefined;

  static async connect(host: string, port: number, timeoutMs: number): Promise<RespConnection> {
    return new RespConnection(await connectTo(host, port, timeoutMs));
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
    if (this.#failure) return;
    this.#input = this.#input.length === 0 ? chunk : Buffer.concat([this.#input, chunk]);
    let offset = 0;
    try {
      for (let parsed = parseReply(this.#input, offset); parsed; parsed = parseReply(this.#input, offset)) {
        offset = parsed.end;
        const waiting = this.#waiting.shift();
        if (!waiting) throw new Error('the server said more than was asked');
        waiting.resolve(parsed.reply);
      }
      this.#input = this.#input.subarray(offset);
      if (this.#input.length > mostReplyBytes) throw new Error(`a reply is longer than ${mostReplyBytes} bytes`);
    } catch (error) {
      this.#fail(error as Error);
      this.#socket.destroy();
    }
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    for (const { reject } of this.#waiting.splice(0)) reject(this.#failure);
  }
}

/**
 * The reply that begins at `start`, and where it ends.
 * @returns undefined if it is not complete yet
 * @throws if this is no Redis reply
 */
export function parseReply(input: Buffer, start = 0, depth = 0): { reply: Reply; end: number } | undefined {
  const lineEnd = input.indexOf('\r\n', start);
  if (lineEnd < 0) return undefined;
  const line = input.toString('utf8', start + 1, lineEnd);
  const end = lineEnd + 2;
  switch (input[start]) {
    case 0x2b: return { reply: line, end }; // +
    case 0x2d: return { reply: new Error(line), end }; // -
    case 0x3a: return { reply: wholeNumber(line), end }; // :
    case 0x24: { // $
      const bytes = wholeNumber(line);
      if (bytes === -1) return { reply: null, end };
      if (bytes < 0 || bytes > mostReplyBytes) break;
      if (input.length < end + bytes + 2) return undefined;
      if (input.toString('latin1', end + bytes, end + bytes + 2) !== '\r\n') break;
      return { reply: input.toString('utf8', end, end + bytes), end: end + bytes + 2 };
    }
    case 0x2a: { // *
      const count = wholeNumber(line);
      if (count === -1) return { reply: null, end };
      if (count < 0 || count > mostReplyBytes || depth === deepestArray) break;
      const items: Reply[] = [];
      let next = end;
      for (let i = 0; i < count; i++) {
        const item = parseReply(input, next, depth + 1);
        if (!item) return undefined;
        items.push(item.reply);
        next = item.end;
      }
      return { reply: items, end: next };
    }
  }
  throw new Error(`this is not a Redis reply: ${input.toString('latin1', start, Math.min(lineEnd, start + 40))}`);
}

function wholeNumber(text: string): number {
  if (!/^-?\d{1,15}$/.test(text)) throw new Error(`this is not a number in a Redis reply: ${text.slice(0, 40)}`);
  return Number(text);
}
