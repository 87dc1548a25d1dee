import { type BpfMap, RingBuffer, type RingBufferOptions } from 'libbpf-napi';

import { LoaderError } from '../errors.js';
import type { Codec } from './codec.js';

export interface RecordsOptions extends RingBufferOptions {
  /** Fill one object again and again: nothing is allocated, and an event is only good until the next. */
  readonly reuse?: boolean;
}

/** A ring buffer, from the kernel to here. Linux 5.8. */
export class RingBufferMap {
  /** The untyped map. */
  readonly raw: BpfMap;

  constructor(raw: BpfMap) {
    this.raw = raw;
  }

  /** A consumer of raw records, which come in batches: for rings that carry several types. */
  open(options: RingBufferOptions = {}): RingBuffer {
    return new RingBuffer(this.raw, options);
  }

  /**
   * The records of a ring that carries one type:
   *
   *     for await (const event of objects.maps.events.records(Event)) console.log(event.pid);
   *
   * Ends with `break` or the abort of `signal`, which rejects with its reason.
   */
  async *records<T>(codec: Codec<T>, options: RecordsOptions = {}): AsyncGenerator<T, void, void> {
    const { reuse = false, ...rest } = options;
    const ring = this.open(rest);
    const kept = reuse ? codec.create() : undefined;
    try {
      for await (const batch of ring) {
        for (const record of batch) yield decode(codec, record, kept);
      }
    } finally {
      ring.close();
    }
  }
}

/** Decodes a record: an event out of a ring buffer, or any value in bytes. Fills `into` if given. */
export function decode<T>(codec: Codec<T>, record: Uint8Array, into?: T): T {
  if (record.byteLength < codec.size) {
    throw new LoaderError(
      'SHORT_RECORD',
      `A record has ${record.byteLength} bytes and its type ${codec.size}: the program sends another type than the one it is read as.`,
    );
  }
  return codec.read(new DataView(record.buffer, record.byteOffset, record.byteLength), 0, into);
}

/** The bytes of a value. */
export function encode<T>(codec: Codec<T>, value: T): Uint8Array {
  const bytes = new Uint8Array(codec.size);
  codec.write(new DataView(bytes.buffer), 0, value);
  return bytes;
}
