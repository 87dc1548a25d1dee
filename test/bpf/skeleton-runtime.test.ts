/** Generated skeletons at work in the kernel: globals before and after load, maps of every kind, events. */
import { once } from 'node:events';
import { copyFileSync, readFileSync } from 'node:fs';
import { release } from 'node:os';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { build, LoaderError } from 'bpf-ts-loader';
import { decode, encode } from 'bpf-ts-loader/runtime';
import { suite, test } from 'uvu';
import * as assert from 'uvu/assert';
import { compileStrictly, fixtures, scratch } from './skeleton-support.js';

const directory = scratch('skeleton-runtime');
for (const name of ['globals', 'maps', 'arena', 'ops'])
  copyFileSync(join(fixtures, `${name}.bpf.c`), join(directory, `${name}.bpf.c`));
await build({ dir: directory });
const load = compileStrictly(directory);
const globals = await load('globals.skel.js');
const maps = await load('maps.skel.js');
const arena = await load('arena.skel.js');
const ops = await load('ops.skel.js');

const packet = new Uint8Array(64);
// uvu runs what is registered before `run()`: objects live as long as the process.
const open: { close(): void }[] = [];
process.on('exit', () => open.forEach((object) => object.close()));
function kept<T extends { close(): void }>(object: T): T {
  open.push(object);
  return object;
}

test('globals: what is in the object is there before load', () => {
  const specs = globals['openGlobals']();
  assert.is(specs.globals.rodata.factor.get(), 3);
  assert.is(specs.globals.rodata.tag.get(), 'abc');
  assert.equal(specs.globals.rodata.limits.get(), { low: 1, high: 2n });
  assert.is(specs.globals.data.total.get(), 1000n);
  assert.equal(specs.globals.data.list.get(), Uint16Array.of(1, 2, 3));
  assert.is(specs.globals.data_custom.big_aligned.get(), 9);
  specs.close();
});

test('globals: what is not to be seen is not there', () => {
  const specs = globals['openGlobals']();
  const names = Object.values(specs.globals).flatMap((section) => Object.keys(section as object));
  for (const name of ['hidden_static', 'hidden_global', 'rodata_static', 'counter', 'init_task'])
    assert.not.ok(names.includes(name), name);
  assert.ok(names.includes('weak_global'));
  specs.close();
});

test('globals: what is set before load is what the program sees, and what it writes is read', () => {
  const specs = globals['openGlobals']();
  specs.globals.rodata.factor.set(7);
  specs.globals.rodata.enabled.set(true);
  specs.globals.rodata.first_mode.set(globals['Mode'].MODE_OFF);
  specs.globals.rodata.limits.set({ low: 5, high: 1n << 40n });
  specs.globals.rodata_fixed.fixed.set(100);
  specs.globals.data.negative.set(-77);
  specs.globals.data_custom.custom.set(-1);
  specs.globals.bss.calls.set(10n);
  const objects = kept(specs.load());
  objects.programs.step.testRun({ data: packet });
  const { bss, data, data_custom, bss_apart } = objects.globals;
  assert.is(bss.calls.get(), 11n);
  assert.is(data.total.get(), 1007n);
  assert.equal(bss.seen.get()[1], { low: 10, high: 20n });
  assert.equal(data.moving.get(), { low: 10, high: 20n + (1n << 40n) });
  assert.equal(bss.sums.get(), BigInt64Array.of(0n, 0n, -77n, 0n));
  assert.equal(data.list.get(), Uint16Array.of(1, 9, 3));
  assert.is(data_custom.custom.get(), 0);
  assert.is(bss_apart.apart.get(), 109n);
  assert.is(data.mode.get(), globals['Mode'].MODE_OFF);
  assert.is(data.weak_global.get(), 12 + 'a'.charCodeAt(0));

  data.total.set(5n);
  data.moving.set({ low: 1, high: 2n });
  data.list.set(Uint16Array.of(40));
  objects.programs.step.testRun({ data: packet });
  assert.is(data.total.get(), 12n);
  assert.equal(bss.seen.get()[1], { low: 1, high: 2n });
  assert.equal(data.list.get(), Uint16Array.of(40, 7, 0), 'a shorter array is filled up with zeros');
});

