import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  heartbeatWakeNs,
  startHeartbeat,
  stepHeartbeat,
  type HeartbeatEffect,
  type HeartbeatEvent,
  type HeartbeatState,
} from '../../src/peer/heartbeat-state.js';

const MS = 1_000_000n;
const settings = { intervalNs: 100n * MS, silenceNs: 300n * MS };

/** Plays events at times in ms; returns the last state and each step's effects. */
function play(script: [number, HeartbeatEvent][], from: HeartbeatState = startHeartbeat(0n)) {
  let state = from;
  const effects: HeartbeatEffect[][] = [];
  for (const [atMs, event] of script) {
    const step = stepHeartbeat(state, settings, event, BigInt(atMs) * MS);
    state = step.state;
    effects.push(step.effects);
  }
  return { state, effects };
}

test('beats leave at once and then every interval', () => {
  const { effects, state } = play([
    [0, { type: 'tick' }],
    [60, { type: 'tick' }],
    [100, { type: 'tick' }],
  ]);
  assert.equal(effects, [[{ type: 'sendBeat', seq: 1 }], [], [{ type: 'sendBeat', seq: 2 }]]);
  assert.is(heartbeatWakeNs(state, settings), 200n * MS);
});

test('a beat is acknowledged at once and counts as heard', () => {
  const { effects, state } = play([[70, { type: 'beat', seq: 9 }]]);
  assert.equal(effects, [[{ type: 'sendAck', seq: 9 }]]);
  assert.is(state.lastHeardNs, 70n * MS);
});

test('an acknowledgement gives the time its beat was sent, and the round trip', () => {
  const { effects, state } = play([
    [0, { type: 'tick' }],
    [100, { type: 'tick' }],
    [103, { type: 'ack', seq: 2 }],
  ]);
  assert.equal(effects[2], [{ type: 'acked', sentNs: 100n * MS }]);
  assert.is(state.lastAckedSentNs, 100n * MS);
  assert.is(state.rttNs, 3n * MS);
});

test('what was never sent, or was acknowledged already, extends nothing', () => {
  const { effects, state } = play([
    [0, { type: 'tick' }],
    [1, { type: 'ack', seq: 1 }],
    [50, { type: 'ack', seq: 1 }],
    [60, { type: 'ack', seq: 77 }],
  ]);
  assert.equal(effects[2], []);
  assert.equal(effects[3], []);
  assert.is(state.lastAckedSentNs, 0n);
});

test('silence is suspected first, and declared only if nothing had arrived after all', () => {
  const quiet = play([
    [300, { type: 'tick' }],
    [300, { type: 'drained' }],
    [400, { type: 'tick' }],
    [400, { type: 'drained' }],
  ]);
  assert.equal(quiet.effects[0]?.at(-1), { type: 'drain' });
  assert.equal(quiet.effects[1], [{ type: 'silence', silentNs: 300n * MS }]);
  assert.equal(quiet.effects[2], [{ type: 'sendBeat', seq: 2 }]);
  assert.equal(quiet.effects[3], [], 'once per silence');

  const late = play([
    [5000, { type: 'tick' }], // our own timer was 4.7 s late
    [5000, { type: 'beat', seq: 4 }],
    [5000, { type: 'drained' }],
  ]);
  assert.equal(late.effects[2], []);
  assert.not(late.state.silent);
});

test('one beat makes up for a stall of ours', () => {
  const { effects, state } = play([
    [0, { type: 'tick' }],
    [950, { type: 'tick' }],
  ]);
  assert.equal(effects[1]?.[0], { type: 'sendBeat', seq: 2 });
  assert.is(state.nextSendNs, 1050n * MS);
});

test('a peer that comes back ends the silence, which may come again', () => {
  const { effects } = play([
    [300, { type: 'tick' }],
    [300, { type: 'drained' }],
    [350, { type: 'beat', seq: 1 }],
    [650, { type: 'tick' }],
    [650, { type: 'drained' }],
  ]);
  assert.equal(effects[4], [{ type: 'silence', silentNs: 300n * MS }]);
});

test('unacknowledged beats stay bounded', () => {
  let state = startHeartbeat(0n);
  for (let i = 0; i < 5000; i++) {
    state = stepHeartbeat(state, settings, { type: 'tick' }, BigInt(i) * 100n * MS).state;
  }
  assert.is(state.unacked.length, 1024);
});

/**
 * The promise a lease rests on, over random delays, stalls and losses: the receiver of a beat
 * never declares silence before the sender's lease on it has run out.
 */
test('silence is never declared within the lease of an acknowledged beat', () => {
  const leaseNs = settings.silenceNs;
  let silences = 0;
  for (let seed = 1; seed <= 300; seed++) {
    let rng = seed;
    const below = (n: number) => {
      rng = (Math.imul(rng, 1664525) + 1013904223) >>> 0;
      return Math.floor((rng / 2 ** 32) * n);
    };
    // Two ends with clocks of their own; `wire` holds what is under way, in order.
    const skewNs = BigInt(below(1_000_000)) * MS;
    let a = startHeartbeat(0n);
    let b = startHeartbeat(skewNs);
    const toA: { at: number; event: HeartbeatEvent }[] = [];
    const toB: { at: number; event: HeartbeatEvent }[] = [];
    const cutAt = below(2000);
    let leaseUntilNs = -1n;
    let bStalledUntil = 0;
    for (let nowMs = 0; nowMs < 3000; nowMs++) {
      const nowA = BigInt(nowMs) * MS;
      const nowB = nowA + skewNs;
      const delay = 1 + below(below(20) === 0 ? 400 : 5);
      const send = (queue: typeof toA, event: HeartbeatEvent) => {
        if (nowMs < cutAt) {
          queue.push({ at: Math.max(nowMs + delay, queue.at(-1)?.at ?? 0), event });
        }
      };
      const runA = (event: HeartbeatEvent) => {
        const step = stepHeartbeat(a, settings, event, nowA);
        a = step.state;
        for (const effect of step.effects) {
          if (effect.type === 'sendBeat') send(toB, { type: 'beat', seq: effect.seq });
          if (effect.type === 'sendAck') send(toA, { type: 'ack', seq: effect.seq });
          if (effect.type === 'acked') leaseUntilNs = effect.sentNs + leaseNs;
        }
      };
      while (toA[0] && toA[0].at <= nowMs) runA(toA.shift()!.event);
      runA({ type: 'tick' });

      if (below(500) === 0) bStalledUntil = nowMs + below(800);
      if (nowMs < bStalledUntil) continue;
      const runB = (event: HeartbeatEvent) => {
        const step = stepHeartbeat(b, settings, event, nowB);
        b = step.state;
        for (const effect of step.effects) {
          if (effect.type === 'sendAck') send(toA, { type: 'ack', seq: effect.seq });
          if (effect.type === 'silence') {
            silences++;
            assert.ok(nowA >= leaseUntilNs, `seed ${seed}: silence at ${nowMs} ms, in the lease`);
          }
        }
      };
      // The timer comes first, as in an event loop that was stalled; then what had arrived.
      runB({ type: 'tick' });
      while (toB[0] && toB[0].at <= nowMs) runB(toB.shift()!.event);
      runB({ type: 'drained' });
    }
  }
  assert.ok(silences > 100, `only ${silences} silences were seen`);
});

test.run();
