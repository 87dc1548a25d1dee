import { PeerError } from './errors.js';
import { FrameType, type FrameLimits } from './frame.js';
import { FramedSocket } from './framed-socket.js';
import type { PeerConnection } from './link.js';

export interface ControlChannelOptions<In> {
  connection: PeerConnection;
  /** Checks a message, by throwing: a zod schema's `parse`, say. */
  parse: (value: unknown) => In;
  /** Whoever sent what this throws at loses the connection. */
  onMessage: (message: In) => void;
  onClose: (reason: PeerError) => void;
}

export const MAX_CONTROL_BYTES = 64 * 1024;
const MAX_UNSENT_BYTES = 1024 * 1024;
const LIMITS: FrameLimits = new Map([[FrameType.control, MAX_CONTROL_BYTES]]);

/** Typed JSON messages between the two agents, in order. */
export class ControlChannel<In, Out> {
  readonly #frames: FramedSocket;

  constructor({ connection, parse, onMessage, onClose }: ControlChannelOptions<In>) {
    this.#frames = new FramedSocket(connection, {
      limits: LIMITS,
      maxUnsentBytes: MAX_UNSENT_BYTES,
      onClose,
      onFrame: ({ payload }) => {
        let message: In;
        try {
          message = parse(JSON.parse(payload.toString('utf8')));
        } catch (cause) {
          const text = 'it sent a message that this side does not know';
          this.#frames.close(new PeerError('PEER_MESSAGE', text, { cause }));
          return;
        }
        try {
          onMessage(message);
        } catch (cause) {
          const text = `it sent a message that failed here: ${(cause as Error).message}`;
          this.#frames.close(new PeerError('PEER_MESSAGE', text, { cause }));
        }
      },
    });
  }

  /** Sends a message; false if the connection is over. Throws RangeError for one over 64 KiB. */
  send(message: Out): boolean {
    const payload = Buffer.from(JSON.stringify(message));
    if (payload.length > MAX_CONTROL_BYTES) {
      throw new RangeError(
        `a control message of ${payload.length} bytes is longer than ${MAX_CONTROL_BYTES}`,
      );
    }
    return this.#frames.send(FrameType.control, payload);
  }

  get closed(): boolean {
    return this.#frames.closed;
  }

  close(why = 'we closed it'): void {
    this.#frames.close(new PeerError('PEER_CLOSED', why));
  }
}
