/**
 * The agent's configuration file: YAML, checked against one schema. The schema
 * below is its documentation; `colopp agent --help` prints an example.
 */

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { LineCounter, parseDocument } from 'yaml';
import { z } from 'zod';

const largestFileBytes = 256 * 1024;

const mib = 1024 * 1024;
const ifname = z.string().regex(/^[A-Za-z0-9_.-]{1,15}$/, 'must be an interface name: 1 to 15 letters, digits, "_", "." or "-"');
const absolutePath = z.string().regex(/^\/[^\0]*$/, 'must be an absolute path');
const endpoint = z.string().regex(/^(\[[0-9A-Fa-f:.]+\]|[0-9.]+):\d{1,5}$/, 'must be ADDRESS:PORT, an IPv6 address in brackets')
  .transform((text) => {
    const colon = text.lastIndexOf(':');
    return { host: text.slice(0, colon).replace(/^\[|\]$/g, ''), port: Number(text.slice(colon + 1)) };
  })
  .refine(({ port }) => port >= 1 && port <= 65535, 'has a port outside 1 to 65535');
const whole = (low: number, high: number): z.ZodNumber => z.number().int().min(low).max(high);

export const configSchema = z.strictObject({
  /** This host's name; the two hosts of a pair have different ones. */
  host: z.string().regex(/^[A-Za-z0-9][A-Za-z0-9.-]{0,62}$/, 'must be a host name'),
  /** Who runs the VM when the pair meets for the first time. */
  role: z.enum(['primary', 'secondary']),
  /** Sockets and logs. Made if missing, readable by root only. */
  runDir: absolutePath,
  /** What must survive a restart of the host. */
  stateDir: absolutePath,
  vm: z.strictObject({
    name: z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/),
    memoryMiB: whole(32, 1024 * 1024),
    vcpus: whole(1, 64).default(1),
    kernel: absolutePath,
    initrd: absolutePath.optional(),
    append: z.string().max(2000).default(''),
    mac: z.string().regex(/^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$/, 'must be a unicast MAC address in lower case'),
    /** `auto` takes KVM where the CPU can, else emulation. Both hosts must come to the same. */
    accel: z.enum(['auto', 'kvm', 'tcg']).default('auto'),
    /** A QEMU binary to use in place of the one that set-up found. */
    qemu: absolutePath.optional(),
    extraArgs: z.array(z.string()).max(64).default([]),
  }),
  network: z.strictObject({
    /** The bridge that leads to the clients. Must exist. */
    bridge: ifname,
    /** The VM's tap. Made, and removed at the end. */
    tap: ifname,
    /** The tap where held packets wait. Made, and gone with the agent. */
    holdTap: ifname,
    /** Only where services are declared: the tunnel that carries the VM's input to the other host, and the tap where it is logged there. Made, and gone with the agent. */
    tunnel: ifname.default('clp-tunnel0'),
    logTap: ifname.default('clp-log0'),
    /** Only where outputs are compared: the tap where those of the other host's VM arrive. Made, and gone with the agent. */
    shadowTap: ifname.default('clp-shadow0'),
  }).refine((n) => new Set(Object.values(n)).size === 6, 'needs interfaces with different names'),
  peer: z.strictObject({
    /** Where this agent listens for its peer: an address of the replication network. */
    listen: endpoint,
    /** Where the peer's agent listens. */
    address: endpoint,
    /** A file with at least 16 bytes that only the two hosts know. Strongly advised. */
    secretFile: absolutePath.optional(),
    /** Wait between attempts to reach the peer. */
    retryMs: whole(100, 600_000).default(1000),
  }),
  /**
   * Who decides which host goes on when the two have lost each other; see
   * `colopp witness`. Without one, a network that parts them lets both go on.
   */
  witness: z.strictObject({
    /** Where the witness listens. */
    address: endpoint,
    /** A file with at least 16 bytes that the witness knows, too. Strongly advised. */
    secretFile: absolutePath.optional(),
  }).optional(),
  /** The same on both hosts: one may speak for as long as the other waits before it takes over. */
  heartbeat: z.strictObject({
    intervalMs: whole(10, 10_000).default(100),
    /** So many intervals of silence and the peer is lost. */
    missed: whole(2, 100).default(3),
  }).prefault({}),
  checkpoint: z.strictObject({
    /**
     * A checkpoint starts no sooner than this after a packet was held. More than 0 is rarely better: what is said
     * together is gathered anyway, and what the VM says until it stands still shares the checkpoint, too.
     */
    holdMs: whole(0, 10_000).default(0),
    /** Longest time between checkpoints. */
    periodMs: whole(100, 3_600_000).default(10_000),
    /** A checkpoint that takes longer ends the protection. */
    timeoutMs: whole(100, 600_000).default(10_000),
    /** Copying the VM's whole state may take this long. */
    syncTimeoutMs: whole(1000, 86_400_000).default(120_000),
    /** More held packets or bytes start a checkpoint at once. */
    maxHeldPackets: whole(1, 1_000_000).default(4096),
    maxHeldBytes: whole(1, 1024 * 1024 * mib).default(16 * mib),
    /** Memory for held packets; beyond it the kernel drops them, and counts. */
    holdMemoryBytes: whole(mib, 64 * 1024 * mib).default(256 * mib),
  }).prefault({}),
  /**
   * Services of the guest whose replies may leave before a checkpoint. See
   * README: what a declared service promises.
   */
  services: z.array(z.strictObject({
    port: whole(1, 65535),
    /** How its requests are told apart. `dns` is UDP, all others TCP. */
    protocol: z.enum(['resp', 'http', 'memcached', 'dns', 'read-only', 'never']),
    /** On, unless the protocol is `never`. */
    preRelease: z.boolean().optional(),
  })).max(64).default([]).superRefine((services, context) => {
    const seen = new Map<string, number>();
    services.forEach(({ port, protocol, preRelease }, index) => {
      const key = `${protocol === 'dns' ? 'UDP' : 'TCP'} port ${port}`;
      const refuse = (message: string): void => context.addIssue({ code: 'custom', path: [index, 'port'], message });
      if (seen.has(key)) refuse(`declares ${key} again, which entry ${seen.get(key)! + 1} declares already; keep one of them`);
      if (protocol === 'never' && preRelease) refuse(`contradicts itself: "never" means that every reply of ${key} is held, preRelease: true that some are not; remove one of them`);
      seen.set(key, index);
    });
  }),
  metrics: z.strictObject({
    /** Where Prometheus finds this agent's metrics, under /metrics. They are offered to whoever can connect; by default nowhere. */
    listen: endpoint.optional(),
  }).prefault({}),
  /**
   * How the primary releases what it holds. `commit`: by checkpoints only. `compare`: also as soon as
   * the secondary VM, which runs then, has said the same. `auto`: whichever makes output wait less.
   */
  mode: z.enum(['commit', 'compare', 'auto']).default('commit'),
  compare: z.strictObject({
    /** While comparing, so many per cent of what left early is compared after the fact. */
    auditPercent: z.number().min(0).max(100).default(1),
    /** So many mismatches in these audits, and a service's replies leave early no more. */
    auditMismatches: whole(1, 1_000_000).default(3),
    /** The longest wait for the secondary VM before a checkpoint is made instead. */
    latestMs: whole(1, 10_000).default(200),
  }).prefault({}),
  /** `paused`: the secondary VM only loads checkpoints, unless the primary compares. `active`: it always runs between them. */
  secondary: z.enum(['paused', 'active']).default('paused'),
  /** While this host is the secondary: how many vCPUs run. 0 pauses it after every commit; `auto` decides by the load, or runs all of a secondary that is `active`. */
  activeVcpus: z.union([z.literal('auto'), whole(0, 64)], 'must be "auto" or a whole number from 0 to 64').default('auto'),
});

