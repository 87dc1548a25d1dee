import { readFile } from 'node:fs/promises';
import type { KvmProbe } from './probe.js';

/** How a VM in which KVM works can be had on this host. */
export interface NestedProbe {
  /** `kvm`: the host's own virtualisation is passed on; `tcg`: emulation, which brings AMD's SVM. */
  accel: 'kvm' | 'tcg';
  /** A sentence for people. */
  reason: string;
}

/** Asks whether guests of this host can run guests of their own at full speed. */
export async function probeNested(kvm: KvmProbe, modules = '/sys/module'): Promise<NestedProbe> {
  if (!kvm.usable) return { accel: 'tcg', reason: `VMs in VMs run under TCG, which emulates SVM, since ${kvm.reason}` };
  for (const driver of ['kvm_intel', 'kvm_amd']) {
    const parameter = `${modules}/${driver}/parameters/nested`;
    const value = await readFile(parameter, 'utf8').then((text) => text.trim(), () => undefined);
    if (value === 'Y' || value === '1') return { accel: 'kvm', reason: `VMs in VMs run on KVM: ${driver} passes virtualisation on` };
    if (value !== undefined) return { accel: 'tcg', reason: `VMs in VMs run under TCG: ${driver} does not pass virtualisation on (${parameter} is ${value}; load it with nested=1)` };
  }
  return { accel: 'tcg', reason: 'VMs in VMs run under TCG: no KVM driver says that it passes virtualisation on' };
}
