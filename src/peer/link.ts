import { createConnection, createServer, type Server, type Socket } from 'node:net';
import { PeerError, type PeerErrorCode } from './errors.js';
import {
  checkIdentity,
  greetAsClient,
  greetAsServer,
  type Hello,
  type PeerIdentity,
  type PeerKind,
} from './handshake.js';
import { endSocket, place } from './socket.js';

/** A greeted connection. Its socket is paused, and nothing of what follows has been read. */
export interface PeerConnection {
  kind: PeerKind;
  /** The other host's name and incarnation; proven only if the pair has a secret. */
  hostName: string;
  incarnation: string;
  /** `address:port` of the other end. */
  remote: string;
  socket: Socket;
}

export interface PeerServerOptions extends PeerIdentity {
  /** The address to listen on. */
  address: string;
  port: number;
  /** Refuses a sound peer by throwing PeerError. */
  admit?: ((hello: Hello) => void) | undefined;
  onConnection: (connection: PeerConnection) => void;
  /** Told of refused connections, at most once a second; `suppressed` more went untold before. */
  onRefused?: ((error: PeerError, remote: string, suppressed: number) => void) | undefined;
  /** Nobody is greeted before; who calls earlier has to wait. */
  ready?: Promise<void> | undefined;
  /** How long a greeting may take. Default 3000. */
  helloTimeoutMs?: number | undefined;
  /** How many connections may be greeting at once. One more, and the oldest is dropped. Default 16. */
  maxGreeting?: number | undefined;
  /** How many greeted connections may be open at once. Default 16. */
  maxConnections?: number | undefined;
}

export interface PeerClientOptions extends PeerIdentity {
  address: string;
  port: number;
  kind: PeerKind;
  /** For reaching the peer and the greeting together. Default 3000. */
  timeoutMs?: number | undefined;
  signal?: AbortSignal | undefined;
}

const DEFAULT_TIMEOUT_MS = 3000;
const KEEPALIVE_MS = 5000;
const REFUSAL_LOG_INTERVAL_MS = 1000;

const SOCKET_OPTIONS = {
  // A checkpoint ends in one direction before the other.
  allowHalfOpen: true,
  // Every message is written whole and waited for: Nagle would add 40 ms to each.
  noDelay: true,
  keepAlive: true,
  keepAliveInitialDelay: KEEPALIVE_MS,
  highWaterMark: 256 * 1024,
};

/** The one port on which a host takes its peer's connections. */
export class PeerServer {
  readonly #server: Server;
  readonly #options: PeerServerOptions;
  /** Oldest first. */
  readonly #greeting = new Set<Socket>();
  readonly #greeted = new Set<Socket>();
  readonly #refusals = new Map<PeerErrorCode, number>();
  #lastReportMs = -Infinity;
  #suppressed = 0;

