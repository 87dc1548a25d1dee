import { availableParallelism } from 'node:os';
import { readFileSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type BpfError, BpfMap, BpfObject, MapFlag } from 'libbpf-napi';
import { asU32, asU64, bpfFileSystem, collectGarbage, compile, thrown, u32, u64, vethPair } from './libbpf-support.js';

/** Possible CPUs as the kernel counts them: "0-3" is four. */
function possibleCpus(): number {
  const ranges = readFileSync('/sys/devices/system/cpu/possible', 'utf8').trim().split(',');
  return ranges.reduce((sum, range) => {
    const [first = 0, last = first] = range.split('-').map(Number);
    return sum + last - first + 1;
  }, 0);
}

for (const type of ['hash', 'lru_hash']) {
  test(`${type}: lookup, update with modes, delete, iterate`, () => {
    const map = BpfMap.create({ type, keySize: 4, valueSize: 8, maxEntries: 64, name: 'things' });
    assert.is(map.type, type);
    assert.is(map.name, 'things');
    assert.is(map.lookup(u32(1)), undefined);
    map.update(u32(1), u64(10n), 'noexist');
    assert.is(thrown<BpfError>(() => map.update(u32(1), u64(11n), 'noexist')).code, 'EEXIST');
    map.update(u32(1), u64(12n), 'exist');
    assert.is(thrown<BpfError>(() => map.update(u32(2), u64(1n), 'exist')).code, 'ENOENT');
    assert.is(asU64(map.lookup(u32(1))), 12n);

    const into = new Uint8Array(8);
    assert.is(map.lookup(u32(1), into), into);
    assert.is(asU64(into), 12n);

    for (let key = 2; key <= 20; key++) map.update(u32(key), u64(BigInt(key)));
    const keys = [...map.keys()].map((key) => asU32(key)).sort((a = 0, b = 0) => a - b);
    assert.equal(keys, Array.from({ length: 20 }, (_, i) => i + 1));
    const sum = [...map].reduce((total, [, value]) => total + (asU64(value) ?? 0n), 0n);
    assert.is(sum, 12n + (2n + 20n) * 19n / 2n);

    assert.is(map.delete(u32(1)), true);
    assert.is(map.delete(u32(1)), false);
    for (const key of map.keys()) map.delete(key);
    assert.is([...map.keys()].length, 0);
    map.close();
  });
}

test('hash: take out a value', () => {
  using map = BpfMap.create({ type: 'hash', keySize: 4, valueSize: 4, maxEntries: 2 });
  map.update(u32(7), u32(70));
  assert.is(asU32(map.lookupAndDelete(u32(7))), 70);
  assert.is(map.lookupAndDelete(u32(7)), undefined);
});

test('array: all entries exist; past the end there is none', () => {
  using map = BpfMap.create({ type: 'array', keySize: 4, valueSize: 4, maxEntries: 3 });
  assert.is(asU32(map.lookup(u32(2))), 0);
  assert.is(map.lookup(u32(3)), undefined);
  assert.is(thrown<BpfError>(() => map.update(u32(3), u32(1))).code, 'E2BIG');
  assert.is(thrown<BpfError>(() => map.delete(u32(1))).code, 'EINVAL');
  assert.is([...map].length, 3);
});

for (const type of ['percpu_hash', 'percpu_array', 'lru_percpu_hash']) {
  test(`${type}: one value per CPU`, () => {
    using map = BpfMap.create({ type, keySize: 4, valueSize: 4, maxEntries: 4 });
    const cpus = possibleCpus();
    assert.ok(cpus >= availableParallelism());
    assert.is(map.isPerCpu, true);
    assert.is(map.valueSize, 4);
    assert.is(map.valueBytes, 8 * cpus);
    const values = Array.from({ length: cpus }, (_, cpu) => u32(100 + cpu));
    map.updatePerCpu(u32(1), values);
    assert.equal(map.lookupPerCpu(u32(1)), values);
    const entry = [...map.entries()].find(([key]) => asU32(key) === 1);
    assert.equal(entry && map.splitPerCpu(entry[1]), values);
    assert.instance(thrown(() => map.updatePerCpu(u32(1), [u32(1), ...values])), RangeError);
    assert.instance(thrown(() => map.update(u32(1), u32(1))), RangeError);
  });
}

