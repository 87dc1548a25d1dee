import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import type { Socket } from 'node:net';
import { z } from 'zod';
import { isPeerErrorCode, PeerError } from './errors.js';
import {
  decodeHeader,
  decodePreamble,
  encodeFrame,
  encodePreamble,
  FrameType,
  HEADER_BYTES,
  PREAMBLE_BYTES,
  PROTOCOL_VERSION,
  type FrameLimits,
} from './frame.js';

/**
 * How two hosts come to trust a connection. The client speaks first:
 *
 *     both    preamble                        magic and protocol version
 *     client  hello   {kind, pair, host, incarnation, nonce?}
 *     server  answer  {host, incarnation, nonce?, proof?}
 *     client  proof   {proof}                 only with a shared secret
 *     server  welcome {}                      or, instead of any of its frames: refused {code, message}
 *     server  taken   {}                      only for checkpoints, later: what follows is QEMU's
 *
 * With a secret, each proof is an HMAC-SHA256 over everything said before and both nonces, so each
 * side knows that the other has the secret and that nothing was altered or replayed. What follows
 * the handshake is neither encrypted nor signed.
 */

/** What a connection is for. Each kind has its own, so that none can delay another. */
export const PEER_KINDS = ['control', 'heartbeat', 'checkpoint'] as const;
export type PeerKind = (typeof PEER_KINDS)[number];

/** What a host says of itself. */
export interface PeerIdentity {
  /** Names the pair; both hosts must name the same. */
  pairId: string;
  hostName: string;
  /** Another value each time the agent starts. */
  incarnation: string;
  /** Known to both hosts and nobody else; at least 16 bytes. */
  secret?: Buffer | undefined;
}

export interface Hello {
  kind: PeerKind;
  pairId: string;
  hostName: string;
  incarnation: string;
}

export const MIN_SECRET_BYTES = 16;
const MAX_HANDSHAKE_BYTES = 1024;
const NONCE_BYTES = 32;
const PROOF_BYTES = 32;

const limits: FrameLimits = new Map(
  [
    FrameType.hello,
    FrameType.answer,
    FrameType.proof,
    FrameType.welcome,
    FrameType.refused,
    FrameType.taken,
  ].map((type) => [type, MAX_HANDSHAKE_BYTES]),
);

// These strings end up in logs, so they hold nothing that could forge a line there.
const label = z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$/);
const hex = (bytes: number) => z.string().regex(new RegExp(`^[0-9a-f]{${2 * bytes}}$`));

const helloSchema = z.strictObject({
  kind: z.enum(PEER_KINDS),
  pair: label,
  host: label,
  incarnation: label,
  nonce: hex(NONCE_BYTES).optional(),
});
const answerSchema = z.strictObject({
  host: label,
  incarnation: label,
  nonce: hex(NONCE_BYTES).optional(),
  proof: hex(PROOF_BYTES).optional(),
});
const proofSchema = z.strictObject({ proof: hex(PROOF_BYTES) });
const welcomeSchema = z.strictObject({});
const takenSchema = z.strictObject({});
const refusedSchema = z.strictObject({ code: z.string().max(32), message: z.string().max(512) });

type HelloMessage = z.infer<typeof helloSchema>;
type AnswerMessage = z.infer<typeof answerSchema>;

/** Checks what a host would say of itself, so that a mistake shows at home. */
export function checkIdentity(self: PeerIdentity): void {
  for (const key of ['pairId', 'hostName', 'incarnation'] as const) {
    if (!label.safeParse(self[key]).success) {
      throw new RangeError(
        `${key} ${JSON.stringify(self[key])} must be 1 to 64 letters, digits or . _ : - and begin with a letter or digit`,
      );
    }
  }
  if (self.secret && self.secret.length < MIN_SECRET_BYTES) {
    throw new RangeError(
      `the pair's secret has ${self.secret.length} bytes, but needs at least ${MIN_SECRET_BYTES}`,
    );
  }
}

/** The client's half. Rejects with PeerError; the socket is then the caller's to destroy. */
export async function greetAsClient(
  socket: Socket,
  self: PeerIdentity,
  kind: PeerKind,
): Promise<Hello> {
  const hello: HelloMessage = {
    kind,
    pair: self.pairId,
    host: self.hostName,
    incarnation: self.incarnation,
    ...(self.secret && { nonce: randomBytes(NONCE_BYTES).toString('hex') }),
  };
  socket.write(Buffer.concat([encodePreamble(), message(FrameType.hello, hello)]));
  await readVersion(socket);
  const answer = await receive(socket, FrameType.answer, answerSchema);
  if (self.secret) {
    if (!answer.proof || !proves(answer.proof, self.secret, 'server', hello, answer)) {
      throw new PeerError('PEER_SECRET', `it does not know this pair's secret`);
    }
    const proof = prove(self.secret, 'client', hello, answer).toString('hex');
    socket.write(message(FrameType.proof, { proof }));
  }
  await receive(socket, FrameType.welcome, welcomeSchema);
  return { kind, pairId: self.pairId, hostName: answer.host, incarnation: answer.incarnation };
}

/**
 * The server's half. `admit` has the last word on a sound peer: it throws PeerError to refuse.
 * Rejects with PeerError, having told the client why as far as it can be told.
 */
