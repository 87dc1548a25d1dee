/**
 * The agent's control socket: a private unix socket, one JSON object a line in
 * each direction. Every request gets exactly one answer; `watch` then streams.
 */

import { once } from 'node:events';
import { chmodSync, rmSync } from 'node:fs';
import { createConnection, createServer, type Server, type Socket } from 'node:net';
import { setImmediate } from 'node:timers/promises';
import { z } from 'zod';

const largestRequestBytes = 64 * 1024;
const largestAnswerBytes = 4 * 1024 * 1024;
const mostConnections = 64;
/** How long a caller who is refused may take to read why. */
const lingerMs = 500;

const requestSchema = z.strictObject({
  command: z.enum(['status', 'checkpoint', 'failover', 'pause', 'reprotect', 'pre-release', 'start-alone', 'vcpus', 'active-vcpus', 'watch', 'stop']),
  /** For `status`: leave the history of checkpoints out. */
  brief: z.boolean().optional(),
  /** For `pre-release`: which service, and whether its replies may leave early. */
  port: z.number().int().min(1).max(65535).optional(),
  on: z.boolean().optional(),
  /** For `active-vcpus`. */
  activeVcpus: z.union([z.literal('auto'), z.number().int().min(0).max(64)]).optional(),
});

export type ControlRequest = z.infer<typeof requestSchema>;
export type ControlCommand = ControlRequest['command'];

type Answer = { ok: true; result: unknown } | { ok: false; code: string; error: string };

/** The agent refused a request, or could not be reached. */
export class ControlError extends Error {
  readonly code: string;

  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'ControlError';
    this.code = code;
  }
}

/**
 * Answers a request. `push` sends further lines on the same connection (for
 * `watch`), until `ended` aborts.
 */
export type ControlHandler = (
  request: ControlRequest,
  push: (value: unknown) => void,
  ended: AbortSignal,
) => Promise<unknown>;

export class ControlServer {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly #path: string;

  private constructor(server: Server, path: string) {
    this.#server = server;
    this.#path = path;
  }

  /** Listens at `path`, in place of a socket that a dead agent left there. */
  static async listen(path: string, handle: ControlHandler): Promise<ControlServer> {
    rmSync(path, { force: true });
    const server = createServer({ allowHalfOpen: true }); // who has asked all may close his half and still get answers
    const control = new ControlServer(server, path);
    server.maxConnections = mostConnections;
    server.on('connection', (socket) => control.#serve(socket, handle));
    // The folder is private already; the mask closes the moment before chmod.
    const mask = process.umask(0o177);
    try {
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject);
        server.listen(path, resolve);
      });
    } finally {
      process.umask(mask);
    }
    // A failing accept (no file descriptors left, say) concerns that connection only.
    server.on('error', () => {});
    chmodSync(path, 0o600);
    return control;
  }

  close(): void {
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
    rmSync(this.#path, { force: true });
  }

  #serve(socket: Socket, handle: ControlHandler): void {
    const ended = new AbortController();
    this.#sockets.add(socket);
    socket.on('error', () => socket.destroy());
    socket.on('close', () => {
      this.#sockets.delete(socket);
      ended.abort();
    });
    void converseAsServer(socket, handle, ended.signal).catch(() => socket.destroy());
  }
}

/** One request after the other, so that no caller, however fast, keeps the agent from its heartbeats. */
async function converseAsServer(socket: Socket, handle: ControlHandler, ended: AbortSignal): Promise<void> {
  const send = (value: unknown): void => {
    // A watcher that does not read is cut off before it costs memory.
    if (socket.writableLength > largestAnswerBytes) socket.destroy();
    if (!socket.destroyed) socket.write(JSON.stringify(value, withBigInts) + '\n');
  };
  try {
    for await (const line of linesOf(socket, largestRequestBytes)) {
      send(await answer(line, handle, send, ended));
      if (socket.writableNeedDrain) await once(socket, 'drain', { signal: ended });
      await setImmediate();
    }
    socket.end();
  } catch (error) {
    if (!(error instanceof ControlError)) throw error;
    send({ ok: false, code: 'CONTROL_REQUEST', error: error.message } satisfies Answer);
    socket.end();
    // Were it closed with bytes unread, the caller would hear of a broken pipe and not of the reason.
    const timer = setTimeout(() => socket.destroy(), lingerMs);
    ended.addEventListener('abort', () => clearTimeout(timer));
  }
}

