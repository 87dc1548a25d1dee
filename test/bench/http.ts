/** nginx under closed-loop load over keep-alive connections: pages of 1 KiB and 1 MiB. */

import { compare, type Comparison, type ComparisonOptions } from './comparison.js';
import { httpPage } from './load.js';
import { demoGuest } from '../../src/lab/lab.js';

export async function run(jsonPath: string | undefined, options: ComparisonOptions): Promise<void> {
  const comparison: Comparison = {
    port: demoGuest().ports.http,
    loads: {
      '1k': (target) => httpPage(target, '/1k'),
      '1m': (target) => httpPage(target, '/1m'),
    },
    ratios: {
      '1kVsUnprotected': { load: '1k', over: 'unprotected', of: 'rps' },
      '1kVsStock': { load: '1k', over: 'stockColo', of: 'rps' },
      '1kP99VsUnprotected': { load: '1k', over: 'unprotected', of: 'p99Ms' },
      '1mVsUnprotected': { load: '1m', over: 'unprotected', of: 'rps' },
      '1mVsStock': { load: '1m', over: 'stockColo', of: 'rps' },
    },
  };
  await compare(comparison, options, jsonPath);
}
