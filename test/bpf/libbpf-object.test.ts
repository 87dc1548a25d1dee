import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { BpfError, BpfMap, BpfObject } from 'libbpf-napi';
import { asU32, asU64, collectGarbage, compile, scratch, thrown, u32, u64 } from './libbpf-support.js';

const path = compile(
  `
  struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 16); __type(key, __u32); __type(value, __u64); } flows SEC(".maps");
  const volatile __u32 limit = 10;
  __u64 start = 5;
  __u64 calls;
  __u32 custom SEC(".data.custom") = 77;
  extern int CONFIG_HZ __kconfig;
  extern _Bool CONFIG_KPROBES __kconfig __weak;

  SEC("tc") int first(struct __sk_buff *skb) { calls += limit; start++; return CONFIG_HZ + custom + CONFIG_KPROBES; }
  SEC("?tc") int optional(struct __sk_buff *skb) { __u32 key = 1; bpf_map_lookup_elem(&flows, &key); return 1; }
  `,
  'object',
);

test('open from a file: names, maps and programs in the order of the file', () => {
  const object = BpfObject.open(path);
  assert.is(object.name, 'object');
  assert.equal([...object.programs.keys()], ['first', 'optional']);
  assert.is(object.program('first').section, 'tc');
  assert.is(object.program('first').type, 'sched_cls');
  assert.is(object.program('optional').autoload, false);
  const sections = [...object.maps.values()].map((map) => map.sectionName ?? map.name).sort();
  assert.equal(sections, ['.bss', '.data', '.data.custom', '.kconfig', '.rodata', 'flows']);
  assert.is(object.loaded, false);
  object.close();
});

test('open from memory, at an odd address, under a given name', () => {
  const file = readFileSync(path);
  const odd = new Uint8Array(file.byteLength + 1).subarray(1);
  odd.set(file);
  const object = BpfObject.open(odd, { name: 'given' });
  assert.is(object.name, 'given');
  assert.is(object.map('.bss').name, 'given.bss');
  object.load();
  assert.is(object.program('first').testRun({ data: new Uint8Array(14) }).retval, 250 + 77);
  object.close();
});

test('global data: initial values are read and set before load, live after', () => {
  const object = BpfObject.open(path);
  assert.is(asU32(object.map('.rodata').initialValue), 10);
  assert.is(asU64(object.map('.data').initialValue), 5n);
  object.map('.rodata').setInitialValue(u32(3));
  object.map('.data').setInitialValue(u64(100n));
  object.load();
  const calls = object.map('.bss').mmap();
  object.program('first').testRun({ data: new Uint8Array(14) });
  object.program('first').testRun({ data: new Uint8Array(14) });
  assert.is(asU64(calls), 6n);
  assert.is(asU64(object.map('.data').mmap()), 102n);
  assert.is(thrown<BpfError>(() => object.map('.rodata').setInitialValue(u32(4))).code, 'EBUSY');
  object.close();
});

test('global data of the wrong size, or of a map that holds none, is refused', () => {
  const object = BpfObject.open(path);
  assert.match(thrown(() => object.map('.rodata').setInitialValue(u64(1n))).message, 'it takes 4 bytes, not 8');
  assert.match(thrown(() => object.map('flows').setInitialValue(u64(1n))).message, 'it holds no global data');
  assert.is(object.map('flows').initialValue, undefined);
  object.close();
});

test('kernel configuration given by the caller overrides the system', () => {
  const object = BpfObject.open(path, { kconfig: 'CONFIG_HZ=1000\n' });
  object.load();
  assert.is(object.program('first').testRun({ data: new Uint8Array(14) }).retval, 1077);
  object.close();
});

test('autoload: a program that is off is not loaded, and says so', () => {
  const object = BpfObject.open(path);
  object.program('first').setAutoload(false);
  object.program('optional').setAutoload(true);
  object.load();
  assert.is(object.program('optional').testRun({ data: new Uint8Array(14) }).retval, 1);
  const error = thrown<BpfError>(() => object.program('first').id);
  assert.is(error.code, 'ENODEV');
  assert.match(error.message, 'program "first"');
  assert.match(error.message, 'autoload is off');
  assert.is(thrown<BpfError>(() => object.program('first').setAutoload(true)).code, 'EBUSY');
  object.close();
});

test('the value size of a map can be set before load, not after', () => {
  const object = BpfObject.open(path);
  const flows = object.map('flows');
  const { valueSize } = flows;
  flows.setValueSize(valueSize + 8);
  assert.is(flows.valueSize, valueSize + 8);
  assert.throws(() => flows.setValueSize(0), /valueSize/);
  object.load();
  assert.is(thrown<BpfError>(() => flows.setValueSize(valueSize)).code, 'EBUSY');
  object.close();
});

test('resize before load; autocreate off', () => {
  const object = BpfObject.open(path);
  object.map('flows').resize(4);
  object.load();
  const flows = object.map('flows');
  assert.is(flows.maxEntries, 4);
  for (let key = 0; key < 4; key++) flows.update(u32(key), u64(1n));
  assert.is(thrown<BpfError>(() => flows.update(u32(4), u64(1n))).code, 'E2BIG');
  assert.is(thrown<BpfError>(() => flows.resize(8)).code, 'EBUSY');
  object.close();

  const without = BpfObject.open(path);
  without.map('flows').setAutocreate(false);
  without.load();
  assert.match(thrown(() => without.map('flows').lookup(u32(1))).message, 'autocreate is off');
  without.close();
});

