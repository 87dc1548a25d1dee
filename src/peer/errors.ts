const PEER_ERROR_CODES = [
  'PEER_CONNECT', // the other host could not be reached
  'PEER_TIMEOUT', // it was reached and did not answer in time
  'PEER_GARBAGE', // what it sent is not our protocol
  'PEER_VERSION', // it speaks another version of our protocol
  'PEER_PAIR', // it belongs to another pair
  'PEER_SECRET', // it does not know the pair's secret, or only one side has one
  'PEER_LIMIT', // it sent or asked for more than is allowed
  'PEER_REFUSED', // it is sound, but we do not want this connection now
  'PEER_MESSAGE', // a message of a shape that this side does not know
  'PEER_SLOW', // it stopped reading, and more than the limit piled up for it
  'PEER_CLOSED', // the connection ended
  'PEER_LISTEN', // our own port could not be opened
] as const;

export type PeerErrorCode = (typeof PEER_ERROR_CODES)[number];

/** Every failure of this folder: a sentence for people, a stable `code` for programs. */
export class PeerError extends Error {
  override readonly name = 'PeerError';

  constructor(
    readonly code: PeerErrorCode,
    message: string,
    options?: { cause?: unknown },
  ) {
    super(message, options);
  }
}

/** Whether a string that came over the wire is a code we know. */
export function isPeerErrorCode(text: string): text is PeerErrorCode {
  return (PEER_ERROR_CODES as readonly string[]).includes(text);
}
