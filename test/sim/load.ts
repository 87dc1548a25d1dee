/** How busy the clients of a run are, and what the networks do to their packets. */

import type { Habits } from './client.js';
import type { Scenario } from './faults.js';
import type { Doubt } from './flow.js';
import type { Random } from './random.js';

export interface Load {
  clients: number;
  habits: Habits;
  /** By number, whether the service is declared. */
  declared: readonly boolean[];
  /** Shares of packets that are lost: between clients and hosts, and in the tunnel. */
  loss: number;
  mirrorLoss: number;
  /** One of these is how long output may wait before a checkpoint. */
  holdMs: readonly number[];
  doubt?: Doubt;
  /** Of the clients, only so many write. */
  writers?: number;
}

/** Some write, and take longer for it than the time for which writes without a reply are in doubt; others read. */
export const slowWrites = {
  clients: 4, writers: 2, declared: [true, true], holdMs: [50],
  habits: { thinkMs: 3, writes: 0.7, pipeline: 1, requests: 100, aborts: 0, keys: 1, slowestMs: 300 },
  doubt: { vagueMs: 50, openMs: 100 },
} satisfies Partial<Load>;

export function planLoad(random: Random, scenario: Scenario): Load {
  if (scenario === 'takeovers') {
    // Much is told early, and much is in doubt.
    const slow = random.chance(0.1) ? slowWrites : {};
    return {
      clients: random.int(5, 8),
      habits: {
        thinkMs: random.pick([3, 10, 30]), writes: random.pick([0.003, 0.03, 0.15, 0.5]), pipeline: random.pick([1, 1, 1, 3]),
        requests: random.pick([4, 30, 200]), aborts: random.pick([0, 0, 0.2]), keys: random.pick([1, 2]),
      },
      declared: [true, random.chance(0.5)],
      loss: random.pick([0, 0.002, 0.02, 0.1]), mirrorLoss: random.pick([0, 0, 0.01, 0.1]), holdMs: [5, 20, 50, 0], ...slow,
    };
  }
  // Where little is at stake but who speaks, little is said.
  const quiet = scenario === 'partition' || scenario === 'meeting' || scenario === 'connection';
  return {
    clients: random.int(2, quiet ? 3 : 5),
    habits: {
      thinkMs: random.pick(quiet ? [120, 400] : [15, 60, 200]), writes: random.pick([0.05, 0.2, 0.5]), pipeline: random.pick([1, 1, 2, 4]),
      requests: random.pick([3, 15, 60]), aborts: random.pick([0, 0, 0.2]), keys: 2,
    },
    declared: [true, random.chance(0.5)],
    loss: random.pick([0, 0.002, 0.02]), mirrorLoss: random.pick([0, 0, 0.01, 0.1]), holdMs: [0, 5, 20, 1],
  };
}
