/** Several environments in one process, and processes that end with everything still open. */
import { spawnSync } from 'node:child_process';
import { symlinkSync, writeFileSync } from 'node:fs';
import { once } from 'node:events';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { BpfError, BpfObject, BpfProgram } from 'libbpf-napi';
import { compile, scratch, thrown, until, vethPair } from './libbpf-support.js';

const path = compile(
  `
  struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 4096); } events SEC(".maps");
  struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 4); __type(key, __u32); __type(value, __u64); } things SEC(".maps");
  __u64 count;
  SEC("tcx/ingress") int count_in(struct __sk_buff *skb) { __u64 *e = bpf_ringbuf_reserve(&events, 8, 0); if (e) { *e = count++; bpf_ringbuf_submit(e, 0); } return -1; }
  SEC("tp_btf/sched_switch") int BPF_PROG(at_switch) { count++; return 0; }
  `,
  'threads',
);
const wrong = [0, 1, 2].map((i) =>
  compile(
    `struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 4); __type(key, __u32); __type(value, __u64); } things SEC(".maps");
     SEC("tc") int broken_${i}(struct __sk_buff *ctx) { __u32 key = 1; __u64 *value = bpf_map_lookup_elem(&things, &key); return *value; }`,
    `wrong${i}`,
  ),
);

// Modules of workers must lie where `libbpf-napi` can be found: a link leads there.
symlinkSync(fileURLToPath(new URL('../../../node_modules', import.meta.url)), join(scratch, 'node_modules'));
let scripts = 0;

function script(body: string): string {
  const file = join(scratch, `script${scripts++}.mjs`);
  writeFileSync(
    file,
    `import { BpfObject, BpfMap, Btf, Link, MapFlag, RingBuffer } from 'libbpf-napi';
     import { parentPort, workerData, threadId } from 'node:worker_threads';
     ${body}`,
  );
  return file;
}

test('three workers at once: each gets the verifier log of its own program', async () => {
  const file = script(`
    const texts = new Set();
    for (let i = 0; i < 30; i++) {
      const object = BpfObject.open(workerData.path);
      try { object.load(); } catch (error) { texts.add(error.message + error.log); }
      try { await object.loadAsync(); } catch (error) { texts.add(error.code === 'EACCES' ? error.message + error.log : error.message); }
      object.close();
    }
    parentPort.postMessage([...texts]);`);
  const workers = wrong.map((object) => new Worker(file, { workerData: { path: object } }));
  const exits = workers.map((worker) => once(worker, 'exit'));
  const answers = (await Promise.all(workers.map((worker) => once(worker, 'message')))) as [string[]][];
  answers.forEach(([texts], i) => {
    const all = texts.join('\n');
    assert.match(all, `program "broken_${i}"`);
    for (const other of [0, 1, 2]) if (other !== i) assert.not.match(all, `broken_${other}`);
  });
  await Promise.all(exits);
});

test('a worker that ends lets go of what it attached; the main thread keeps its own', async () => {
  const pair = vethPair();
  const object = BpfObject.open(path);
  object.load();
  const link = object.program('count_in').attachTcx({ ifname: pair.name, direction: 'ingress' });
  const file = script(`
    const object = BpfObject.open(workerData.path);
    object.load();
    const link = object.program('count_in').attachTcx({ ifindex: workerData.ifindex, direction: 'ingress' });
    parentPort.once('message', () => process.exit()); // with the link attached
    parentPort.postMessage(link.id);`);
  const worker = new Worker(file, { workerData: { path, ifindex: pair.ifindex } });
  const exit = once(worker, 'exit');
  await once(worker, 'message');
  assert.is(BpfProgram.queryTcx({ ifname: pair.name, direction: 'ingress' }).length, 2);
  worker.postMessage('end');
  await exit;
  await until(() => BpfProgram.queryTcx({ ifname: pair.name, direction: 'ingress' }).length === 1);
  assert.is(BpfProgram.queryTcx({ ifname: pair.name, direction: 'ingress' })[0]?.progId, object.program('count_in').id);
  link.close();
  object.close();
});

test('a worker terminated while it waits for a ring buffer, loads, and holds memory', async () => {
  const file = script(`
    const object = BpfObject.open(workerData.path);
    object.load();
    const view = object.map('.bss').mmap();
    const ring = new RingBuffer(object.map('events'));
    const link = object.program('at_switch').attach();
    globalThis.kept = [view, ring, link];
    (async () => { for await (const batch of ring) parentPort.postMessage(batch.length); })();
    parentPort.postMessage('ready');
    const again = () => { const other = BpfObject.open(workerData.path); other.loadAsync().then(() => { other.close(); again(); }); };
    again();`);
  for (let i = 0; i < 10; i++) {
    const worker = new Worker(file, { workerData: { path } });
    await once(worker, 'message');
    await new Promise((resolve) => setTimeout(resolve, 5 * i));
    assert.is(await worker.terminate(), 1);
  }
});

const endings: [how: string, body: string, status: number | null, signal?: string][] = [
  ['runs out of work', 'ring.unref(); globalThis.kept.push(ring[Symbol.asyncIterator]().next());', 0],
  ['calls process.exit', 'process.exit(7);', 7],
  ['throws', "setTimeout(() => { throw new Error('on purpose'); }, 1);", 1],
  ['exits while it loads', 'BpfObject.open(path).loadAsync(); process.exit(8);', 8],
  ['exits while it waits', 'ring[Symbol.asyncIterator]().next(); setTimeout(() => process.exit(9), 10);', 9],
  ['exits inside an iteration over a map', "object.map('things').update(new Uint8Array(4), new Uint8Array(8)); for (const _ of object.map('things')) process.exit(10);", 10],
  ['is killed', "process.kill(process.pid, 'SIGKILL');", null, 'SIGKILL'],
];
for (const [how, body, status, signal] of endings) {
  test(`a process that ${how} with everything open: no crash, nothing attached is left`, () => {
    const pair = vethPair();
    const file = script(`
      const path = ${JSON.stringify(path)};
      const object = BpfObject.open(path);
      object.load();
      const ring = new RingBuffer(object.map('events'));
      const link = object.program('count_in').attachTcx({ ifindex: ${pair.ifindex}, direction: 'ingress' });
      const other = object.program('at_switch').attach();
      globalThis.kept = [object.map('.bss').mmap(), link, other];
      ${body}`);
    const child = spawnSync(process.execPath, [file], { encoding: 'utf8', timeout: 20_000 });
    assert.is(child.status, status, child.stderr);
    assert.is(child.signal ?? undefined, signal, child.stderr);
    assert.equal(BpfProgram.queryTcx({ ifname: pair.name, direction: 'ingress' }), []);
  });
}

test('handles of one environment do not pass to another', async () => {
  const object = BpfObject.open(path);
  object.load();
  // What arrives on the other side of a message is a plain object: it is refused, not followed.
  const copy = structuredClone({ ...object.map('things') });
  assert.instance(thrown(() => BpfObject.open(path).map('things').reuse(copy as never)), TypeError);
  assert.instance(thrown(() => object.map('things').mmap()), BpfError);
  const memory = object.map('.bss').mmap();
  // Memory of a map cannot be moved away either: copied or refused, depending on the version of Node.
  try {
    structuredClone(memory, { transfer: [memory.buffer as ArrayBuffer] });
  } catch (error) {
    assert.is((error as Error).name, 'DataCloneError');
  }
  assert.is(memory.byteLength, 8);
  object.close();
});

test.run();
