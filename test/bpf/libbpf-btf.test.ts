import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  type BpfError,
  BpfObject,
  Btf,
  type BtfArray,
  type BtfComposite,
  type BtfEnum,
  type BtfFunction,
  type BtfInt,
  type BtfPrototype,
  type BtfReference,
  type BtfSection,
  type BtfVariable,
} from 'libbpf-napi';
import { compile, compileHost, scratch, thrown } from './libbpf-support.js';

const path = compile(
  `
  enum small { LESS = -5, MORE = 7 };
  enum wide { HUGE = 0xffffffffffffffff, MIDDLE = 1ull << 40 };
  enum signed_wide { LOW = -(1ll << 40) };
  struct inner { __u8 a; __s64 b; };
  struct packed { __u8 a; __u32 b; } __attribute__((packed));
  struct undefined_thing;
  union either { __u32 number; char text[8]; };
  typedef __u32 colopp_id_t;
  struct record {
    __u32 first : 3; __u32 second : 13;
    struct inner inner;
    struct { __u16 x; union { __u16 y; __u8 z[2]; }; };
    union either either;
    const volatile colopp_id_t *pointer;
    enum small small; enum wide wide; enum signed_wide signed_wide;
    _Bool flag; char name[16]; double real; __int128 big;
    struct undefined_thing *hidden;
    __u8 matrix[3][4];
    struct packed packed;
    int (*callback)(const char *format, ...);
  } __attribute__((btf_decl_tag("colopp_event")));
  struct tagged { __u64 at __attribute__((btf_decl_tag("ns"))); };
  struct record global; struct tagged tagged; __u32 counter;
  __noinline int helper(int left, struct record *right) { return left + counter; }
  SEC("tc") int use(struct __sk_buff *ctx) { global.first = 1; tagged.at++; return helper(ctx->len, &global); }
  `,
  'btf',
);
const object = BpfObject.open(path);
const btf = Btf.fromObject(object);
const record = btf.find('record', 'struct') as BtfComposite;
const member = (name: string): { type: number; bitOffset: number; bitSize: number } => {
  const found = record.members.find((entry) => entry.name === name);
  if (found === undefined) throw new Error(`no member ${name}`);
  return found;
};

test('members: offsets, bitfields, anonymous ones', () => {
  assert.equal([member('first').bitOffset, member('first').bitSize], [0, 3]);
  assert.equal([member('second').bitOffset, member('second').bitSize], [3, 13]);
  assert.equal([member('inner').bitOffset, member('inner').bitSize], [64, 0]);
  const anonymous = record.members.filter((entry) => entry.name === '');
  assert.is(anonymous.length, 1);
  const struct = btf.type(anonymous[0]?.type ?? 0) as BtfComposite;
  assert.is(struct.kind, 'struct');
  assert.is(struct.name, '');
  assert.equal(struct.members.map(({ name }) => name), ['x', '']);
});

test('integers, booleans, characters, floats', () => {
  const big = btf.resolve(member('big').type) as BtfInt;
  assert.equal([big.kind, big.size, big.bits, big.signed], ['int', 16, 128, true]);
  const flag = btf.resolve(member('flag').type) as BtfInt;
  assert.equal([flag.size, flag.bool], [1, true]);
  assert.equal(btf.resolve(member('real').type).kind, 'float');
  const inner = btf.find('inner', 'struct') as BtfComposite;
  assert.is((btf.resolve(inner.members[1]?.type ?? 0) as BtfInt).signed, true);
  assert.is((btf.resolve(inner.members[0]?.type ?? 0) as BtfInt).signed, false);
});

test('enums: values as bigint, signed and unsigned, of 32 and 64 bits', () => {
  const small = btf.find('small') as BtfEnum;
  assert.equal([small.kind, small.size, small.signed], ['enum', 4, true]);
  assert.equal(small.values, [{ name: 'LESS', value: -5n }, { name: 'MORE', value: 7n }]);
  const wide = btf.find('wide') as BtfEnum;
  assert.equal([wide.kind, wide.size, wide.signed], ['enum64', 8, false]);
  assert.equal(wide.values.map(({ value }) => value), [0xffff_ffff_ffff_ffffn, 1n << 40n]);
  const signed = btf.find('signed_wide') as BtfEnum;
  assert.equal(signed.values, [{ name: 'LOW', value: -(1n << 40n) }]);
});

test('arrays, pointers, qualifiers, typedefs, unions', () => {
  const matrix = btf.resolve(member('matrix').type) as BtfArray;
  assert.is(matrix.length, 3);
  assert.is((btf.resolve(matrix.elementType) as BtfArray).length, 4);
  assert.is(btf.sizeOf(matrix.id), 12);
  const chain: string[] = [];
  let type = btf.type(member('pointer').type);
  for (; 'type' in type; type = btf.type(type.type)) chain.push(type.kind);
  assert.equal(chain, ['ptr', 'const', 'volatile', 'typedef', 'typedef']);
  assert.is(btf.sizeOf(member('pointer').type), 8);
  const either = btf.resolve(member('either').type) as BtfComposite;
  assert.equal([either.kind, either.size, either.members.length], ['union', 8, 2]);
  assert.is((btf.find('packed') as BtfComposite).size, 5);
});

test('forward declarations and function pointers', () => {
  const hidden = btf.resolve(member('hidden').type) as BtfReference;
  const target = btf.type(hidden.type);
  assert.equal([target.kind, target.name], ['fwd', 'undefined_thing']);
  assert.is(btf.sizeOf(target.id), undefined);
  const callback = btf.type((btf.resolve(member('callback').type) as BtfReference).type) as BtfPrototype;
  assert.is(callback.parameters.length, 2);
  assert.equal(callback.parameters[1], { name: '', type: 0 });
});