  /** Opens the port. Rejects with PeerError `PEER_LISTEN`. */
  static async listen(options: PeerServerOptions): Promise<PeerServer> {
    checkIdentity(options);
    const server = new PeerServer(options);
    const { address, port } = options;
    await new Promise<void>((resolve, reject) => {
      const onError = (cause: Error) => {
        const text = `cannot listen for the peer on ${place(address, port)}: ${cause.message}`;
        reject(new PeerError('PEER_LISTEN', text, { cause }));
      };
      server.#server.once('error', onError);
      server.#server.listen({ host: address, port }, () => {
        server.#server.off('error', onError);
        // A failing accept (no file descriptors left, say) concerns that connection only.
        server.#server.on('error', () => {});
        resolve();
      });
    });
    return server;
  }

  private constructor(options: PeerServerOptions) {
    this.#options = options;
    this.#server = createServer(SOCKET_OPTIONS, (socket) => {
      void this.#accept(socket);
    });
  }

  /** The port listened on: the operating system's choice where the options said 0. */
  get port(): number {
    const bound = this.#server.address();
    if (bound === null || typeof bound === 'string') throw new Error('the server is closed');
    return bound.port;
  }

  /** How many connections were refused since the start, by reason. */
  get refusals(): ReadonlyMap<PeerErrorCode, number> {
    return this.#refusals;
  }

  /** Closes the port and every connection made through it. */
  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    for (const socket of [...this.#greeting, ...this.#greeted]) socket.destroy();
    await closed;
  }

  async #accept(socket: Socket): Promise<void> {
    const remote = place(socket.remoteAddress ?? 'unknown', socket.remotePort ?? 0);
    const { helloTimeoutMs = DEFAULT_TIMEOUT_MS, maxGreeting = 16, ready } = this.#options;
    socket.on('error', () => {}); // every reader sees 'close'; without a listener node would throw
    this.#greeting.add(socket);
    const [oldest] = this.#greeting;
    if (this.#greeting.size > maxGreeting) {
      // The oldest, not the newest: our peer greets within a round trip, an idler does not.
      const text = `more than ${maxGreeting} connections were greeting at once`;
      oldest?.destroy(new PeerError('PEER_LIMIT', text));
    }
    await ready;
    const timer = setTimeout(() => {
      const text = `it did not greet within ${helloTimeoutMs} ms`;
      socket.destroy(new PeerError('PEER_TIMEOUT', text));
    }, helloTimeoutMs);
    try {
      const hello = await greetAsServer(socket, this.#options, (said) => this.#admit(said));
      this.#greeted.add(socket);
      socket.once('close', () => this.#greeted.delete(socket));
      const { kind, hostName, incarnation } = hello;
      this.#options.onConnection({ kind, hostName, incarnation, remote, socket });
    } catch (error) {
      endSocket(socket);
      if (!(error instanceof PeerError)) {
        if (socket.errored !== error) throw error;
        this.#refused(new PeerError('PEER_CLOSED', `it failed: ${String(error)}`), remote);
      } else {
        this.#refused(error, remote);
      }
    } finally {
      clearTimeout(timer);
      this.#greeting.delete(socket);
    }
  }

  #admit(hello: Hello): void {
    const { maxConnections = 16, admit } = this.#options;
    if (this.#greeted.size >= maxConnections) {
      throw new PeerError('PEER_LIMIT', `${maxConnections} connections are open already`);
    }
    admit?.(hello);
  }

  #refused(error: PeerError, remote: string): void {
    this.#refusals.set(error.code, (this.#refusals.get(error.code) ?? 0) + 1);
    const nowMs = performance.now();
    if (nowMs - this.#lastReportMs < REFUSAL_LOG_INTERVAL_MS) {
      this.#suppressed++;
      return;
    }
    const text = `refused the connection from ${remote}: ${error.message}`;
    this.#options.onRefused?.(
      new PeerError(error.code, text, { cause: error }),
      remote,
      this.#suppressed,
    );
    this.#lastReportMs = nowMs;
    this.#suppressed = 0;
  }
}

/** Connects to the other host's `PeerServer`. */
export const PeerClient = {
  /** Rejects with PeerError, or the signal's reason. */
  async connect(options: PeerClientOptions): Promise<PeerConnection> {
    checkIdentity(options);
    const { address, port, kind, signal, timeoutMs = DEFAULT_TIMEOUT_MS } = options;
    signal?.throwIfAborted();
    const remote = place(address, port);
    const socket = createConnection({ ...SOCKET_OPTIONS, host: address, port });
    socket.on('error', () => {});
    const timer = setTimeout(() => {
      const what = socket.connecting ? 'cannot be reached' : 'did not greet';
      socket.destroy(new PeerError('PEER_TIMEOUT', `it ${what} within ${timeoutMs} ms`));
    }, timeoutMs);
    const onAbort = () => socket.destroy(new PeerError('PEER_CLOSED', 'we gave up'));
    signal?.addEventListener('abort', onAbort, { once: true });
    try {
      await connected(socket);
      const { hostName, incarnation } = await greetAsClient(socket, options, kind);
      return { kind, hostName, incarnation, remote, socket };
    } catch (error) {
      socket.destroy();
      signal?.throwIfAborted();
      const code = error instanceof PeerError ? error.code : 'PEER_CONNECT';
      const why = error instanceof Error ? error.message : String(error);
      throw new PeerError(code, `no ${kind} connection to the peer at ${remote}: ${why}`, {
        cause: error,
      });
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
    }
  },
};

function connected(socket: Socket): Promise<void> {
  return new Promise((resolve, reject) => {
    socket.once('connect', resolve);
    socket.once('close', () => reject(socket.errored ?? new Error('it hung up')));
  });
}
