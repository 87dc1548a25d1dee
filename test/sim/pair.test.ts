/** The pair's protocol and pre-release under simulated faults; and that the simulator would have noticed. */

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { scenarios } from './faults.js';
import { slowWrites } from './load.js';
import { simulate } from './simulation.js';
import { variants } from './variants.js';

const seeds = 40;
const seedsPerVariant = 10_000;

test(`${seeds} seeds contradict nothing`, () => {
  let takeovers = 0;
  let answers = 0;
  let registers = 0;
  let unjudged = 0;
  for (let seed = 1; seed <= seeds; seed++) {
    const outcome = simulate(seed);
    assert.is(outcome.failure, undefined, `seed ${seed}; see it: npm run sim -- --seed ${seed} --seeds 1 --trace`);
    takeovers += outcome.takeovers;
    answers += outcome.answers;
    registers += outcome.registers;
    unjudged += outcome.unjudged;
  }
  // A simulation in which nothing happens would find nothing.
  assert.ok(takeovers > seeds / 4, `${takeovers} takeovers`);
  assert.ok(answers > seeds * 100, `${answers} answers`);
  assert.ok(registers > 2 * seeds, `${registers} registers`);
  assert.ok(unjudged < registers / 50, `of ${registers} registers ${unjudged} were not judged`);
});

test(`nor do ${seeds} seeds of slow writes`, () => {
  for (let seed = 1; seed <= seeds; seed++) {
    const { failure, unjudged } = simulate(seed, { scenario: 'takeovers', load: slowWrites });
    assert.is(failure, undefined, `seed ${seed}`);
    assert.is(unjudged, 0, `seed ${seed}`);
  }
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

for (const { name, rules, scenario, load } of variants) {
  test(`broken on purpose and found: ${name}`, () => {
    for (let seed = 1; seed <= seedsPerVariant; seed++) {
      if (simulate(seed, { rules, scenario, ...(load ? { load } : {}) }).failure !== undefined) return;
    }
    assert.unreachable(`not found in ${seedsPerVariant} seeds`);
  });
}

test.run();