test('functions: linkage and parameters', () => {
  const helper = btf.find('helper', 'func') as BtfFunction;
  assert.is(helper.linkage, 'global');
  const prototype = btf.type(helper.type) as BtfPrototype;
  assert.equal(prototype.parameters.map(({ name }) => name), ['left', 'right']);
  assert.is(btf.type(prototype.returnType).name, 'int');
});

test('data sections: sizes and offsets are filled in', () => {
  const bss = btf.find('.bss', 'datasec') as BtfSection;
  assert.is(bss.size, object.map('.bss').valueSize);
  const variables = bss.variables.map((entry) => ({ ...entry, variable: btf.type(entry.type) as BtfVariable }));
  assert.equal(variables.map(({ variable }) => variable.name).sort(), ['counter', 'global', 'tagged']);
  for (const { offset, size, variable } of variables) {
    assert.is(variable.linkage, 'global');
    assert.is(size, btf.sizeOf(variable.id));
    assert.ok(offset + size <= bss.size);
  }
});

test('declaration tags on types and members', () => {
  assert.equal(btf.declTags(record.id).map(({ name, component }) => [name, component]), [['colopp_event', -1]]);
  const tagged = btf.find('tagged', 'struct') as BtfComposite;
  assert.equal(btf.declTags(tagged.id).map(({ name, component }) => [name, component]), [['ns', 0]]);
  assert.equal(btf.declTags(1), []);
});

test('walk: every type once, by id', () => {
  let id = 1;
  for (const type of btf.types()) {
    assert.is(type.id, id++);
    assert.is(btf.type(type.id), type);
  }
  assert.is(id, btf.typeCount);
  assert.equal(btf.type(0), { id: 0, kind: 'void', name: '' });
  assert.instance(thrown(() => btf.type(btf.typeCount)), RangeError);
  assert.is(btf.find('no such type'), undefined);
  assert.is(btf.find('record', 'union'), undefined);
});

test('a file, raw BTF in memory, and the object agree', () => {
  const fromFile = Btf.load(path);
  const fromMemory = Btf.load(fromFile.bytes());
  assert.is(fromMemory.typeCount, fromFile.typeCount);
  assert.equal((fromMemory.find('record') as BtfComposite).members, (fromFile.find('record') as BtfComposite).members);
});

const kernel = Btf.load('/sys/kernel/btf/vmlinux');

test("the kernel's own: walked whole, and found by name", () => {
  const task = kernel.find('task_struct', 'struct') as BtfComposite;
  assert.ok(task.size > 1000);
  assert.ok(task.members.some(({ name }) => name === 'pid'));
  const mapTypes = kernel.find('bpf_map_type', 'enum') as BtfEnum;
  assert.is(mapTypes.values.find(({ name }) => name === 'BPF_MAP_TYPE_RINGBUF')?.value, 27n);
  let structs = 0;
  for (const type of kernel.types()) if (type.kind === 'struct') structs++;
  assert.ok(structs > 1000);
});

test('dumpC: compiles, for BPF with CO-RE and as ordinary C with the same sizes', () => {
  const header = kernel.dumpC();
  writeFileSync(join(scratch, 'vmlinux.h'), header);
  assert.match(header, 'preserve_access_index');
  const names = ['task_struct', 'sk_buff', 'net_device', 'tcp_sock', 'bpf_map'];
  const sizes = names.map((name) => (kernel.find(name, 'struct') as BtfComposite).size);
  const program = compileHost(
    `#define BPF_NO_PRESERVE_ACCESS_INDEX
     #include "vmlinux.h"
     int printf(const char *, ...);
     int main(void) { printf("${names.map(() => '%lu').join(' ')}\\n", ${names.map((name) => `sizeof(struct ${name})`).join(', ')}); return 0; }`,
    'sizes',
    '-w',
  );
  assert.equal(execFileSync(program, { encoding: 'utf8' }).trim().split(' ').map(Number), sizes);
  assert.match(btf.dumpC(), 'struct record {');
});

test('what is no BTF is refused; forged BTF never crashes', () => {
  assert.instance(thrown(() => Btf.load('/no/such/file')), Error);
  assert.is(thrown<BpfError>(() => Btf.load('/no/such/file')).code, 'ENOENT');
  assert.instance(thrown(() => Btf.load(new Uint8Array(10))), Error);
  assert.instance(thrown(() => Btf.load(7 as unknown as string)), TypeError);
  const raw = btf.bytes();
  let refused = 0;
  for (let at = 0; at < raw.length; at += 7) {
    const forged = raw.slice();
    forged[at] = (forged[at] ?? 0) ^ 0xff;
    try {
      const loaded = Btf.load(forged);
      for (const type of loaded.types()) loaded.sizeOf(type.id);
    } catch (error) {
      assert.instance(error, Error);
      refused++;
    }
  }
  assert.ok(refused > 10);
});

test('an object without BTF says what to do', () => {
  const source = join(scratch, 'plain.c');
  writeFileSync(source, '__attribute__((section("tc"))) int plain(void *ctx) { return 0; }');
  execFileSync('clang-19', ['-target', 'bpf', '-O2', '-c', source, '-o', join(scratch, 'plain.o')]);
  const plain = BpfObject.open(join(scratch, 'plain.o'));
  const error = thrown<BpfError>(() => Btf.fromObject(plain));
  assert.is(error.code, 'ENODATA');
  assert.match(error.message, 'compile it with -g');
  assert.match(thrown(() => Btf.load(join(scratch, 'plain.o'))).message, 'compile with -g');
  plain.close();
  assert.ok(readFileSync(source).length > 0);
});

test.after(() => object.close());
test.run();
