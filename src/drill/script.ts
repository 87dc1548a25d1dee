/**
 * What a drill file may say. The schema is its documentation: `colopp drill schema` prints it for
 * editors, and mistakes are explained with its examples.
 */

import { isIP } from 'node:net';
import { z } from 'zod';
import { configSchema } from '../agent/config.js';
import { networkNames } from '../lab/cables.js';
import { parseShare, parseSpan, parseTime } from './quantities.js';

const longestMs = 10 * 60_000;

const time = z.string('must be a time with its unit')
  .refine((text) => (parseTime(text) ?? Infinity) <= longestMs, 'must be a time with its unit, 10 min at most')
  .transform((text) => parseTime(text)!);
const span = z.string('must be a time with its unit, or two with ".." between them')
  .refine((text) => (parseSpan(text)?.highMs ?? Infinity) <= longestMs, 'must be a time with its unit, or two with ".." between them; 10 min at most')
  .refine((text) => { const s = parseSpan(text); return !s || s.lowMs <= s.highMs; }, 'ends before it begins: the shorter time comes first')
  .transform((text) => parseSpan(text)!);
const share = z.string('must be a percentage')
  .refine((text) => parseShare(text) !== undefined, 'must be a percentage from 0% to 100%')
  .transform((text) => parseShare(text)!);
const count = (low: number, high: number) => z.number().int().min(low).max(high);

const host = z.enum(['a', 'b', 'primary', 'secondary'])
  .meta({ description: 'A host by name, or by its part at that moment.', examples: ['primary'] });
const within = time.meta({ description: 'How long it may take.', examples: ['10s'] });
const direction = z.enum(['both', 'from', 'to']).default('both')
  .meta({ description: 'What the host sends (from), what it receives (to), or both.', examples: ['from'] });

/** Numbers of an agent's status that steps can wait for and expectations can bound. */
export const metricNames = [
  'generation', 'refusedConnections',
  'checkpoints.commits', 'checkpoints.pauseMsP50', 'checkpoints.pauseMsP99',
  'output.heldPackets', 'output.heldBytes', 'output.oldestMs', 'output.meanHoldMs', 'output.maxHoldMs',
  'output.releasedPackets', 'output.passedPackets', 'output.droppedPackets', 'output.leaseDroppedPackets',
  'output.earlyPackets', 'output.inputSeq', 'output.loggedSeq',
  'compare.divergences', 'compare.late', 'compare.auditMismatches', 'compare.caught',
  'inputLog.log.gaps', 'inputLog.loggedPackets', 'inputLog.injectedPackets', 'inputLog.learnedFlows',
] as const;
const metric = z.enum(metricNames).meta({ description: 'A number of the status, as "colopp status --json" names it; of a list, how long it is.', examples: ['checkpoints.commits'] });
const bounds = {
  atLeast: z.number().optional().meta({ examples: [1] }),
  atMost: z.number().optional().meta({ examples: [100] }),
};
const isBounded = ({ atLeast, atMost }: { atLeast?: number | undefined; atMost?: number | undefined }): boolean =>
  (atLeast !== undefined || atMost !== undefined) && (atLeast ?? -Infinity) <= (atMost ?? Infinity);
const boundsMessage = 'needs atLeast, atMost or both, the smaller as atLeast';

/** Steps that say everything with their name. */
export const plainSteps = ['startLoad', 'stopLoad', 'checkpoint', 'failover', 'thaw', 'heal', 'freeDisk', 'bringBack', 'reprotect'] as const;

