import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type BpfError, BpfMap, BpfObject, type BpfProgram, Btf, type BtfSection, type Link, probe } from 'libbpf-napi';
import { assertForbidden, asU64, compile, compileHost, mountTracefs, thrown, u32, u64, until } from './libbpf-support.js';

const path = compile(
  `
  __u64 hits; __u64 cookie; __u64 value; __u64 pid;
  static int hit(void *ctx) { hits++; cookie = bpf_get_attach_cookie(ctx); return 0; }
  static int mine(void) { return (bpf_get_current_pid_tgid() >> 32) == pid; }
  SEC("tp_btf/sched_switch") int BPF_PROG(at_tp_btf, bool preempt) { return hit(ctx); }
  SEC("fentry/__x64_sys_getpgid") int BPF_PROG(at_fentry, struct pt_regs *regs) { if (mine()) hit(ctx); return 0; }
  SEC("fexit/__x64_sys_getpgid") int BPF_PROG(at_fexit, struct pt_regs *regs, long ret) { if (mine()) { hit(ctx); value = ret; } return 0; }
  SEC("fentry") int BPF_PROG(no_target) { return 0; }
  SEC("raw_tp/sched_switch") int BPF_PROG(at_raw) { hits++; return 0; }
  SEC("raw_tp") int BPF_PROG(at_raw_named) { hits++; return 0; }
  SEC("tracepoint/sched/sched_switch") int at_tracepoint(void *ctx) { return hit(ctx); }
  SEC("kprobe/__x64_sys_getpgid") int at_kprobe(struct pt_regs *ctx) { return hit(ctx); }
  SEC("kprobe.multi/tcp_*") int at_kprobe_multi(struct pt_regs *ctx) { return hit(ctx); }
  SEC("ksyscall/getpgid") int at_ksyscall(struct pt_regs *ctx) { return hit(ctx); }
  SEC("uprobe") int at_uprobe(struct pt_regs *ctx) { value = PT_REGS_PARM1(ctx); return hit(ctx); }
  SEC("uretprobe") int at_uretprobe(struct pt_regs *ctx) { value = PT_REGS_RC(ctx); return hit(ctx); }
  SEC("uprobe.multi") int at_uprobe_multi(struct pt_regs *ctx) { return hit(ctx); }
  SEC("perf_event") int at_perf_event(void *ctx) { return hit(ctx); }
  SEC("iter/task") int at_iter_task(struct bpf_iter__task *ctx) {
    struct task_struct *task = ctx->task;
    if (task) BPF_SEQ_PRINTF(ctx->meta->seq, "%d\\n", task->pid);
    return 0;
  }
  SEC("iter/bpf_map_elem") int at_iter_map(struct bpf_iter__bpf_map_elem *ctx) {
    __u32 *key = ctx->key; __u64 *value = ctx->value;
    if (key && value) BPF_SEQ_PRINTF(ctx->meta->seq, "%u=%llu\\n", *key, *value);
    return 0;
  }
  SEC("lsm/file_open") int BPF_PROG(at_lsm, struct file *file) { if (mine()) hits++; return 0; }
  `,
  'trace',
);

/** Loads the one program under test: what another kernel lacks must not fail the rest. */
function loaded(name: string, before: (program: BpfProgram) => void = () => undefined): BpfObject {
  const object = BpfObject.open(path);
  for (const program of object.programs.values()) program.setAutoload(program.name === name);
  before(object.program(name));
  const bss = object.map('.bss');
  const initial = new Uint8Array(bss.valueSize);
  initial.set(u64(BigInt(process.pid)), offsetOf(object, 'pid'));
  bss.setInitialValue(initial);
  object.load();
  return object;
}

function offsetOf(object: BpfObject, name: string): number {
  const btf = Btf.fromObject(object);
  const section = btf.find('.bss', 'datasec') as BtfSection;
  const variable = section.variables.find(({ type }) => btf.type(type).name === name);
  if (variable === undefined) throw new Error(`there is no variable ${name}`);
  return variable.offset;
}

const read = (object: BpfObject, name: string): bigint =>
  asU64(object.map('.bss').mmap().subarray(offsetOf(object, name))) ?? -1n;

/** Attached, `act` raises the count; closed, it does not any more. */
async function counts(object: BpfObject, link: Link, act: () => unknown): Promise<void> {
  await act();
  await until(() => read(object, 'hits') > 0n);
  link.close();
  const after = read(object, 'hits');
  await act();
  assert.is(read(object, 'hits'), after);
}

