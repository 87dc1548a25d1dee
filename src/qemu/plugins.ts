/** What QEMU has to load to do without patches what COLO needs. */

import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const retranslate = fileURLToPath(new URL('../../../addon/qemu-retranslate/build/Release/retranslate.node', import.meta.url));

/** A plugin for emulation, as `-plugin` takes it. */
export interface Plugin {
  file: string;
  options?: Readonly<Record<string, string>>;
}

/**
 * Plugins for one end of a pair. Under emulation a secondary must forget its translated code before
 * it loads a checkpoint: see addon/qemu-retranslate, which set-up builds.
 * @param holdFile as long as it exists, a secondary is paused at each load before it has run
 */
export function coloPlugins(accel: 'kvm' | 'tcg', holdFile?: string): Plugin[] {
  if (accel !== 'tcg' || !existsSync(retranslate)) return [];
  return [{ file: retranslate, ...(holdFile === undefined ? {} : { options: { hold: holdFile } }) }];
}
