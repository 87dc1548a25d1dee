import { writeSync } from 'node:fs';
import type { Socket } from 'node:net';
import { Descriptor } from 'fd-pass';
import { PeerError } from './errors.js';
import { encodeTaken, receiveTaken } from './handshake.js';

const DEFAULT_TIMEOUT_MS = 5000;

/**
 * The connection on which one QEMU sends its checkpoints to the other. Every checkpoint crosses it
 * about four times back and forth while the guest stands still, and carries as much as the guest has
 * changed. So once the two agents have greeted each other on it, each gives it to its QEMU, and
 * keeps no more than a hand on it: to count its bytes, and to end it.
 *
 * QEMU itself would leave Nagle's algorithm on, which costs some 40 ms per checkpoint; it takes the
 * connection as it is, and ours comes without.
 */
export class CheckpointStream {
  readonly #connection: Descriptor;

  /**
   * The primary's end. Resolves when the secondary's QEMU has the other one.
   * @param peer the socket of a connection of kind `checkpoint`; it is gone afterwards, whatever happens
   * @throws PeerError `PEER_TIMEOUT`, `PEER_CLOSED`
   */
  static async outgoing(peer: Socket, timeoutMs = DEFAULT_TIMEOUT_MS): Promise<CheckpointStream> {
    const timer = setTimeout(() => {
      const text = `the other host's QEMU did not take the checkpoint connection within ${timeoutMs} ms`;
      peer.destroy(new PeerError('PEER_TIMEOUT', text));
    }, timeoutMs);
    try {
      await receiveTaken(peer);
      return new CheckpointStream(peer);
    } catch (error) {
      peer.destroy();
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  /** The secondary's end. Nothing comes until {@link taken} is called. */
  static incoming(peer: Socket): CheckpointStream {
    return new CheckpointStream(peer);
  }

  private constructor(peer: Socket) {
    this.#connection = Descriptor.take(peer);
  }

  /** What QEMU is to be given. */
  get fd(): number {
    return this.#connection.fd;
  }

  /** Secondary: QEMU has the connection and listens. */
  taken(): void {
    writeSync(this.fd, encodeTaken());
  }

  /** Bytes the other host has, the greeting among them. */
  get sentBytes(): number {
    return this.#connection.bytes.sent;
  }

  /** Bytes that came from the other host, the greeting among them. */
  get receivedBytes(): number {
    return this.#connection.bytes.received;
  }

  /** Ends the connection for both QEMUs, which notice at once. Neither can take what it has for finished. */
  close(): void {
    this.#connection.end();
  }
}
