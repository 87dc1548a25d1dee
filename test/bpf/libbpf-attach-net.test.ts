import { createSocket } from 'node:dgram';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type BpfError, BpfObject, BpfProgram, ifIndex, Link } from 'libbpf-napi';
import { asU64, bpfFileSystem, collectGarbage, compile, controlGroup, removeDevice, thrown, until, vethPair, type VethPair } from './libbpf-support.js';

const path = compile(
  `
  __u64 first_runs, second_runs, xdp_runs, cgroup_runs, netfilter_runs, lookup_runs;
  SEC("tcx/ingress") int first(struct __sk_buff *skb) { __sync_fetch_and_add(&first_runs, 1); return -1; }
  SEC("tcx/ingress") int second(struct __sk_buff *skb) { __sync_fetch_and_add(&second_runs, 1); return -1; }
  SEC("tcx/egress") int out(struct __sk_buff *skb) { return -1; }
  SEC("xdp") int at_xdp(struct xdp_md *ctx) { __sync_fetch_and_add(&xdp_runs, 1); return XDP_PASS; }
  SEC("xdp") int at_xdp_too(struct xdp_md *ctx) { return XDP_PASS; }
  SEC("cgroup_skb/egress") int at_cgroup(struct __sk_buff *skb) { __sync_fetch_and_add(&cgroup_runs, 1); return 1; }
  SEC("cgroup/connect4") int no_connect(struct bpf_sock_addr *ctx) { return 0; }
  SEC("netfilter") int at_netfilter(struct bpf_nf_ctx *ctx) { __sync_fetch_and_add(&netfilter_runs, 1); return 1; }
  SEC("sk_lookup") int at_lookup(struct bpf_sk_lookup *ctx) { __sync_fetch_and_add(&lookup_runs, 1); return SK_PASS; }
  `,
  'net',
);
const counters = ['first', 'second', 'xdp', 'cgroup', 'netfilter', 'lookup'] as const;

const object = BpfObject.open(path);
object.load();
const memory = object.map('.bss').mmap();
const runs = (which: (typeof counters)[number]): bigint => asU64(memory, counters.indexOf(which)) ?? -1n;

/** Sends a broadcast frame out of one end of the pair, so that it comes in at the other. */
async function sendThrough(pair: VethPair): Promise<void> {
  const socket = createSocket('udp4');
  socket.bind(0);
  await once(socket, 'listening');
  socket.setBroadcast(true);
  socket.send('hello', 9, '255.255.255.255');
  await new Promise((resolve) => setTimeout(resolve, 20));
  socket.close();
  assert.ok(pair);
}

/** Routes broadcasts into `pair`, with an address to send from. */
function route(pair: VethPair, network: string): void {
  execFileSync('ip', ['addr', 'add', `${network}.1/24`, 'dev', pair.peer]);
  execFileSync('ip', ['route', 'replace', '255.255.255.255/32', 'dev', pair.peer]);
}

const pair = vethPair();
route(pair, '198.51.100');
const onPair = { ifname: pair.name, direction: 'ingress' } as const;
const names = (): (string | undefined)[] => BpfProgram.queryTcx(onPair).map((entry) => entry.name);

test('ifIndex: an interface by name', () => {
  assert.is(ifIndex('lo'), 1);
  const error = thrown<BpfError>(() => ifIndex('nonesuch'));
  assert.is(error.code, 'ENODEV');
  assert.match(error.message, 'interface "nonesuch"');
});

test('tcx: runs while the link is held', async () => {
  const link = object.program('first').attachTcx(onPair);
  assert.is(link.type, 'tcx');
  assert.is(link.info().ifindex, pair.ifindex);
  assert.is(link.info().attachType, 'tcx_ingress');
  assert.is(link.info().programId, object.program('first').id);
  assert.equal(names(), ['first']);
  const before = runs('first');
  await sendThrough(pair);
  await until(() => runs('first') > before);
  link.close();
  link.close();
  assert.equal(names(), []);
  const after = runs('first');
  await sendThrough(pair);
  assert.is(runs('first'), after);
  assert.is(thrown<BpfError>(() => link.info()).code, 'EBADF');
});

