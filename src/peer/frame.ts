import { PeerError } from './errors.js';

/**
 * The wire format between two hosts. Each side first sends four bytes, whose meaning no later
 * version may change: `C` `L` `P` and its protocol version. Then frames follow:
 *
 *     u32 payload length | u8 type | payload        (integers are big-endian)
 */

export const PROTOCOL_VERSION = 3;
export const PREAMBLE_BYTES = 4;
export const HEADER_BYTES = 5;

const MAGIC = Buffer.from('CLP', 'latin1');

/** Frame types. 1 to 15 belong to the handshake. */
export const FrameType = {
  hello: 1,
  answer: 2,
  proof: 3,
  welcome: 4,
  refused: 5,
  taken: 6,
  /** A JSON message of the application. */
  control: 16,
  beat: 17,
  beatAck: 18,
} as const;

/** The longest payload of each frame type, in bytes; a type that is absent has no place. */
export type FrameLimits = ReadonlyMap<number, number>;

export interface Frame {
  type: number;
  payload: Buffer;
}

/** Our first four bytes. Another `version` than our own is for tests. */
export function encodePreamble(version: number = PROTOCOL_VERSION): Buffer {
  return Buffer.from([...MAGIC, version]);
}

/** The other side's version. Throws `PEER_GARBAGE` where the magic is not ours. */
export function decodePreamble(bytes: Buffer): number {
  if (!bytes.subarray(0, MAGIC.length).equals(MAGIC)) {
    const hex = bytes.subarray(0, PREAMBLE_BYTES).toString('hex');
    throw new PeerError('PEER_GARBAGE', `it is no colopp peer: its first bytes are ${hex}`);
  }
  return bytes.readUInt8(MAGIC.length);
}

/** One frame, to be written in one call. */
export function encodeFrame(type: number, payload: Uint8Array): Buffer {
  const frame = Buffer.allocUnsafe(HEADER_BYTES + payload.length);
  frame.writeUInt32BE(payload.length, 0);
  frame.writeUInt8(type, 4);
  frame.set(payload, HEADER_BYTES);
  return frame;
}

/**
 * Reads a frame header and checks it against the limits, before anything of the payload is kept.
 * Throws PeerError `PEER_GARBAGE` for an unknown type, `PEER_LIMIT` for too long a payload.
 */
export function decodeHeader(
  header: Buffer,
  limits: FrameLimits,
): { type: number; payloadBytes: number } {
  const payloadBytes = header.readUInt32BE(0);
  const type = header.readUInt8(4);
  const limit = limits.get(type);
  if (limit === undefined) {
    throw new PeerError('PEER_GARBAGE', `it sent a frame of type ${type}, which has no place here`);
  }
  if (payloadBytes > limit) {
    throw new PeerError(
      'PEER_LIMIT',
      `it announced a message of ${payloadBytes} bytes, but at most ${limit} are allowed`,
    );
  }
  return { type, payloadBytes };
}

/**
 * Cuts a byte stream into frames. A part (header or payload) that arrives whole is not copied;
 * one in pieces is copied once, into a buffer of its final size.
 */
export class FrameDecoder {
  readonly #limits: FrameLimits;
  /** The type of the payload being collected, or undefined while it is a header. */
  #type: number | undefined;
  #wantedBytes = HEADER_BYTES;
  /** The part that began in an earlier chunk: `#partialBytes` of `#wantedBytes`. */
  #partial: Buffer | undefined;
  #partialBytes = 0;

  constructor(limits: FrameLimits) {
    this.#limits = limits;
  }

  /**
   * Feeds bytes; calls `onFrame` for each frame completed by them. Its payload may be a view of
   * `chunk`. Throws as `decodeHeader` does, after which the stream cannot be read on.
   */
  push(chunk: Buffer, onFrame: (frame: Frame) => void): void {
    let offset = 0;
    for (;;) {
      const part = this.#take(chunk, offset);
      if (part.bytes === undefined) return;
      offset = part.offset;
      if (this.#type === undefined) {
        const { type, payloadBytes } = decodeHeader(part.bytes, this.#limits);
        this.#type = type;
        this.#wantedBytes = payloadBytes;
      } else {
        const frame = { type: this.#type, payload: part.bytes };
        this.#type = undefined;
        this.#wantedBytes = HEADER_BYTES;
        onFrame(frame);
      }
    }
  }

  /** The wanted bytes in one piece; undefined, after keeping what there is, if some are missing. */
  #take(chunk: Buffer, offset: number): { bytes: Buffer | undefined; offset: number } {
    const wanted = this.#wantedBytes;
    if (!this.#partial) {
      if (chunk.length - offset >= wanted) {
        return { bytes: chunk.subarray(offset, offset + wanted), offset: offset + wanted };
      }
      if (chunk.length === offset) return { bytes: undefined, offset };
      this.#partial = Buffer.allocUnsafe(wanted);
      this.#partialBytes = 0;
    }
    const copied = chunk.copy(this.#partial, this.#partialBytes, offset);
    this.#partialBytes += copied;
    if (this.#partialBytes < wanted) return { bytes: undefined, offset: offset + copied };
    const bytes = this.#partial;
    this.#partial = undefined;
    return { bytes, offset: offset + copied };
  }
}
