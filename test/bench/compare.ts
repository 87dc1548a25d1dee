/**
 * What an active secondary gives: Redis, read and written, and a page with a header that differs on
 * each VM. The page is not declared: what it says does not depend on its state alone.
 */

import { demoGuest } from '../../src/lab/lab.js';
import { compare, ratio, type Comparison, type ComparisonOptions, type Look } from './comparison.js';
import { fillRedis, httpPage, redisBenchmark, redisMix } from './load.js';

const { ports } = demoGuest();
const loads: Comparison['loads'] = {
  set: (target) => redisBenchmark(target, 'set'),
  half: (target) => redisMix(target, 0.5),
  get: (target) => redisBenchmark(target, 'get'),
  stamp: (target) => httpPage({ ...target, port: ports.http }, '/stamp'),
};

export async function run(jsonPath: string | undefined, options: ComparisonOptions): Promise<void> {
  await compare({
    port: ports.redis,
    services: [{ port: ports.redis, protocol: 'resp' }],
    prepare: fillRedis,
    loads,
    ratios: {
      setP50VsCommit: ratio('set', 'compare', 'commit', 'p50Ms'),
      setRpsVsStock: ratio('set', 'compare', 'stockColo', 'rps'),
      autoVsBest,
    },
  }, options, jsonPath);
}

/** Throughput of `auto`, divided by that of the better fixed mode with the same services: of the load where that is least. */
function autoVsBest(look: Look): number | undefined {
  const shares = Object.keys(loads).map((load) => {
    const [auto, ...fixed] = (['auto', 'compare', 'prerelease'] as const).map((mode) => look(mode, load)?.rps);
    return auto === undefined || fixed.includes(undefined) ? undefined : auto / Math.max(...fixed.map(Number));
  });
  return shares.includes(undefined) ? undefined : Math.min(...shares.map(Number));
}
