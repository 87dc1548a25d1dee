import { PeerError } from './errors.js';
import { encodeFrame, FrameDecoder, type Frame, type FrameLimits } from './frame.js';
import type { PeerConnection } from './link.js';
import { endSocket } from './socket.js';

export interface FramedSocketOptions {
  limits: FrameLimits;
  /** How many unsent bytes may pile up for a peer that does not read. */
  maxUnsentBytes: number;
  /** Called for each frame, in the turn in which its last byte was read. */
  onFrame: (frame: Frame) => void;
  /** Called once, when the connection is over, whoever ended it. */
  onClose: (reason: PeerError) => void;
}

/** A greeted connection that carries frames. Owns the socket from its construction on. */
export class FramedSocket {
  readonly #connection: PeerConnection;
  readonly #options: FramedSocketOptions;
  #closed = false;

  constructor(connection: PeerConnection, options: FramedSocketOptions) {
    this.#connection = connection;
    this.#options = options;
    const { socket } = connection;
    const decoder = new FrameDecoder(options.limits);
    socket.on('data', (chunk: Buffer) => {
      try {
        decoder.push(chunk, (frame) => {
          if (!this.#closed) options.onFrame(frame);
        });
      } catch (error) {
        if (!(error instanceof PeerError)) throw error;
        this.close(error);
      }
    });
    const hungUp = () => {
      const why = socket.errored?.message ?? 'it hung up';
      this.close(new PeerError('PEER_CLOSED', why));
    };
    socket.once('end', hungUp);
    socket.once('close', hungUp);
    if (socket.destroyed) queueMicrotask(hungUp);
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** Sends a frame at once; false if the connection is over, or was ended for piling up. */
  send(type: number, payload: Uint8Array): boolean {
    if (this.#closed) return false;
    const { socket } = this.#connection;
    if (socket.writableLength > this.#options.maxUnsentBytes) {
      const text = `it does not read: ${socket.writableLength} bytes wait for it`;
      this.close(new PeerError('PEER_SLOW', text));
      return false;
    }
    socket.write(encodeFrame(type, payload));
    return true;
  }

  /** Ends the connection; `onClose` gets the reason, as a sentence about this peer. */
  close(reason: PeerError): void {
    if (this.#closed) return;
    this.#closed = true;
    const { socket, kind, hostName, remote } = this.#connection;
    // What was written before still leaves, unless the peer stopped reading.
    if (reason.code === 'PEER_SLOW') socket.destroy();
    else endSocket(socket);
    const text = `the ${kind} connection to ${hostName} (${remote}) ended: ${reason.message}`;
    this.#options.onClose(new PeerError(reason.code, text, { cause: reason }));
  }
}
