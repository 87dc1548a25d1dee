/**
 * What can go wrong only because the outer VM is emulated. QEMU's emulation of SVM marks an exception that
 * the guest took as delivered, but leaves its kind in the field that tells of one in delivery (seen: 0x00000b0e,
 * a page fault, without the valid bit). KVM since 6.14 looks at the kind alone, and ends a guest that goes on
 * to touch a device's memory before it leaves guest mode otherwise. No real CPU does that, and nothing
 * is learnt of what was to be tested.
 */
import { writeFileSync } from 'node:fs';
import type { Guest } from '../../src/lab/lab.js';

/** Tries of a step that meets nothing but such faults. */
export const EMULATED_TRIES = 3;

/** Suberror 3: an event's delivery led to an exit that KVM cannot handle (KVM_INTERNAL_ERROR_DELIVERY_EV). */
const DELIVERY_FAULT = /^KVM internal error\. Suberror: 3$/m;

/**
 * Looks for such a fault in what a failed step and the QEMUs of its lab have said.
 * @returns a sentence on it; undefined: the failure has another cause, or at least no sign of this one
 */
export function emulationFault(output: string): string | undefined {
  return DELIVERY_FAULT.test(output) ? 'the emulated CPU misled KVM about an exception (KVM internal error, suberror 3)' : undefined;
}

/**
 * The lab's guests are to ring their network device through a port instead of its memory: the first time, as the
 * interface comes up, KVM has to emulate it, and the process that brings it up has just taken page faults.
 * @param guest what the lab knows of its guest, as its builder wrote it
 */
export function ringThroughPorts(guest: string): string {
  return JSON.stringify({ ...JSON.parse(guest) as Guest, extraArgs: ['-global', 'virtio-net-pci.modern-pio-notify=on'] });
}

/**
 * The kernel is not to make huge pages of small ones: it does so at the lowest priority, holding the lock on a process's
 * memory, and on one emulated CPU that everybody wants, QEMU then waits for seconds. Those it has from the start it keeps.
 */
export function stopCollapsingPages(): void {
  writeFileSync('/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs', String(2 ** 32 - 1));
}