test('globals: constants can be read and not set after load, the specs not set at all', () => {
  const specs = globals['openGlobals']();
  specs.globals.rodata.tag.set('hello');
  const objects = kept(specs.load());
  assert.is(objects.globals.rodata.tag.get(), 'hello');
  assert.throws(
    () => specs.globals.data.total.set(1n),
    (error: LoaderError) => error.code === 'READ_ONLY' && /\.data/.test(error.message),
  );
});

test('globals: the kernel configuration is filled in', () => {
  const objects = kept(globals['openGlobals']().load());
  const [, major = '', minor = '', patch = ''] = /^(\d+)\.(\d+)\.(\d+)/.exec(release()) ?? [];
  const version = (Number(major) << 16) | (Number(minor) << 8) | Math.min(Number(patch), 255);
  assert.is(objects.globals.kconfig.LINUX_KERNEL_VERSION.get(), version);
  assert.is(objects.globals.kconfig.CONFIG_BPF_SYSCALL.get(), true);
  assert.is(objects.globals.kconfig.CONFIG_NO_SUCH_OPTION.get(), globals['LibbpfTristate'].TRI_NO);
  assert.is(objects.programs.flip.testRun({ data: packet }).retval, 1);
});

test('globals: a number is never seen half written', async () => {
  const objects = kept(globals['openGlobals']().load());
  // On another thread the program turns all bits over and over, a million times.
  const code = `
    const { parentPort, workerData } = require('node:worker_threads');
    import('libbpf-napi').then(({ BpfProgram }) => {
      const program = BpfProgram.fromId(workerData.id);
      parentPort.postMessage('ready');
      program.testRun({ data: new Uint8Array(64), repeat: 1_000_000 });
      program.close();
    });`;
  const worker = new Worker(code, { eval: true, workerData: { id: objects.programs.flip.id } });
  let running = true;
  worker.on('exit', () => (running = false));
  await once(worker, 'message');
  const { flipping } = objects.globals.bss;
  const seen = new Set<bigint>();
  while (running) {
    for (let i = 0; i < 10_000; i++) seen.add(flipping.get());
    await nextTurn();
  }
  assert.equal([...seen].sort(), [0n, 0xffff_ffff_ffff_ffffn]);
});

test('maps: struct keys and values', () => {
  const objects = kept(maps['openMaps']().load());
  const { flows } = objects.maps;
  const key = { proto: 6, port: 443 };
  assert.is(flows.lookup(key), undefined);
  flows.update(key, { packets: 1n, bytes: 2 });
  assert.is(objects.programs.count.testRun({ data: packet }).retval, 0, 'the padding of the key is zero');
  assert.equal(flows.lookup(key), { packets: 2n, bytes: 66 });
  const into = { packets: 0n, bytes: 0 };
  assert.is(flows.lookup(key, into), into);
  assert.throws(() => flows.update(key, into, 'noexist'), /EEXIST/);
  flows.update({ proto: 17, port: 53 }, into);
  assert.equal(new Set([...flows.keys()].map(({ port }: { port: number }) => port)), new Set([443, 53]));
  assert.is([...flows].length, 2);
  assert.is(
    [...flows.values()].reduce((sum: bigint, { packets }: { packets: bigint }) => sum + packets, 0n),
    4n,
  );
  assert.equal(flows.lookupAndDelete(key), into);
  assert.is(flows.delete(key), false);
  assert.is(flows.delete({ proto: 17, port: 53 }), true);
});