test('LPM trie: the longest prefix wins', () => {
  const prefix = (bits: number, ...address: number[]): Uint8Array => {
    const key = new Uint8Array(8);
    key.set(u32(bits));
    key.set(address, 4);
    return key;
  };
  using map = BpfMap.create({ type: 'lpm_trie', keySize: 8, valueSize: 4, maxEntries: 8, flags: MapFlag.NoPrealloc });
  map.update(prefix(8, 10, 0, 0, 0), u32(8));
  map.update(prefix(16, 10, 1, 0, 0), u32(16));
  assert.is(asU32(map.lookup(prefix(32, 10, 1, 2, 3))), 16);
  assert.is(asU32(map.lookup(prefix(32, 10, 2, 2, 3))), 8);
  assert.is(map.lookup(prefix(32, 11, 0, 0, 1)), undefined);
  assert.is([...map].length, 2);
  assert.is(map.delete(prefix(16, 10, 1, 0, 0)), true);
  assert.is(asU32(map.lookup(prefix(32, 10, 1, 2, 3))), 8);
});

test('queue and stack: push, peek, pop', () => {
  for (const [type, order] of [['queue', [1, 2, 3]], ['stack', [3, 2, 1]]] as const) {
    using map = BpfMap.create({ type, valueSize: 4, maxEntries: 3 });
    assert.is(map.pop(), undefined);
    for (const value of [1, 2, 3]) map.push(u32(value));
    assert.is(thrown<BpfError>(() => map.push(u32(4))).code, 'E2BIG');
    assert.is(asU32(map.peek()), order[0]);
    assert.equal(order.map(() => asU32(map.pop())), order);
    assert.is(map.peek(), undefined);
  }
});

test('bloom filter: no false negatives', () => {
  using map = BpfMap.create({ type: 'bloom_filter', valueSize: 4, maxEntries: 100 });
  for (let value = 0; value < 50; value++) map.push(u32(value));
  for (let value = 0; value < 50; value++) assert.is(map.has(u32(value)), true);
  const wrong = Array.from({ length: 1000 }, (_, i) => map.has(u32(1_000_000 + i))).filter(Boolean).length;
  assert.ok(wrong < 500, `${wrong} of 1000 others seem to be there`);
});

test('maps of maps: maps go in, ids and handles come out', () => {
  for (const type of ['array_of_maps', 'hash_of_maps']) {
    using template = BpfMap.create({ type: 'array', keySize: 4, valueSize: 8, maxEntries: 1 });
    using outer = BpfMap.create({ type, keySize: 4, valueSize: 4, maxEntries: 4, inner: template });
    const inner = BpfMap.create({ type: 'array', keySize: 4, valueSize: 8, maxEntries: 1 });
    inner.update(u32(0), u64(42n));
    outer.updateHandle(u32(2), inner);
    assert.is(outer.lookupId(u32(2)), inner.id);
    inner.close(); // the outer map holds it
    using found = outer.lookupMap(u32(2));
    assert.is(asU64(found?.lookup(u32(0))), 42n);
    using wrong = BpfMap.create({ type: 'hash', keySize: 4, valueSize: 8, maxEntries: 1 });
    assert.is(thrown<BpfError>(() => outer.updateHandle(u32(1), wrong)).code, 'EINVAL');
    assert.is(outer.lookupMap(u32(1)), undefined);
  }
});

test('an object with a map of maps: the template may be given, and closed before load', () => {
  const object = BpfObject.open(
    compile(`
      struct { __uint(type, BPF_MAP_TYPE_HASH_OF_MAPS); __uint(max_entries, 4); __type(key, __u32); __type(value, __u32); } outer SEC(".maps");
      SEC("tc") int get(struct __sk_buff *skb) {
        __u32 key = 0; void *inner = bpf_map_lookup_elem(&outer, &key); if (!inner) return 1;
        __u64 *value = bpf_map_lookup_elem(inner, &key); return value ? *value : 2;
      }`),
  );
  using template = BpfMap.create({ type: 'array', keySize: 4, valueSize: 8, maxEntries: 1 });
  object.map('outer').setInner(template);
  template.close();
  object.load();
  const run = (): number => object.program('get').testRun({ data: new Uint8Array(14) }).retval;
  assert.is(run(), 1);
  using inner = BpfMap.create({ type: 'array', keySize: 4, valueSize: 8, maxEntries: 1 });
  inner.update(u32(0), u64(99n));
  object.map('outer').updateHandle(u32(0), inner);
  assert.is(run(), 99);
  object.close();
});

test('program array: tail calls go where they were put', () => {
  const object = BpfObject.open(
    compile(`
      struct { __uint(type, BPF_MAP_TYPE_PROG_ARRAY); __uint(max_entries, 2); __uint(key_size, 4); __uint(value_size, 4); } next SEC(".maps");
      SEC("tc") int target(struct __sk_buff *skb) { return 33; }
      SEC("tc") int entry(struct __sk_buff *skb) { bpf_tail_call(skb, &next, 1); return 1; }`),
  );
  object.load();
  const run = (): number => object.program('entry').testRun({ data: new Uint8Array(14) }).retval;
  assert.is(run(), 1);
  object.map('next').updateHandle(u32(1), object.program('target'));
  assert.is(run(), 33);
  assert.is(object.map('next').lookupId(u32(1)), object.program('target').id);
  assert.is(object.map('next').delete(u32(1)), true);
  assert.is(run(), 1);
  object.close();
});

