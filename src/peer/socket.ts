import type { Socket } from 'node:net';

const LINGER_MS = 500;

/**
 * Ends a connection so that our last words arrive, as long as the peer takes them soon. Reads on
 * until then: were the socket closed with unread bytes in it, the kernel would reset the
 * connection, and what we wrote might be lost on the way.
 */
export function endSocket(socket: Socket): void {
  if (socket.destroyed) return;
  const timer = setTimeout(() => socket.destroy(), LINGER_MS);
  socket.once('close', () => clearTimeout(timer));
  socket.end(() => {
    if (socket.readableEnded) socket.destroy();
  });
  socket.once('end', () => {
    if (socket.writableFinished) socket.destroy();
  });
  socket.resume();
}

/** `address:port`, with an IPv6 address in brackets. */
export function place(address: string, port: number): string {
  return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;
}
