/** Each fuzzer for twenty seconds, from what earlier runs have learned. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { fuzz, fuzzerNames, fuzzers } from './fuzzers.js';

for (const name of fuzzerNames) {
  test(`${name}: ${fuzzers[name].about}`, async () => {
    const { runs, coverage } = await fuzz(name, 20);
    // A fuzzer that does not run, or whose target is not instrumented, finds nothing either.
    assert.ok(runs > 100, `${runs} runs`);
    assert.ok(coverage > 20, `${coverage} edges`);
  });
}

test.run();
