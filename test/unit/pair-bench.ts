/** One half of a pair on the bench: events in, effects out as short words. */

import { initialState, step, type Effect, type PairConfig, type PairEvent, type PairState, type Phase, type Role } from '../../src/protocol/pair.js';
import type { Greeting, Message } from '../../src/protocol/messages.js';

export const config: PairConfig = {
  host: 'self', vmDigest: 'digest', vmSummary: 'a VM', holdMs: 10, periodMs: 10_000, checkpointTimeoutMs: 5000,
  syncTimeoutMs: 60_000, leaseMs: 300, askMs: 1000, retryMs: 1000, witness: false, pauseSecondary: true,
};

export const ns = (ms: number): bigint => BigInt(Math.round(ms * 1e6));

export class Bench {
  state: PairState;
  nowMs = 1000;
  /** What the last event led to. */
  effects: Effect[] = [];
  readonly config: PairConfig;

  constructor(role: Role = 'primary', overrides: Partial<PairConfig> = {}) {
    this.config = { ...config, ...overrides };
    this.state = initialState(role);
  }

  /** @returns the effects as words, notes left out */
  on(event: PairEvent): string[] {
    const { state, effects } = step(this.state, event, ns(this.nowMs), this.config);
    this.state = state;
    this.effects = effects;
    return effects.filter(({ type }) => type !== 'note').map(word);
  }

  hear(message: Message): string[] {
    return this.on({ type: 'message', message });
  }

  /** Time passes, heartbeats being acknowledged until its end. */
  live(ms: number): this {
    this.nowMs += ms;
    this.on({ type: 'heartbeat-acked', sentNs: ns(this.nowMs) });
    return this;
  }

  /** Time passes in silence. */
  sleep(ms: number): this {
    this.nowMs += ms;
    return this;
  }

  /** The codes of the last event's notes. */
  get notes(): string[] {
    return this.effects.flatMap((effect) => effect.type === 'note' ? [effect.code] : []);
  }

  sent<T extends Message['type']>(type: T): Extract<Message, { type: T }> {
    const effect = this.effects.find((e) => e.type === 'send' && e.message.type === type);
    if (effect?.type !== 'send') throw new Error(`no ${type} was sent`);
    return effect.message as Extract<Message, { type: T }>;
  }
}

function word(effect: Effect): string {
  switch (effect.type) {
    case 'send': return `send ${effect.message.type}`;
    case 'gate': return `gate ${effect.mode}`;
    case 'timer': return `timer ${effect.name} ${effect.ms}`;
    case 'cancel-timer': return `cancel ${effect.name}`;
    case 'release': return `release ${effect.upToNs}`;
    case 'lease': return `lease ${effect.untilNs}`;
    case 'persist': return `persist ${effect.role} ${effect.generation} ${effect.mayRunAlone}`;
    default: return effect.type;
  }
}

export function hello(overrides: Partial<Greeting> = {}): Greeting {
  return { type: 'greeting', host: 'peer', role: 'secondary', phase: 'alone', generation: 0, active: false, ...overrides };
}

/** A primary that has reached `phase` in the ordinary way. */
export function primaryAt(phase: Phase, overrides: Partial<PairConfig> = {}): Bench {
  const bench = new Bench('primary', overrides);
  const until = (...steps: [Phase, () => void][]): Bench => {
    for (const [reached, act] of steps) {
      act();
      if (bench.state.phase !== reached) throw new Error(`${bench.state.phase}, not ${reached}`);
      if (reached === phase) return bench;
    }
    throw new Error(`no ordinary way leads to ${phase}`);
  };
  return until(
    ['alone', () => bench.on({ type: 'start', role: 'primary', generation: 0, term: 0, vmAlive: false, mayRunAlone: true })],
    ['pairing', () => { bench.on({ type: 'peer-up' }); bench.hear(hello()); }],
    ['syncing', () => bench.hear({ type: 'ready' })],
    ['protected', () => {
      bench.live(100).on({ type: 'colo-entered' });
      commit(bench);
    }],
    ['checkpointing', () => bench.on({ type: 'command', command: 'checkpoint' })],
    ['parting', () => bench.on({ type: 'colo-exit', reason: 'error' })],
  );
}

/** A secondary that has reached `phase` in the ordinary way. */
export function secondaryAt(phase: Phase, overrides: Partial<PairConfig> = {}): Bench {
  const bench = new Bench('secondary', overrides);
  bench.on({ type: 'start', role: 'secondary', generation: 0, term: 0, vmAlive: false, mayRunAlone: false });
  bench.on({ type: 'peer-up' });
  bench.hear(hello({ role: 'primary', active: true }));
  if (phase === 'alone') return bench;
  bench.hear({ type: 'offer', generation: 3, vmDigest: 'digest', vmSummary: 'a VM' });
  if (phase === 'pairing') return bench;
  bench.on({ type: 'vm-listening' });
  if (phase === 'syncing') return bench;
  bench.live(100).hear({ type: 'protected', generation: 3, term: 5 });
  if (phase === 'protected') return bench;
  if (phase === 'taking-over') bench.hear({ type: 'take-over', reason: 'a test' });
  if (phase === 'fenced') bench.sleep(2000).on({ type: 'peer-lost', reason: 'silence' });
  if (bench.state.phase !== phase) throw new Error(`no ordinary way leads to ${phase}`);
  return bench;
}

/** The checkpoint that was asked for stops the VM for `pauseMs`, 1 ms from now, and commits. */
export function commit(bench: Bench, pauseMs = 10): string[] {
  const stopNs = ns(bench.nowMs + 1);
  bench.sleep(2).on({ type: 'vm-stopped', stampNs: stopNs, receivedNs: ns(bench.nowMs) });
  bench.sleep(pauseMs);
  return bench.on({ type: 'vm-resumed', receivedNs: ns(bench.nowMs) });
}