test('loadAsync does not block, and the object is busy meanwhile', async () => {
  const object = BpfObject.open(path);
  const loading = object.loadAsync();
  assert.is(thrown<BpfError>(() => object.load()).code, 'EBUSY');
  assert.is(thrown<BpfError>(() => object.close()).code, 'EBUSY');
  assert.is(thrown<BpfError>(() => object.map('flows').lookup(u32(1))).code, 'EBUSY');
  await loading;
  assert.is(object.loaded, true);
  assert.is(object.map('flows').lookup(u32(1)), undefined);
  object.close();
});

test('a map that stands before load does not exist yet', () => {
  const object = BpfObject.open(path);
  const error = thrown<BpfError>(() => object.map('flows').lookup(u32(1)));
  assert.is(error.code, 'ENODEV');
  assert.match(error.message, 'before its object is loaded');
  object.close();
});

test('closed: everything throws EBADF and nothing crashes', () => {
  const object = BpfObject.open(path);
  object.load();
  const flows = object.map('flows');
  const first = object.program('first');
  object.close();
  object.close();
  assert.is(object.closed, true);
  assert.is(flows.closed, true);
  assert.is(first.closed, true);
  const uses: (() => unknown)[] = [
    () => object.load(),
    () => flows.lookup(u32(1)),
    () => flows.update(u32(1), u64(1n)),
    () => flows.delete(u32(1)),
    () => [...flows.keys()],
    () => [...flows.entries()],
    () => flows.mmap(),
    () => flows.id,
    () => flows.fd,
    () => flows.freeze(),
    () => flows.resize(3),
    () => flows.initialValue,
    () => flows.pin('/sys/fs/bpf/never'),
    () => object.map('.bss').mmap(),
    () => first.id,
    () => first.type,
    () => first.fd,
    () => first.testRun(),
    () => first.attach(),
    () => first.attachTcx({ ifindex: 1, direction: 'ingress' }),
    () => first.setAutoload(true),
  ];
  for (const use of uses) {
    const error = thrown<BpfError>(use);
    assert.is(error.code, 'EBADF', `${use}: ${error.message}`);
    assert.instance(error, BpfError);
  }
});

test('loading twice is refused', () => {
  const object = BpfObject.open(path);
  object.load();
  assert.match(thrown(() => object.load()).message, 'it is already loaded');
  object.close();
});

test('an absent map or program is named, with what there is', () => {
  const object = BpfObject.open(path);
  const error = thrown<BpfError>(() => object.map('nope'));
  assert.is(error.code, 'ENOENT');
  assert.match(error.message, 'map "nope"');
  assert.match(error.message, 'flows');
  assert.match(thrown(() => object.program('nope')).message, 'first, optional');
  object.close();
});

test('files that are no BPF object are refused by a sentence', () => {
  const missing = thrown<BpfError>(() => BpfObject.open(join(scratch, 'missing.o')));
  assert.is(missing.code, 'ENOENT');
  assert.match(missing.message, 'cannot open BPF object');
  const text = join(scratch, 'text.o');
  writeFileSync(text, 'not an object');
  assert.is(thrown<BpfError>(() => BpfObject.open(text)).code, 'LIBBPF_ERRNO__FORMAT');
  assert.instance(thrown(() => BpfObject.open(new Uint8Array(0))), BpfError);
  const whole = readFileSync(path);
  for (let length = 16; length < whole.length; length += 97) {
    // Cut off anywhere: an error or, at worst, an object that lacks something; never a crash.
    try {
      BpfObject.open(whole.subarray(0, length)).close();
    } catch (error) {
      assert.instance(error, BpfError);
    }
  }
});

test('wrong arguments are TypeErrors that name the argument', () => {
  const open = BpfObject.open as (source: unknown, options?: unknown) => BpfObject;
  assert.match(thrown(() => open(7)).message, 'source must be a string, not number 7');
  assert.instance(thrown(() => open(undefined)), TypeError);
  assert.match(thrown(() => open(path, { loglevel: 1 })).message, 'loglevel');
  assert.instance(thrown(() => open(path, { logLevel: 9 })), RangeError);
  assert.instance(thrown(() => open('a\0b')), RangeError);
  const object = BpfObject.open(path);
  object.load();
  const flows = object.map('flows');
  assert.match(thrown(() => flows.lookup(new Uint8Array(3))).message, 'key of map "flows" must be 4 bytes long, not 3');
  assert.match(thrown(() => flows.update(u32(1), u32(1))).message, 'value of map "flows" must be 8 bytes long');
  assert.instance(thrown(() => flows.lookup('key' as unknown as Uint8Array)), TypeError);
  assert.instance(thrown(() => flows.lookup(u32(1), new Uint8Array(4))), RangeError);
  assert.instance(thrown(() => flows.reuse({} as BpfMap)), TypeError);
  object.close();
});

test('the verifier log of programs that load is kept on request', () => {
  const object = BpfObject.open(path, { logLevel: 2 });
  object.load();
  const log = object.verifierLogs.find((entry) => entry.program === 'first');
  assert.match(log?.text ?? '', 'processed');
  object.close();
});

test('garbage collection of the object does not pull a map or a program that is still held', async () => {
  const { flows, first } = (() => {
    const object = BpfObject.open(path);
    object.load();
    return { flows: object.map('flows'), first: object.program('first') };
  })();
  await collectGarbage();
  flows.update(u32(1), u64(9n));
  assert.is(asU64(flows.lookup(u32(1))), 9n);
  assert.is(first.testRun({ data: new Uint8Array(14) }).retval, 327);
});

test.run();