test('tcx: before and after a program, a link, everything', () => {
  const first = object.program('first');
  const second = object.program('second');
  const out = object.program('out');
  const one = first.attachTcx(onPair);
  const two = second.attachTcx({ ...onPair, before: first });
  assert.equal(names(), ['second', 'first']);
  const three = out.attachTcx({ ...onPair, after: two });
  assert.equal(names(), ['second', 'out', 'first']);
  three.close();
  const four = out.attachTcx({ ...onPair, before: 'all' });
  assert.equal(names(), ['out', 'second', 'first']);
  four.close();
  const five = out.attachTcx({ ...onPair, after: second.id });
  assert.equal(names(), ['second', 'out', 'first']);
  for (const link of [one, two, five]) link.close();
  assert.instance(thrown(() => first.attachTcx({ ...onPair, before: 'all', after: 'all' })), TypeError);
  assert.is(thrown<BpfError>(() => first.attachTcx({ ...onPair, before: second })).code, 'ENOENT');
});

test('tcx: a link is updated in place', () => {
  const link = object.program('first').attachTcx(onPair);
  link.update(object.program('second'));
  assert.equal(names(), ['second']);
  assert.is(link.info().programId, object.program('second').id);
  assert.instance(thrown(() => link.update({})), TypeError);
  link.close();
});

test('tcx: an object that is closed leaves its links attached', async () => {
  const other = BpfObject.open(path);
  other.load();
  const counter = other.map('.bss').mmap();
  const link = other.program('second').attachTcx(onPair);
  other.close();
  assert.equal(names(), ['second']);
  await sendThrough(pair);
  await until(() => (asU64(counter, 1) ?? 0n) > 0n);
  link.close();
});

test('tcx: garbage collection detaches nothing, not even what nobody refers to any more', async () => {
  (() => {
    const other = BpfObject.open(path);
    other.load();
    other.program('second').attachTcx(onPair);
  })();
  await collectGarbage();
  assert.equal(names(), ['second']);
  const [entry] = BpfProgram.queryTcx(onPair);
  Link.fromId(entry?.linkId ?? 0).detach();
  assert.equal(names(), []);
});

test('tcx: detach ends a pinned link for everybody', () => {
  const directory = bpfFileSystem();
  const link = object.program('first').attachTcx(onPair);
  link.pin(`${directory}/link`);
  const { id } = link;
  link.close();
  assert.equal(names(), ['first']); // the pin holds it
  const pinned = Link.fromPinned(`${directory}/link`);
  assert.is(pinned.id, id);
  const byId = Link.fromId(id);
  byId.detach();
  assert.is(byId.closed, true);
  assert.is(thrown<BpfError>(() => byId.detach()).code, 'EBADF');
  assert.equal(names(), []);
  pinned.close();
  execFileSync('rm', [`${directory}/link`]);
  assert.match(thrown(() => Link.fromPinned(directory)).message, 'cannot open pinned link');
});

test('tcx without a link: stays with the device; replaced and detached by id or handle', () => {
  const first = object.program('first');
  const second = object.program('second');
  first.attachTcxDetached(onPair);
  const [entry] = BpfProgram.queryTcx({ ifindex: pair.ifindex, direction: 'ingress' });
  assert.equal(entry, { progId: first.id, name: 'first' });
  assert.is(thrown<BpfError>(() => first.attachTcxDetached(onPair)).code, 'EEXIST');
  second.attachTcxDetached({ ...onPair, replace: first });
  assert.equal(names(), ['second']);
  first.attachTcxDetached({ ...onPair, before: 'all' });
  assert.equal(names(), ['first', 'second']);
  BpfProgram.detachTcx({ ...onPair, program: first.id });
  BpfProgram.detachTcx({ ...onPair, program: second });
  assert.equal(names(), []);
  assert.is(thrown<BpfError>(() => BpfProgram.detachTcx({ ...onPair, program: first })).code, 'ENOENT');
  assert.match(thrown(() => BpfProgram.detachTcx({ ...onPair, program: 0x7ffffff })).message, 'there is no program of this id');
});