test('maps: per CPU', () => {
  const objects = kept(maps['openMaps']().load());
  const { per_cpu, flows } = objects.maps;
  const zeros = Array.from({ length: per_cpu.cpus }, () => ({ packets: 0n, bytes: 0 }));
  assert.equal(per_cpu.lookup(1), zeros);
  per_cpu.update(
    0,
    zeros.map((_, cpu) => ({ packets: BigInt(cpu * 100), bytes: cpu })),
  );
  flows.update({ proto: 6, port: 443 }, { packets: 0n, bytes: 0 });
  objects.programs.count.testRun({ data: packet });
  const sum = per_cpu.lookup(0).reduce((total: bigint, { packets }: { packets: bigint }) => total + packets, 0n);
  assert.is(
    sum,
    zeros.reduce((total, _, cpu) => total + BigInt(cpu * 100), 1n),
  );
  assert.is([...per_cpu.entries()].length, 2);
  assert.throws(
    () => per_cpu.update(0, []),
    (error: LoaderError) => error.code === 'BAD_VALUE',
  );

  const { per_cpu_flows } = objects.maps;
  const numbers = zeros.map((_, cpu) => cpu + 1);
  per_cpu_flows.update({ proto: 1, port: 2 }, numbers);
  assert.equal([...per_cpu_flows], [[{ proto: 1, port: 2 }, numbers]]);
  assert.is(per_cpu_flows.delete({ proto: 1, port: 2 }), true);
});

test('maps: arrays, tries, queues, stacks, and maps without types', () => {
  const objects = kept(maps['openMaps']().load());
  const { slots, routes, queue, stack, untyped } = objects.maps;
  slots.update(maps['Slot'].SLOT_SECOND, { packets: 3n, bytes: 4 });
  assert.equal(
    [...slots],
    [
      [0, { packets: 0n, bytes: 0 }],
      [1, { packets: 3n, bytes: 4 }],
    ],
  );
  routes.update({ bits: 8, address: Uint8Array.of(10, 0, 0, 0) }, 99);
  assert.is(routes.lookup({ bits: 32, address: Uint8Array.of(10, 1, 2, 3) }), 99);
  queue.push({ packets: 1n, bytes: 1 });
  queue.push({ packets: 2n, bytes: 2 });
  assert.equal(queue.peek(), { packets: 1n, bytes: 1 });
  assert.equal(
    [queue.pop(), queue.pop(), queue.pop()],
    [{ packets: 1n, bytes: 1 }, { packets: 2n, bytes: 2 }, undefined],
  );
  stack.push(5);
  stack.push(6);
  assert.is(stack.pop(), 6);
  untyped.update(Uint8Array.of(1, 2, 3), Uint8Array.of(1, 2, 3, 4, 5));
  assert.equal(untyped.lookup(Uint8Array.of(1, 2, 3)), Uint8Array.of(1, 2, 3, 4, 5));
});

test('maps: of maps and of programs', () => {
  const objects = kept(maps['openMaps']().load());
  assert.is(objects.maps.outer.lookup(0), objects.maps.inner_a.raw.id);
  assert.is(objects.maps.outer.lookup(1), objects.maps.inner_b.raw.id);
  assert.is(objects.programs.tail.testRun({ data: packet }).retval, 7, 'the tail call reached its program');
  assert.is(objects.maps.calls.lookup(1), objects.programs.called.id);
});

test('maps: a ring to the program', () => {
  const objects = kept(maps['openMaps']().load());
  const sender = objects.maps.commands.sender(maps['Command']);
  assert.is(sender.submit({ urgent: 0, amount: 7 }), true);
  assert.is(sender.submit({ urgent: 1, amount: 2 }), true);
  assert.is(objects.programs.drain.testRun({ data: packet }).retval, 2);
  assert.is(objects.globals.bss.received.get(), 2007n);
  let sent = 0;
  while (sender.submit({ urgent: 0, amount: 1 })) sent++;
  assert.ok(sent > 100 && sent < 4096 / 16 + 1, `${sent} records fill the ring`);
  sender.close();
});

