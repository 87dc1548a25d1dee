/**
 * What the monitor learns, moment by moment: the whole input of its model, and
 * what a recording holds. All text in it has been made harmless for a terminal.
 */

import { z } from 'zod';
import { clean } from './text.js';

const word = z.string().transform((text) => clean(text, 40));
const sentence = z.string().transform((text) => clean(text, 600));
const amount = z.number().transform((value) => Math.max(0, value));
const level = z.enum(['info', 'warn', 'error']);
const decimalNs = z.string().regex(/^\d{1,20}$/);

const serviceSchema = z.object({
  port: amount, protocol: word, preRelease: z.boolean(), prereleasedPackets: amount, controlPackets: amount,
  heldPackets: z.object({ order: amount, unlogged: amount, doubt: amount, standing: amount, off: amount }), openWrites: amount,
});

const vcpusSchema = z.object({
  mode: z.union([z.literal('auto'), amount]), of: amount, active: z.array(amount).max(256).nullable(), reason: sentence,
  /** What each did of late, as shares of the time; missing where the kernel cannot trace. */
  load: z.array(z.object({ vcpu: amount, run: amount, wait: amount })).max(256).default([]),
});

/** What the monitor reads of an agent's status. What came later than the first version may be missing: recordings are kept for long. Roles and phases it does not know are shown as they are. */
const statusSchema = z.object({
  host: word, pid: amount, role: word, phase: word, protected: z.boolean(), active: z.boolean(),
  generation: amount, reason: sentence, paused: z.boolean().default(false),
  leaseMs: amount.default(0),
  witness: z.object({ address: word, reachable: z.boolean().nullable() }).nullable().default(null),
  peer: z.object({ host: word, rttUs: amount.nullable(), silentMs: amount }).nullable(),
  refusedConnections: amount,
  vm: z.object({ name: word, pid: amount.nullable(), accel: word, qemu: word }),
  checkpoints: z.object({
    commits: amount, lastMsAgo: amount.nullable(), pauseMsP50: amount.nullable(), pauseMsP99: amount.nullable(), sentBytes: amount.default(0),
  }),
  output: z.object({
    mode: word, heldPackets: amount, heldBytes: amount, oldestMs: amount,
    releasedPackets: amount, passedPackets: amount, droppedPackets: amount, leaseDroppedPackets: amount,
    meanHoldMs: amount, maxHoldMs: amount,
    earlyPackets: amount.default(0), inputSeq: amount.default(0), loggedSeq: amount.default(0),
    releasedBy: z.object({ commit: amount, logged: amount, match: amount, end: amount }).default({ commit: 0, logged: 0, match: 0, end: 0 }),
    services: z.array(serviceSchema).max(64).default([]),
  }),
  inputLog: z.object({ log: z.object({ loggedPackets: amount, loggedBytes: amount, gaps: amount }) }).nullable().default(null),
  vcpus: vcpusSchema.nullable().default(null),
  compare: z.object({
    mode: word, comparing: z.boolean(), reason: sentence, divergences: amount, late: amount, auditMismatches: amount,
    uncompared: z.array(amount).max(64), caught: z.array(amount).max(64),
  }).nullable().default(null),
});

const newsSchema = z.discriminatedUnion('event', [
  z.object({ event: z.literal('note'), level, code: word, text: sentence, atNs: decimalNs }),
  z.object({ event: z.literal('phase'), role: word, phase: word, atNs: decimalNs }),
  z.object({ event: z.literal('commit'), commits: amount, pauseMs: amount, atNs: decimalNs }),
]);

const observationSchema = z.discriminatedUnion('kind', [
  /** A source said how its agent is. */
  z.object({ kind: z.literal('status'), atMs: amount, source: word, status: statusSchema }),
  /** Something happened in the agent. */
  z.object({ kind: z.literal('news'), atMs: amount, source: word, news: newsSchema }),
  /** The agent does not answer. */
  z.object({ kind: z.literal('gone'), atMs: amount, source: word, reason: sentence }),
  /** What became of a command, or of the recording. */
  z.object({ kind: z.literal('said'), atMs: amount, source: word, level, text: sentence }),
]);

export type Level = z.infer<typeof level>;
export type SeenStatus = z.infer<typeof statusSchema>;
export type SeenService = z.infer<typeof serviceSchema>;
export type SeenNews = z.infer<typeof newsSchema>;
/** `atMs` is Unix time in milliseconds, and never runs backwards within what one source observed, or what was said. */
export type Observation = z.infer<typeof observationSchema>;

/** An answer or a record that is not what it should be. */
export class ObservationError extends Error {
  readonly code = 'OBSERVATION';
}

/** @throws ObservationError that names the part that is wrong */
export function parseStatus(value: unknown): SeenStatus {
  return parse(statusSchema, value);
}

/** @returns undefined for news of a kind that this monitor does not know: a newer agent may have more */
export function parseNews(value: unknown): SeenNews | undefined {
  const result = newsSchema.safeParse(value);
  return result.success ? result.data : undefined;
}

/** @throws ObservationError that names the part that is wrong */
export function parseObservation(value: unknown): Observation {
  return parse(observationSchema, value);
}

function parse<T>(schema: z.ZodType<T>, value: unknown): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  const path = issue?.path.map(String).join('.') ?? '';
  throw new ObservationError(`${path === '' ? 'it' : clean(path, 80)} is not what it should be (${clean(issue?.message ?? 'unknown', 120)})`);
}
