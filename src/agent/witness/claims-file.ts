/** What a witness must remember: for each VM the last claim it granted. */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { judge, type Claim } from '../../protocol/witness.js';
import { writeDurably } from '../durable-file.js';
import { claimSchema } from './messages.js';

const largestFileBytes = 4 * 1024 * 1024;
const mostVms = 4096;

const schema = z.record(claimSchema.shape.vm, claimSchema.omit({ vm: true, type: true }).extend({ host: z.string().max(64) }));

/** What a witness remembered cannot be used, or no more can be remembered. */
export class WitnessError extends Error {
  readonly code = 'WITNESS';

  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'WitnessError';
  }
}

export class ClaimsFile {
  readonly #path: string;
  readonly #held: Map<string, Claim>;

  /** @throws WitnessError if what is there is damaged: granting a claim anew could let both hosts of a pair speak */
  constructor(stateDir: string) {
    this.#path = join(stateDir, 'claims.json');
    try {
      const bytes = readFileSync(this.#path);
      if (bytes.length > largestFileBytes) throw new Error(`it has ${bytes.length} bytes`);
      this.#held = new Map(Object.entries(schema.parse(JSON.parse(bytes.toString('utf8')))));
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code !== 'ENOENT') {
        throw new WitnessError(`The witness's memory ${this.#path} cannot be used. If you are sure that no pair is parted now, remove it.`, { cause });
      }
      this.#held = new Map();
    }
  }

  /**
   * Decides, and remembers before anybody is told.
   * @throws WitnessError when it knows too many VMs; an error of the file system when it cannot remember
   */
  decide(vm: string, claim: Claim): { held: Claim; granted: boolean } {
    const before = this.#held.get(vm);
    const verdict = judge(before, claim);
    if (verdict.held !== before) {
      if (!before && this.#held.size >= mostVms) throw new WitnessError(`The witness knows ${mostVms} VMs already, and takes no more.`);
      const after = new Map(this.#held).set(vm, verdict.held);
      writeDurably(this.#path, JSON.stringify(Object.fromEntries(after)) + '\n');
      this.#held.set(vm, verdict.held);
    }
    return verdict;
  }
}
