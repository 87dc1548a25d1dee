import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type BpfError, BpfObject, BpfProgram } from 'libbpf-napi';
import { assertForbidden, asU32, asU64, bpfFileSystem, compile, thrown, u32, u64 } from './libbpf-support.js';

const path = compile(
  `
  __u64 runs; __u64 argument;
  struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, __u64); } used SEC(".maps");
  SEC("tc") int swap(struct __sk_buff *skb) {
    __u8 a, b; runs++;
    if (bpf_skb_load_bytes(skb, 0, &a, 1) || bpf_skb_load_bytes(skb, 1, &b, 1)) return -1;
    bpf_skb_store_bytes(skb, 0, &b, 1, 0); bpf_skb_store_bytes(skb, 1, &a, 1, 0);
    skb->cb[0] = skb->mark + 1;
    return skb->len;
  }
  SEC("tc") int grow(struct __sk_buff *skb) { return bpf_skb_change_head(skb, 32, 0); }
  SEC("xdp") int drop(struct xdp_md *ctx) { __u32 key = 0; bpf_map_lookup_elem(&used, &key); return XDP_DROP; }
  SEC("raw_tp/task_rename") int BPF_PROG(raw, __u64 first) { argument = first; return 5; }
  SEC("syscall") int call(__u64 *context) { context[1] = context[0] * 2; return 9; }
  __noinline int helper(int x) { return x + runs; }
  SEC("tc") int callee(struct __sk_buff *skb) { return helper(skb->len); }
  `,
  'program',
);

function loaded(): BpfObject {
  const object = BpfObject.open(path);
  object.load();
  return object;
}

test('testRun: packet and context in and out', () => {
  const object = loaded();
  const packet = new Uint8Array(60).map((_, i) => i + 1);
  const ctx = new Uint8Array(192); // struct __sk_buff
  ctx.set(u32(41), 8); // mark
  const result = object.program('swap').testRun({ data: packet, ctx });
  assert.is(result.retval, 60);
  assert.is(result.data.byteLength, 60);
  assert.equal([...result.data.subarray(0, 4)], [2, 1, 3, 4]);
  assert.is(asU32(result.ctx, 12), 42); // cb[0]
  assert.is(packet[0], 1); // the caller's packet is left alone
  object.close();
});

test('testRun: a packet that grows has room; too little room is an error', () => {
  const object = loaded();
  assert.is(object.program('grow').testRun({ data: new Uint8Array(60) }).data.byteLength, 92);
  const error = thrown<BpfError>(() => object.program('grow').testRun({ data: new Uint8Array(60), dataSizeOut: 10 }));
  assert.is(error.code, 'ENOSPC');
  assert.match(error.message, 'larger than the room');
  object.close();
});

test('testRun: repeat and duration', () => {
  const object = loaded();
  const { durationNs, retval } = object.program('drop').testRun({ data: new Uint8Array(64), repeat: 10_000 });
  assert.is(retval, 1);
  assert.ok(durationNs >= 0 && durationNs < 100_000, `${durationNs} ns`);
  object.program('swap').testRun({ data: new Uint8Array(64), repeat: 1000 });
  assert.is(asU64(object.map('.bss').mmap()), 1000n);
  object.close();
});

test('testRun: raw tracepoint arguments, system call programs', () => {
  const object = loaded();
  assert.is(object.program('raw').testRun({ ctx: u64(0xfeedn, 2n) }).retval, 5);
  const bss = object.map('.bss').mmap();
  assert.ok([asU64(bss, 0), asU64(bss, 1)].includes(0xfeedn));
  const { retval, ctx } = object.program('call').testRun({ ctx: u64(21n, 0n) });
  assert.is(retval, 9);
  assert.is(asU64(ctx, 1), 42n);
  object.close();
});

