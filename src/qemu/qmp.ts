import { createConnection, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { EventEmitter } from 'node:events';
import { sendDescriptor } from 'fd-pass';
import { LineSplitter, LineTooLongError } from './qmp-lines.js';
import { WallClock } from './wall-clock.js';
import {
  EVENT_DATA,
  MESSAGES,
  RESULTS,
  type QmpArgs,
  type QmpCommand,
  type QmpEvent,
  type QmpEventName,
  type QmpResult,
  type QmpVersion,
} from './qmp-schema.js';

export type { QmpArgs, QmpCommand, QmpEvent, QmpEventName, QmpResult, QmpVersion };

export type QmpErrorCode =
  | 'QMP_CONNECT' // the socket could not be reached, or nobody greeted us on it
  | 'QMP_COMMAND' // QEMU refused a command; `class` and `desc` are its words
  | 'QMP_TIMEOUT' // no answer in time; the command may still take effect
  | 'QMP_CLOSED' // the connection ended before the answer
  | 'QMP_PROTOCOL'; // what came down the line is not QMP

/** A failed QMP exchange. */
export class QmpError extends Error {
  override readonly name = 'QmpError';
  /** QEMU's error class ("GenericError", "CommandNotFound"), when QEMU answered with an error. */
  readonly class: string | undefined;
  /** QEMU's own description, or ours where QEMU said nothing. */
  readonly desc: string;
  readonly command: string | undefined;

  constructor(
    readonly code: QmpErrorCode,
    message: string,
    details: { class?: string; desc?: string; command?: string; cause?: unknown } = {},
  ) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.class = details.class;
    this.desc = details.desc ?? message;
    this.command = details.command;
  }
}

export interface QmpConnectOptions {
  signal?: AbortSignal | undefined;
  /** For the connection, the greeting and the negotiation together. Default 5000. */
  timeoutMs?: number | undefined;
  /** Sees every event, from the first on, before the handlers added with `on`. */
  onEvent?: ((event: QmpEvent) => void) | undefined;
  /** The longest line accepted from QEMU. Default 8 MiB. */
  maxLineBytes?: number | undefined;
}

export interface QmpExecuteOptions {
  /** Default 5000. Infinity waits for as long as the connection lives. */
  timeoutMs?: number | undefined;
  signal?: AbortSignal | undefined;
  /** Sends out of band: answered even while QEMU's main loop is stuck in another command. */
  oob?: boolean | undefined;
  /** A file descriptor to send along; QEMU gets one of its own. */
  fd?: number | undefined;
}

/** Carries a protocol violation from where it is seen to where the connection is ended. */
class NotQmp extends Error {
  constructor(readonly reason: QmpError) {
    super(reason.message);
  }
}

interface Pending {
  readonly command: string;
  readonly oob: boolean;
  readonly fd: number | undefined;
  /** Absent once the caller has been answered (by a timeout, say) ahead of QEMU. */
  settle: ((error: Error | undefined, value?: unknown) => void) | undefined;
}

const DEFAULT_TIMEOUT_MS = 5000;
const DEFAULT_MAX_LINE_BYTES = 8 * 1024 * 1024;

/**
 * QEMU stops reading the monitor when 8 commands are queued, out-of-band ones included
 * (QMP_REQ_QUEUE_LEN_MAX in monitor/qmp.c), so fewer than that are ever in flight.
 */
const MAX_IN_FLIGHT = 6;

/** A connection to one QEMU's machine protocol. QEMU serves one such client at a time. */
export class QmpClient {
  readonly #stream: Duplex;
  readonly #peer: string;
  readonly #clock = new WallClock();
  readonly #lines: LineSplitter;
  readonly #events = new EventEmitter();
  readonly #onEvent: ((event: QmpEvent) => void) | undefined;
  readonly #pending = new Map<number, Pending>();
  /** In-band commands that wait for their turn: lines by id, oldest first. */
  readonly #unsent = new Map<number, string>();
  readonly #closed: Promise<QmpError>;
  #resolveClosed!: (reason: QmpError) => void;
  #onGreeting: ((greeting: { version: QmpVersion; oob: boolean }) => void) | undefined;
  #endReason: QmpError | undefined;
  #inFlight = 0;
  #nextId = 1;
  #version: QmpVersion | undefined;
  #oob = false;

