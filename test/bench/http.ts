/** nginx under closed-loop load over keep-alive connections: pages of 1 KiB and 1 MiB. */

import { compare, ratio, type Comparison, type ComparisonOptions } from './comparison.js';
import { httpPage } from './load.js';
import { demoGuest } from '../../src/lab/lab.js';

export async function run(jsonPath: string | undefined, options: ComparisonOptions): Promise<void> {
  const comparison: Comparison = {
    port: demoGuest().ports.http,
    services: [{ port: demoGuest().ports.http, protocol: 'http' }],
    loads: {
      '1k': (target) => httpPage(target, '/1k'),
      '1m': (target) => httpPage(target, '/1m'),
    },
    ratios: {
      '1kVsUnprotected': ratio('1k', 'prerelease', 'unprotected', 'rps'),
      '1kVsStock': ratio('1k', 'prerelease', 'stockColo', 'rps'),
      '1kP99VsUnprotected': ratio('1k', 'prerelease', 'unprotected', 'p99Ms'),
      '1mVsUnprotected': ratio('1m', 'prerelease', 'unprotected', 'rps'),
      '1mVsStock': ratio('1m', 'prerelease', 'stockColo', 'rps'),
    },
  };
  await compare(comparison, options, jsonPath);
}