/** Whether inputs are mirrored to the other host: for pre-release, comparing, and an active secondary. */
export function replicatesInputs(config: AgentConfig): boolean {
  return config.services.length > 0 || secondaryMayRun(config);
}

/** Whether a service's replies may leave early, if nothing has been found against it. */
export function preReleases({ preRelease, protocol }: AgentConfig['services'][number]): boolean {
  return preRelease ?? protocol !== 'never';
}

/** Whether the secondary's VM may run between checkpoints. */
export function secondaryMayRun({ mode, secondary }: Pick<AgentConfig, 'mode' | 'secondary'>): boolean {
  return mode !== 'commit' || secondary === 'active';
}

/** How many vCPUs run while this host is the secondary: all of one that is always active, unless a number says otherwise. */
export function activeVcpusOf({ secondary, activeVcpus, vm }: AgentConfig): 'auto' | number {
  return activeVcpus === 'auto' && secondary === 'active' ? vm.vcpus : activeVcpus;
}

export type AgentConfig = z.infer<typeof configSchema>;

/** A configuration that cannot be used. The message says what, where, and what to do. */
export class ConfigError extends Error {
  readonly code = 'CONFIG';

  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'ConfigError';
  }
}

/** Reads `ADDRESS:PORT`. @throws ConfigError */
export function parseEndpoint(text: string): { host: string; port: number } {
  const result = endpoint.safeParse(text);
  if (!result.success) throw new ConfigError(`${JSON.stringify(text)} ${result.error.issues[0]!.message}.`);
  return result.data;
}