test('testRun: what a type does not support, and wrong arguments', () => {
  const object = loaded();
  const swap = object.program('swap');
  assert.is(thrown<BpfError>(() => swap.testRun({ data: new Uint8Array(1) })).code, 'EINVAL');
  assert.instance(thrown(() => swap.testRun({ repeat: -1 })), RangeError);
  assert.instance(thrown(() => swap.testRun({ data: 'x' as unknown as Uint8Array })), TypeError);
  assert.instance(thrown(() => swap.testRun({ dataSizeOut: 2 ** 40 })), RangeError);
  assert.match(thrown(() => swap.testRun({ reapeat: 1 } as object)).message, 'reapeat');
  object.close();
});

test('information: from libbpf before load, from the kernel after', () => {
  const object = BpfObject.open(path);
  const drop = object.program('drop');
  assert.is(drop.type, 'xdp');
  assert.is(drop.typeId, 6);
  assert.is(drop.section, 'xdp');
  assert.ok(drop.instructionCount > 2);
  assert.is(thrown<BpfError>(() => drop.id).code, 'ENODEV');
  object.load();
  const info = drop.info();
  assert.is(info.name, 'drop');
  assert.is(info.id, drop.id);
  assert.match(info.tag, /^[0-9a-f]{16}$/);
  assert.equal(info.mapIds, [object.map('used').id]);
  assert.is(info.gplCompatible, true);
  assert.ok(info.loadedAtNs > 0n);
  assert.ok(info.nativeBytes > 0);
  object.close();
});

test('a section that means nothing: the type is given by the caller', () => {
  const object = BpfObject.open(compile(`SEC("mystery") int strange(struct __sk_buff *skb) { return 4; }`));
  object.program('strange').setType('sched_cls');
  assert.is(object.program('strange').type, 'sched_cls');
  object.load();
  assert.is(object.program('strange').testRun({ data: new Uint8Array(14) }).retval, 4);
  assert.is(thrown<BpfError>(() => object.program('strange').setType('xdp')).code, 'EBUSY');
  object.close();
});

test('pin, open from the pin and by id', () => {
  const directory = bpfFileSystem();
  const object = loaded();
  const { id } = object.program('swap');
  object.program('swap').pin(`${directory}/swap`);
  object.close();
  const pinned = BpfProgram.fromPinned(`${directory}/swap`);
  const byId = BpfProgram.fromId(id);
  for (const program of [pinned, byId]) {
    assert.is(program.name, 'swap');
    assert.is(program.type, 'sched_cls');
    assert.is(program.id, id);
    assert.is(program.testRun({ data: new Uint8Array(64) }).retval, 64);
    assert.is(thrown<BpfError>(() => program.setAutoload(false)).code, 'EBUSY');
    assert.match(thrown(() => program.attach()).message, 'has lost its section');
  }
  pinned.unpin(`${directory}/swap`);
  pinned.close();
  byId.close();
  byId.close();
  assert.is(thrown<BpfError>(() => byId.testRun({ data: new Uint8Array(64) })).code, 'EBADF');
  assert.is(thrown<BpfError>(() => BpfProgram.fromId(id)).code, 'ENOENT');
});

test('freplace: a function of a loaded program is replaced while the link is held', () => {
  const object = loaded();
  const extension = BpfObject.open(compile(`SEC("freplace/helper") int other(int x) { return 1000 + x; }`));
  const target = object.program('callee');
  const run = (): number => target.testRun({ data: new Uint8Array(60) }).retval;
  assert.is(run(), 60);
  extension.program('other').setAttachTarget('helper', target);
  try {
    extension.load();
  } catch (error) {
    assertForbidden(error as BpfError, 'other');
    extension.close();
    object.close();
    return;
  }
  const link = extension.program('other').attach();
  assert.is(run(), 1060);
  link.close();
  assert.is(run(), 60);
  const again = extension.program('other').attachFreplace(target, 'helper');
  assert.is(run(), 1060);
  again.close();
  extension.close();
  object.close();
});

test.run();
