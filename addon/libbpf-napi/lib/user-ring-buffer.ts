import { bytes, wrongType } from './check.js';
import { mapHandle, type BpfMap } from './map.js';
import { native, type NativeUserRingBuffer } from './native.js';
import './error.js';

/**
 * Sends records to a BPF program, which takes them with `bpf_user_ringbuf_drain()`. One producer at
 * a time. Linux 6.1.
 */
export class UserRingBuffer {
  readonly #handle: NativeUserRingBuffer;

  constructor(map: BpfMap) {
    if (map.type !== 'user_ringbuf') throw wrongType('map', 'a user ring buffer', map.type);
    this.#handle = new native.NativeUserRingBuffer(mapHandle(map));
  }

  /** Writes one record; false when the ring has no room for it now. */
  submit(record: Uint8Array): boolean {
    return this.#handle.submit(bytes(record, 'record'));
  }

  /** Frees the buffer; what was submitted stays in the ring. Idempotent. */
  close(): void {
    this.#handle.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
