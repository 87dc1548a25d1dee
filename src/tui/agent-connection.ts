/**
 * A lasting connection to an agent's control socket, read in rounds.
 *
 * A busy agent has a hundred news a second, and to wake up for each would cost
 * more than all the drawing. They wait in the socket until they are asked for.
 */

import { createConnection, type Socket } from 'node:net';
import { ControlError } from '../agent/control.js';

/** An agent that takes longer to say how it is does not answer. */
const answerMs = 2000;
const mostBytesPerRound = 4 * 1024 * 1024;
const chunkBytes = 64 * 1024;

/** What an agent says in one round: its news since the last one, then how it is. */
export interface Round { news: unknown[]; status: unknown }

type Answer = { ok: true; result: unknown } | { ok: false; code: string; error: string };

export class AgentConnection {
  readonly #socket: Socket;
  /** The beginning of a line that goes on in the next chunk. */
  #rest: Buffer = Buffer.alloc(0);
  #news: unknown[] = [];
  #bytes = 0;
  #isWatching = false;
  #settle: { resolve: (round: Round) => void; reject: (error: Error) => void } | undefined;

  constructor(path: string) {
    this.#socket = createConnection({
      path,
      onread: { buffer: Buffer.alloc(chunkBytes), callback: (bytes, chunk) => this.#onChunk((chunk as Buffer).subarray(0, bytes)) },
    });
    this.#socket.on('error', (cause) => this.#end(new ControlError('AGENT_UNREACHABLE', unreachable(path, cause), { cause })));
    this.#socket.on('close', () => this.#end(new ControlError('AGENT_GONE', 'it has ended')));
  }

  /**
   * Asks how the agent is; one round after the other.
   * @throws ControlError; the connection is closed then
   */
  async round(): Promise<Round> {
    const timer = setTimeout(() => this.#end(new ControlError('AGENT_TIMEOUT', `no answer within ${answerMs / 1000} s`)), answerMs);
    try {
      return await new Promise<Round>((resolve, reject) => {
        if (this.#socket.destroyed) return reject(new ControlError('AGENT_GONE', 'it has ended'));
        this.#settle = { resolve, reject };
        // The answer to `watch` is the status, too.
        this.#socket.write(this.#isWatching ? '{"command":"status","brief":true}\n' : '{"command":"watch"}\n');
        this.#isWatching = true;
        this.#socket.resume();
      });
    } finally {
      clearTimeout(timer);
    }
  }

  close(): void {
    this.#socket.destroy();
  }

  /** @returns whether to read on */
  #onChunk(chunk: Buffer): boolean {
    this.#bytes += chunk.length;
    if (this.#bytes > mostBytesPerRound) {
      this.#end(new ControlError('AGENT_ANSWER', `it said more than ${mostBytesPerRound} bytes at once`));
      return false;
    }
    let data = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    for (let end = data.indexOf(10); end >= 0; end = data.indexOf(10)) {
      this.#onLine(data.toString('utf8', 0, end));
      data = data.subarray(end + 1);
    }
    this.#rest = Buffer.from(data); // the chunk's memory is used again
    return this.#settle !== undefined;
  }

  #onLine(line: string): void {
    let value: unknown;
    try {
      value = JSON.parse(line);
    } catch (cause) {
      return this.#end(new ControlError('AGENT_ANSWER', 'what it says is not JSON', { cause }));
    }
    if (typeof value !== 'object' || value === null || !('ok' in value)) return void this.#news.push(value);
    const answer = value as Answer;
    if (!answer.ok) return this.#end(new ControlError('AGENT_ANSWER', `it refuses to be watched: ${answer.error}`));
    this.#settle?.resolve({ news: this.#news, status: answer.result });
    this.#settle = undefined;
    this.#news = [];
    this.#bytes = 0;
  }

  #end(error: Error): void {
    this.#settle?.reject(error);
    this.#settle = undefined;
    this.#socket.destroy();
  }
}

function unreachable(path: string, { code, message }: NodeJS.ErrnoException): string {
  if (code === 'ENOENT' || code === 'ECONNREFUSED') return `none listens at ${path}; is it running?`;
  if (code === 'EPIPE' || code === 'ECONNRESET') return 'it has ended';
  return code === 'EACCES' ? `${path} belongs to root; use sudo` : message;
}
