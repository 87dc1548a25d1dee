import { z } from 'zod';

/**
 * What colopp says to QEMU, and what it believes of the answers. Types follow from the schemas:
 * nothing is written twice, and nothing QEMU sends is trusted unread. Fields not named here are
 * dropped. Reference: QEMU QMP Reference Manual, 11.1.
 */

const nothing = z.unknown().optional();
const count = z.number().int().nonnegative();

const version = z.object({
  qemu: z.object({ major: count, minor: count, micro: count }),
  package: z.string(),
});

const runState = z.object({ running: z.boolean(), status: z.string() });

const migration = z.object({
  /** none, setup, active, colo, completed, failed, cancelling, cancelled... */
  status: z.string().optional(),
  'error-desc': z.string().optional(),
  ram: z
    .object({
      transferred: count,
      total: count,
      remaining: count,
      'dirty-sync-count': count,
      mbps: z.number().optional(),
    })
    .optional(),
});

const capability = z.object({ capability: z.string(), state: z.boolean() });

const coloStatus = z.object({
  mode: z.enum(['none', 'primary', 'secondary']),
  'last-mode': z.enum(['none', 'primary', 'secondary']),
  reason: z.string(),
});

const vcpu = z.object({
  'cpu-index': count,
  /** The host thread that runs this vCPU. */
  'thread-id': count,
  'qom-path': z.string(),
});

const yankInstance = z.discriminatedUnion('type', [
  z.object({ type: z.literal('migration') }),
  z.object({ type: z.literal('chardev'), id: z.string() }),
  z.object({ type: z.literal('block-node'), 'node-name': z.string() }),
]);

/** Answers, by command. */
export const RESULTS = {
  qmp_capabilities: nothing,
  'query-version': version,
  'query-status': runState,
  'query-migrate': migration,
  'query-migrate-capabilities': z.array(capability),
  'query-colo-status': coloStatus,
  'query-cpus-fast': z.array(vcpu),
  'query-kvm': z.object({ enabled: z.boolean(), present: z.boolean() }),
  'query-yank': z.array(yankInstance),
  getfd: nothing,
  migrate: nothing,
  'migrate-incoming': nothing,
  'migrate-set-capabilities': nothing,
  'migrate-set-parameters': nothing,
  migrate_cancel: nothing,
  stop: nothing,
  cont: nothing,
  quit: nothing,
  system_powerdown: nothing,
  yank: nothing,
  'x-colo-lost-heartbeat': nothing,
  'announce-self': nothing,
  set_link: nothing,
} as const;

export type YankInstance = z.infer<typeof yankInstance>;

/** Arguments, by command; a command that is absent here takes none. */
export interface QmpArguments {
  qmp_capabilities: { enable?: 'oob'[] };
  getfd: { fdname: string };
  migrate: { uri: string };
  'migrate-incoming': { uri: string };
  'migrate-set-capabilities': { capabilities: { capability: string; state: boolean }[] };
  'migrate-set-parameters': {
    /** Milliseconds between checkpoints. Setting it, to whatever value, asks for one now. */
    'x-checkpoint-delay'?: number;
    /** Bytes per second. */
    'max-bandwidth'?: number;
    'downtime-limit'?: number;
    /** Bytes, a power of two. */
    'xbzrle-cache-size'?: number;
  };
  yank: { instances: YankInstance[] };
  /** Times in milliseconds. */
  'announce-self': { initial: number; max: number; rounds: number; step: number };
  set_link: { name: string; up: boolean };
}

export type QmpCommand = keyof typeof RESULTS;
export type QmpArgs<C extends QmpCommand> = C extends keyof QmpArguments
  ? QmpArguments[C]
  : undefined;
export type QmpResult<C extends QmpCommand> = z.infer<(typeof RESULTS)[C]>;

/** Data of the events we act upon. Others arrive too, with `data: unknown`. */
export const EVENT_DATA = {
  STOP: nothing,
  RESUME: nothing,
  COLO_EXIT: z.object({ mode: z.enum(['primary', 'secondary']), reason: z.string() }),
  MIGRATION: z.object({ status: z.string() }),
  MIGRATION_PASS: z.object({ pass: count }),
  SHUTDOWN: z.object({ guest: z.boolean(), reason: z.string() }),
  RESET: z.object({ guest: z.boolean(), reason: z.string() }),
  POWERDOWN: nothing,
  GUEST_PANICKED: z.object({ action: z.string() }),
  JOB_STATUS_CHANGE: z.object({ id: z.string(), status: z.string() }),
} as const;

export type QmpEventName = keyof typeof EVENT_DATA;

/** One event, with the three times that say when it happened. */
export interface QmpEvent<Data = unknown> {
  name: string;
  data: Data;
  /** QEMU's own stamp: wall clock, microseconds. */
  timestampUs: number;
  /**
   * That stamp as CLOCK_MONOTONIC nanoseconds. Exact to some microseconds as long as nobody steps
   * the wall clock between QEMU's stamp and our reading; a caller that depends on it must clamp it
   * between times it knows.
   */
  monotonicNs: bigint;
  /** When we read it: CLOCK_MONOTONIC, nanoseconds. */
  receivedNs: bigint;
}

/** What may come down the line, told apart by the one key each of them must have. */
export const MESSAGES = {
  event: z.object({
    event: z.string(),
    data: z.unknown().optional(),
    timestamp: z.object({ seconds: z.number().int(), microseconds: z.number().int() }),
  }),
  error: z.object({ error: z.object({ class: z.string(), desc: z.string() }), id: z.unknown().optional() }),
  return: z.object({ return: z.unknown(), id: z.unknown().optional() }),
  QMP: z.object({ QMP: z.object({ version, capabilities: z.array(z.unknown()) }) }),
} as const;

export type QmpVersion = z.infer<typeof version>;
