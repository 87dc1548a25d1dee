/**
 * `npm run sim -- --seeds N [--seed S] [--trace]`: runs N seeds from S on; a
 * failure is shown with its trace, and told how to be seen again.
 */

import { parseArgs } from 'node:util';
import { simulate } from './simulation.js';
import { variants } from './variants.js';

const { values } = parseArgs({
  options: {
    seeds: { type: 'string', default: '1000' }, seed: { type: 'string', default: '1' },
    trace: { type: 'boolean', default: false }, variant: { type: 'string' },
  },
});
const [first, count] = [Number(values.seed), Number(values.seeds)] as const;
if (!Number.isSafeInteger(first) || !Number.isSafeInteger(count) || count < 1) {
  console.error(`--seed and --seeds take whole numbers, not ${values.seed} and ${values.seeds}.`);
  process.exit(2);
}
const variant = values.variant === undefined ? undefined : variants.find(({ name }) => name === values.variant);
if (values.variant !== undefined && !variant) {
  console.error(`There is no variant "${values.variant}"; there are: ${variants.map(({ name }) => name).join(', ')}.`);
  process.exit(2);
}
const options = variant ? { rules: variant.rules, ...(variant.load ? { load: variant.load } : {}) } : {};
const sums = { splits: 0, lost: 0, takeovers: 0, answers: 0, registers: 0, unjudged: 0 };
const startMs = performance.now();
let seed = first;
for (; seed < first + count; seed++) {
  const outcome = simulate(seed, { ...options, tracing: values.trace });
  if (values.trace) console.log(outcome.trace.join('\n'));
  if (outcome.failure !== undefined) {
    if (!values.trace) console.log(simulate(seed, { ...options, tracing: true }).trace.join('\n'));
    console.log(`\nSeed ${seed} (${outcome.scenario}) fails at ${outcome.failure}`);
    console.log(`Faults: ${JSON.stringify(outcome.faults)}`);
    console.log(`See it again: npm run sim -- --seed ${seed} --seeds 1 --trace${variant ? ` --variant "${variant.name}"` : ''}`);
    process.exitCode = 1;
    break;
  }
  sums.splits += Number(outcome.split);
  sums.lost += Number(outcome.vmLost);
  sums.takeovers += outcome.takeovers;
  sums.answers += outcome.answers;
  sums.registers += outcome.registers;
  sums.unjudged += outcome.unjudged;
}
const seconds = (performance.now() - startMs) / 1000;
console.log(`${seed - first} seeds from ${first} in ${seconds.toFixed(1)} s without a contradiction: ${sums.takeovers} takeovers, ${sums.answers} answers; apart and both alive: ${sums.splits}, every copy lost: ${sums.lost}; registers not judged: ${sums.unjudged} of ${sums.registers}.`);