  /** Connects, reads the greeting and negotiates; out-of-band commands wherever QEMU offers them. */
  static async connect(socketPath: string, options: QmpConnectOptions = {}): Promise<QmpClient> {
    const socket = createConnection({ path: socketPath });
    return await QmpClient.over(socket, socketPath, options);
  }

  /** As `connect`, over a stream that is open already; `peer` names it in errors. */
  static async over(
    stream: Duplex,
    peer: string,
    options: QmpConnectOptions = {},
  ): Promise<QmpClient> {
    const client = new QmpClient(stream, peer, options);
    const timeoutMs = options.timeoutMs ?? DEFAULT_TIMEOUT_MS;
    const startNs = process.hrtime.bigint();
    let timer: NodeJS.Timeout | undefined;
    let onAbort: (() => void) | undefined;
    try {
      options.signal?.throwIfAborted();
      const greeting = await new Promise<{ version: QmpVersion; oob: boolean }>(
        (resolve, reject) => {
          client.#onGreeting = resolve;
          void client.#closed.then((reason) => {
            const cause = reason.cause;
            const why = cause instanceof Error ? cause.message : reason.message;
            reject(
              reason.code === 'QMP_PROTOCOL'
                ? reason
                : new QmpError('QMP_CONNECT', `cannot reach QEMU's monitor on ${peer}: ${why}`, {
                    cause,
                  }),
            );
          });
          timer = setTimeout(() => {
            reject(
              new QmpError(
                'QMP_CONNECT',
                `no QMP greeting on ${peer} within ${timeoutMs} ms: QEMU is stuck, or another client holds its monitor`,
              ),
            );
          }, timeoutMs);
          onAbort = () => reject(options.signal?.reason);
          options.signal?.addEventListener('abort', onAbort, { once: true });
        },
      );
      client.#version = greeting.version;
      client.#oob = greeting.oob;
      client.#clock.settle();
      const spentMs = Number(process.hrtime.bigint() - startNs) / 1e6;
      await client.execute('qmp_capabilities', greeting.oob ? { enable: ['oob'] } : {}, {
        timeoutMs: Math.max(1, timeoutMs - spentMs),
        signal: options.signal,
      });
      return client;
    } catch (error) {
      client.close();
      throw error;
    } finally {
      clearTimeout(timer);
      if (onAbort) options.signal?.removeEventListener('abort', onAbort);
    }
  }

  private constructor(stream: Duplex, peer: string, options: QmpConnectOptions) {
    this.#stream = stream;
    this.#peer = peer;
    this.#onEvent = options.onEvent;
    this.#lines = new LineSplitter(options.maxLineBytes ?? DEFAULT_MAX_LINE_BYTES);
    this.#closed = new Promise((resolve) => (this.#resolveClosed = resolve));
    stream.on('data', (chunk: Buffer) => this.#read(chunk));
    stream.on('error', (cause) => {
      this.#end(
        new QmpError('QMP_CLOSED', `the QMP connection to ${peer} failed: ${cause.message}`, {
          cause,
        }),
      );
    });
    stream.on('close', () => {
      this.#end(new QmpError('QMP_CLOSED', `QEMU closed the QMP connection to ${peer}`));
    });
    stream.on('end', () => stream.destroy());
  }

  /** QEMU's version, from its greeting. */
  get version(): QmpVersion {
    if (!this.#version) throw new QmpError('QMP_CLOSED', `${this.#peer} has not greeted yet`);
    return this.#version;
  }

  /** Whether out-of-band commands were negotiated. */
  get oob(): boolean {
    return this.#oob;
  }

  /** Resolves, never rejects, with the reason the connection ended. */
  get closed(): Promise<QmpError> {
    return this.#closed;
  }

  /** Runs a command and returns QEMU's checked answer. Rejects with QmpError, or the signal's reason. */
  async execute<C extends QmpCommand>(
    command: C,
    ...rest: QmpArgs<C> extends undefined
      ? [args?: undefined, options?: QmpExecuteOptions]
      : [args: QmpArgs<C>, options?: QmpExecuteOptions]
  ): Promise<QmpResult<C>> {
    const value = await this.executeUntyped(command, rest[0], rest[1]);
    const parsed = RESULTS[command].safeParse(value);
    if (!parsed.success) {
      throw new QmpError(
        'QMP_PROTOCOL',
        `QEMU on ${this.#peer} answered ${command} in an unknown shape: ${parsed.error.message}`,
        { command, cause: parsed.error },
      );
    }
    return parsed.data as QmpResult<C>;
  }

  /** Runs a command that is not in the map; its answer is unchecked. */
  executeUntyped(
    command: string,
    args?: object,
    options: QmpExecuteOptions = {},
  ): Promise<unknown> {
    const { signal, timeoutMs = DEFAULT_TIMEOUT_MS, oob = false, fd } = options;
    if (signal?.aborted) return Promise.reject(signal.reason);
    if (this.#endReason) return Promise.reject(this.#closedBefore(command, this.#endReason));
    if (oob && !this.#oob) {
      const message = `QEMU on ${this.#peer} takes no out-of-band commands, so ${command} cannot overtake`;
      return Promise.reject(new QmpError('QMP_PROTOCOL', message, { command }));
    }
    return new Promise((resolve, reject) => {
      const id = this.#nextId++;
      let timer: NodeJS.Timeout | undefined;
      const pending: Pending = { command, oob, fd, settle: undefined };
      const onAbort = () => pending.settle?.(signal?.reason);
      pending.settle = (error, value) => {
        pending.settle = undefined;
        if (this.#unsent.delete(id)) this.#pending.delete(id); // given up before it was sent
        clearTimeout(timer);
        signal?.removeEventListener('abort', onAbort);
        if (error === undefined) resolve(value);
        else reject(error);
      };
      if (Number.isFinite(timeoutMs)) {
        timer = setTimeout(() => {
          const message = `QEMU on ${this.#peer} did not answer ${command} within ${timeoutMs} ms`;
          pending.settle?.(new QmpError('QMP_TIMEOUT', message, { command }));
        }, timeoutMs);
      }
      signal?.addEventListener('abort', onAbort, { once: true });
      this.#pending.set(id, pending);
      const line = JSON.stringify({ [oob ? 'exec-oob' : 'execute']: command, arguments: args, id });
      if (oob) {
        this.#stream.write(`${line}\n`);
      } else {
        this.#unsent.set(id, line);
        this.#sendQueued();
      }
    });
  }

  /** Calls `handler` at each such event, in the turn in which it was read. Returns the undo. */
  on<E extends QmpEventName>(
    name: E,
    handler: (event: QmpEvent<ReturnType<(typeof EVENT_DATA)[E]['parse']>>) => void,
  ): () => void {
    this.#events.on(name, handler);
    return () => this.#events.off(name, handler);
  }

  /** Ends the connection; what is still pending rejects. QEMU itself goes on. */
  close(): void {
    this.#end(new QmpError('QMP_CLOSED', `the QMP connection to ${this.#peer} was closed by us`));
  }

  #sendQueued(): void {
    for (const [id, line] of this.#unsent) {
      if (this.#inFlight >= MAX_IN_FLIGHT) return;
      this.#unsent.delete(id);
      this.#inFlight++;
      this.#write(id, `${line}\n`);
    }
  }

  #write(id: number, line: string): void {
    const { fd, command, settle } = this.#pending.get(id)!;
    if (fd === undefined) return void this.#stream.write(line);
    try {
      sendDescriptor(this.#stream as Socket, line, fd);
    } catch (cause) {
      this.#pending.delete(id);
      this.#inFlight--;
      const text = `QEMU on ${this.#peer} could not be given a descriptor by ${command}: ${(cause as Error).message}`;
      settle?.(new QmpError('QMP_CLOSED', text, { command, cause }));
    }
  }

  #read(chunk: Buffer): void {
    const receivedNs = process.hrtime.bigint();
    try {
      this.#lines.push(chunk, (line) => {
        if (line !== '' && !this.#endReason) this.#handle(line, receivedNs);
      });
    } catch (error) {
      if (error instanceof LineTooLongError) {
        const text = `${this.#peer} sent ${error.message}, which is no QMP message`;
        this.#end(new QmpError('QMP_PROTOCOL', text, { cause: error }));
      } else if (error instanceof NotQmp) {
        this.#end(error.reason);
      } else {
        throw error; // a handler's own failure is its caller's to see
      }
    }
  }

  #handle(line: string, receivedNs: bigint): void {
    let message: unknown;
    try {
      message = JSON.parse(line);
    } catch (cause) {
      throw this.#notQmp(line, cause);
    }
    if (typeof message !== 'object' || message === null) throw this.#notQmp(line);
    if ('event' in message) this.#handleEvent(message, line, receivedNs);
    else if ('return' in message || 'error' in message) this.#handleAnswer(message, line);
    else if ('QMP' in message) this.#handleGreeting(message, line);
    else throw this.#notQmp(line);
  }

  #handleEvent(message: object, line: string, receivedNs: bigint): void {
    const parsed = MESSAGES.event.safeParse(message);
    if (!parsed.success) throw this.#notQmp(line, parsed.error);
    const { event: name, data, timestamp } = parsed.data;
    this.#clock.sample();
    const timestampUs = timestamp.seconds * 1e6 + timestamp.microseconds;
    const schema = Object.hasOwn(EVENT_DATA, name) ? EVENT_DATA[name as QmpEventName] : undefined;
    const checked = schema?.safeParse(data);
    if (checked && !checked.success) throw this.#notQmp(line, checked.error);
    const event: QmpEvent = {
      name,
      data: checked ? checked.data : data,
      timestampUs,
      monotonicNs: this.#clock.toMonotonicNs(timestampUs),
      receivedNs,
    };
    this.#onEvent?.(event);
    if (schema) this.#events.emit(name, event);
  }

  #handleAnswer(message: object, line: string): void {
    const failed = 'error' in message;
    const parsed = failed
      ? MESSAGES.error.safeParse(message)
      : MESSAGES.return.safeParse(message);
    if (!parsed.success) throw this.#notQmp(line, parsed.error);
    const { id } = parsed.data;
    const pending = typeof id === 'number' ? this.#pending.get(id) : undefined;
    if (!pending) throw this.#notQmp(line);
    this.#pending.delete(id as number);
    if (!pending.oob) {
      this.#inFlight--;
      this.#sendQueued();
    }
    if ('error' in parsed.data) {
      const { class: errorClass, desc } = parsed.data.error;
      const text = `QEMU on ${this.#peer} refused ${pending.command}: ${desc}`;
      pending.settle?.(
        new QmpError('QMP_COMMAND', text, { class: errorClass, desc, command: pending.command }),
      );
    } else {
      pending.settle?.(undefined, parsed.data.return);
    }
  }

  #handleGreeting(message: object, line: string): void {
    const parsed = MESSAGES.QMP.safeParse(message);
    if (!parsed.success || !this.#onGreeting) throw this.#notQmp(line, parsed.error);
    const { version, capabilities } = parsed.data.QMP;
    this.#onGreeting({ version, oob: capabilities.includes('oob') });
    this.#onGreeting = undefined;
  }

  #notQmp(line: string, cause?: unknown): NotQmp {
    const start = line.length > 80 ? `${line.slice(0, 80)}...` : line;
    const text = `${this.#peer} sent something that is not QMP: ${JSON.stringify(start)}`;
    return new NotQmp(new QmpError('QMP_PROTOCOL', text, { cause }));
  }

  #closedBefore(command: string, reason: QmpError): QmpError {
    return new QmpError(reason.code, `${command} was not answered: ${reason.message}`, {
      command,
      cause: reason,
    });
  }

  #end(reason: QmpError): void {
    if (this.#endReason) return;
    this.#endReason = reason;
    this.#stream.destroy();
    for (const pending of this.#pending.values()) {
      pending.settle?.(this.#closedBefore(pending.command, reason));
    }
    this.#pending.clear();
    this.#unsent.clear();
    this.#resolveClosed(reason);
  }
}
