import { type BpfMap, RingBuffer, type RingBufferOptions, UserRingBuffer } from 'libbpf-napi';

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

/** A ring buffer from here to the kernel, whose program takes records with `bpf_user_ringbuf_drain()`. Linux 6.1. */
export class UserRingMap {
  /** The untyped map. */
  readonly raw: BpfMap;

  constructor(raw: BpfMap) {
    this.raw = raw;
  }

  /** A producer of raw records. */
  open(): UserRingBuffer {
    return new UserRingBuffer(this.raw);
  }

  /** A producer of records of one type. */
  sender<T>(codec: Codec<T>): RecordSender<T> {
    return new RecordSender(this.open(), codec);
  }
}

/** Sends records of one type. */
export class RecordSender<T> {
  readonly #ring: UserRingBuffer;
  readonly #codec: Codec<T>;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;

  constructor(ring: UserRingBuffer, codec: Codec<T>) {
    this.#ring = ring;
    this.#codec = codec;
    this.#bytes = new Uint8Array(codec.size);
    this.#view = new DataView(this.#bytes.buffer);
  }

  /** Sends a record; false when the ring has no room for it now. */
  submit(record: T): boolean {
    this.#codec.write(this.#view, 0, record);
    return this.#ring.submit(this.#bytes);
  }

  /** Ends sending; what was sent stays in the ring. Idempotent. */
  close(): void {
    this.#ring.close();
  }

  [Symbol.dispose](): void {
    this.close();
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