const sleep = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 5));

test('tp_btf: by section', async () => {
  const object = loaded('at_tp_btf');
  const link = object.program('at_tp_btf').attach();
  assert.is(link.type, 'raw_tracepoint');
  assert.is(link.info().tracepoint, 'sched_switch');
  await counts(object, link, sleep);
  object.close();
});

test('tp_btf: with a cookie', async () => {
  const object = loaded('at_tp_btf');
  const link = object.program('at_tp_btf').attachTrace({ cookie: 0xabcdef0123n });
  await sleep();
  assert.is(read(object, 'cookie'), 0xabcdef0123n);
  await counts(object, link, sleep);
  object.close();
});

test('fentry and fexit: arguments and result; by a target named before load', () => {
  let object: BpfObject;
  try {
    object = loaded('at_fexit');
  } catch (error) {
    assertForbidden(error as BpfError, 'at_fexit');
    return;
  }
  const link = object.program('at_fexit').attach();
  assert.is(link.type, 'tracing');
  assert.is(link.info().attachType, 'trace_fexit');
  assert.ok((link.info().targetBtfId ?? 0) > 0);
  link.close();
  object.close();

  const renamed = loaded('no_target', (program) => program.setAttachTarget('__x64_sys_getpgid'));
  const other = renamed.program('no_target').attach();
  assert.is(other.info().attachType, 'trace_fentry');
  other.close();
  renamed.close();
});

test('fentry: a target that the kernel does not have, or none at all', () => {
  const absent = thrown<BpfError>(() => loaded('no_target', (program) => program.setAttachTarget('no_such_function_at_all')));
  assert.is(absent.operation, 'set the attach target of');
  assert.match(absent.message, 'no_such_function_at_all');
  const missing = thrown<BpfError>(() => loaded('no_target'));
  assert.match(missing.message, 'no_target');
});

test('raw tracepoint: by section, and by name', async () => {
  const object = loaded('at_raw');
  await counts(object, object.program('at_raw').attach(), sleep);
  object.close();
  const named = loaded('at_raw_named');
  await counts(named, named.program('at_raw_named').attachRawTracepoint('sched_wakeup', { cookie: 1 }), sleep);
  const error = thrown<BpfError>(() => named.program('at_raw_named').attachRawTracepoint('no_such_tracepoint'));
  assert.is(error.code, 'ENOENT');
  named.close();
});

test('tracepoint: by category and name, with a cookie', async () => {
  const object = loaded('at_tracepoint');
  if (!existsSync('/sys/kernel/tracing/events')) {
    assert.match(thrown(() => object.program('at_tracepoint').attach()).message, 'tracefs is not mounted');
    mountTracefs();
  }
  const link = object.program('at_tracepoint').attachTracepoint('sched', 'sched_switch', { cookie: 77n });
  assert.is(link.type, 'perf_event');
  await sleep();
  assert.is(read(object, 'cookie'), 77n);
  await counts(object, link, sleep);
  const error = thrown<BpfError>(() => object.program('at_tracepoint').attachTracepoint('sched', 'nonesuch'));
  assert.is(error.code, 'ENOENT');
  assert.match(error.message, "'sched/nonesuch'");
  object.close();
});

test('kprobe: attaches where the kernel has kprobes, else says what is missing', async () => {
  const there = probe.kernelConfig('CONFIG_KPROBES').answer === 'yes';
  const ways: [string, (program: BpfProgram) => Link][] = [
    ['at_kprobe', (program) => program.attach()],
    ['at_kprobe', (program) => program.attachKprobe('__x64_sys_getpgid', { cookie: 5 })],
    ['at_ksyscall', (program) => program.attachKsyscall('getpgid')],
    ['at_kprobe_multi', (program) => program.attachKprobeMulti(['tcp_v4_connect'])],
    ['at_kprobe_multi', (program) => program.attachKprobeMulti('tcp_v4_con*')],
  ];
  for (const [name, attach] of ways) {
    const object = loaded(name);
    if (there) {
      attach(object.program(name)).close();
    } else {
      const error = thrown<BpfError>(() => attach(object.program(name)));
      assert.is(error.operation, 'attach');
      assert.match(error.message, `program "${name}"`);
      assert.match(error.message, 'this kernel has no kprobes (CONFIG_KPROBES is not set)');
    }
    object.close();
  }
});

