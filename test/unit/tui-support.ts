/** A pair to look at, for the tests of the monitor. */
import { initialModel, reduce, type Model } from '../../src/tui/model.js';
import { parseObservation, type Observation } from '../../src/tui/observation.js';
import type { Setting } from '../../src/tui/app.js';
import { unicodeGlyphs } from '../../src/tui/text.js';

/** A moment to count from: 2026-11-23 02:53:20 UTC. */
export const t0 = 1_795_402_400_000;

export const setting: Setting = {
  title: 'lab test', isReplay: false, hasKeys: true, glyphs: unicodeGlyphs, hasColours: false, staleMs: 2000,
};

interface Parts {
  [key: string]: unknown;
  checkpoints?: Record<string, unknown>;
  output?: Record<string, unknown>;
  vm?: Record<string, unknown>;
}

/** The status of a protected primary a whose peer is b, but for `parts`. */
export function status({ checkpoints, output, vm, ...parts }: Parts = {}): Record<string, unknown> {
  return {
    host: 'a', pid: 100, role: 'primary', phase: 'protected', protected: true, active: true, generation: 3, reason: '',
    leaseMs: 300, peer: { host: 'b', rttUs: 320, silentMs: 34 }, refusedConnections: 0,
    vm: { name: 'guest', pid: 200, accel: 'tcg', accelReason: 'no vmx', qemu: '11.1.2', ...vm },
    checkpoints: { commits: 42, lastMsAgo: 23, pauseMsP50: 9.8, pauseMsP99: 14.2, ...checkpoints },
    output: {
      mode: 'protected', heldPackets: 0, heldBytes: 0, oldestMs: 0, everHeldPackets: 900, releasedPackets: 900,
      meanHoldMs: 21.2, maxHoldMs: 43, passedPackets: 5, droppedPackets: 0, leaseDroppedPackets: 0, inputPackets: 1000, ...output,
    },
    ...parts,
  };
}

/** The status of b, which protects a. */
export function secondaryStatus(parts: Parts = {}): Record<string, unknown> {
  return status({
    host: 'b', pid: 101, role: 'secondary', active: false, peer: { host: 'a', rttUs: 410, silentMs: 12 },
    checkpoints: { commits: 0, lastMsAgo: null, pauseMsP50: null, pauseMsP99: null },
    output: { mode: 'closed', releasedPackets: 0, meanHoldMs: 0, maxHoldMs: 0 }, ...parts,
  });
}

/** Observations as they come in: `atMs` counts from `t0`, and everything passes the same checks as an agent's answers. */
export const saw = {
  status: (source: string, atMs: number, value: unknown = status()): Observation => parseObservation({ kind: 'status', source, atMs: t0 + atMs, status: value }),
  note: (source: string, atMs: number, level: string, text: string): Observation =>
    parseObservation({ kind: 'news', source, atMs: t0 + atMs, news: { event: 'note', level, code: 'CODE', text, atNs: '1' } }),
  phase: (source: string, atMs: number, role: string, phase: string, agentMs = atMs): Observation =>
    parseObservation({ kind: 'news', source, atMs: t0 + atMs, news: { event: 'phase', role, phase, atNs: `${agentMs * 1e6}` } }),
  commit: (source: string, atMs: number, pauseMs: number): Observation =>
    parseObservation({ kind: 'news', source, atMs: t0 + atMs, news: { event: 'commit', commits: 1, pauseMs, atNs: '1' } }),
  gone: (source: string, atMs: number, reason = 'it has ended'): Observation =>
    parseObservation({ kind: 'gone', source, atMs: t0 + atMs, reason }),
  said: (source: string, atMs: number, level: string, text: string): Observation =>
    parseObservation({ kind: 'said', source, atMs: t0 + atMs, level, text }),
};

export function after(...observations: Observation[]): Model {
  return observations.reduce(reduce, initialModel(['a', 'b']));
}

/** A pair that works, seen until one second after `t0`. */
export function healthyPair(): Observation[] {
  return [
    saw.status('a', 0), saw.status('b', 0, secondaryStatus()), saw.commit('a', 400, 12), saw.commit('a', 700, 30),
    saw.status('a', 1000, status({ output: { heldPackets: 12, heldBytes: 4400, oldestMs: 12.1, releasedPackets: 1000 } })),
    saw.status('b', 1000, secondaryStatus()),
  ];
}