/** Steps with something behind their name. */
const steps = {
  sleep: span.meta({ description: 'Let time pass: so much, or a time that chance chooses.', examples: ['1s..2s'] }),
  waitUntil: z.union([
    z.strictObject({
      host: host.optional(),
      state: z.enum(['protected', 'active', 'alone', 'silent', 'fenced']).meta({
        description: 'protected: the other host could take over (without a host: both say so). active: it runs the VM. alone: it runs the VM, unprotected. silent: it does not. fenced: it waits for the word of its peer or an operator.',
        examples: ['protected'],
      }),
      within,
    }),
    z.strictObject({ host, metric, ...bounds, within }).refine(isBounded, boundsMessage),
  ]).meta({ description: 'Wait for a state of a host or the pair, or for a number of its status.', examples: ['{ state: protected, within: 30s }'] }),
  failover: z.strictObject({ askedAt: host }).meta({ description: 'An operator moves the VM, asked at this host.', examples: ['{ askedAt: secondary }'] }),
  kill: z.strictObject({
    host,
    what: z.enum(['agent', 'qemu', 'host']).meta({ description: 'host: agent, QEMU and cables in the same moment.', examples: ['host'] }),
  }).meta({ examples: ['{ host: primary, what: host }'] }),
  freeze: z.strictObject({
    host,
    what: z.enum(['agent', 'qemu', 'host']).meta({ description: 'What stands still, until the step "thaw".', examples: ['host'] }),
  }).meta({ examples: ['{ host: primary, what: host }'] }),
  stop: z.strictObject({ host }).meta({ description: 'End the agent in order: a protected VM is handed over first, any other ends with it.', examples: ['{ host: secondary }'] }),
  upgrade: z.strictObject({ host }).meta({ description: 'End the agent in order, as "stop" does, and start the one that is installed.', examples: ['{ host: secondary }'] }),
  partition: z.strictObject({
    network: z.enum([...networkNames, 'all']).meta({ description: 'management: where the hosts reach the witness.', examples: ['replication'] }),
    host,
    direction,
  }).meta({ description: 'Nothing passes, until the step "heal".', examples: ['{ network: replication, host: primary }'] }),
  impair: z.strictObject({
    traffic: z.enum(['mirror', 'replication', 'client']).meta({ description: 'mirror: only the input on its way to the log of the other host.', examples: ['mirror'] }),
    host,
    direction,
    drop: share.default(0).meta({ description: 'Share of the frames that is lost.', examples: ['10%'] }),
    delay: time.optional().meta({ description: 'How late frames are; of what a host sends on the replication network.', examples: ['20ms'] }),
    delayed: share.default(1).meta({ description: 'Share of the frames that is late.', examples: ['50%'] }),
  }).meta({ description: 'A bad cable, until the step "heal".', examples: ['{ traffic: mirror, host: primary, drop: 10% }'] }),
  fillDisk: z.strictObject({ host }).meta({ description: 'Fill the disk under the folders of this agent, until the step "freeDisk".', examples: ['{ host: primary }'] }),
  corrupt: z.strictObject({
    host,
    frame: z.enum(['heartbeat', 'control']).meta({ examples: ['heartbeat'] }),
  }).meta({ description: 'The next such frame that this host sends to its peer arrives as garbage.', examples: ['{ host: primary, frame: heartbeat }'] }),
  bringBack: z.strictObject({ host }).meta({ description: 'Start what was killed or stopped of this host; without a host: of both.', examples: ['{ host: a }'] }),
  startAlone: z.strictObject({ host }).meta({ description: "An operator's word that this fenced host may run the VM.", examples: ['{ host: a }'] }),
};

const step = z.union([
  z.enum(plainSteps).meta({ description: 'A step that needs no more than its name.' }),
  z.strictObject({ sleep: steps.sleep }),
  z.strictObject({ waitUntil: steps.waitUntil }),
  z.strictObject({ failover: steps.failover }),
  z.strictObject({ kill: steps.kill }),
  z.strictObject({ freeze: steps.freeze }),
  z.strictObject({ stop: steps.stop }),
  z.strictObject({ upgrade: steps.upgrade }),
  z.strictObject({ partition: steps.partition }),
  z.strictObject({ impair: steps.impair }),
  z.strictObject({ fillDisk: steps.fillDisk }),
  z.strictObject({ corrupt: steps.corrupt }),
  z.strictObject({ bringBack: steps.bringBack }),
  z.strictObject({ startAlone: steps.startAlone }),
]);

/** Without its defaults: what a drill does not say of the configuration, its lab decides. */
function asWritten(part: z.ZodType): z.ZodType {
  if (part instanceof z.ZodDefault || part instanceof z.ZodPrefault) return asWritten(part.unwrap() as z.ZodType);
  if (!(part instanceof z.ZodObject)) return part;
  const keys = Object.entries(part.shape as Record<string, z.ZodType>);
  return z.strictObject(Object.fromEntries(keys.map(([key, value]) => [key, asWritten(value).optional()])));
}
const ofAgents = configSchema.pick({ checkpoint: true, heartbeat: true, secondary: true, mode: true, compare: true });

const lab = z.strictObject({
  vcpus: count(1, 8).default(1).meta({ examples: [2] }),
  preRelease: z.boolean().default(false).meta({ description: "The guest's services are declared.", examples: [true] }),
  witness: z.boolean().default(false).meta({ description: 'A witness decides which host goes on when the two lose each other.', examples: [true] }),
  diskMiB: count(4, 1024).optional().meta({ description: "Each agent's folders lie on a disk of this size.", examples: [16] }),
  agent: (asWritten(ofAgents) as z.ZodType<z.input<typeof ofAgents>>).default({}).meta({ description: "Parts of both agents' configuration.", examples: ['{ checkpoint: { holdMs: 50 } }'] }),
});

const path = z.string().regex(/^\/[^\0]*$/, 'must be an absolute path').meta({ examples: ['/run/colopp/agent.sock'] });
const port = count(1, 65_535);