test('maps: sized before load', () => {
  const specs = maps['openMaps']();
  specs.maps.flows.resize(3);
  const objects = kept(specs.load());
  assert.is(objects.maps.flows.raw.maxEntries, 3);
  for (let port = 0; port < 3; port++) objects.maps.flows.update({ proto: 0, port }, { packets: 0n, bytes: 0 });
  assert.throws(() => objects.maps.flows.update({ proto: 0, port: 3 }, { packets: 0n, bytes: 0 }), /E2BIG/);
});

test('programs: only those chosen are loaded', () => {
  const specs = maps['openMaps']();
  specs.programs.count.setAutoload(false);
  const objects = kept(specs.load());
  assert.is(objects.programs.send.testRun({ data: packet }).retval, 0);
  assert.throws(() => objects.programs.count.testRun({ data: packet }));
});

test('arena: variables are set before load and read after', () => {
  const specs = arena['openArena']();
  assert.is(specs.globals.arena.total.get(), 5n);
  specs.globals.arena.total.set(77n);
  const objects = kept(specs.load());
  assert.is(objects.programs.add.testRun({}).retval, 79);
  assert.is(objects.globals.arena.total.get(), 79n);
  assert.equal(objects.globals.arena.list.get(), Int32Array.of(0, 3, 0, 0));
});

test('operations: members are set before load, and the kernel takes them', () => {
  const available = (): string[] =>
    readFileSync('/proc/sys/net/ipv4/tcp_available_congestion_control', 'utf8').trim().split(' ');
  const specs = ops['openOps']();
  const never = specs.structOps.never.get();
  assert.is(never.name, 'colopp_never');
  never.name = `colopp_${process.pid % 10000}`;
  specs.structOps.never.set(never);
  const objects = kept(specs.load());
  assert.not.ok(available().includes(never.name));
  const link = objects.maps.never.attachStructOps();
  assert.ok(available().includes(never.name));
  link.close();
  assert.not.ok(available().includes(never.name));
});

const events = suite('events');

events('a ring of one type', async () => {
  const objects = kept(await maps['openMaps']().loadAsync());
  for (let i = 0; i < 5; i++) objects.programs.send.testRun({ data: packet });
  const seen: { number: number; slot: number; text: string; time_ns: bigint }[] = [];
  setTimeout(() => objects.programs.send.testRun({ data: packet }), 20);
  for await (const event of objects.maps.events.records(maps['Event'])) {
    seen.push(event as (typeof seen)[number]);
    if (seen.length === 6) break;
  }
  assert.equal(
    seen.map(({ number }) => number),
    [0, 1, 2, 3, 4, 5],
  );
  assert.ok(seen.every(({ slot, text }) => slot === maps['Slot'].SLOT_SECOND && text === 'event'));
  assert.ok(seen.every(({ time_ns }, i) => i === 0 || time_ns > (seen[i - 1]?.time_ns ?? 0n)));
});

events('one object for all', async () => {
  const objects = kept(maps['openMaps']().load());
  for (let i = 0; i < 3; i++) objects.programs.send.testRun({ data: packet });
  const seen = new Set<unknown>();
  let count = 0;
  for await (const event of objects.maps.events.records(maps['Event'], { reuse: true })) {
    seen.add(event);
    if (++count === 3) break;
  }
  assert.is(seen.size, 1);
});

events('ends with its signal', async () => {
  const objects = kept(maps['openMaps']().load());
  const signal = AbortSignal.timeout(20);
  try {
    for await (const _ of objects.maps.events.records(maps['Event'], { signal }))
      assert.unreachable('no event was sent');
    assert.unreachable('it ended by itself');
  } catch (error) {
    assert.is(error, signal.reason);
  }
});

events('a record that is too short for its type is an error', () => {
  assert.throws(
    () => decode(maps['Event'], new Uint8Array(8)),
    (error: LoaderError) => error.code === 'SHORT_RECORD',
  );
  const event = maps['Event'].create({ number: 4, text: 'x' });
  assert.equal(decode(maps['Event'], encode(maps['Event'], event)), event);
});

test.run();
events.run();
