/** Every failure of this folder: a sentence for people, a stable `code` for programs. */
export class QemuError extends Error {
  override readonly name: string = 'QemuError';

  constructor(
    readonly code: QemuErrorCode,
    message: string,
    options?: { cause?: unknown },
  ) {
    super(message, options);
  }
}

export type QemuErrorCode =
  | 'QEMU_CONFIG' // the VM description contradicts itself or is out of range
  | 'QEMU_NOT_FOUND' // no usable QEMU on this host
  | 'QEMU_VERSION' // a QEMU too old to replicate
  | 'QEMU_COLO' // a QEMU built without COLO
  | 'QEMU_COLO_FAILED' // a QEMU whose COLO does not work when it is tried
  | 'QEMU_KVM' // KVM was asked for and cannot be used
  | 'QEMU_START' // QEMU ended or stayed mute while starting
  | 'QEMU_RUNNING' // another QEMU already owns this VM's files
  | 'QEMU_GONE' // the QEMU that should be there is not
  | 'QEMU_STOP'; // QEMU would not end
