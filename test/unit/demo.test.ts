/** The demo's figures: what counts as a passed round, and how rounds are put together. */

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { PauseHistory, quantile } from '../../src/agent/pause-history.js';
import { passed, summarize, type DemoRound } from '../../src/drill/demo.js';
import { seededRandom } from '../../src/drill/random.js';

const round = (changes: Partial<DemoRound> = {}): DemoRound => ({
  accel: 'tcg', checkpoints: { count: 3, pausesMs: [10, 20, 30] }, failover: { detectMs: 300, takeoverMs: 20, firstReplyMs: 400 },
  output: { packets: 1000, early: 400, match: 10 }, connections: { open: 13, survived: 13, broken: [] }, writes: { acknowledged: 100, lost: 0 }, killedInCheckpoint: false, ...changes,
});

test('a round is passed if every connection survived and nothing was lost', () => {
  assert.ok(passed(round()));
  assert.not(passed(round({ connections: { open: 13, survived: 12, broken: [{ name: 'redis 1', why: 'closed' }] } })));
  assert.not(passed(round({ writes: { acknowledged: 100, lost: 1 } })));
  assert.not(passed(round({ writes: { acknowledged: 0, lost: 0 } })), 'a round without writes shows nothing');
});

test('one round is its own summary', () => {
  assert.equal(summarize([round()]), {
    accel: 'tcg', checkpoints: { count: 3, pauseMsP50: 20, pauseMsP99: 30 },
    failover: { detectMs: 300, takeoverMs: 20, firstReplyMs: 400, firstReplyMsMax: 400 },
    output: { packets: 1000, early: 400, match: 10 }, connections: { open: 13, survived: 13 }, writes: { acknowledged: 100, lost: 0 }, rounds: { passed: 1, failed: 0 },
  });
});

test('counts add up, times are medians, the slowest reply is named', () => {
  const summary = summarize([
    round(),
    round({ failover: { detectMs: 100, takeoverMs: 90, firstReplyMs: 4000 }, checkpoints: { count: 1, pausesMs: [1] } }),
    round({ failover: { detectMs: 200, takeoverMs: 30, firstReplyMs: 300 }, writes: { acknowledged: 50, lost: 2 } }),
  ]);
  assert.equal(summary.failover, { detectMs: 200, takeoverMs: 30, firstReplyMs: 400, firstReplyMsMax: 4000 });
  assert.equal(summary.checkpoints, { count: 7, pauseMsP50: 20, pauseMsP99: 30 });
  assert.equal(summary.writes, { acknowledged: 250, lost: 2 });
  assert.equal(summary.output, { packets: 3000, early: 1200, match: 30 });
  assert.equal(summary.connections, { open: 39, survived: 39 });
  assert.equal(summary.rounds, { passed: 2, failed: 1 });
});

test('a round without a checkpoint still has a summary', () => {
  assert.equal(summarize([round({ checkpoints: { count: 0, pausesMs: [] } })]).checkpoints, { count: 0, pauseMsP50: 0, pauseMsP99: 0 });
});

test('a quantile is the value of the nearest rank', () => {
  assert.is(quantile([], 0.5), null);
  assert.is(quantile([7], 0), 7);
  assert.is(quantile([7], 1), 7);
  assert.is(quantile([3, 1, 2], 0.5), 2);
  assert.is(quantile([4, 3, 1, 2], 0.5), 2);
  const hundred = Array.from({ length: 100 }, (_, i) => 100 - i);
  assert.equal([0.01, 0.5, 0.99, 1].map((q) => quantile(hundred, q)), [1, 50, 99, 100]);
  assert.is(hundred[0], 100, 'the values are left in their order');
});

test('the history of pauses keeps the last 4096', () => {
  const history = new PauseHistory();
  assert.equal(history.summary(), { lastMsAgo: null, pauseMsP50: null, pauseMsP99: null, askMsP50: null, askMsP99: null });
  for (let i = 0; i < 4096; i++) history.add(1000, 100);
  for (let i = 0; i < 4096; i++) history.add(i < 4000 ? 10 : 50, i < 4000 ? 1 : 5);
  const { lastMsAgo, pauseMsP50, pauseMsP99, askMsP50, askMsP99 } = history.summary();
  assert.equal([pauseMsP50, pauseMsP99, askMsP50, askMsP99], [10, 50, 1, 5]);
  assert.ok(lastMsAgo! >= 0 && lastMsAgo! < 1000);
});

test('a seed means the same chances every time', () => {
  const draw = (seed: number): number[] => Array.from({ length: 1000 }, seededRandom(seed));
  assert.equal(draw(1), draw(1));
  assert.not.equal(draw(1), draw(2));
  const numbers = draw(3);
  assert.ok(numbers.every((n) => n >= 0 && n < 1));
  const mean = numbers.reduce((a, b) => a + b) / numbers.length;
  assert.ok(mean > 0.45 && mean < 0.55);
});

test.run();
