/** The simulated witness: src/protocol/witness.ts behind a network that may lose what is asked and what is answered. */

import { judge, type Claim } from '../../src/protocol/witness.js';
import { ms, type World } from './world.js';

export class Witness {
  /** Nothing reaches it. */
  silent = false;
  #held: Claim | undefined;
  readonly #world: World;

  constructor(world: World) {
    this.#world = world;
  }

  ask(claim: Claim, answer: (granted: boolean, holder: string) => void): void {
    const { random } = this.#world;
    const arrive = (act: () => void): void => {
      if (!this.silent && !random.chance(0.1)) this.#world.after(random.delay(100, 60 * ms), act);
    };
    arrive(() => {
      const { held, granted } = judge(this.#held, claim);
      this.#held = held;
      this.#world.log('witness', () => `${granted ? 'grants' : 'refuses'} ${claim.host} term ${claim.term}`);
      arrive(() => answer(granted, held.host));
    });
  }
}
