/** What colopp needs of BPF. A host without libbpf, or where nothing is built yet, cannot even load this module. */

import { libbpfVersion, probe } from 'libbpf-napi';
import { probeGate } from '../../dataplane/gate.js';
import { VcpuTracer } from '../../dataplane/vcpu-tracer.js';
import { fail, ok, warn, type Check } from './finding.js';

export const bpfChecks: readonly Check[] = [
  ['libbpf', async () => ok(libbpfVersion)],
  ['gate', async () => {
    try {
      await probeGate();
      return ok(`the gate's BPF programs load and attach to a tap (${probe.tcx() === 'no' ? 'clsact: this kernel has no tcx' : 'tcx'})`);
    } catch (error) {
      return fail((error as Error).message, 'The kernel must be 6.6 or newer (tcx), or 6.1 or newer with the modules sch_ingress and cls_bpf; run as root.');
    }
  }],
  ['tracing', async () => {
    try {
      VcpuTracer.open(1).close();
      return ok('the scheduling of vCPUs can be traced');
    } catch (error) {
      return warn((error as Error).message, 'Without it the active vCPUs of a secondary are not chosen by what they do. Use a kernel with BTF and tracing programs, as Debian\'s are; run as root.');
    }
  }],
];