test('tcx: what is attached without a link survives the process and ends with the device', () => {
  const gone = vethPair();
  const child = `
    import { BpfObject } from 'libbpf-napi';
    const object = BpfObject.open(${JSON.stringify(path)});
    object.load();
    object.program('first').attachTcxDetached({ ifindex: ${gone.ifindex}, direction: 'egress' });
    object.program('second').attachTcx({ ifindex: ${gone.ifindex}, direction: 'egress' });
    console.log(object.program('first').id);
  `;
  const id = Number(execFileSync(process.execPath, ['--input-type=module', '-e', child], { encoding: 'utf8', cwd: import.meta.dirname ?? process.cwd() }));
  const left = BpfProgram.queryTcx({ ifindex: gone.ifindex, direction: 'egress' });
  assert.equal(left, [{ progId: id, name: 'first' }]);
  removeDevice(gone.name);
  assert.is(thrown<BpfError>(() => BpfProgram.queryTcx({ ifindex: gone.ifindex, direction: 'egress' })).code, 'ENODEV');
});

test('clsact: the fallback for kernels without tcx', async () => {
  const link = object.program('first').attachTcx({ ...onPair, via: 'clsact' });
  const info = link.info();
  assert.is(link.type, 'clsact');
  assert.is(info.direction, 'ingress');
  assert.is(info.programId, object.program('first').id);
  const before = runs('first');
  await sendThrough(pair);
  await until(() => runs('first') > before);
  link.update(object.program('second'));
  assert.is(link.info().programId, object.program('second').id);
  const egress = object.program('out').attachTcx({ ifname: pair.name, direction: 'egress', via: 'clsact', priority: 7 });
  assert.is(egress.info().priority, 7);
  assert.match(thrown(() => link.pin('/sys/fs/bpf/x')).message, 'has no kernel link');
  assert.match(thrown(() => object.program('out').attachTcx({ ...onPair, via: 'clsact', before: 'all' })).message, 'priorities');
  link.close();
  egress.detach();
  assert.not.match(execFileSync('tc', ['filter', 'show', 'dev', pair.name, 'ingress'], { encoding: 'utf8' }), 'bpf');
  assert.not.match(execFileSync('tc', ['filter', 'show', 'dev', pair.name, 'egress'], { encoding: 'utf8' }), 'bpf');
});

test('clsact without a link: stays, is replaced in place, by priority', async () => {
  const filters = (): string => execFileSync('tc', ['filter', 'show', 'dev', pair.name, 'ingress'], { encoding: 'utf8' });
  object.program('first').attachClsactDetached({ ...onPair, priority: 3 });
  object.program('second').attachClsactDetached({ ...onPair, priority: 2 });
  assert.match(filters(), /pref 2 bpf[^]*second[^]*pref 3 bpf[^]*first/);
  object.program('second').attachClsactDetached({ ...onPair, priority: 3 });
  assert.not.match(filters(), 'first');
  assert.is(filters().match(/handle 0x1 /g)?.length, 2);
  const before = runs('second');
  await sendThrough(pair);
  await until(() => runs('second') > before);
  assert.instance(thrown(() => object.program('first').attachClsactDetached({ ...onPair, priority: 0 })), Error);
  execFileSync('tc', ['qdisc', 'del', 'dev', pair.name, 'clsact']);
});

test('clsact: a link whose device has gone closes without a word', () => {
  const gone = vethPair();
  const link = object.program('first').attachTcx({ ifname: gone.name, direction: 'ingress', via: 'clsact' });
  removeDevice(gone.name);
  assert.instance(thrown(() => link.info()), Error);
  link.close();
  assert.is(link.closed, true);
});