const traced = compileHost(
  `#include <stdlib.h>
   __attribute__((noinline)) int twice(int x) { __asm__ volatile(""); return 2 * x; }
   __attribute__((noinline)) int twice_more(int x) { __asm__ volatile(""); return 2 * x; }
   int main(int argc, char **argv) { return twice(atoi(argv[1])) + twice_more(1) == 0; }`,
  'traced',
);

test('uprobe and uretprobe: a function of a program, its argument and its result', async () => {
  for (const [name, onReturn, expected] of [['at_uprobe', false, 21n], ['at_uretprobe', true, 42n]] as const) {
    const object = loaded(name);
    const link = object.program(name).attachUprobe({ path: traced, function: 'twice', onReturn, cookie: 9n });
    assert.is(link.type, 'perf_event');
    execFileSync(traced, ['21']);
    assert.is(read(object, 'value') & 0xffffffffn, expected);
    assert.is(read(object, 'cookie'), 9n);
    await counts(object, link, () => execFileSync(traced, ['1']));
    object.close();
  }
  const object = loaded('at_uprobe');
  const program = object.program('at_uprobe');
  assert.is(thrown<BpfError>(() => program.attachUprobe({ path: traced, function: 'thrice' })).code, 'ENOENT');
  assert.is(thrown<BpfError>(() => program.attachUprobe({ path: '/no/such/file', function: 'f' })).code, 'ENOENT');
  assert.instance(thrown(() => program.attachUprobe({ path: traced, pid: -5 })), RangeError);
  // Only in one process: it is not the one that runs.
  const only = program.attachUprobe({ path: traced, function: 'twice', pid: 0 });
  execFileSync(traced, ['1']);
  assert.is(read(object, 'hits'), 0n);
  only.close();
  object.close();
});

test('uprobe.multi: many functions at once', async () => {
  for (const functions of ['twice*', ['twice', 'twice_more']]) {
    const object = loaded('at_uprobe_multi');
    const link = object.program('at_uprobe_multi').attachUprobeMulti(traced, functions);
    assert.is(link.type, 'uprobe_multi');
    execFileSync(traced, ['1']);
    assert.is(read(object, 'hits'), 2n);
    link.close();
    object.close();
  }
});

test('USDT: a static tracepoint; its link outlives the object', () => {
  const object = BpfObject.open(
    compile(`
      #include <bpf/usdt.bpf.h>
      __u64 hits, value;
      SEC("usdt") int at_usdt(struct pt_regs *ctx) { long x = 0; bpf_usdt_arg(ctx, 0, &x); hits++; value = x; return 0; }`),
  );
  object.load();
  // What <sys/sdt.h> makes of DTRACE_PROBE1(colopp, tick, x): a nop, and a note that names it.
  const program = compileHost(
    `#include <stdlib.h>
     int main(int argc, char **argv) {
       long x = atol(argv[1]);
       __asm__ volatile(
         "990: nop\\n"
         ".pushsection .note.stapsdt,\\"?\\",\\"note\\"\\n.balign 4\\n.4byte 992f-991f, 994f-993f, 3\\n"
         "991: .asciz \\"stapsdt\\"\\n992: .balign 4\\n993: .8byte 990b\\n.8byte _.stapsdt.base\\n.8byte 0\\n"
         ".asciz \\"colopp\\"\\n.asciz \\"tick\\"\\n.asciz \\"8@%%rax\\"\\n994: .balign 4\\n.popsection\\n"
         ".ifndef _.stapsdt.base\\n.pushsection .stapsdt.base,\\"aG\\",\\"progbits\\",.stapsdt.base,comdat\\n"
         ".weak _.stapsdt.base\\n.hidden _.stapsdt.base\\n_.stapsdt.base: .space 1\\n.size _.stapsdt.base, 1\\n.popsection\\n.endif\\n"
         :: "a"(x));
       return 0;
     }`,
    'usdt',
  );
  const bss = object.map('.bss').mmap();
  const link = object.program('at_usdt').attachUsdt(program, 'colopp', 'tick');
  execFileSync(program, ['1234']);
  assert.equal([asU64(bss, 0), asU64(bss, 1)].sort(), [1n, 1234n].sort());
  assert.instance(thrown(() => object.program('at_usdt').attachUsdt(program, 'colopp', 'tock')), Error);
  object.close(); // libbpf needs the object to detach: it must wait for the link
  execFileSync(program, ['1235']);
  assert.ok([asU64(bss, 0), asU64(bss, 1)].includes(1235n));
  link.close();
  execFileSync(program, ['1236']);
  assert.not.ok([asU64(bss, 0), asU64(bss, 1)].includes(1236n));
});