const pair = z.strictObject({
  agents: z.strictObject({ a: path, b: path.optional() })
    .meta({ description: 'Control sockets. Without that of b, steps and expectations cannot ask "b" or "secondary".', examples: ['{ a: /run/colopp/agent.sock }'] }),
  service: z.strictObject({
    address: z.string().refine((text) => isIP(text) !== 0, 'must be an IP address').meta({ examples: ['10.0.0.5'] }),
    redisPort: port.default(6379).meta({ examples: [6379] }), httpPort: port.default(80).meta({ examples: [80] }),
  }).optional().meta({ description: 'Where clients find the guest, for the load: Redis, and a web server with /1k and /1m. The keys that the load writes begin with "drill:" and are deleted when it ends; a drill that is cut short leaves them.', examples: ['{ address: 10.0.0.5 }'] }),
});

export const scriptSchema = z.strictObject({
  drill: z.string().regex(/^[a-z0-9][a-z0-9-]{0,39}$/, 'must be a name of 1 to 40 lower-case letters, digits and "-"').meta({ examples: ['host-lost'] }),
  proves: z.string().min(10).max(400).meta({ description: 'One sentence: what is known once it has passed.', examples: ['A VM outlives its host.'] }),
  quick: z.boolean().default(false).meta({ description: 'Part of the quick set.', examples: [true] }),
  lab: lab.optional().meta({ description: 'Two hosts and a client on this machine, made for the drill.', examples: ['{ preRelease: true }'] }),
  pair: pair.optional().meta({ description: 'A pair that runs already, in place of a lab.', examples: ['{ agents: { a: /run/colopp/agent.sock } }'] }),
  load: z.strictObject({
    writers: count(0, 100).default(2).meta({ description: 'Connections to Redis that write.', examples: [4] }),
    readers: count(0, 100).default(1).meta({ description: 'Connections to the web server.', examples: [2] }),
    redisReaders: count(0, 100).default(0).meta({ description: 'Connections to Redis that read what the writers write.', examples: [2] }),
    stampReaders: count(0, 100).default(0).meta({ description: "Connections that read /stamp, a page of the lab's guest that no two guests answer alike.", examples: [4] }),
    download: z.boolean().default(true).meta({ description: 'One connection more that fetches /1m all the time.', examples: [false] }),
    newcomers: count(0, 100).default(0).meta({ description: 'Clients that open a new connection for each write.', examples: [2] }),
  }).prefault({}).meta({ description: 'The clients that the step "startLoad" connects.', examples: ['{ writers: 4 }'] }),
  steps: z.array(step).min(1).max(200).meta({ examples: ['[startLoad, sleep: 1s]'] }),
  expect: z.strictObject({
    oneActive: z.boolean().optional().meta({ description: 'Never did both hosts speak for the guest, as seen on the wire. Needs a lab.', examples: [true] }),
    connectionsSurvive: z.boolean().optional().meta({ description: "Every client's connection goes on.", examples: [true] }),
    writesKept: z.boolean().optional().meta({ description: 'Every acknowledged write can be read back.', examples: [true] }),
    takeovers: count(0, 100).optional().meta({ description: 'So often the guest was seen to move to the other host. Needs a lab.', examples: [1] }),
    takeoverWithin: time.optional().meta({ description: 'From what caused it to the first frame that the new host is seen to send. Needs a lab.', examples: ['1500ms'] }),
    longestSilence: time.optional().meta({ description: 'The longest time in which no client had any reply.', examples: ['2s'] }),
    protectedAtEnd: z.boolean().optional().meta({ examples: [true] }),
    metrics: z.array(z.strictObject({ host, metric, ...bounds }).refine(isBounded, boundsMessage)).max(50).default([])
      .meta({ description: 'Numbers of the status when the steps are done.', examples: ['[{ host: primary, metric: output.droppedPackets, atMost: 0 }]'] }),
  }).prefault({}).meta({ description: 'What must hold. The first three are expected wherever they can be seen, unless they are switched off.', examples: ['{ takeovers: 1 }'] }),
});

export type Script = z.output<typeof scriptSchema>;
export type Step = Script['steps'][number];
export type HostWord = z.output<typeof host>;
export type MetricName = (typeof metricNames)[number];
export interface Bounds { atLeast?: number | undefined; atMost?: number | undefined }

/** The name of a step. */
export function stepName(step: Step): string {
  return typeof step === 'string' ? step : Object.keys(step)[0]!;
}

/** JSON Schema of a drill file, for editors. */
export function scriptJsonSchema(): object {
  return { title: 'A colopp drill', ...z.toJSONSchema(scriptSchema, { io: 'input' }) };
}