export async function greetAsServer(
  socket: Socket,
  self: PeerIdentity,
  admit: (hello: Hello) => void,
): Promise<Hello> {
  socket.write(encodePreamble());
  await readVersion(socket);
  try {
    const hello = await receive(socket, FrameType.hello, helloSchema);
    if (hello.pair !== self.pairId) {
      throw new PeerError(
        'PEER_PAIR',
        `host ${hello.host} belongs to pair ${hello.pair}, this is a host of another pair`,
      );
    }
    if ((hello.nonce === undefined) !== (self.secret === undefined)) {
      throw new PeerError(
        'PEER_SECRET',
        `host ${hello.host} ${hello.nonce ? 'has' : 'lacks'} a secret for pair ${hello.pair}, this host ${hello.nonce ? 'lacks' : 'has'} one`,
      );
    }
    const answer: AnswerMessage = { host: self.hostName, incarnation: self.incarnation };
    if (self.secret) {
      answer.nonce = randomBytes(NONCE_BYTES).toString('hex');
      answer.proof = prove(self.secret, 'server', hello, answer).toString('hex');
    }
    socket.write(message(FrameType.answer, answer));
    if (self.secret) {
      const { proof } = await receive(socket, FrameType.proof, proofSchema);
      if (!proves(proof, self.secret, 'client', hello, answer)) {
        throw new PeerError('PEER_SECRET', `host ${hello.host} does not know this pair's secret`);
      }
    }
    const { kind, pair: pairId, host: hostName, incarnation } = hello;
    admit({ kind, pairId, hostName, incarnation });
    socket.write(message(FrameType.welcome, {}));
    return { kind, pairId, hostName, incarnation };
  } catch (error) {
    if (error instanceof PeerError && socket.writable) {
      const { code, message: why } = error;
      socket.write(message(FrameType.refused, { code, message: why.slice(0, 512) }));
    }
    throw error;
  }
}

/** What the server says once its QEMU has the connection. */
export function encodeTaken(): Buffer {
  return message(FrameType.taken, {});
}

/** The client's wait for that: were it to send anything before, it might not reach the QEMU there. */
export async function receiveTaken(socket: Socket): Promise<void> {
  await receive(socket, FrameType.taken, takenSchema);
}

function message(type: number, value: object): Buffer {
  return encodeFrame(type, Buffer.from(JSON.stringify(value)));
}

async function readVersion(socket: Socket): Promise<void> {
  const version = decodePreamble(await readExactly(socket, PREAMBLE_BYTES));
  if (version !== PROTOCOL_VERSION) {
    throw new PeerError(
      'PEER_VERSION',
      `it speaks version ${version} of the peer protocol and this host version ${PROTOCOL_VERSION}; install the same colopp on both hosts`,
    );
  }
}

async function receive<T>(socket: Socket, wanted: number, schema: z.ZodType<T>): Promise<T> {
  const { type, payloadBytes } = decodeHeader(await readExactly(socket, HEADER_BYTES), limits);
  const payload = payloadBytes === 0 ? Buffer.alloc(0) : await readExactly(socket, payloadBytes);
  if (type === FrameType.refused && wanted !== FrameType.hello && wanted !== FrameType.proof) {
    const { code, message: why } = parse(payload, refusedSchema);
    // The text is the other side's: it may not bring control characters into our log.
    const text = why.replace(/[^\x20-\x7e]/g, '?');
    throw new PeerError(isPeerErrorCode(code) ? code : 'PEER_REFUSED', `it refused: ${text}`);
  }
  if (type !== wanted) {
    throw new PeerError('PEER_GARBAGE', `it sent a frame of type ${type} instead of ${wanted}`);
  }
  return parse(payload, schema);
}

function parse<T>(payload: Buffer, schema: z.ZodType<T>): T {
  try {
    return schema.parse(JSON.parse(payload.toString('utf8')));
  } catch (cause) {
    throw new PeerError('PEER_GARBAGE', 'its greeting is malformed', { cause });
  }
}

function prove(
  secret: Buffer,
  side: 'client' | 'server',
  hello: HelloMessage,
  answer: AnswerMessage,
): Buffer {
  const said = JSON.stringify([
    `colopp ${side}`,
    PROTOCOL_VERSION,
    [hello.kind, hello.pair, hello.host, hello.incarnation, hello.nonce],
    [answer.host, answer.incarnation, answer.nonce],
  ]);
  return createHmac('sha256', secret).update(said).digest();
}

function proves(
  proof: string,
  secret: Buffer,
  side: 'client' | 'server',
  hello: HelloMessage,
  answer: AnswerMessage,
): boolean {
  return timingSafeEqual(Buffer.from(proof, 'hex'), prove(secret, side, hello, answer));
}

/**
 * Exactly so many bytes and none after them: whoever reads the socket next finds the rest there.
 * Rejects when the stream ends or is destroyed first.
 */
function readExactly(socket: Socket, bytes: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const settle = (error?: Error, data?: Buffer) => {
      socket.off('readable', attempt).off('end', onEnd).off('close', onClose);
      if (data) resolve(data);
      else reject(error);
    };
    const onEnd = () => settle(new PeerError('PEER_CLOSED', 'it hung up during the greeting'));
    const onClose = () => settle(socket.errored ?? new PeerError('PEER_CLOSED', 'it hung up'));
    const attempt = () => {
      const data = socket.read(bytes) as Buffer | null;
      if (data === null) return;
      if (data.length === bytes) settle(undefined, data);
      else onEnd(); // at the end of the stream, read() returns what is left
    };
    if (socket.destroyed) return onClose();
    if (socket.readableEnded) return onEnd();
    socket.on('readable', attempt).on('end', onEnd).on('close', onClose);
    attempt();
  });
}
