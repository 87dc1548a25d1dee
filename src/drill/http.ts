/** One HTTP keep-alive connection, looked at closely enough to see it survive. */

import { createHash } from 'node:crypto';
import type { Socket } from 'node:net';
import { connectTo } from './connect.js';

const mostHeaderBytes = 16 * 1024;
const mostBodyBytes = 64 * 1024 * 1024;

export interface Page {
  status: number;
  bodyBytes: number;
  /** SHA-256 of the body, in hexadecimal. */
  digest: string;
}

/** Never reconnects: its end is a finding. */
export class HttpConnection {
  readonly #socket: Socket;
  #chunks: Buffer[] = [];
  #bytes = 0;
  #head: { status: number; bodyAt: number; bodyBytes: number } | undefined;
  #waiting: { resolve: (page: Page) => void; reject: (error: Error) => void } | undefined;
  #failure: Error | undefined;

  static async connect(host: string, port: number, timeoutMs: number): Promise<HttpConnection> {
    return new HttpConnection(await connectTo(host, port, timeoutMs));
  }

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('data', (chunk: Buffer) => this.#read(chunk));
    socket.on('error', (error) => this.#fail(error));
    socket.on('close', () => this.#fail(new Error('the connection was closed')));
  }

  /** Bytes of the answer under way that have arrived; 0 between answers. */
  get partialBytes(): number {
    return this.#waiting ? this.#bytes : 0;
  }

  /** Fetches a page; one at a time. Rejects when the connection ends. */
  get(path: string): Promise<Page> {
    if (this.#failure) return Promise.reject(this.#failure);
    if (this.#waiting) return Promise.reject(new Error('a page is being fetched already'));
    this.#socket.write(`GET ${path} HTTP/1.1\r\nHost: guest\r\n\r\n`);
    return new Promise((resolve, reject) => { this.#waiting = { resolve, reject }; });
  }

  close(): void {
    this.#socket.destroy();
  }

  #read(chunk: Buffer): void {
    this.#chunks.push(chunk);
    this.#bytes += chunk.length;
    if (!this.#head) {
      const start = Buffer.concat(this.#chunks);
      this.#chunks = [start];
      const end = start.indexOf('\r\n\r\n');
      if (end < 0) {
        if (start.length > mostHeaderBytes) this.#socket.destroy(new Error('the answer has an endless header'));
        return;
      }
      const head = start.toString('latin1', 0, end);
      const status = Number(/^HTTP\/1\.1 (\d{3})/.exec(head)?.[1]);
      const bodyBytes = Number(/^content-length: *(\d+)\r?$/im.exec(head)?.[1]);
      if (!(status >= 100 && bodyBytes <= mostBodyBytes)) {
        this.#socket.destroy(new Error(`this answer cannot be used: ${head.slice(0, 60)}`));
        return;
      }
      this.#head = { status, bodyAt: end + 4, bodyBytes };
    }
    const { status, bodyAt, bodyBytes } = this.#head;
    if (this.#bytes < bodyAt + bodyBytes) return;
    const whole = Buffer.concat(this.#chunks);
    const waiting = this.#waiting;
    this.#chunks = [];
    this.#bytes = 0;
    this.#head = undefined;
    this.#waiting = undefined;
    if (!waiting || whole.length > bodyAt + bodyBytes) {
      this.#socket.destroy(new Error('the server said more than was asked'));
      waiting?.reject(new Error('the server said more than was asked'));
      return;
    }
    waiting.resolve({ status, bodyBytes, digest: createHash('sha256').update(whole.subarray(bodyAt)).digest('hex') });
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    this.#waiting?.reject(this.#failure);
    this.#waiting = undefined;
  }
}
