// Many entries per system call, and the same by single steps where the kernel has no batches.
import { constants } from 'node:os';
import { bpfError } from './error.js';
import type { BpfMap } from './map.js';
import type { NativeMap } from './native.js';

/** Entries one after the other: `count` keys of `keySize` bytes, `count` values of `valueBytes`. */
export interface Batch {
  count: number;
  keys: Uint8Array;
  values: Uint8Array;
}

const { ENOENT, ENOSPC, EINVAL, EOPNOTSUPP, EFAULT } = constants.errno;
const ENOTSUPP = 524; // what the kernel answers for a type without batch operations

// EINVAL is the answer of kernels that do not know the command at all (before 5.6).
const noBatches = (errno: number): boolean => errno === ENOTSUPP || errno === EOPNOTSUPP || errno === EINVAL;

function fail(operation: string, map: BpfMap, errno: number): never {
  throw bpfError(operation, `map "${map.name}"`, errno);
}

export function* batches(map: BpfMap, handle: NativeMap, size: number, remove: boolean): IterableIterator<Batch> {
  const { keySize, valueBytes } = map;
  let room = Math.min(size, Math.max(map.maxEntries, 1));
  let cursor: Uint8Array | undefined;
  let started = false;
  for (;;) {
    const next = new Uint8Array(Math.max(8, keySize));
    const keys = new Uint8Array(room * keySize);
    const values = new Uint8Array(room * valueBytes);
    const { count, errno } = handle.lookupBatch(cursor, next, keys, values, room, remove);
    if (errno === ENOSPC && count === 0 && room < map.maxEntries) {
      // One bucket of the hash holds more than a batch: it must be taken whole.
      room = Math.min(room * 2, map.maxEntries);
      continue;
    }
    if (errno !== 0 && errno !== ENOENT) {
      if (!started && noBatches(errno)) return yield* singles(map, handle, size, remove);
      fail('lookup batch in', map, errno);
    }
    started = true;
    if (count > 0) yield { count, keys, values };
    if (errno === ENOENT) return;
    cursor = next;
  }
}

function* singles(map: BpfMap, handle: NativeMap, size: number, remove: boolean): IterableIterator<Batch> {
  const { keySize, valueBytes } = map;
  let batch: Batch = { count: 0, keys: new Uint8Array(size * keySize), values: new Uint8Array(size * valueBytes) };
  for (const key of map.keys()) {
    const value = batch.values.subarray(batch.count * valueBytes, (batch.count + 1) * valueBytes);
    if (!handle.lookup(key, value, 0)) continue; // deleted meanwhile
    if (remove) handle.delete(key);
    batch.keys.set(key, batch.count * keySize);
    if (++batch.count === size) {
      yield batch;
      batch = { count: 0, keys: new Uint8Array(size * keySize), values: new Uint8Array(size * valueBytes) };
    }
  }
  if (batch.count > 0) yield batch;
}

export function updateAll(
  map: BpfMap,
  handle: NativeMap,
  keys: Uint8Array,
  values: Uint8Array,
  count: number,
  flags: number,
): void {
  if (count === 0) return;
  const { keySize, valueBytes } = map;
  // With flags a partial failure must name the right key, which only the kernel's count tells.
  const done = handle.updateBatch(keys, values, count, flags);
  if (done.errno === 0) return;
  if (!noBatches(done.errno)) fail('update batch in', map, done.errno);
  for (let i = 0; i < count; i++) {
    handle.update(
      keys.subarray(i * keySize, (i + 1) * keySize),
      values.subarray(i * valueBytes, (i + 1) * valueBytes),
      flags,
    );
  }
}

export function deleteAll(map: BpfMap, handle: NativeMap, keys: Uint8Array, count: number): number {
  if (count === 0) return 0;
  const { keySize } = map;
  let done = 0;
  let deleted = 0;
  while (done < count) {
    const rest = keys.subarray(done * keySize);
    const result = handle.deleteBatch(rest, count - done);
    if (result.errno === 0) return deleted + result.count;
    if (result.errno === ENOENT) {
      // The kernel stops at a key that is not there; go on behind it.
      done += result.count + 1;
      deleted += result.count;
      continue;
    }
    if (!noBatches(result.errno) || result.errno === EFAULT) fail('delete batch from', map, result.errno);
    for (; done < count; done++) {
      if (handle.delete(keys.subarray(done * keySize, (done + 1) * keySize))) deleted++;
    }
  }
  return deleted;
}
