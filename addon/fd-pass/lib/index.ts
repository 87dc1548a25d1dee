/**
 * Takes a connected socket out of Node.js's hands, to give it to another process: what Node.js
 * reads and writes itself passes through its event loop, which is late when it matters.
 */

import { closeSync } from 'node:fs';
import { createRequire } from 'node:module';
import type { Socket } from 'node:net';
import { getSystemErrorName } from 'node:util';

const native = createRequire(import.meta.url)('../build/Release/fd_pass.node') as {
  duplicate(fd: number): number;
  send(over: number, text: string, fd: number): number;
  shutdown(fd: number): number;
  tcpBytes(fd: number, counts: Float64Array): number;
};

/** A socket could not be taken or given. `code` is the errno's name. */
export class DescriptorError extends Error {
  readonly code: string;
  readonly operation: string;
  readonly errno: number;

  constructor(operation: string, errno: number) {
    const code = getSystemErrorName(-errno);
    super(`cannot ${operation}: ${code}`);
    this.name = 'DescriptorError';
    this.code = code;
    this.operation = operation;
    this.errno = errno;
  }
}

/** EBADF, which is what a socket without a descriptor amounts to. */
const noDescriptor = 9;

/** A socket's descriptor of our own. Whoever else has the socket, it is one connection. */
export class Descriptor {
  readonly #fd: number;
  #open = true;
  #bytes = { sent: 0, received: 0 };

  private constructor(fd: number) {
    this.#fd = fd;
  }

  /** @throws DescriptorError after `end`: another file may have the number by now */
  get fd(): number {
    if (!this.#open) throw new DescriptorError('use a connection that was ended', noDescriptor);
    return this.#fd;
  }

  /**
   * Takes the socket from Node.js, which then knows it no more. It must have written all it had to,
   * and what it has read but not given out is lost: nothing may come in before it is taken.
   * @throws DescriptorError
   */
  static take(socket: Socket): Descriptor {
    const fd = native.duplicate(descriptorOf(socket));
    if (fd < 0) throw new DescriptorError('take over a connection', -fd);
    socket.destroy(); // closes Node.js's own descriptor, and with ours open, no connection
    return new Descriptor(fd);
  }

  /** Bytes that the other end has acknowledged and sent, the TCP connection's greeting among them; after `end` those of then. */
  get bytes(): Readonly<{ sent: number; received: number }> {
    const counts = new Float64Array(2);
    if (this.#open && native.tcpBytes(this.fd, counts) === 0) this.#bytes = { sent: counts[0]!, received: counts[1]! };
    return this.#bytes;
  }

  /** Ends the connection both ways, for whoever has it, and gives the descriptor back. */
  end(): void {
    if (!this.#open) return;
    this.#bytes = this.bytes;
    this.#open = false;
    native.shutdown(this.#fd); // fails only where there is no connection any more
    closeSync(this.#fd);
  }
}

/**
 * Writes `text` (under a kilobyte) to a unix socket with a descriptor attached, which its reader gets
 * as one of its own. The socket must have nothing else to write.
 * @throws DescriptorError; `EAGAIN` if the reader does not read
 */
export function sendDescriptor(over: Socket, text: string, fd: number): void {
  if (over.writableLength > 0) throw new DescriptorError('hand a connection over', 11 /* EAGAIN */);
  const sent = native.send(descriptorOf(over), text, fd);
  if (sent < 0) throw new DescriptorError('hand a connection over', -sent);
  if (sent < Buffer.byteLength(text)) over.write(Buffer.from(text).subarray(sent));
}

function descriptorOf(socket: Socket): number {
  // Not documented, but there since Node.js 0.x for exactly this.
  const fd = (socket as unknown as { _handle?: { fd?: number } | null })._handle?.fd;
  if (fd === undefined || fd < 0) throw new DescriptorError('use the descriptor of a closed socket', noDescriptor);
  return fd;
}
