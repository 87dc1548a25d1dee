/** How busy the clients of a run are, and what the networks do to their packets. */

import type { Habits } from './client.js';
import type { Scenario } from './faults.js';
import type { Random } from './random.js';

export interface Load {
  clients: number;
  habits: Habits;
  /** By number, whether the service is declared. */
  declared: readonly boolean[];
  /** Shares of packets that are lost: between clients and hosts, and in the tunnel. */
  loss: number;
  mirrorLoss: number;
}

export function planLoad(random: Random, scenario: Scenario): Load {
  // Where little is at stake but who speaks, little is said.
  const quiet = scenario === 'partition' || scenario === 'meeting' || scenario === 'connection';
  return {
    clients: random.int(2, quiet ? 3 : 5),
    habits: {
      thinkMs: random.pick(quiet ? [120, 400] : [15, 60, 200]),
      writes: random.pick([0.05, 0.2, 0.5]),
      pipeline: random.pick([1, 1, 2, 4]),
      requests: random.pick([3, 15, 60]),
      aborts: random.pick([0, 0, 0.2]),
    },
    declared: [true, random.chance(0.5)],
    loss: random.pick([0, 0.002, 0.02]),
    mirrorLoss: random.pick([0, 0, 0.01, 0.1]),
  };
}
