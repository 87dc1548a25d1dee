/** What an agent must remember across its own restart and its host's. */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { z } from 'zod';
import { writeDurably } from './durable-file.js';

const schema = z.strictObject({
  role: z.enum(['primary', 'secondary']),
  generation: z.number().int().min(0),
  /** How often protection began. */
  term: z.number().int().min(0).default(0),
  /** False from the moment the peer may take over. */
  mayRunAlone: z.boolean(),
});

export type Remembered = z.infer<typeof schema>;

/** What an agent remembered cannot be used. */
export class StateError extends Error {
  readonly code = 'STATE';

  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'StateError';
  }
}

export class StateFile {
  readonly path: string;

  constructor(stateDir: string) {
    this.path = join(stateDir, 'pair.json');
  }

  /** @returns undefined if nothing was ever remembered. @throws StateError if what is there is damaged */
  read(): Remembered | undefined {
    let text: string;
    try {
      text = readFileSync(this.path, 'utf8');
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
      throw new StateError(`The state file ${this.path} cannot be read: ${(cause as Error).message}.`, { cause });
    }
    try {
      return schema.parse(JSON.parse(text));
    } catch (cause) {
      throw new StateError(`The state file ${this.path} is damaged. If you are sure that the peer does not run the VM, remove it.`, { cause });
    }
  }

  /** Returns when the disk has it: what follows may rely on it. */
  write(remembered: Remembered): void {
    writeDurably(this.path, JSON.stringify(remembered) + '\n');
  }
}
