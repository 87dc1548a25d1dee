import { setImmediate } from 'node:timers/promises';
import { integer, options as checkOptions, wrongType } from './check.js';
import { mapHandle, type BpfMap } from './map.js';
import { native, type NativeRingBuffer } from './native.js';
import './error.js';

/** Where a BPF program counts the records it could not place: a 64-bit counter in a map. */
export interface DropCounter {
  /** Global data or an array (mapped where possible), or a per-CPU array, whose CPUs are summed. */
  map: BpfMap;
  /** Bytes from the start of the (first) value. */
  offset?: number;
}

export interface RingBufferOptions {
  /** Records per batch at most. Default 1024. */
  batchRecords?: number;
  /** Bytes per batch; passed by one record at most. Default 256 KiB. */
  batchBytes?: number;
  /** Ends the iteration. */
  signal?: AbortSignal;
  /** The ring itself counts no losses: name the program's own counter and `stats()` will read it. */
  drops?: DropCounter;
}

export interface RingBufferStats {
  /** Size of the ring. */
  sizeBytes: number;
  /** In the ring, not yet consumed, with the headers of records. */
  pendingBytes: number;
  /** Records handed out. */
  records: number;
  /** Their bytes. */
  bytes: number;
  batches: number;
  /** Records the program could not place; undefined without the `drops` option. */
  drops: bigint | undefined;
}

const BATCH_RECORDS = 1024;
const BATCH_BYTES = 256 << 10;
const COUNTER_BYTES = 8;

/**
 * Consumes a BPF ring buffer (Linux 5.8) as an async iterable of batches of records:
 *
 *     for await (const batch of new RingBuffer(object.map('events'))) {
 *       for (const record of batch) handle(record);
 *     }
 *
 * Records are copies, 8-byte aligned, that stay valid. A batch is taken only when it is asked for:
 * while the consumer is behind, nothing is polled and records wait in the kernel's ring, which drops
 * new ones when full. One consumer at a time.
 */
export class RingBuffer implements AsyncIterable<Uint8Array[]> {
  readonly #handle: NativeRingBuffer;
  readonly #batchRecords: number;
  readonly #batchBytes: number;
  readonly #signal: AbortSignal | undefined;
  readonly #readDrops: (() => bigint) | undefined;
  #records = 0;
  #bytes = 0;
  #batches = 0;
  #closed = false;
  #iterating = false;
  /** Ends the wait under way, if there is one. */
  #wake: (() => void) | undefined;

  constructor(map: BpfMap, given: RingBufferOptions = {}) {
    const options = checkOptions<RingBufferOptions>(given, 'RingBuffer', [
      'batchRecords',
      'batchBytes',
      'signal',
      'drops',
    ]);
    if (map.type !== 'ringbuf') throw wrongType('map', 'a ring buffer', map.type);
    if (options.signal !== undefined && !(options.signal instanceof AbortSignal)) {
      throw wrongType('signal', 'an AbortSignal', options.signal);
    }
    this.#batchRecords = integer(options.batchRecords ?? BATCH_RECORDS, 'batchRecords', 1, 1 << 20);
    this.#batchBytes = integer(options.batchBytes ?? BATCH_BYTES, 'batchBytes', 1, 1 << 30);
    this.#signal = options.signal;
    this.#readDrops = options.drops && dropReader(options.drops);
    this.#handle = new native.NativeRingBuffer(mapHandle(map));
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** What is there now, up to the limits of a batch; maybe nothing. Never waits. */
  consume(): Uint8Array[] {
    const batch = this.#handle.consume(this.#batchRecords, this.#batchBytes);
    if (batch.length > 0) {
      this.#batches++;
      this.#records += batch.length;
      for (const record of batch) this.#bytes += record.byteLength;
    }
    return batch;
  }

  /** Ends with the buffer's `close()`, an abort of `signal` (which rejects with its reason), or `break`. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array[], void, void> {
    if (this.#iterating) throw new Error('a ring buffer has one consumer at a time; this one is being iterated over');
    this.#iterating = true;
    const wake = (): void => this.#wake?.();
    this.#signal?.addEventListener('abort', wake);
    try {
      while (!this.#closed) {
        this.#signal?.throwIfAborted();
        const batch = this.consume();
        if (batch.length === 0) {
          await this.#readable();
          continue;
        }
        yield batch;
        // A producer that is always ahead must not keep timers and sockets from their turn.
        await setImmediate();
      }
    } finally {
      this.#signal?.removeEventListener('abort', wake);
      this.#iterating = false;
    }
  }

  #readable(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = () => {
        this.#wake = undefined;
        this.#handle.disarm();
        resolve();
      };
      this.#handle.arm(this.#wake);
    });
  }

  /** Lets the process end while the buffer is waited for. */
  unref(): this {
    this.#handle.reference(false);
    return this;
  }

  /** Undoes `unref`. */
  ref(): this {
    this.#handle.reference(true);
    return this;
  }

  stats(): RingBufferStats {
    const { sizeBytes, pendingBytes } = this.#handle.stats();
    return {
      sizeBytes,
      pendingBytes,
      records: this.#records,
      bytes: this.#bytes,
      batches: this.#batches,
      drops: this.#readDrops?.(),
    };
  }

  /** Ends an iteration under way and frees the buffer. Idempotent. */
  close(): void {
    this.#closed = true;
    this.#wake?.();
    this.#handle.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

function dropReader({ map, offset = 0 }: DropCounter): () => bigint {
  integer(offset, 'drops.offset', 0, map.valueSize - COUNTER_BYTES);
  if (!map.isPerCpu && map.type !== 'array') throw wrongType('drops.map', 'an array or per-CPU array', map.type);
  const counterOf = (value: Uint8Array): bigint =>
    new BigUint64Array(value.slice(offset, offset + COUNTER_BYTES).buffer)[0] ?? 0n;
  const mmapable = 1 << 10;
  if (!map.isPerCpu && (map.flags & mmapable) !== 0) {
    const memory = map.mmap();
    return () => counterOf(memory);
  }
  const key = new Uint8Array(map.keySize);
  if (!map.isPerCpu) return () => counterOf(map.lookup(key) ?? new Uint8Array(map.valueSize));
  return () => (map.lookupPerCpu(key) ?? []).reduce((sum, value) => sum + counterOf(value), 0n);
}