test('devmap: interfaces, with or without an egress program', () => {
  const veth = vethPair();
  for (const type of ['devmap', 'devmap_hash']) {
    using plain = BpfMap.create({ type, keySize: 4, valueSize: 4, maxEntries: 4 });
    plain.updateDevice(u32(1), veth.ifindex);
    assert.is(asU32(plain.lookup(u32(1))), veth.ifindex);
    using rich = BpfMap.create({ type, keySize: 4, valueSize: 8, maxEntries: 4 });
    const object = BpfObject.open(compile(`SEC("xdp/devmap") int egress(struct xdp_md *ctx) { return XDP_PASS; }`));
    object.load();
    rich.updateDevice(u32(1), veth.ifindex, object.program('egress'));
    const entry = rich.lookup(u32(1));
    assert.is(asU32(entry, 0), veth.ifindex);
    assert.is(asU32(entry, 1), object.program('egress').id);
    assert.instance(thrown(() => plain.updateDevice(u32(1), veth.ifindex, object.program('egress'))), TypeError);
    object.close();
  }
});

test('mmap: an array is read and written without system calls, from both sides', () => {
  const map = BpfMap.create({ type: 'array', keySize: 4, valueSize: 12, maxEntries: 1000, flags: MapFlag.Mmapable });
  const memory = map.mmap();
  assert.is(memory.byteLength, 16 * 1000);
  assert.is(map.mmap(), memory);
  const value = new Uint8Array(12).fill(7);
  map.update(u32(999), value);
  assert.equal(memory.subarray(16 * 999, 16 * 999 + 12), value);
  memory.fill(9, 0, 12);
  assert.equal(map.lookup(u32(0)), new Uint8Array(12).fill(9));
  map.close();
  assert.is(memory[0], 9); // the view holds the map
  memory[0] = 1;
  assert.is(thrown<BpfError>(() => map.mmap()).code, 'EBADF');
});

test('mmap: views come and go with the garbage collector', async () => {
  const mapped = (): number => (readFileSync('/proc/self/maps', 'utf8').match(/bpf-map/g) ?? []).length;
  const before = mapped();
  (() => {
    const views: Uint8Array[] = [];
    for (let i = 0; i < 20; i++) {
      const map = BpfMap.create({ type: 'array', keySize: 4, valueSize: 8, maxEntries: 1, flags: MapFlag.Mmapable });
      views.push(map.mmap());
      map.close();
    }
    assert.is(mapped(), before + 20);
    assert.is(views.length, 20);
  })();
  for (let i = 0; i < 5; i++) await collectGarbage();
  assert.ok(mapped() < before + 20, 'no view was unmapped');
});

test('mmap: what has no memory to map says so', () => {
  using hash = BpfMap.create({ type: 'hash', keySize: 4, valueSize: 4, maxEntries: 1 });
  assert.match(thrown(() => hash.mmap()).message, 'BPF_F_MMAPABLE');
  using array = BpfMap.create({ type: 'array', keySize: 4, valueSize: 4, maxEntries: 1 });
  assert.match(thrown(() => array.mmap()).message, 'BPF_F_MMAPABLE');
});

test('freeze: user space writes no more, programs may; a frozen map is not mapped writable', () => {
  using map = BpfMap.create({ type: 'array', keySize: 4, valueSize: 4, maxEntries: 2, flags: MapFlag.Mmapable });
  map.update(u32(0), u32(5));
  map.freeze();
  assert.is(thrown<BpfError>(() => map.update(u32(0), u32(6))).code, 'EPERM');
  assert.match(thrown(() => map.mmap()).message, 'it is frozen');
  assert.is(asU32(map.lookup(u32(0))), 5);

  const flags = MapFlag.Mmapable | MapFlag.ReadOnlyProgram;
  using constant = BpfMap.create({ type: 'array', keySize: 4, valueSize: 4, maxEntries: 2, flags });
  constant.update(u32(1), u32(8));
  constant.freeze();
  const copy = constant.mmap();
  assert.is(asU32(copy, 2), 8);
  copy[0] = 1; // a copy: this must not kill the process
  assert.is(asU32(constant.lookup(u32(0))), 0);

  using mapped = BpfMap.create({ type: 'array', keySize: 4, valueSize: 4, maxEntries: 1, flags: MapFlag.Mmapable });
  mapped.mmap();
  assert.is(thrown<BpfError>(() => mapped.freeze()).code, 'EBUSY');
});