async function answer(line: string, handle: ControlHandler, push: (value: unknown) => void, ended: AbortSignal): Promise<Answer> {
  let request: ControlRequest;
  try {
    request = requestSchema.parse(JSON.parse(line));
  } catch {
    return { ok: false, code: 'CONTROL_REQUEST', error: `This is not a request the agent knows: ${line.slice(0, 80)}` };
  }
  try {
    return { ok: true, result: await handle(request, push, ended) };
  } catch (error) {
    const code = (error as { code?: unknown }).code;
    return { ok: false, code: typeof code === 'string' ? code : 'FAILED', error: (error as Error).message };
  }
}

/** Whether a living agent listens at `path`. */
export async function isListening(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createConnection(path);
    socket.once('error', () => resolve(false));
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
  });
}

/** Sends one request to the agent at `path` and returns its result. @throws ControlError */
export async function callAgent(path: string, request: ControlRequest, options: { timeoutMs?: number } = {}): Promise<unknown> {
  for await (const value of converse(path, request, options.timeoutMs ?? 30_000)) return value;
  throw new ControlError('AGENT_GONE', `The agent at ${path} ended without an answer.`);
}

/** Follows what happens in the agent: first its answer, then each pushed value. */
export async function* watchAgent(path: string, signal?: AbortSignal): AsyncGenerator<unknown> {
  yield* converse(path, { command: 'watch' }, undefined, signal);
}

async function* converse(path: string, request: ControlRequest, timeoutMs: number | undefined, signal?: AbortSignal): AsyncGenerator<unknown> {
  const socket = createConnection(path);
  const onAbort = (): void => void socket.destroy();
  signal?.addEventListener('abort', onAbort);
  if (timeoutMs !== undefined) {
    socket.setTimeout(timeoutMs, () => socket.destroy(new ControlError('AGENT_TIMEOUT', `The agent at ${path} gave no answer within ${timeoutMs} ms.`)));
  }
  socket.write(JSON.stringify(request) + '\n');
  try {
    let first = true;
    for await (const line of linesOf(socket, largestAnswerBytes)) {
      const value: unknown = JSON.parse(line);
      if (!first) {
        yield value;
        continue;
      }
      first = false;
      const reply = value as Answer;
      if (!reply.ok) throw new ControlError(reply.code, reply.error);
      yield reply.result;
    }
  } catch (error) {
    if (error instanceof ControlError) throw error;
    if (!signal?.aborted && (error as NodeJS.ErrnoException).code !== 'ERR_STREAM_PREMATURE_CLOSE') throw unreachable(path, error as Error);
  } finally {
    signal?.removeEventListener('abort', onAbort);
    socket.destroy();
  }
}

function unreachable(path: string, cause: Error): ControlError {
  const code = (cause as NodeJS.ErrnoException).code;
  const why = code === 'ENOENT' || code === 'ECONNREFUSED'
    ? 'no agent listens there; is it running, and is this its socket?'
    : code === 'EACCES' ? 'it belongs to root; use sudo' : cause.message;
  return new ControlError('AGENT_UNREACHABLE', `The agent at ${path} cannot be reached: ${why}`, { cause });
}

/** The lines that come in, read no faster than they are taken. @throws ControlError for one that is too long */
async function* linesOf(socket: Socket, largestBytes: number): AsyncGenerator<string> {
  let parts: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of socket.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
    for (let rest = chunk; rest.length > 0;) {
      const end = rest.indexOf(10);
      const piece = end < 0 ? rest : rest.subarray(0, end);
      bytes += piece.length;
      if (bytes > largestBytes) throw new ControlError('CONTROL_LINE', `A line longer than ${largestBytes} bytes is refused.`);
      parts.push(piece);
      if (end < 0) break;
      const line = Buffer.concat(parts).toString('utf8');
      parts = [];
      bytes = 0;
      yield line;
      rest = rest.subarray(end + 1);
    }
  }
}

function withBigInts(_key: string, value: unknown): unknown {
  return typeof value === 'bigint' ? value.toString() : value;
}
