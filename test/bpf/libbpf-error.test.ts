import { execFileSync } from 'node:child_process';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { BpfError, BpfMap, BpfObject } from 'libbpf-napi';
import { compile, thrown } from './libbpf-support.js';

const map = `struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 4); __type(key, __u32); __type(value, __u64); } things SEC(".maps");
  struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 4096); } ring SEC(".maps");`;

/** What loading this program's C throws. */
function refusal(body: string, section = 'tc', argument = 'struct __sk_buff *ctx'): BpfError {
  const object = BpfObject.open(compile(`${map} SEC("${section}") int wrong(${argument}) { ${body} }`));
  try {
    return thrown<BpfError>(() => object.load());
  } finally {
    object.close();
  }
}

const cases: [what: string, body: string, says: string][] = [
  [
    'a map value that may be absent',
    `__u32 key = 1; __u64 *value = bpf_map_lookup_elem(&things, &key); return *value;`,
    "invalid mem access 'map_value_or_null'",
  ],
  [
    'a packet read without a check',
    `return *(__u32 *)(long)ctx->data;`,
    'invalid access to packet',
  ],
  [
    'a record that is never submitted',
    `void *record = bpf_ringbuf_reserve(&ring, 8, 0); return record != 0;`,
    'Unreleased reference',
  ],
  [
    'a read past the context',
    `return *(__u32 *)((char *)ctx + 4000);`,
    'invalid bpf_context access',
  ],
  [
    'a loop without an end',
    `volatile int x = ctx->len; while (x < 1000000) x += ctx->mark & 1; return x;`,
    'infinite loop detected',
  ],
];