test('pin, open from the pin, by id; unpin', () => {
  const directory = bpfFileSystem();
  const path = `${directory}/things`;
  const map = BpfMap.create({ type: 'hash', keySize: 4, valueSize: 4, maxEntries: 4 });
  map.update(u32(1), u32(2));
  map.pin(path);
  assert.is(thrown<BpfError>(() => map.pin(path)).code, 'EEXIST');
  const { id } = map;
  {
    using byId = BpfMap.fromId(id);
    assert.is(asU32(byId.lookup(u32(1))), 2);
  }
  map.close();
  const again = BpfMap.fromPinned(path);
  assert.is(again.id, id);
  assert.is(asU32(again.lookup(u32(1))), 2);
  again.unpin(path);
  again.close();
  assert.is(thrown<BpfError>(() => BpfMap.fromPinned(path)).code, 'ENOENT');
  assert.is(thrown<BpfError>(() => BpfMap.fromId(id)).code, 'ENOENT');

  // A pin of something else is not taken for a map.
  const object = BpfObject.open(compile(`SEC("tc") int nothing(struct __sk_buff *skb) { return 0; }`));
  object.load();
  object.program('nothing').pin(`${directory}/program`);
  assert.match(thrown(() => BpfMap.fromPinned(`${directory}/program`)).message, 'not a BPF map');
  object.program('nothing').unpin(`${directory}/program`);
  object.close();

  // Maps that ask to be pinned are, under the given root; the next object finds them there.
  const pinned = compile(`
    struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 4); __type(key, __u32); __type(value, __u32); __uint(pinning, LIBBPF_PIN_BY_NAME); } kept SEC(".maps");
    SEC("tc") int touch(struct __sk_buff *skb) { __u32 key = 1, value = 44; bpf_map_update_elem(&kept, &key, &value, 0); return 0; }`);
  const first = BpfObject.open(pinned, { pinRoot: directory });
  assert.is(first.map('kept').pinPath, `${directory}/kept`);
  first.load();
  first.program('touch').testRun({ data: new Uint8Array(14) });
  first.close();
  const second = BpfObject.open(pinned, { pinRoot: directory });
  second.load();
  assert.is(asU32(second.map('kept').lookup(u32(1))), 44);
  second.map('kept').unpin(`${directory}/kept`);
  second.close();

  const elsewhere = BpfObject.open(pinned, { pinRoot: directory });
  elsewhere.map('kept').setPinPath(`${directory}/elsewhere`);
  elsewhere.load();
  BpfMap.fromPinned(`${directory}/elsewhere`).close();
  elsewhere.map('kept').unpin(`${directory}/elsewhere`);
  elsewhere.close();
});

test('reuse: an object works on a map that existed before', () => {
  const path = compile(`
    struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, __u64); } shared SEC(".maps");
    SEC("tc") int add(struct __sk_buff *skb) { __u32 key = 0; __u64 *value = bpf_map_lookup_elem(&shared, &key); if (value) *value += 5; return 0; }`);
  using existing = BpfMap.create({ type: 'array', keySize: 4, valueSize: 8, maxEntries: 1 });
  existing.update(u32(0), u64(100n));
  const object = BpfObject.open(path);
  object.map('shared').reuse(existing);
  assert.is(object.map('shared').id, existing.id);
  object.load();
  object.program('add').testRun({ data: new Uint8Array(14) });
  assert.is(asU64(existing.lookup(u32(0))), 105n);
  object.close();
  assert.is(asU64(existing.lookup(u32(0))), 105n);
});

test('a map that stands alone: closed is closed', () => {
  const map = BpfMap.create({ type: 'hash', keySize: 4, valueSize: 4, maxEntries: 4 });
  map.close();
  map.close();
  assert.is(map.closed, true);
  assert.is(map.keySize, 4);
  for (const use of [() => map.lookup(u32(1)), () => map.id, () => map.fd, () => [...map.batches()], () => map.pin('/x')]) {
    assert.is(thrown<BpfError>(use).code, 'EBADF');
  }
  assert.is(thrown<BpfError>(() => map.resize(5)).code, 'EBUSY');
});

test('wrong ways to create a map are explained', () => {
  assert.match(thrown(() => BpfMap.create({ type: 'hsah', maxEntries: 1 })).message, 'lru_hash');
  assert.instance(thrown(() => BpfMap.create({ type: 'hash', maxEntries: -1 })), RangeError);
  const error = thrown<BpfError>(() => BpfMap.create({ type: 'hash', keySize: 0, valueSize: 4, maxEntries: 1 }));
  assert.is(error.code, 'EINVAL');
  assert.is(error.operation, 'create');
});

test.run();
