import { execFileSync } from 'node:child_process';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type BpfError, BpfObject, BpfProgram, RingBuffer, type RingBufferOptions, UserRingBuffer } from 'libbpf-napi';
import { asU64, collectGarbage, compile, rejected, thrown, u32, u64 } from './libbpf-support.js';

const path = compile(
  `
  struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 1 << 16); } events SEC(".maps");
  struct { __uint(type, BPF_MAP_TYPE_USER_RINGBUF); __uint(max_entries, 4096); } commands SEC(".maps");
  struct { __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, __u64); } lost SEC(".maps");
  __u64 next; __u64 dropped SEC(".data.drops");
  // Each run puts ctx[0] records of ctx[1] bytes (8, 24 or 1000) into the ring, numbered in the first 8.
  static int put(__u64 size) {
    __u64 *record;
    if (size == 24) { if ((record = bpf_ringbuf_reserve(&events, 24, 0))) { record[0] = next++; bpf_ringbuf_submit(record, 0); return 0; } }
    else if (size == 1000) { if ((record = bpf_ringbuf_reserve(&events, 1000, 0))) { record[0] = next++; bpf_ringbuf_submit(record, 0); return 0; } }
    else if ((record = bpf_ringbuf_reserve(&events, 8, 0))) { record[0] = next++; bpf_ringbuf_submit(record, 0); return 0; }
    __u32 key = 0; __u64 *count = bpf_map_lookup_elem(&lost, &key);
    if (count) (*count)++;
    dropped++;
    return 1;
  }
  struct step { __u64 size; __u64 lost; };
  static long one(__u32 i, struct step *step) { step->lost += put(step->size); return 0; }
  SEC("syscall") int produce(__u64 *ctx) {
    struct step step = { .size = ctx[1] };
    bpf_loop(ctx[0], one, &step, 0);
    return step.lost;
  }
  __u64 sum;
  static long take(struct bpf_dynptr *record, void *ctx) { __u32 value = 0; bpf_dynptr_read(&value, 4, record, 0, 0); sum += value; return 0; }
  SEC("syscall") int drain(__u64 *ctx) { return bpf_user_ringbuf_drain(&commands, take, 0, 0); }
  `,
  'ring',
);

interface Bench {
  object: BpfObject;
  ring: RingBuffer;
  produce(count: number, bytes?: 8 | 24 | 1000): number;
}

function bench(options: (object: BpfObject) => RingBufferOptions = () => ({})): Bench {
  const object = BpfObject.open(path);
  object.load();
  const produce: BpfProgram = object.program('produce');
  const ring = new RingBuffer(object.map('events'), options(object));
  return {
    object,
    ring,
    produce: (count, bytes = 8) => produce.testRun({ ctx: u64(BigInt(count), BigInt(bytes)) }).retval,
  };
}

const numberOf = (record: Uint8Array): number => Number(asU64(record));

test('consume: what is there, in order, in batches of a size', () => {
  const { object, ring, produce } = bench(() => ({ batchRecords: 100 }));
  assert.equal(ring.consume(), []);
  produce(250, 24);
  const sizes: number[] = [];
  let expected = 0;
  for (let batch = ring.consume(); batch.length > 0; batch = ring.consume()) {
    sizes.push(batch.length);
    for (const record of batch) {
      assert.is(record.byteLength, 24);
      assert.is(record.byteOffset % 8, 0);
      assert.is(numberOf(record), expected++);
    }
  }
  assert.equal(sizes, [100, 100, 50]);
  assert.equal(
    { ...ring.stats() },
    { sizeBytes: 65536, pendingBytes: 0, records: 250, bytes: 6000, batches: 3, drops: undefined },
  );
  ring.close();
  object.close();
});

test('a batch is bounded in bytes', () => {
  const { object, ring, produce } = bench(() => ({ batchBytes: 3000 }));
  produce(10, 1000);
  assert.is(ring.consume().length, 3);
  assert.ok(ring.stats().pendingBytes > 0);
  ring.close();
  object.close();
});