test('xdp: runs, is updated, is there once', async () => {
  const link = object.program('at_xdp').attachXdp({ ifname: pair.name, mode: 'generic' });
  assert.is(link.type, 'xdp');
  assert.is(link.info().ifindex, pair.ifindex);
  const before = runs('xdp');
  await sendThrough(pair);
  await until(() => runs('xdp') > before);
  link.update(object.program('at_xdp_too'));
  assert.is(thrown<BpfError>(() => object.program('at_xdp').attachXdp({ ifname: pair.name, mode: 'generic' })).code, 'EBUSY');
  link.close();
  const driver = object.program('at_xdp').attachXdp({ ifindex: pair.ifindex, mode: 'driver' });
  driver.detach();
  assert.instance(thrown(() => object.program('at_xdp').attachXdp({ ifname: 'lo', mode: 'fast' as 'auto' })), TypeError);
  assert.instance(thrown(() => object.program('at_xdp').attachXdp({})), TypeError);
});

test('a program of the wrong type for the place', () => {
  assert.is(thrown<BpfError>(() => object.program('first').attachXdp({ ifname: pair.name })).code, 'EINVAL');
  const error = thrown<BpfError>(() => object.program('first').attach());
  assert.is(error.code, 'EOPNOTSUPP');
  assert.match(error.message, 'does not say where to attach it');
});

test('cgroup: counts what a process in the group sends; refuses what it connects to', () => {
  const group = controlGroup();
  const link = object.program('at_cgroup').attachCgroup(group);
  assert.is(link.type, 'cgroup');
  assert.ok((link.info().cgroupId ?? 0n) > 0n);
  const sends = `
    import { createSocket } from 'node:dgram';
    import { writeFileSync } from 'node:fs';
    import { connect } from 'node:net';
    writeFileSync(${JSON.stringify(`${group}/cgroup.procs`)}, String(process.pid));
    const socket = createSocket('udp4');
    socket.send('x', 9, '127.0.0.1', () => {
      socket.close();
      connect(9, '127.0.0.1').on('error', (error) => console.log(error.code));
    });
  `;
  const run = (): string => execFileSync(process.execPath, ['--input-type=module', '-e', sends], { encoding: 'utf8' }).trim();
  const before = runs('cgroup');
  assert.is(run(), 'ECONNREFUSED');
  assert.ok(runs('cgroup') > before);
  const connect = object.program('no_connect').attachCgroup(group);
  assert.is(run(), 'EPERM');
  connect.close();
  link.close();
  const error = thrown<BpfError>(() => object.program('at_cgroup').attachCgroup(`${group}/none`));
  assert.is(error.code, 'ENOENT');
  assert.match(error.message, 'the path cannot be opened');
});

test('netfilter: sees local packets', async () => {
  const link = object.program('at_netfilter').attachNetfilter({ family: 2, hook: 3, priority: -100 });
  const info = link.info();
  assert.is(link.type, 'netfilter');
  assert.equal([info.protocolFamily, info.hook, info.priority], [2, 3, -100]);
  const before = runs('netfilter');
  await sendThrough(pair);
  await until(() => runs('netfilter') > before);
  link.close();
  assert.is(thrown<BpfError>(() => object.program('at_netfilter').attachNetfilter({ family: 2, hook: 99, priority: 0 })).code, 'EPROTO');
});

test('network namespace: socket lookup', async () => {
  const link = object.program('at_lookup').attachNetns('/proc/self/ns/net');
  assert.is(link.type, 'netns');
  assert.ok((link.info().netnsInode ?? 0) > 0);
  const server = createSocket('udp4');
  server.bind(0, '127.0.0.1');
  await once(server, 'listening');
  const client = createSocket('udp4');
  client.send('x', server.address().port, '127.0.0.1');
  await once(server, 'message');
  assert.ok(runs('lookup') > 0n);
  server.close();
  client.close();
  link.close();
});

test.after(() => object.close());
test.run();
