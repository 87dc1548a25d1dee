/** What is opened and closed leaves nothing: memory and descriptors over many cycles. */
import { readdirSync, readFileSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { BpfMap, BpfObject, BpfProgram, Btf, Link, MapFlag, RingBuffer } from 'libbpf-napi';
import { collectGarbage, compile, thrown, vethPair } from './libbpf-support.js';

const path = compile(
  `
  struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 4096); } events SEC(".maps");
  struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 4); __type(key, __u32); __type(value, __u64); } things SEC(".maps");
  __u64 count;
  SEC("tcx/ingress") int count_in(struct __sk_buff *skb) { count++; return -1; }
  `,
  'leak',
);
const image = readFileSync(path);

const openDescriptors = (): number => readdirSync('/proc/self/fd').length;
const residentMb = (): number => Number(/^VmRSS:\s+(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]) / 1024;
const mappings = (): number => readFileSync('/proc/self/maps', 'utf8').split('\n').length;

/** Runs `cycle` so many times, the first fifth to warm up; fails when the rest grows the process. */
async function steady(cycles: number, growthMb: number, cycle: (i: number) => unknown): Promise<void> {
  const warmUp = cycles / 5;
  for (let i = 0; i < warmUp; i++) {
    cycle(i);
    if (i % 1000 === 999) await collectGarbage();
  }
  await collectGarbage();
  const before = { fds: openDescriptors(), mb: residentMb(), maps: mappings() };
  for (let i = warmUp; i < cycles; i++) {
    cycle(i);
    if (i % 1000 === 999) await collectGarbage();
  }
  await collectGarbage();
  const after = { fds: openDescriptors(), mb: residentMb(), maps: mappings() };
  const figures = `${cycles} cycles: ${JSON.stringify(before)} -> ${JSON.stringify(after)}`;
  console.log(figures);
  assert.ok(after.fds <= before.fds, figures);
  assert.ok(after.maps <= before.maps + 20, figures);
  assert.ok(after.mb - before.mb < growthMb, figures);
}

test('100 000 times open and close', async () => {
  await steady(100_000, 8, () => BpfObject.open(image, { name: 'leak' }).close());
});

test('500 times open, load, attach, consume, map, close', async () => {
  const pair = vethPair();
  await steady(500, 8, () => {
    const object = BpfObject.open(image, { name: 'leak' });
    object.load();
    const link = object.program('count_in').attachTcx({ ifindex: pair.ifindex, direction: 'ingress' });
    const ring = new RingBuffer(object.map('events'));
    ring.consume();
    object.map('.bss').mmap();
    const byId = BpfProgram.fromId(object.program('count_in').id);
    byId.close();
    ring.close();
    Link.fromId(link.id).close();
    link.close();
    object.close();
  });
  assert.equal(BpfProgram.queryTcx({ ifindex: pair.ifindex, direction: 'ingress' }), []);
});

test('5 000 times failing: missing files, broken objects, wrong maps', async () => {
  await steady(5000, 8, (i) => {
    thrown(() => BpfObject.open('/no/such/file'));
    thrown(() => BpfObject.open(image.subarray(0, 64 + (i % 500))));
    thrown(() => BpfMap.create({ type: 'hash', keySize: 0, valueSize: 4, maxEntries: 1 }));
    thrown(() => BpfMap.fromPinned('/sys/fs/bpf/none'));
  });
});

test('5 000 times left to the garbage collector', async () => {
  await steady(5000, 16, () => {
    const object = BpfObject.open(image, { name: 'leak' });
    if (object.closed) throw new Error('it is open');
    const map = BpfMap.create({ type: 'array', keySize: 4, valueSize: 8, maxEntries: 1, flags: MapFlag.Mmapable });
    map.mmap()[0] = 1;
  });
});

test('200 times the types of the object', async () => {
  await steady(200, 8, () => {
    for (const type of Btf.load(path).types()) if (type.id < 0) throw new Error('no');
  });
});

test.run();