for (const [what, body, says] of cases) {
  test(`the verifier refuses ${what}: the excerpt says so, the log is whole`, () => {
    const error = refusal(body);
    assert.instance(error, BpfError);
    assert.is(error.name, 'BpfError');
    assert.is(error.operation, 'load');
    assert.ok(error.errno > 0);
    const lines = error.message.split('\n');
    assert.match(lines[0] ?? '', /^cannot load BPF object "test\d+": the kernel's verifier refused program "wrong" \(E\w+\):$/);
    assert.match(error.message, says);
    assert.ok(lines.length <= 10, error.message);
    assert.not.match(error.message, 'processed');
    assert.match(error.log ?? '', says);
    assert.match(error.log ?? '', /^processed \d+ insns/m);
    assert.match(error.log ?? '', /^0: \(/m);
  });
}

test('a verifier log larger than any first buffer arrives whole', () => {
  // The log has at least a line per instruction walked.
  const body = `
    __u32 key = 1;
    volatile __u32 sum = 0;
    ${'sum ^= bpf_get_prandom_u32();'.repeat(1200)}
    __u64 *value = bpf_map_lookup_elem(&things, &key);
    return *value + sum;`;
  const error = refusal(body);
  const log = error.log ?? '';
  assert.ok(log.length > 128 * 1024, `${log.length} bytes`);
  assert.match(log.slice(0, 200), '0: (');
  assert.match(log.slice(-400), 'processed');
  assert.match(error.message, "invalid mem access 'map_value_or_null'");
});

test('a CO-RE relocation that does not resolve is explained', () => {
  const object = BpfObject.open(
    compile(`
      struct task_struct___none { int no_such_field_at_all; } __attribute__((preserve_access_index));
      SEC("raw_tp/sched_switch") int wrong(void *ctx) {
        struct task_struct___none *task = (void *)bpf_get_current_task();
        return BPF_CORE_READ(task, no_such_field_at_all);
      }`),
  );
  const error = thrown<BpfError>(() => object.load());
  assert.match(error.message, 'no_such_field_at_all');
  object.close();
});

test('one program of many is refused: the log is that of the one', () => {
  const object = BpfObject.open(
    compile(`${map}
      SEC("tc") int fine(struct __sk_buff *ctx) { return 1; }
      SEC("tc") int broken(struct __sk_buff *ctx) { __u32 key = 1; __u64 *value = bpf_map_lookup_elem(&things, &key); return *value; }
      SEC("tc") int later(struct __sk_buff *ctx) { return 2; }`),
    { logLevel: 1 },
  );
  const error = thrown<BpfError>(() => object.load());
  assert.match(error.message, 'refused program "broken"');
  // A failed load leaves nothing behind, and may not be repeated by accident.
  assert.is(object.loaded, false);
  object.close();
});

test('errors of ordinary operations: a sentence, a stable code, a stack that begins at the caller', () => {
  const error = thrown<BpfError>(() => BpfMap.fromPinned('/no/such/pin'));
  assert.is(error.message, 'cannot open pinned map "/no/such/pin": no such file or directory (ENOENT)');
  assert.is(error.code, 'ENOENT');
  assert.is(error.errno, 2);
  assert.is(error.operation, 'open');
  assert.is(error.log, undefined);
  assert.match(error.stack ?? '', 'libbpf-error.test');
  assert.not.match(error.stack?.split('\n')[1] ?? '', 'error.js');
});

test("libbpf's own error numbers have names", () => {
  const error = thrown<BpfError>(() => BpfObject.open(Buffer.from('no ELF at all, but long enough to be looked at as one')));
  assert.is(error.code, 'LIBBPF_ERRNO__FORMAT');
  assert.is(error.errno, 4001);
});

// The wording of kernels that are not here. What is under test is pure, and not exported by the package.
const { excerpt, verifierLogs } = (await import(
  new URL('../../../addon/libbpf-napi/dist/verifier-log.js', import.meta.url).href
)) as { excerpt(log: string): string; verifierLogs(output: string): { program?: string; text: string }[] };

const statistics = 'processed 9 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0';
const recorded: [kernel: string, log: string[], expected: string[]][] = [
  [
    '5.10: register states on lines of their own',
    [
      '; __u64 *value = bpf_map_lookup_elem(&things, &key);',
      '7: (85) call bpf_map_lookup_elem#1',
      ' R0_w=map_value_or_null(id=1,off=0,ks=4,vs=8,imm=0) R10=fp0 fp-8=mmmm????',
      '; return *value;',
      '8: (79) r0 = *(u64 *)(r0 +0)',
      "R0 invalid mem access 'map_value_or_null'",
      statistics,
    ],
    ['; return *value;', '8: (79) r0 = *(u64 *)(r0 +0)', "R0 invalid mem access 'map_value_or_null'"],
  ],
  [
    '6.8: states behind the instruction, statistics with times',
    [
      '0: R1=ctx() R10=fp0',
      '; return *(__u32 *)(long)ctx->data; @ test.bpf.c:9',
      '0: (61) r1 = *(u32 *)(r1 +76)         ; R1_w=pkt(r=0)',
      '1: (61) r0 = *(u32 *)(r1 +0)',
      'invalid access to packet, off=0 size=4, R1(id=0,off=0,r=0)',
      'R1 offset is outside of the packet',
      'verification time 41 usec',
      'stack depth 0+0',
      statistics,
    ],
    [
      '; return *(__u32 *)(long)ctx->data; @ test.bpf.c:9',
      '1: (61) r0 = *(u32 *)(r1 +0)',
      'invalid access to packet, off=0 size=4, R1(id=0,off=0,r=0)',
      'R1 offset is outside of the packet',
    ],
  ],
  [
    'a program that is too large',
    ['; x += 1;', '12: (07) r1 += 1', 'BPF program is too large. Processed 1000001 insn', statistics],
    ['; x += 1;', '12: (07) r1 += 1', 'BPF program is too large. Processed 1000001 insn'],
  ],
  ['a refusal before the first instruction', ['unrecognized bpf_ld_imm64 insn', statistics], ['unrecognized bpf_ld_imm64 insn']],
  ['nothing but statistics', [statistics], [statistics]],
];
for (const [kernel, log, expected] of recorded) {
  test(`excerpt of a recorded log: ${kernel}`, () => {
    assert.equal(excerpt(log.join('\n')).split('\n').map((line) => line.trim()), expected);
  });
}

test('the logs of several programs are kept apart', () => {
  const output = [
    "libbpf: prog 'one': -- BEGIN PROG LOAD LOG --",
    'first',
    '-- END PROG LOAD LOG --',
    "libbpf: prog 'two': BPF program load failed: Permission denied",
    "libbpf: prog 'two': -- BEGIN PROG LOAD LOG --",
    'second',
    'third',
    '-- END PROG LOAD LOG --',
  ].join('\n');
  assert.equal(verifierLogs(output), [{ program: 'one', text: 'first' }, { program: 'two', text: 'second\nthird' }]);
});

test('rights that are missing are named', () => {
  // Without privileges in a child: the parent's stay.
  const child = `
    import { BpfObject, BpfMap } from 'libbpf-napi';
    process.setgid(65534); process.setuid(65534);
    try { BpfMap.create({ type: 'hash', keySize: 4, valueSize: 4, maxEntries: 1 }); }
    catch (error) { console.log(error.code + ' ' + error.message); }`;
  const text = execFileSync(process.execPath, ['--input-type=module', '-e', child], {
    encoding: 'utf8',
    cwd: import.meta.dirname,
  });
  assert.match(text, 'EPERM cannot create map "": operation not permitted (EPERM); run as root, or with CAP_BPF');
});

test.run();
