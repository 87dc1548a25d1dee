import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type BpfError, BpfMap, BpfObject, MapFlag, type Batch } from 'libbpf-napi';
import { asU32, compile, thrown, u32, vethPair } from './libbpf-support.js';

const packed = (count: number, value: (i: number) => number): Uint8Array =>
  u32(...Array.from({ length: count }, (_, i) => value(i)));

function collect(batches: Iterable<Batch>): Map<number, number> {
  const found = new Map<number, number>();
  for (const { count, keys, values } of batches) {
    for (let i = 0; i < count; i++) found.set(asU32(keys, i) ?? -1, asU32(values, i) ?? -1);
  }
  return found;
}

for (const [type, flags] of [['hash', 0], ['lru_hash', 0], ['array', 0], ['hash', MapFlag.NoPrealloc]] as const) {
  test(`${type} (flags ${flags}): update, read and delete in batches`, () => {
    const count = 5000;
    // An LRU map may evict before it is quite full: each CPU keeps a free list of its own.
    const room = type === 'lru_hash' ? 4 * count : count;
    using map = BpfMap.create({ type, keySize: 4, valueSize: 4, maxEntries: room, flags });
    map.updateBatch(packed(count, (i) => i), packed(count, (i) => 3 * i));
    const found = collect(map.batches({ size: 64 }));
    assert.is(found.size, type === 'array' ? room : count);
    for (let i = 0; i < count; i++) assert.is(found.get(i), 3 * i);
    if (type === 'array') return;

    assert.is(thrown<BpfError>(() => map.updateBatch(u32(1), u32(1), 'noexist')).code, 'EEXIST');
    // Keys that are not there do not stop the others.
    assert.is(map.deleteBatch(u32(0, 900_001, 1, 900_002, 2)), 3);
    assert.is(map.deleteBatch(u32(0, 1, 2)), 0);
    const drained = collect(map.batches({ size: 100, remove: true }));
    assert.is(drained.size, count - 3);
    assert.is([...map.keys()].length, 0);
  });
}

test('a batch smaller than a bucket grows', () => {
  // A hash of 2 entries has few buckets; batches of 1 must still see everything.
  using map = BpfMap.create({ type: 'hash', keySize: 4, valueSize: 4, maxEntries: 512 });
  map.updateBatch(packed(512, (i) => i), packed(512, (i) => i));
  assert.is(collect(map.batches({ size: 1 })).size, 512);
});

test('per-CPU values travel in batches too', () => {
  using map = BpfMap.create({ type: 'percpu_hash', keySize: 4, valueSize: 4, maxEntries: 64 });
  const values = new Uint8Array(10 * map.valueBytes).fill(1);
  map.updateBatch(packed(10, (i) => i), values);
  let entries = 0;
  for (const [, value] of map) {
    for (const cpu of map.splitPerCpu(value)) assert.equal(cpu, new Uint8Array(4).fill(1));
    entries++;
  }
  assert.is(entries, 10);
});

test('types without batch operations fall back to single steps', () => {
  const veth = vethPair();
  using devices = BpfMap.create({ type: 'devmap', keySize: 4, valueSize: 4, maxEntries: 8 });
  devices.updateBatch(u32(1, 5), u32(veth.ifindex, veth.peerIndex));
  assert.is(asU32(devices.lookup(u32(5))), veth.peerIndex);
  assert.equal([...collect(devices.batches()).entries()], [[1, veth.ifindex], [5, veth.peerIndex]]);
  assert.is(devices.deleteBatch(u32(1)), 1);
  assert.equal([...collect(devices.batches({ remove: true })).keys()], [5]);
  assert.is(collect(devices.batches()).size, 0);

  const object = BpfObject.open(
    compile(`
      struct { __uint(type, BPF_MAP_TYPE_PROG_ARRAY); __uint(max_entries, 8); __uint(key_size, 4); __uint(value_size, 4); } programs SEC(".maps");
      SEC("tc") int one(struct __sk_buff *skb) { return 1; }`),
  );
  object.load();
  const programs = object.map('programs');
  programs.updateHandle(u32(3), object.program('one'));
  assert.equal([...collect(programs.batches({ size: 2 })).entries()], [[3, object.program('one').id]]);
  object.close();
});

test('sizes are checked', () => {
  using map = BpfMap.create({ type: 'hash', keySize: 4, valueSize: 4, maxEntries: 8 });
  assert.match(thrown(() => map.updateBatch(new Uint8Array(5), new Uint8Array(5))).message, 'a multiple of 4 bytes');
  assert.match(thrown(() => map.updateBatch(u32(1, 2), u32(1))).message, '8 bytes long');
  assert.instance(thrown(() => [...map.batches({ size: 0 })]), RangeError);
  map.updateBatch(new Uint8Array(0), new Uint8Array(0));
  assert.is(map.deleteBatch(new Uint8Array(0)), 0);
});

test.run();