/** Reads and checks a configuration file. @throws ConfigError */
export function loadConfig(path: string): AgentConfig {
  let text: string;
  try {
    const bytes = readFileSync(path);
    if (bytes.length > largestFileBytes) throw new Error(`it has ${bytes.length} bytes, more than ${largestFileBytes}`);
    text = bytes.toString('utf8');
  } catch (cause) {
    throw new ConfigError(`The configuration ${path} cannot be read: ${(cause as Error).message}.`, { cause });
  }
  return parseConfig(text, path);
}

/**
 * @param text YAML
 * @param source named in errors
 * @throws ConfigError that names line and column of the first mistake
 */
export function parseConfig(text: string, source: string): AgentConfig {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, strict: true, uniqueKeys: true });
  const at = (offset: number | undefined): string => {
    if (offset === undefined) return source;
    const { line, col } = lines.linePos(offset);
    return `${source}:${line}:${col}`;
  };
  const [malformed] = document.errors;
  if (malformed) {
    throw new ConfigError(`${at(malformed.pos[0])}: not valid YAML: ${malformed.message.split('\n')[0]?.replace(/ at line.*$/, '')}.`, { cause: malformed });
  }
  let value: unknown;
  try {
    value = document.toJS({ maxAliasCount: 100 });
  } catch (cause) {
    throw new ConfigError(`${source}: not usable YAML: ${(cause as Error).message}.`, { cause });
  }
  const result = configSchema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  const path = issue.path.map(String);
  // A missing key has no place of its own: point at the nearest that has.
  let offset: number | undefined;
  for (let depth = path.length; depth >= 0 && offset === undefined; depth--) {
    const node = document.getIn(issue.path.slice(0, depth).map(asKey), true) as { range?: [number, number, number] } | undefined;
    offset = node?.range?.[0];
  }
  throw new ConfigError(`${at(offset)}: ${path.join('.') || 'the file'}: ${sentence(issue)}.`);
}

/**
 * What the two hosts must have alike, as words and as a digest. The heartbeats are part of it: the primary's lease
 * comes from its own, the silence after which it is taken over from the secondary's.
 */
export function describeVm(config: AgentConfig, accel: 'kvm' | 'tcg', qemuVersion: string): { digest: string; summary: string } {
  const { vm, heartbeat: { intervalMs, missed } } = config;
  const files = [vm.kernel, ...(vm.initrd === undefined ? [] : [vm.initrd])].map(fileDigest);
  const essence = JSON.stringify([vm.name, vm.memoryMiB, vm.vcpus, vm.append, vm.mac, vm.extraArgs, accel, qemuVersion, files, intervalMs, missed, ...(config.witness ? ['witness'] : [])]);
  const digest = createHash('sha256').update(essence).digest('hex');
  const images = files.map((file) => file.slice(0, 8)).join('+');
  const summary = `${vm.name}, ${vm.memoryMiB} MiB, ${vm.vcpus} vCPU, ${vm.mac}, ${accel}, QEMU ${qemuVersion}, images ${images}, lost after ${missed} heartbeats of ${intervalMs} ms${config.witness ? ', with a witness' : ''}`;
  return { digest, summary };
}

function fileDigest(path: string): string {
  try {
    return createHash('sha256').update(readFileSync(path)).digest('hex');
  } catch (cause) {
    throw new ConfigError(`The VM's image ${path} cannot be read: ${(cause as Error).message}.`, { cause });
  }
}

function asKey(part: PropertyKey): string | number {
  return typeof part === 'number' ? part : String(part);
}

function sentence(issue: z.core.$ZodIssue): string {
  if (issue.code === 'unrecognized_keys') return `unknown key ${issue.keys.map((key) => JSON.stringify(key)).join(', ')}; see "colopp agent --help" for the keys there are`;
  return issue.message;
}
