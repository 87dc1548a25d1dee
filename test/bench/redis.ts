/** Redis under closed-loop load: what pre-release gives, beside no protection, holding, and stock COLO. */

import { compare, type Comparison, type ComparisonOptions } from './comparison.js';
import { fillRedis, redisBenchmark, redisMix } from './load.js';
import { demoGuest } from '../../src/lab/lab.js';

const WRITE_SHARE = 0.05;

export async function run(jsonPath: string | undefined, options: ComparisonOptions): Promise<void> {
  const comparison: Comparison = {
    port: demoGuest().ports.redis,
    prepare: fillRedis,
    loads: {
      get: (target) => redisBenchmark(target, 'get'),
      set: (target) => redisBenchmark(target, 'set'),
      mix: (target) => redisMix(target, WRITE_SHARE),
    },
    ratios: {
      getVsUnprotected: { load: 'get', over: 'unprotected', of: 'rps' },
      getVsStock: { load: 'get', over: 'stockColo', of: 'rps' },
      getP99VsUnprotected: { load: 'get', over: 'unprotected', of: 'p99Ms' },
      mixVsStock: { load: 'mix', over: 'stockColo', of: 'rps' },
      setVsStock: { load: 'set', over: 'stockColo', of: 'rps' },
    },
  };
  await compare(comparison, options, jsonPath);
}
