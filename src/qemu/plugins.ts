/** What QEMU has to load to do without patches what COLO needs. */

import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const retranslate = fileURLToPath(new URL('../../../addon/qemu-retranslate/build/Release/retranslate.node', import.meta.url));

/**
 * Plugins for one end of a pair. Under emulation a secondary must forget its translated code before
 * it loads a checkpoint: see addon/qemu-retranslate, which set-up builds.
 */
export function coloPlugins(accel: 'kvm' | 'tcg'): string[] {
  return accel === 'tcg' && existsSync(retranslate) ? [retranslate] : [];
}
