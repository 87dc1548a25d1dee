import { existsSync } from 'node:fs';
import { coloPlugins } from '../qemu/index.js';

/** This host cannot run what colopp needs. */
export class RequirementError extends Error {
  readonly code: 'NEEDS_ROOT' | 'NO_BTF' | 'NO_RETRANSLATE';

  constructor(code: RequirementError['code'], message: string) {
    super(message);
    this.name = 'RequirementError';
    this.code = code;
  }
}

/** @throws RequirementError if this process cannot load BPF programs and make taps */
export function requireKernel(btfPath = '/sys/kernel/btf/vmlinux'): void {
  if (process.geteuid?.() !== 0) {
    throw new RequirementError('NEEDS_ROOT', 'The agent needs root: it makes taps and loads BPF programs. Run it with sudo.');
  }
  if (!existsSync(btfPath)) {
    throw new RequirementError('NO_BTF', `This kernel has no type information (${btfPath} is missing), which the BPF programs need. Use a kernel built with CONFIG_DEBUG_INFO_BTF=y, as Debian's are.`);
  }
  if (!existsSync('/dev/net/tun')) {
    throw new RequirementError('NO_BTF', 'There is no /dev/net/tun, which holds the VM\'s network. Load it: modprobe tun');
  }
}

/** @throws RequirementError if an emulated secondary that runs between checkpoints would go on with outdated translations */
export function requireRetranslation(accel: 'kvm' | 'tcg', plugins: readonly unknown[] = coloPlugins(accel)): void {
  if (accel === 'tcg' && plugins.length === 0) {
    throw new RequirementError('NO_RETRANSLATE', 'The secondary\'s VM is to run, emulated, but the QEMU plugin that makes it forget outdated translations is not built (addon/qemu-retranslate). Build it with "npm run setup", or use mode: commit with secondary: paused.');
  }
}
