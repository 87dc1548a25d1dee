/** The check that every message of the peer passes before the state machine sees it. */

import { z } from 'zod';
import type { PeerMessage } from '../protocol/messages.js';

const text = z.string().max(2000);
const count = z.number().int().min(0).max(Number.MAX_SAFE_INTEGER);
const generation = count;
const rate = z.number().min(0).max(1e9);
const phase = z.enum(['alone', 'pairing', 'syncing', 'protected', 'checkpointing', 'parting', 'taking-over', 'active-alone', 'fenced', 'ended']);

const port = z.number().int().min(0).max(0xffff);

/** What is added to numbers of TCP. */
const shift = z.number().int().min(0).max(0xffff_ffff);

const schema = z.discriminatedUnion('type', [
  z.strictObject({ type: z.literal('greeting'), host: z.string().max(63), role: z.enum(['primary', 'secondary']), phase, generation, active: z.boolean() }),
  z.strictObject({ type: z.literal('offer'), generation, vmDigest: z.string().max(128), vmSummary: text }),
  z.strictObject({ type: z.literal('ready') }),
  z.strictObject({ type: z.literal('refuse'), code: z.string().max(40), reason: text }),
  z.strictObject({ type: z.literal('protected'), generation, term: count }),
  z.strictObject({ type: z.literal('unprotect'), reason: text }),
  z.strictObject({ type: z.literal('unprotected') }),
  z.strictObject({ type: z.literal('take-over'), reason: text }),
  z.strictObject({ type: z.literal('request-failover') }),
  z.strictObject({ type: z.literal('request-checkpoint') }),
  z.strictObject({ type: z.literal('log-begin'), epoch: z.string().regex(/^[0-7][0-9a-f]{15}$/), nextInput: count.min(1) }),
  z.strictObject({ type: z.literal('log-mark'), checkpoint: count, readInput: count, round: z.number().int().min(0).max(0xff_ffff) }),
  z.strictObject({ type: z.literal('log-marked'), checkpoint: count, active: z.boolean() }),
  z.strictObject({
    type: z.literal('log-flows'), first: z.boolean(), tsOffset: shift,
    flows: z.array(z.strictObject({ key: z.string().regex(/^[0-9a-f]{80}$/), seqDelta: shift, tsDelta: shift })).max(256),
  }),
  z.strictObject({
    type: z.literal('secondary-wish'), active: z.boolean(), forward: z.enum(['all', 'dirty', 'none']), caught: z.array(port).max(256),
  }),
  z.strictObject({ type: z.literal('checkpoint-asked') }),
  z.strictObject({
    type: z.literal('vcpu-load'),
    demand: z.strictObject({
      run: z.array(z.number().min(0).max(1)).max(64),
      outputsPerSecond: rate, heldPerSecond: rate, matchedPerSecond: rate,
    }),
  }),
]);

/** @throws if this is no message of the protocol */
export function parseMessage(value: unknown): PeerMessage {
  return schema.parse(value) satisfies PeerMessage;
}