test('perf event: so many times a second, or every so many events', async () => {
  const object = loaded('at_perf_event');
  const spin = (): void => {
    for (const end = Date.now() + 50; Date.now() < end; );
  };
  const link = object.program('at_perf_event').attachPerfEvent({ sampleFrequency: 1000, pid: 0, cookie: 3n });
  assert.is(link.type, 'perf_event');
  spin();
  assert.is(read(object, 'cookie'), 3n);
  link.close();
  const after = read(object, 'hits');
  assert.ok(after > 5n, `${after} hits`);
  spin();
  assert.is(read(object, 'hits'), after);
  const faults = object.program('at_perf_event').attachPerfEvent({ config: 2, samplePeriod: 1, pid: 0 });
  Buffer.alloc(1 << 24, 1);
  assert.ok(read(object, 'hits') > after);
  faults.close();
  assert.instance(thrown(() => object.program('at_perf_event').attachPerfEvent({})), TypeError);
  assert.instance(thrown(() => object.program('at_perf_event').attachPerfEvent({ type: 4242, samplePeriod: 1, pid: 0 })), Error);
  object.close();
});

test('iterator: all tasks; all elements of a map', () => {
  const object = loaded('at_iter_task');
  const link = object.program('at_iter_task').attach();
  assert.is(link.type, 'iter');
  assert.is(link.info().target, 'task');
  const pids = Buffer.from(link.readIterator()).toString().trim().split('\n').map(Number);
  assert.ok(pids.includes(process.pid));
  assert.ok(pids.length > 10);
  assert.is(thrown<BpfError>(() => link.readIterator(10)).code, 'EMSGSIZE');
  link.close();
  object.close();

  using map = BpfMap.create({ type: 'hash', keySize: 4, valueSize: 8, maxEntries: 4 });
  map.update(u32(5), u64(50n));
  const overMap = loaded('at_iter_map');
  const mapLink = overMap.program('at_iter_map').attachIter(map);
  assert.is(Buffer.from(mapLink.readIterator()).toString(), '5=50\n');
  assert.is(mapLink.info().target, 'bpf_map_elem');
  mapLink.close();
  assert.instance(thrown(() => overMap.program('at_iter_map').attachIter()), Error);
  overMap.close();
});

test('lsm: sees files being opened', async () => {
  let object: BpfObject;
  try {
    object = loaded('at_lsm');
  } catch (error) {
    assertForbidden(error as BpfError, 'at_lsm');
    return;
  }
  const link = object.program('at_lsm').attach();
  assert.is(link.type, 'tracing');
  await counts(object, link, () => readFileSync('/proc/self/status'));
  object.close();
});

test('struct_ops: a congestion control of our own, used, replaced, gone', async () => {
  const source = (name: string): string => `
    __u64 sent;
    SEC("struct_ops") __u32 BPF_PROG(ssthresh, struct sock *sk) { return 10; }
    SEC("struct_ops") void BPF_PROG(avoid, struct sock *sk, __u32 ack, __u32 acked) { sent++; }
    SEC("struct_ops") __u32 BPF_PROG(undo, struct sock *sk) { return 10; }
    SEC(".struct_ops.link") struct tcp_congestion_ops ${name} = {
      .ssthresh = (void *)ssthresh, .cong_avoid = (void *)avoid, .undo_cwnd = (void *)undo, .name = "${name}" };`;
  const available = (): string => readFileSync('/proc/sys/net/ipv4/tcp_available_congestion_control', 'utf8');
  const object = BpfObject.open(compile(source('colopp_cc'), 'struct_ops'));
  assert.is(object.map('colopp_cc').type, 'struct_ops');
  object.load();
  const link = object.map('colopp_cc').attachStructOps();
  assert.is(link.type, 'struct_ops');
  assert.match(available(), 'colopp_cc');

  const again = BpfObject.open(compile(source('colopp_cc'), 'struct_ops_too'));
  again.load();
  link.update(again.map('colopp_cc'));
  assert.is(link.info().mapId, again.map('colopp_cc').id);
  again.close();
  object.close();
  assert.match(available(), 'colopp_cc');
  link.close();
  assert.not.match(available(), 'colopp_cc');
});

test.run();
