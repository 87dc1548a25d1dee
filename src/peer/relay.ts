import { createConnection, createServer, type Socket } from 'node:net';
import { chmod, rm } from 'node:fs/promises';
import { PeerError } from './errors.js';

/** How a relay ended: `completed` when both directions were closed in order. */
export interface RelayEnd {
  completed: boolean;
  reason: string;
}

export interface RelayOptions {
  /** The unix socket shared with QEMU, in a folder that only we can enter. */
  socketPath: string;
  /** The socket of a peer connection of kind `checkpoint`. */
  peer: Socket;
  /** For QEMU to connect, or to be connected to. Default 10000. */
  timeoutMs?: number | undefined;
  signal?: AbortSignal | undefined;
}

const DEFAULT_TIMEOUT_MS = 10_000;
// One direction ends before the other. Buffers are large so that bulk seldom stalls on `drain`.
const SOCKET_OPTIONS = { allowHalfOpen: true, highWaterMark: 256 * 1024 };

/**
 * Carries QEMU's checkpoint stream between its unix socket and the other host. Every checkpoint
 * crosses it about four times back and forth while the guest stands still, so each chunk is
 * written on in the very turn in which it was read, over a connection without Nagle; the stream
 * itself is neither looked at nor framed.
 */
export class CheckpointRelay {
  /** Resolves when the relay is over. Never rejects. */
  readonly ended: Promise<RelayEnd>;
  readonly #qemu: Socket;
  readonly #peer: Socket;
  #resolveEnded!: (end: RelayEnd) => void;
  #over = false;
  #openWays = 2;
  #toPeerBytes = 0;
  #fromPeerBytes = 0;

  /**
   * The primary's side: opens `socketPath` for QEMU's `migrate unix:...` and takes one connection.
   * Resolves once the socket is there, with a promise of the relay itself; that one rejects when
   * QEMU does not come in time.
   */
  static async listen(options: RelayOptions): Promise<{ relay: Promise<CheckpointRelay> }> {
    const { socketPath, peer, signal, timeoutMs = DEFAULT_TIMEOUT_MS } = options;
    signal?.throwIfAborted();
    const server = createServer(SOCKET_OPTIONS);
    await rm(socketPath, { force: true });
    await new Promise<void>((resolve, reject) => {
      server.once('error', (cause) => {
        const text = `cannot open ${socketPath} for QEMU's checkpoints: ${cause.message}`;
        reject(new PeerError('PEER_LISTEN', text, { cause }));
      });
      server.listen({ path: socketPath }, () => resolve());
    });
    await chmod(socketPath, 0o600);
    const relay = new Promise<CheckpointRelay>((resolve, reject) => {
      const settle = (error?: unknown, qemu?: Socket) => {
        clearTimeout(timer);
        signal?.removeEventListener('abort', onAbort);
        peer.off('close', onPeerClose);
        server.close(); // also removes the socket's file
        if (qemu) resolve(new CheckpointRelay(qemu, peer));
        else reject(error);
      };
      const timer = setTimeout(() => {
        const text = `QEMU did not connect to ${socketPath} within ${timeoutMs} ms`;
        settle(new PeerError('PEER_TIMEOUT', text));
      }, timeoutMs);
      const onAbort = () => settle(signal?.reason);
      const onPeerClose = () => {
        settle(new PeerError('PEER_CLOSED', 'the other host ended the checkpoint connection'));
      };
      server.once('connection', (qemu) => settle(undefined, qemu));
      peer.once('close', onPeerClose);
      signal?.addEventListener('abort', onAbort, { once: true });
    });
    relay.catch(() => {}); // a caller that never looks is told by its own timeout
    return { relay };
  }

  /** The secondary's side: connects to the socket of QEMU's `migrate-incoming unix:...`. */
  static async connect(options: RelayOptions): Promise<CheckpointRelay> {
    const { socketPath, peer, signal, timeoutMs = DEFAULT_TIMEOUT_MS } = options;
    signal?.throwIfAborted();
    const qemu = createConnection({ ...SOCKET_OPTIONS, path: socketPath });
    return await new Promise((resolve, reject) => {
      const settle = (error?: unknown) => {
        clearTimeout(timer);
        signal?.removeEventListener('abort', onAbort);
        qemu.off('error', onError);
        if (error === undefined) return resolve(new CheckpointRelay(qemu, peer));
        qemu.on('error', () => {}).destroy();
        reject(error);
      };
      const onError = (cause: Error) => {
        const text = `cannot connect to QEMU's ${socketPath}: ${cause.message}`;
        settle(new PeerError('PEER_CONNECT', text, { cause }));
      };
      const timer = setTimeout(() => onError(new Error(`no answer in ${timeoutMs} ms`)), timeoutMs);
      const onAbort = () => settle(signal?.reason);
      qemu.once('error', onError).once('connect', () => settle());
      signal?.addEventListener('abort', onAbort, { once: true });
    });
  }

  private constructor(qemu: Socket, peer: Socket) {
    this.#qemu = qemu;
    this.#peer = peer;
    this.ended = new Promise((resolve) => (this.#resolveEnded = resolve));
    peer.setNoDelay(true);
    this.#carry(qemu, peer, 'QEMU', (bytes) => (this.#toPeerBytes += bytes));
    this.#carry(peer, qemu, 'the other host', (bytes) => (this.#fromPeerBytes += bytes));
  }

  /** Bytes carried from QEMU to the other host. */
  get toPeerBytes(): number {
    return this.#toPeerBytes;
  }

  /** Bytes carried from the other host to QEMU. */
  get fromPeerBytes(): number {
    return this.#fromPeerBytes;
  }

  /** Tears the relay down, both ways at once. */
  close(reason = 'we closed it'): void {
    this.#end({ completed: false, reason });
  }

  #carry(from: Socket, to: Socket, name: string, count: (bytes: number) => void): void {
    from.on('data', (chunk: Buffer) => {
      count(chunk.length);
      if (!to.write(chunk)) from.pause();
    });
    to.on('drain', () => from.resume());
    from.once('end', () => {
      // One way is finished; the other may still have much to say.
      to.end(() => {
        if (--this.#openWays === 0) this.#end({ completed: true, reason: 'both sides are done' });
      });
    });
    from.on('error', (error) => {
      this.#end({ completed: false, reason: `the connection to ${name} failed: ${error.message}` });
    });
    from.once('close', () => {
      if (!from.readableEnded) {
        this.#end({ completed: false, reason: `the connection to ${name} broke off` });
      }
    });
    if (from.destroyed) this.close(`the connection to ${name} is gone`);
  }

  #end(end: RelayEnd): void {
    if (this.#over) return;
    this.#over = true;
    this.#qemu.destroy();
    // A reset, so that the other host cannot take a broken stream for a finished one.
    if (end.completed) this.#peer.destroy();
    else this.#peer.resetAndDestroy();
    this.#resolveEnded(end);
  }
}
