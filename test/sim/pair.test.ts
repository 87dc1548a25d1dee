/** The pair's protocol under simulated faults; and that the simulator would have noticed. */

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { scenarios } from './faults.js';
import { contradiction } from './history.js';
import type { Operation } from './client.js';
import { simulate } from './simulation.js';
import { variants } from './variants.js';

const seeds = 300;
const seedsPerVariant = 2000;

test(`${seeds} seeds contradict nothing`, () => {
  let takeovers = 0;
  let answers = 0;
  for (let seed = 1; seed <= seeds; seed++) {
    const outcome = simulate(seed);
    assert.is(outcome.failure, undefined, `seed ${seed}; see it: npm run sim -- --seed ${seed} --seeds 1 --trace`);
    takeovers += outcome.takeovers;
    answers += outcome.answers;
  }
  // A simulation in which nothing happens would find nothing.
  assert.ok(takeovers > seeds / 4, `${takeovers} takeovers`);
  assert.ok(answers > seeds * 100, `${answers} answers`);
});

test('a seed means the same run every time, traced or not', () => {
  for (const scenario of scenarios) {
    const first = simulate(7, { scenario, tracing: true });
    const again = simulate(7, { scenario, tracing: true });
    const untraced = simulate(7, { scenario });
    assert.equal(again, first);
    assert.equal({ ...untraced, trace: [] }, { ...first, trace: [] });
    assert.ok(first.trace.length > 1000);
    assert.is.not(simulate(8, { scenario }).answers, first.answers);
  }
});

for (const { name, rules, scenario } of variants) {
  test(`broken on purpose and found: ${name}`, () => {
    for (let seed = 1; seed <= seedsPerVariant; seed++) {
      if (simulate(seed, { rules, scenario }).failure !== undefined) return;
    }
    assert.unreachable(`not found in ${seedsPerVariant} seeds`);
  });
}

const operation = (client: number, seq: number, op: Operation['op'], value: number, calledUs: number, answeredUs: number): Operation =>
  ({ client, seq, op, value, calledUs, answeredUs });

test('histories of one counter are accepted, overlapping ones in any order', () => {
  assert.is(contradiction([]), undefined);
  assert.is(contradiction([operation(0, 1, 'raise', 1, 0, 10), operation(1, 1, 'read', 1, 11, 20), operation(0, 2, 'raise', 2, 12, 30)]), undefined);
  assert.is(contradiction([operation(0, 1, 'raise', 2, 0, 10), operation(1, 1, 'raise', 1, 5, 20), operation(2, 1, 'read', 0, 0, 20)]), undefined);
});

test('histories that no counter could have had are not', () => {
  assert.match(String(contradiction([operation(0, 1, 'raise', 1, 0, 10), operation(1, 1, 'raise', 1, 20, 30)])), /both raised/);
  assert.match(String(contradiction([operation(0, 1, 'raise', 5, 0, 10), operation(1, 1, 'read', 4, 11, 30)])), /answered 4 after/);
  assert.match(String(contradiction([operation(0, 1, 'read', 5, 0, 10), operation(1, 1, 'raise', 5, 11, 30)])), /answered 5 after/);
});

test.run();
