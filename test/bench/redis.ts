/** Redis under closed-loop load: what pre-release gives, alone and with the choice of `auto`, beside no protection, holding, and stock COLO. */

import { compare, ratio, type Comparison, type ComparisonOptions } from './comparison.js';
import { fillRedis, redisBenchmark, redisMix } from './load.js';
import { demoGuest } from '../../src/lab/lab.js';

const WRITE_SHARE = 0.05;

export async function run(jsonPath: string | undefined, options: ComparisonOptions): Promise<void> {
  const comparison: Comparison = {
    port: demoGuest().ports.redis,
    services: [{ port: demoGuest().ports.redis, protocol: 'resp' }],
    prepare: fillRedis,
    loads: {
      get: (target) => redisBenchmark(target, 'get'),
      set: (target) => redisBenchmark(target, 'set'),
      mix: (target) => redisMix(target, WRITE_SHARE),
    },
    ratios: {
      getVsUnprotected: ratio('get', 'prerelease', 'unprotected', 'rps'),
      getVsStock: ratio('get', 'prerelease', 'stockColo', 'rps'),
      getP99VsUnprotected: ratio('get', 'prerelease', 'unprotected', 'p99Ms'),
      mixVsStock: ratio('mix', 'prerelease', 'stockColo', 'rps'),
      setVsStock: ratio('set', 'prerelease', 'stockColo', 'rps'),
      autoGetVsUnprotected: ratio('get', 'auto', 'unprotected', 'rps'),
      autoMixVsStock: ratio('mix', 'auto', 'stockColo', 'rps'),
      autoSetVsStock: ratio('set', 'auto', 'stockColo', 'rps'),
    },
  };
  await compare(comparison, options, jsonPath);
}