test('iterate: woken by the kernel, also again and again', async () => {
  const { object, ring, produce } = bench();
  let expected = 0;
  const timer = setInterval(() => produce(7), 3);
  for await (const batch of ring) {
    for (const record of batch) assert.is(numberOf(record), expected++);
    if (expected >= 70) break;
  }
  clearInterval(timer);
  assert.ok(ring.stats().batches >= 5);
  // After a break the same buffer goes on where it was.
  produce(1);
  const { value } = await ring[Symbol.asyncIterator]().next();
  assert.is(numberOf((value as Uint8Array[])[0] as Uint8Array), expected);
  ring.close();
  object.close();
});

test('waiting costs nothing', async () => {
  const { object, ring } = bench();
  const iterator = ring[Symbol.asyncIterator]();
  const next = iterator.next();
  await new Promise((resolve) => setTimeout(resolve, 50));
  const before = process.cpuUsage();
  await new Promise((resolve) => setTimeout(resolve, 500));
  const { user, system } = process.cpuUsage(before);
  assert.ok(user + system < 50_000, `${user + system} us of CPU in 500 ms of waiting`);
  ring.close();
  assert.is((await next).done, true);
  object.close();
});

test('back-pressure: a slow consumer polls nothing; the ring fills and the program counts its losses', async () => {
  const { object, ring, produce } = bench((opened) => ({
    batchRecords: 16,
    drops: { map: opened.map('.data.drops') },
  }));
  const iterator = ring[Symbol.asyncIterator]();
  const first = iterator.next();
  await new Promise((resolve) => setTimeout(resolve, 10));
  assert.is(produce(1), 0);
  assert.is(((await first).value as Uint8Array[]).length, 1);
  const lost = produce(10_000);
  const room = 65536 / 16 - 1; // the kernel never fills the last byte
  assert.is(lost, 10_000 - room);
  await new Promise((resolve) => setTimeout(resolve, 20));
  const { records, drops, pendingBytes } = ring.stats();
  assert.is(records, 1); // nobody asked for more
  assert.is(drops, BigInt(lost));
  assert.is(pendingBytes, 65536 - 16);
  let expected = 1;
  while (expected <= room) {
    for (const record of (await iterator.next()).value as Uint8Array[]) assert.is(numberOf(record), expected++);
  }
  ring.close();
  object.close();
});

test('a producer that is always ahead does not starve timers', async () => {
  const { object, ring, produce } = bench();
  produce(1);
  let fired = false;
  setTimeout(() => (fired = true), 20);
  let batches = 0;
  for await (const batch of ring) {
    produce(batch.length);
    if (fired) break;
    assert.ok(++batches < 1_000_000, 'the timer never fired');
  }
  ring.close();
  object.close();
});

test('drops may be counted per CPU', () => {
  const { object, ring, produce } = bench((opened) => ({ drops: { map: opened.map('lost') } }));
  const lost = produce(5000, 24);
  assert.ok(lost > 0);
  assert.is(ring.stats().drops, BigInt(lost));
  ring.close();
  object.close();
});

test('AbortSignal ends a wait, and an iteration between batches', async () => {
  const abort = new AbortController();
  const { object, ring, produce } = bench(() => ({ signal: abort.signal }));
  const next = ring[Symbol.asyncIterator]().next();
  setTimeout(() => abort.abort(new Error('enough')), 10);
  assert.is((await rejected(next)).message, 'enough');
  produce(1);
  assert.is((await rejected(ring[Symbol.asyncIterator]().next())).message, 'enough');
  assert.is(ring.closed, false);
  assert.is(ring.consume().length, 1);
  ring.close();
  object.close();
});

test('close ends an iteration under way; a closed buffer throws', async () => {
  const { object, ring } = bench();
  const seen = (async () => {
    let batches = 0;
    for await (const batch of ring) batches += batch.length;
    return batches;
  })();
  await new Promise((resolve) => setTimeout(resolve, 10));
  ring.close();
  ring.close();
  assert.is(await seen, 0);
  assert.is(thrown<BpfError>(() => ring.consume()).code, 'EBADF');
  assert.is(thrown<BpfError>(() => ring.stats()).code, 'EBADF');
  object.close();
});

test('one consumer at a time', async () => {
  const { object, ring } = bench();
  const first = ring[Symbol.asyncIterator]().next();
  assert.match((await rejected(ring[Symbol.asyncIterator]().next())).message, 'one consumer at a time');
  ring.close();
  await first;
  object.close();
});

test('records stay valid after everything is closed', async () => {
  const { object, ring, produce } = bench();
  produce(3);
  const batch = ring.consume();
  ring.close();
  object.close();
  await collectGarbage();
  assert.equal(batch.map(numberOf), [0, 1, 2]);
});

test('the object may be closed before the ring buffer, which still wakes up', async () => {
  const { object, ring, produce } = bench();
  produce(2);
  using program = BpfProgram.fromId(object.program('produce').id);
  object.close();
  assert.is(ring.consume().length, 2);
  const next = ring[Symbol.asyncIterator]().next();
  setTimeout(() => program.testRun({ ctx: u64(3n, 8n) }), 5);
  assert.is(((await next).value as Uint8Array[]).length, 3);
  ring.close();
});

test('the end of a process does not wait for a buffer without references', () => {
  const child = `
    import { BpfObject, RingBuffer } from 'libbpf-napi';
    const object = BpfObject.open(${JSON.stringify(path)});
    object.load();
    const ring = new RingBuffer(object.map('events')).unref();
    ring[Symbol.asyncIterator]().next().then(() => console.log('never'));
  `;
  const options = { encoding: 'utf8', timeout: 10_000, cwd: import.meta.dirname } as const;
  assert.is(execFileSync(process.execPath, ['--input-type=module', '-e', child], options), '');
});

test('a busy producer: nothing is lost, nothing comes twice', async () => {
  const { object, ring, produce } = bench();
  let total = 0;
  const target = 200_000;
  const produced = (async () => {
    for (let done = 0; done < target; ) {
      done += 500 - produce(Math.min(500, target - done));
      await new Promise((resolve) => setImmediate(resolve));
    }
  })();
  for await (const batch of ring) {
    for (const record of batch) if (numberOf(record) !== total++) assert.unreachable(`record ${total}`);
    if (total === target) break;
  }
  await produced;
  ring.close();
  object.close();
});

test('only a ring buffer is a ring buffer', () => {
  const { object, ring } = bench();
  assert.match(thrown(() => new RingBuffer(object.map('lost'))).message, 'map must be a ring buffer');
  assert.match(thrown(() => new UserRingBuffer(object.map('events'))).message, 'map must be a user ring buffer');
  assert.instance(thrown(() => new RingBuffer(object.map('events'), { batchRecords: 0 })), RangeError);
  assert.instance(thrown(() => new RingBuffer(object.map('events'), { signal: {} as AbortSignal })), TypeError);
  assert.instance(thrown(() => new RingBuffer(object.map('events'), { drops: { map: object.map('events') } })), Error);
  ring.close();
  object.close();
});

test('user ring buffer: records reach the program; a full ring says so', () => {
  const object = BpfObject.open(path);
  object.load();
  const commands = new UserRingBuffer(object.map('commands'));
  const drain = (): number => object.program('drain').testRun().retval;
  for (let value = 1; value <= 10; value++) assert.is(commands.submit(u32(value)), true);
  assert.is(drain(), 10);
  const bss = object.map('.bss').mmap();
  const sums = Array.from({ length: bss.byteLength / 8 }, (_, i) => asU64(bss, i));
  assert.ok(sums.includes(55n));
  let sent = 0;
  while (commands.submit(new Uint8Array(8))) sent++;
  assert.is(sent, 4096 / 16);
  assert.is(drain(), sent);
  assert.is(commands.submit(u32(1)), true);
  assert.is(thrown<BpfError>(() => commands.submit(new Uint8Array(5000))).code, 'E2BIG');
  commands.close();
  commands.close();
  assert.is(thrown<BpfError>(() => commands.submit(u32(1))).code, 'EBADF');
  object.close();
});

test.run();
