/** Rules 3 to 6 of the design's section 3, on real frames: what of a declared service leaves early. */
import { BpfObject } from 'libbpf-napi';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { sweepFlows } from '../../src/dataplane/gate.js';
import { Services } from '../../src/dataplane/services.js';
import { GateCounter, GateMode, openGate } from '../../src/dataplane/skel/gate.skel.js';
import { mostUncompared } from '../../src/protocol/compare-policy.js';
import { Conversation, Tcp } from './conversation.js';
import { EtherType, IpProtocol, ethernet, icmpv6, inputAck, ipv6 } from './frames.js';
import { asU32, compile, vethPair } from './libbpf-support.js';

const held = 7; // TC_ACT_REDIRECT, to the hold tap
const passed = -1;
const dropped = 2;
const redisPort = 6379;
const offPort = 6380;
const httpPort = 80;
const memcachedPort = 11211;
const dnsPort = 53;
const get = '*2\r\n$3\r\nGET\r\n$1\r\na\r\n';
const set = '*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\n1\r\n';
const endOfTime = (1n << 64n) - 1n;

/** Where inputs are mirrored to: takes down with what policy the newest came. */
const mirror = vethPair();
const listener = BpfObject.open(compile(`
  __u32 policy;
  SEC("tcx/egress") int listen(struct __sk_buff *skb)
  {
    __u32 option = 0;

    if (bpf_skb_get_tunnel_opt(skb, &option, sizeof(option)) == sizeof(option))
      policy = option;
    return 2;
  }
`, 'mirror-listener'));
listener.load();
listener.program('listen').attachTcx({ ifname: mirror.name, direction: 'egress' });
const newestPolicy = listener.map('.bss').mmap();
const segmentsMask = 0x7fff;

const specs = openGate();
specs.globals.rodata.mirror_ifindex.set(mirror.ifindex);
specs.globals.rodata.tap_ifindex.set(1);
specs.globals.rodata.hold_ifindex.set(1);
specs.globals.rodata.release_mark.set(0x1234_5678);
specs.globals.rodata.shadow_ifindex.set(1);
specs.globals.rodata.follow_flows.set(true);
specs.globals.rodata.hash_secret.set(0x1234_5678_9abc_def1n);
const gate = specs.load();
const { bss } = gate.globals;
const services = new Services(gate, [
  { port: redisPort, protocol: 'resp', preRelease: true },
  { port: offPort, protocol: 'resp', preRelease: false },
  { port: httpPort, protocol: 'http', preRelease: true },
  { port: memcachedPort, protocol: 'memcached', preRelease: true },
  { port: dnsPort, protocol: 'dns', preRelease: true },
]);
bss.mode.set(GateMode.GATE_PROTECTED);
bss.lease_until_ns.set(endOfTime);

let nextPort = 40_000;
const now = (): bigint => process.hrtime.bigint();

function toGuest(frame: Buffer): void {
  assert.is(gate.programs.gate_in.testRun({ data: frame }).retval | 0, passed);
}

/** A datagram between a client's port and the guest's. */
function datagram(clientPort: number, guestPort: number, payload: Buffer, fromGuest: boolean): Buffer {
  const talk = new Conversation(clientPort, guestPort);
  const header = (fromGuest ? talk.fromGuest('') : talk.fromClient('')).subarray(0, 14 + 20);
  header.writeUInt16BE(20 + 8 + payload.length, 14 + 2);
  header.writeUInt8(17, 14 + 9);
  const udp = Buffer.alloc(8);
  udp.writeUInt16BE(fromGuest ? guestPort : clientPort, 0);
  udp.writeUInt16BE(fromGuest ? clientPort : guestPort, 2);
  udp.writeUInt16BE(8 + payload.length, 4);
  return Buffer.concat([header, udp, payload]);
}

function verdict(frame: Buffer): number {
  return gate.programs.gate_out.testRun({ data: frame }).retval | 0;
}

/** Held, and which input it needs before it may leave without a commit; 0n: it may not. */
function needs(frame: Buffer): bigint {
  const { retval, data } = gate.programs.gate_out.testRun({ data: frame });
  assert.is(retval | 0, held);
  return Buffer.from(data).readBigUInt64LE(32);
}

/** What the hold thread is told of a packet: `enum hold_flags`. */
function flags(frame: Buffer): number {
  const { retval, data } = gate.programs.gate_out.testRun({ data: frame });
  assert.is(retval | 0, held);
  return Buffer.from(data).readUInt16LE(10);
}

const counted = (which: GateCounter): bigint => gate.maps.counters.lookup(which)!.reduce((sum, { packets }) => sum + packets, 0n);

/** A checkpoint that stops now is loaded by the secondary. */
function commit(): void {
  bss.earlier_commit_ns.set(bss.commit_ns.get());
  bss.commit_ns.set(now());
  bss.drained_ns.set(bss.commit_ns.get());
}

/** The secondary has every input so far. */
function logAll(): void {
  bss.logged_iseq.set(bss.input_iseq.get());
}

/** A connection that the client opened and the guest accepted, everything logged and committed. */
function opened(port = redisPort, version: 4 | 6 = 4, settled = true): Conversation {
  const talk = new Conversation(nextPort++, port, version);
  toGuest(talk.fromClient('', { flags: Tcp.syn, ack: 0 }));
  if (!settled) logAll();
  verdict(talk.fromGuest('', { flags: Tcp.syn | Tcp.ack }));
  toGuest(talk.fromClient('', { flags: Tcp.ack }));
  if (settled) settle();
  return talk;
}

/** As if nothing had happened for long: no held packets, no doubt. */
function settle(): void {
  for (let index = 0; index < 5; index++) {
    const service = gate.maps.services.lookup(index)!;
    gate.maps.services.update(index, { ...service, open_writes: 0n, settled_ns: 0n, vague_ns: 0n });
  }
  bss.opaque_ns.set(0n);
  commit();
  commit();
  logAll();
}

/** Whether the secondary is told that it may be a write. */
function mirroredAsWrite(frame: Buffer): boolean {
  newestPolicy.fill(0);
  toGuest(frame);
  const policy = asU32(newestPolicy) ?? 0;
  assert.is(policy & segmentsMask, 1, 'it was mirrored');
  return policy > segmentsMask;
}

function ask(talk: Conversation, request: string): void {
  toGuest(talk.fromClient(request));
  logAll();
}

for (const version of [4, 6] as const) {
  test(`the reply to a read leaves at once (IPv${version})`, () => {
    const talk = opened(redisPort, version);
    ask(talk, get);
    assert.is(verdict(talk.fromGuest('$1\r\n1\r\n')), passed);
  });
}

test('of what leaves at once, a share goes to the hold thread too, to be audited and not to be released', () => {
  const talk = opened();
  bss.audit_share.set(2 ** 32 - 1);
  try {
    const before = [counted(GateCounter.GATE_OUT_AUDITED), counted(GateCounter.GATE_OUT_HELD)];
    ask(talk, get);
    assert.is(flags(talk.fromGuest('$1\r\n1\r\n')), 1);
    assert.equal([counted(GateCounter.GATE_OUT_AUDITED), counted(GateCounter.GATE_OUT_HELD)], [before[0]! + 1n, before[1]]);
    toGuest(talk.fromClient(get));
    assert.is(flags(talk.fromGuest('$1\r\n1\r\n')), 4, 'what the input log lets go early is one only then');
    logAll();
    bss.unlogged_drained_ns.set(now());
    ask(talk, set);
    assert.is(flags(talk.fromGuest('+OK\r\n')), 0, 'what is held is no audit');
  } finally {
    bss.audit_share.set(0);
  }
  settle();
  ask(talk, get);
  assert.is(verdict(talk.fromGuest('$1\r\n1\r\n')), passed, 'nobody asks for audits');
});

test('what is held of a port that is not compared is marked so, and of no other', () => {
  const [one, other] = [opened(offPort), opened()];
  const replies = (): number[] => [one, other].map((talk) => {
    ask(talk, set);
    return flags(talk.fromGuest('+OK\r\n'));
  });
  assert.equal(replies(), [0, 0]);
  services.setCompared(offPort, false);
  assert.equal(replies(), [2, 0]);
  services.setCompared(offPort, true);
  assert.equal(replies(), [0, 0]);
  const many = Array.from({ length: mostUncompared }, (_, i) => 40_000 + i);
  for (const on of [false, true]) for (const port of many) services.setCompared(port, on);
});

test('the services tell how many writes there were, what they held up, and when the last one was replied to', () => {
  const talk = opened();
  const before = services.writeCounts();
  const times = (): [bigint, bigint] => [bss.commit_ns.get(), bss.earlier_commit_ns.get()];
  assert.is(services.unsettledNs(...times()), 0n);
  ask(talk, set);
  assert.is(services.unsettledNs(...times()), undefined, 'it waits for its reply');
  verdict(talk.fromGuest('+OK\r\n'));
  ask(talk, get);
  verdict(talk.fromGuest('$1\r\n1\r\n'));
  assert.equal(services.writeCounts(), { writes: before.writes + 1, doubtPackets: before.doubtPackets + 1 });
  assert.ok(services.unsettledNs(...times())! >= bss.commit_ns.get());
  commit();
  assert.is(services.unsettledNs(...times()), 0n);
});

test('a reply waits while its request is not in the input log', () => {
  const talk = opened();
  toGuest(talk.fromClient(get));
  assert.is(verdict(talk.fromGuest('$1\r\n1\r\n')), held);
});

test('behind a held packet of its flow everything is held, until the commit', () => {
  const talk = opened();
  toGuest(talk.fromClient(get));
  assert.is(verdict(talk.fromGuest('$1\r\n1\r\n')), held);
  ask(talk, get);
  assert.is(verdict(talk.fromGuest('$1\r\n1\r\n')), held);
  commit();
  ask(talk, get);
  assert.is(verdict(talk.fromGuest('$1\r\n1\r\n')), passed);
});

test('what only waits for the input log needs its flow\'s newest input, and no commit', () => {
  const talk = opened();
  const other = opened();
  toGuest(talk.fromClient(get));
  const request = bss.input_iseq.get();
  toGuest(other.fromClient(get));
  assert.is(needs(talk.fromGuest('', { flags: Tcp.ack })), request);
  assert.is(needs(talk.fromGuest('$1\r\n1\r\n')), request);
  assert.is(needs(other.fromGuest('$1\r\n1\r\n')), request + 1n);
});

test('the newest input of a flow is the one with the highest number, also if another CPU is late with a lower one', () => {
  const talk = opened();
  toGuest(talk.fromClient(get));
  const request = bss.input_iseq.get();
  bss.input_iseq.set(request - 2n);
  bss.logged_iseq.set(request - 1n);
  toGuest(talk.fromClient('', { flags: Tcp.ack }));
  assert.is(bss.input_iseq.get(), request - 1n);
  bss.input_iseq.set(request);
  assert.is(needs(talk.fromGuest('$1\r\n1\r\n')), request);
});

test('behind a packet that waits for the input log, in its flow, nothing leaves before it', () => {
  const talk = opened();
  const other = opened();
  toGuest(talk.fromClient(get));
  needs(talk.fromGuest('$1\r\n1\r\n'));
  const sentNs = now();
  ask(talk, get);
  const behind = needs(talk.fromGuest('$1\r\n1\r\n'));
  assert.is(behind, bss.input_iseq.get(), 'which is logged, so it follows at once');
  ask(other, get);
  assert.is(verdict(other.fromGuest('$1\r\n1\r\n')), passed, 'others do not wait for it');
  bss.unlogged_drained_ns.set(sentNs);
  ask(talk, get);
  assert.ok(needs(talk.fromGuest('$1\r\n1\r\n')) > 0n, 'the second one has not left');
  bss.unlogged_drained_ns.set(now());
  ask(talk, get);
  assert.is(verdict(talk.fromGuest('$1\r\n1\r\n')), passed);
});

test('whatever else speaks against a packet, the input log does not release it', () => {
  const reasons: [what: string, play: () => Buffer][] = [
    ['a write is in doubt', () => {
      const [writer, reader] = [opened(), opened()];
      toGuest(writer.fromClient(set));
      toGuest(reader.fromClient(get));
      return reader.fromGuest('$1\r\n1\r\n');
    }],
    ['it is the reply to a write', () => {
      const writer = opened();
      toGuest(writer.fromClient(set));
      return writer.fromGuest('+OK\r\n');
    }],
    ['it ends the flow', () => {
      const talk = opened();
      toGuest(talk.fromClient(get));
      return talk.fromGuest('$1\r\n1\r\n', { flags: Tcp.fin | Tcp.psh | Tcp.ack });
    }],
    ['pre-release is off', () => {
      const talk = opened(offPort);
      toGuest(talk.fromClient(get));
      return talk.fromGuest('$1\r\n1\r\n');
    }],
    ['the flow was not followed from its beginning', () => {
      const talk = new Conversation(nextPort++, redisPort);
      settle();
      toGuest(talk.fromClient(get));
      return talk.fromGuest('$1\r\n1\r\n');
    }],
    ['it comes behind one that waits for a commit', () => {
      const talk = opened();
      ask(talk, set);
      assert.is(needs(talk.fromGuest('+OK\r\n')), 0n);
      for (const index of [0, 1]) { // no doubt any more, but not given back yet
        gate.maps.services.update(index, { ...gate.maps.services.lookup(index)!, open_writes: 0n, settled_ns: 0n, vague_ns: 0n });
      }
      toGuest(talk.fromClient(get));
      return talk.fromGuest('', { flags: Tcp.ack });
    }],
    ['the port is undeclared', () => {
      const talk = opened(81);
      toGuest(talk.fromClient(get));
      return talk.fromGuest('$1\r\n1\r\n');
    }],
  ];
  for (const [what, play] of reasons) assert.is(needs(play()), 0n, what);
});

test('an acknowledgement goes on to the hold thread if something waits for it, and only then', () => {
  const epoch = 99n;
  const acked = (iseq: bigint, of = epoch): number => gate.programs.gate_ack.testRun({ data: inputAck({ iseq, epoch: of }) }).retval | 0;
  const talk = opened();
  bss.log_epoch.set(epoch);
  toGuest(talk.fromClient('', { flags: Tcp.ack }));
  assert.is(acked(bss.input_iseq.get()), dropped, 'nothing waits');
  toGuest(talk.fromClient(get));
  const request = needs(talk.fromGuest('$1\r\n1\r\n'));
  for (const [iseq, of] of [[request, 98n], [request + 1n, epoch], [request - 1n, epoch]] as const) {
    assert.is(acked(iseq, of), dropped, 'of another protection, of what was never sent, of nothing new');
    assert.is(bss.logged_iseq.get(), request - 1n);
  }
  toGuest(talk.fromClient('', { flags: Tcp.ack }));
  assert.is(acked(request), held);
  assert.is(bss.logged_iseq.get(), request);
  assert.is(acked(request), dropped, 'the same again');
  assert.is(acked(request + 1n), dropped, 'nothing waits any more');
  bss.log_epoch.set(0n);
});

test('packets without payload leave as soon as the inputs are logged, and no sooner', () => {
  const talk = new Conversation(nextPort++, redisPort);
  settle();
  toGuest(talk.fromClient('', { flags: Tcp.syn, ack: 0 }));
  assert.is(verdict(talk.fromGuest('', { flags: Tcp.syn | Tcp.ack, seq: 1 })), held);
  commit();
  logAll();
  assert.is(verdict(talk.fromGuest('', { flags: Tcp.syn | Tcp.ack })), passed);
  ask(talk, get);
  assert.is(verdict(talk.fromGuest('', { flags: Tcp.ack })), passed);
});

test('a write holds all replies of its service until a commit that stopped after its reply', () => {
  const writer = opened();
  const reader = opened();
  ask(writer, set);
  ask(reader, get);
  assert.is(verdict(reader.fromGuest('$1\r\n1\r\n')), held, 'before the reply to the write');
  commit();
  commit();
  commit();
  ask(reader, get);
  assert.is(verdict(reader.fromGuest('$1\r\n1\r\n')), held, 'commits before the reply prove nothing');
  assert.is(verdict(writer.fromGuest('+OK\r\n')), held, 'the reply to the write itself');
  ask(reader, get);
  assert.is(verdict(reader.fromGuest('$1\r\n1\r\n')), held, 'after the reply, before the commit');
  commit();
  ask(reader, get);
  assert.is(verdict(reader.fromGuest('$1\r\n1\r\n')), passed, 'after the commit');
});

test('a write is in doubt from its first byte', () => {
  const writer = opened();
  const reader = opened();
  ask(reader, get);
  ask(writer, set.slice(0, 20));
  assert.is(verdict(reader.fromGuest('$1\r\n1\r\n')), held);
});

test('also before the guest has accepted the connection, whatever its sequence numbers', () => {
  for (const clientSeq of [1000, 2 ** 31 + 1000, 2 ** 32 - 2]) {
    const writer = new Conversation(nextPort++, redisPort);
    const reader = opened();
    writer.clientSeq = clientSeq;
    toGuest(writer.fromClient('', { flags: Tcp.syn, ack: 0 }));
    ask(reader, get);
    ask(writer, set);
    assert.is(verdict(reader.fromGuest('$1\r\n1\r\n')), held);
  }
});

test('a write to one service leaves another alone', () => {
  const other = opened(offPort);
  const reader = opened();
  ask(other, set);
  ask(reader, get);
  assert.is(verdict(reader.fromGuest('$1\r\n1\r\n')), passed);
});

test('a service whose pre-release is off is held, and it can be switched', () => {
  const talk = opened(offPort);
  ask(talk, get);
  assert.is(verdict(talk.fromGuest('$1\r\n1\r\n')), held);
  services.setPreRelease(offPort, true);
  const again = opened(offPort);
  ask(again, get);
  assert.is(verdict(again.fromGuest('$1\r\n1\r\n')), passed);
  services.setPreRelease(offPort, false);
});

test('undeclared ports are held', () => {
  const talk = opened(81);
  ask(talk, get);
  assert.is(verdict(talk.fromGuest('$1\r\n1\r\n')), held);
});

test('a connection that was not seen from its beginning is held, and what it sends counts as a write', () => {
  settle();
  const old = new Conversation(nextPort++, redisPort);
  const reader = opened();
  ask(old, get);
  assert.is(verdict(old.fromGuest('$1\r\n1\r\n')), held);
  ask(reader, get);
  assert.is(verdict(reader.fromGuest('$1\r\n1\r\n')), held);
});

/** Everything that was in doubt is so no more: two commits have passed, and the time that goes with them. */
function doubtPasses(): void {
  commit();
  commit();
  for (let index = 0; index < 5; index++) gate.maps.services.update(index, { ...gate.maps.services.lookup(index)!, vague_ns: 1n });
  agedOpen(10);
  bss.opaque_ns.set(1n);
}

test('what is said on a connection that is not followed may be the reply to a write', () => {
  const old = new Conversation(nextPort++, redisPort);
  for (const mode of [GateMode.GATE_PROTECTED, GateMode.GATE_PASS]) {
    ask(old, set);
    doubtPasses();
    assert.ok(unharmed(redis));
    bss.mode.set(mode);
    assert.is(verdict(old.fromGuest('+OK\r\n')), mode === GateMode.GATE_PASS ? passed : held);
    bss.mode.set(GateMode.GATE_PROTECTED);
    assert.not(unharmed(redis));
    commit();
    assert.not(unharmed(redis), 'as its request is, for two commits and a second');
    doubtPasses();
    assert.ok(unharmed(redis));
  }
  verdict(new Conversation(nextPort++, 81).fromGuest('OK'));
  verdict(new Conversation(nextPort++, httpPort).fromGuest('OK'));
  assert.ok(unharmed(redis), 'of another port');
});

test('so may what is said in a fragment', () => {
  settle();
  for (const [bytes, hides] of [[[0x40, 0], false], [[0x20, 0], true]] as const) {
    const fragment = new Conversation(nextPort++, 81).fromGuest('OK');
    fragment.set(bytes, 14 + 6);
    verdict(fragment);
    assert.is(unharmed(redis), !hides);
  }
  doubtPasses();
  assert.ok(unharmed(redis));
});

test('a connection that the guest opened is held', () => {
  settle();
  const talk = new Conversation(nextPort++, redisPort);
  verdict(talk.fromGuest('', { flags: Tcp.syn, ack: 0 }));
  toGuest(talk.fromClient('', { flags: Tcp.syn | Tcp.ack }));
  logAll();
  ask(talk, get);
  assert.is(verdict(talk.fromGuest('$1\r\n1\r\n')), held);
});

test('end and reset of a connection are held', () => {
  for (const flag of [Tcp.fin, Tcp.rst]) {
    const talk = opened();
    ask(talk, get);
    assert.is(verdict(talk.fromGuest('', { flags: flag | Tcp.ack })), held);
  }
});

const tricks: [what: string, play: (talk: Conversation) => void][] = [
  ['a retransmission, whose bytes may differ', (talk) => {
    const seq = talk.clientSeq;
    ask(talk, get);
    toGuest(talk.fromClient(set, { seq }));
  }],
  ['a retransmission that goes beyond what the guest has acknowledged', (talk) => {
    const seq = talk.clientSeq;
    ask(talk, get);
    verdict(talk.fromGuest('$1\r\n1\r\n'));
    toGuest(talk.fromClient(set, { seq }));
  }],
  ['a gap in the stream', (talk) => toGuest(talk.fromClient(get, { seq: talk.clientSeq + 5 }))],
  ['an urgent pointer', (talk) => toGuest(talk.fromClient(get, { flags: Tcp.psh | Tcp.ack | Tcp.urg }))],
  ['a second SYN with another number', (talk) => toGuest(talk.fromClient('', { flags: Tcp.syn, ack: 0, seq: talk.clientSeq + 1000 }))],
  ['the first SYN again, late', (talk) => toGuest(talk.fromClient('', { flags: Tcp.syn, ack: 0, seq: 1000 }))],
  ['something that is not RESP', (talk) => toGuest(talk.fromClient('\0\0\0\0'))],
];
for (const length of [0, 1, 7, 1400]) {
  test(`a retransmission of the same bytes is nothing new, and one of other bytes is (${length} bytes of key)`, () => {
    const request = `*2\r\n$3\r\nGET\r\n$${length}\r\n${'k'.repeat(length)}\r\n`;
    for (const at of [-1, 0, 13, Math.floor(request.length / 2), request.length - 1]) {
      const talk = opened();
      const { clientSeq: seq } = talk;
      ask(talk, request);
      const again = Buffer.from(request);
      if (at >= 0) again[at] = again[at]! ^ 0x80;
      toGuest(talk.fromClient(again, { seq }));
      logAll();
      settle();
      assert.is(verdict(talk.fromGuest('$1\r\n1\r\n')), at < 0 ? passed : held, `changed at ${at}`);
    }
  });
}

test('a retransmission of what the guest has acknowledged is nothing new', () => {
  const talk = opened();
  const { clientSeq: seq } = talk;
  ask(talk, get);
  assert.is(verdict(talk.fromGuest('$1\r\n1\r\n')), passed);
  for (const again of [get, set.slice(0, 5)]) toGuest(talk.fromClient(again, { seq }));
  toGuest(talk.fromClient('x', { seq: talk.clientSeq - 1 })); // probes whether we are still there
  logAll();
  ask(talk, get);
  assert.is(verdict(talk.fromGuest('$1\r\n1\r\n')), passed);
});

test('the secondary is told what may be a write, and nothing else is', () => {
  const talk = opened();
  assert.not(mirroredAsWrite(talk.fromClient('', { flags: Tcp.ack })));
  assert.not(mirroredAsWrite(talk.fromClient(get)));
  assert.ok(mirroredAsWrite(talk.fromClient(set)));
  assert.not(mirroredAsWrite(new Conversation(nextPort++, redisPort).fromClient('', { flags: Tcp.syn, ack: 0 })));
  assert.ok(mirroredAsWrite(new Conversation(nextPort++, redisPort).fromClient(set, { flags: Tcp.syn, ack: 0 })));
  assert.ok(mirroredAsWrite(new Conversation(nextPort++, 81).fromClient('', { flags: Tcp.syn, ack: 0 })), 'undeclared');
});

// After a write that is none, replies are seen, and the secondary would think that they are not.
test('what is repeated is no write, unless it may arrive only now, and nobody knew', () => {
  for (const request of [get, set]) {
    const talk = opened();
    const { clientSeq: seq } = talk;
    ask(talk, request);
    assert.not(mirroredAsWrite(talk.fromClient(request, { seq })), 'not acknowledged');
    verdict(talk.fromGuest('', { flags: Tcp.ack }));
    assert.not(mirroredAsWrite(talk.fromClient(request, { seq })), 'acknowledged');
  }
  const [vague, reader] = [opened(), opened()];
  const { clientSeq: seq } = vague;
  ask(vague, get + set);
  settle();
  assert.ok(mirroredAsWrite(vague.fromClient(get + set, { seq })));
  logAll();
  ask(reader, get);
  assert.is(verdict(reader.fromGuest('$1\r\n1\r\n')), held, 'and in doubt again');
});

test('no number of a lost connection proves that the guest knows it', () => {
  const [talk, reader] = [opened(), opened()];
  toGuest(talk.fromClient('', { flags: Tcp.syn, ack: 0, seq: talk.clientSeq - 5000 })); // a restarted client
  settle();
  assert.ok(mirroredAsWrite(talk.fromClient(set, { seq: talk.clientSeq - 4999 })));
  logAll();
  ask(reader, get);
  assert.is(verdict(reader.fromGuest('$1\r\n1\r\n')), held);
});

for (const [what, play] of tricks) {
  test(`${what} costs a flow its standing, and puts the service in doubt`, () => {
    const talk = opened();
    const reader = opened();
    play(talk);
    logAll();
    ask(reader, get);
    assert.is(verdict(reader.fromGuest('$1\r\n1\r\n')), held, 'others, in doubt');
    settle();
    ask(talk, get);
    assert.is(verdict(talk.fromGuest('$1\r\n1\r\n')), held, 'the flow itself, for good');
  });
}

test('a SYN that carries data is never trusted', () => {
  const reader = opened();
  const talk = new Conversation(nextPort++, redisPort);
  toGuest(talk.fromClient(get, { flags: Tcp.syn, ack: 0 }));
  logAll();
  ask(reader, get);
  assert.is(verdict(reader.fromGuest('$1\r\n1\r\n')), held);
  verdict(talk.fromGuest('', { flags: Tcp.syn | Tcp.ack }));
  settle();
  ask(talk, get);
  assert.is(verdict(talk.fromGuest('$1\r\n1\r\n')), held);
});

test('ports are reused: a new connection after the guest ended the old one starts afresh', () => {
  const talk = opened();
  verdict(talk.fromGuest('', { flags: Tcp.fin | Tcp.ack }));
  const again = new Conversation(talk.clientPort, redisPort);
  again.clientSeq = 777_000;
  toGuest(again.fromClient('', { flags: Tcp.syn, ack: 0 }));
  verdict(again.fromGuest('', { flags: Tcp.syn | Tcp.ack }));
  settle();
  ask(again, get);
  assert.is(verdict(again.fromGuest('$1\r\n1\r\n')), passed);
});

test('nor does a write that came after the end of the old one stay open', () => {
  const talk = opened();
  verdict(talk.fromGuest('', { flags: Tcp.fin | Tcp.ack }));
  ask(talk, set);
  assert.is(services.stats()[0]!.openWrites, 1);
  toGuest(new Conversation(talk.clientPort, redisPort).fromClient('', { flags: Tcp.syn, ack: 0 }));
  assert.is(services.stats()[0]!.openWrites, 0);
  assert.not(unharmed(redis), 'settled now, at the earliest');
  commit();
  assert.ok(unharmed(redis));
});

test('a write among pipelined requests is in doubt for two commits and a second', () => {
  const talk = opened();
  const reader = opened();
  ask(talk, get + set);
  verdict(talk.fromGuest('$1\r\n1\r\n+OK\r\n'));
  commit();
  ask(reader, get);
  assert.is(verdict(reader.fromGuest('$1\r\n1\r\n')), held);
});

test('so is a write of a client that acknowledges what the guest has not said', () => {
  for (const [ahead, settles] of [[0, true], [5, false], [2 ** 31 - 9, false], [2 ** 31 + 9, false]] as const) {
    const talk = opened();
    const reader = opened();
    toGuest(talk.fromClient(set, { ack: talk.guestSeq + ahead }));
    logAll();
    verdict(talk.fromGuest('+OK\r\n'));
    commit();
    ask(reader, get);
    assert.is(verdict(reader.fromGuest('$1\r\n1\r\n')), settles ? passed : held, `${ahead} ahead`);
  }
});

/** Of some service: a request that reads, one that writes, and the whole replies to them. */
interface Speech { port: number; read: string; write: string; readReply: string; writeReply: string }

const value = 'v'.repeat(30);
const http = (head: string, body = ''): string => `HTTP/1.1 ${head}\r\nServer: x\r\n\r\n${body}`;
const redis: Speech = { port: redisPort, read: get, write: set, readReply: `$30\r\n${value}\r\n`, writeReply: '+OK\r\n' };
const page: Speech = {
  port: httpPort, read: 'GET / HTTP/1.1\r\nHost: x\r\n\r\n', write: 'POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n',
  readReply: http('200 OK\r\nContent-Length: 30', value), writeReply: http('204 No Content'),
};
const cache: Speech = { port: memcachedPort, read: 'get a\r\n', write: 'set a 0 0 1\r\n1\r\n', readReply: `VALUE a 0 30\r\n${value}\r\nEND\r\n`, writeReply: 'STORED\r\n' };

/** Whether a reader of the same service is answered at once. */
function unharmed({ port, read, readReply }: Speech): boolean {
  const reader = opened(port, 4, false);
  ask(reader, read);
  return verdict(reader.fromGuest(readReply)) === passed;
}

for (const speech of [redis, page]) {
  test(`no piece of the reply before settles a write, and no repeated one (port ${speech.port})`, () => {
    const { port, read, write, readReply, writeReply } = speech;
    const cut = readReply.length - 20;
    const pieces = [readReply.slice(0, cut), readReply.slice(cut, -7), readReply.slice(-7)] as const;

    const hasty = opened(port);
    ask(hasty, read);
    assert.is(verdict(hasty.fromGuest(pieces[0])), passed);
    ask(hasty, write); // it acknowledges all that was said
    assert.is(verdict(hasty.fromGuest(pieces[1])), held);
    commit();
    assert.is(verdict(hasty.fromGuest(pieces[2])), held);
    commit();
    assert.is(verdict(hasty.fromGuest(writeReply)), held);
    assert.not(unharmed(speech), 'what the hasty one wrote');

    const patient = opened(port);
    ask(patient, read);
    for (const piece of pieces) assert.is(verdict(patient.fromGuest(piece)), passed);
    ask(patient, write);
    const repeated = patient.guestSeq - 7;
    verdict(patient.fromGuest(pieces[2], { seq: repeated }));
    verdict(patient.fromGuest('', { flags: Tcp.ack }));
    commit();
    assert.not(unharmed(speech), 'a repeated reply says nothing of the write');
    verdict(patient.fromGuest(pieces[2] + writeReply, { seq: repeated }));
    assert.not(unharmed(speech), 'settled, and not yet committed');
    commit();
    assert.ok(unharmed(speech), 'its own reply, behind what was repeated, settles it');
  });
}

const whole: [what: string, speech: Speech][] = [
  ['a short one', redis],
  ['null', { ...redis, readReply: '$-1\r\n' }],
  ['a number', { ...redis, readReply: ':-12\r\n' }],
  ['a long error', { ...redis, readReply: `-ERR ${'x'.repeat(60)}\r\n` }],
  ['nothing in an array', { ...redis, readReply: '*0\r\n', writeReply: '*-1\r\n' }],
  ['an array', { ...redis, readReply: `*3\r\n:1\r\n$-1\r\n$30\r\n${value}\r\n`, writeReply: ':1\r\n' }],
  ['arrays in arrays', { ...redis, readReply: `*2\r\n*2\r\n$1\r\na\r\n+b\r\n%1\r\n+c\r\n$30\r\n${value}\r\n` }],
  ['a page', page],
  ['a page that was not modified', { ...page, readReply: http('304 Not Modified\r\nContent-Length: 30') }],
  ['a page with nothing in it', { ...page, writeReply: http('200 OK\r\ncontent-LENGTH: 0') }],
  ['a cached value', cache],
  ['a value that is not cached', { ...cache, readReply: 'END\r\n' }],
  ['a cached value, by its meta command', { ...cache, read: 'mg a v\r\n', readReply: `VA 30 s30\r\n${value}\r\n`, write: 'ms a 1\r\n1\r\n', writeReply: 'HD\r\n' }],
];
for (const [what, speech] of whole) {
  test(`behind a whole reply a write waits for its own, and for the next commit: ${what}`, () => {
    const { port, read, write, readReply, writeReply } = speech;
    const talk = opened(port);
    for (let round = 0; round < 3; round++) {
      ask(talk, read);
      assert.is(verdict(talk.fromGuest(readReply)), passed);
      ask(talk, write);
      assert.is(verdict(talk.fromGuest(writeReply)), held);
      assert.not(unharmed(speech));
      commit();
      assert.ok(unharmed(speech));
    }
  });
}

const endless: [what: string, speech: Speech][] = [
  ['in chunks', { ...page, readReply: http('200 OK\r\nTransfer-Encoding: chunked', '2\r\nab\r\n') }],
  ['until the connection ends', { ...page, readReply: http('200 OK') }],
  ['with two lengths', { ...page, readReply: http('200 OK\r\nContent-Length: 2\r\nContent-Length: 2', 'ab') }],
  ['with an interim one', { ...page, readReply: http('100 Continue') }],
  ['with an unfinished head', { ...page, readReply: http('200 OK\r\nContent-Length: 2').slice(0, -2) }],
  ['of more parts than are looked at', { ...redis, readReply: `*70\r\n${'$1\r\na\r\n'.repeat(70)}` }],
  ['whose last string is still to come', { ...redis, readReply: '*2\r\n$1\r\na\r\n' }],
  ['that nobody asked for', { ...redis, readReply: '>1\r\n+a\r\n' }],
  ['an unfinished line', { ...redis, readReply: '+abc\r' }],
  ['a first of several values', { ...cache, readReply: `VALUE a 0 2\r\nab\r\nVALUE b 0 2\r\nab\r\nEND\r\n` }],
  ['statistics', { ...cache, readReply: 'STAT a 1\r\nSTAT b 2\r\n' }],
];
for (const [what, speech] of endless) {
  test(`behind a reply whose end is not known no reply is the write's: ${what}`, () => {
    const { port, read, write, readReply, writeReply } = speech;
    const talk = opened(port);
    for (let round = 0; round < 3; round++) {
      ask(talk, read);
      assert.is(verdict(talk.fromGuest(readReply)), passed, 'reads are none the worse for it');
    }
    ask(talk, write);
    verdict(talk.fromGuest(writeReply));
    commit();
    assert.not(unharmed({ ...speech, readReply: speech.port === httpPort ? page.readReply : writeReply }));

    const first = opened(port);
    ask(first, write);
    verdict(first.fromGuest(readReply));
    commit();
    assert.not(unharmed(speech), 'nor is such a one to the write itself,');
    verdict(first.fromGuest('', { flags: Tcp.fin | Tcp.ack }));
    commit();
    assert.ok(unharmed(speech), 'before the guest ends the flow');
  });
}

test('after a write, what nobody asked for puts the service in doubt before it is judged', () => {
  const talk = opened();
  ask(talk, set);
  verdict(talk.fromGuest('+OK\r\n'));
  commit();
  assert.is(verdict(talk.fromGuest('+OK\r\n')), held);
  assert.not(unharmed(redis));
});

test('what is said before the request can have come settles nothing', () => {
  const talk = opened();
  const { clientSeq: ack } = talk;
  ask(talk, set);
  verdict(talk.fromGuest('+OK\r\n', { ack }));
  commit();
  assert.not(unharmed(redis));
});

/** As if the newest sign of writes without a reply were older by so much. */
function agedOpen(seconds: number): void {
  for (let index = 0; index < 5; index++) {
    const service = gate.maps.services.lookup(index)!;
    gate.maps.services.update(index, { ...service, open_ns: service.open_ns - BigInt(seconds) * 1_000_000_000n });
  }
}

test('a write whose reply never comes is in doubt for two commits and ten seconds', () => {
  const [talk, reader] = [opened(), opened()];
  const times = (): [bigint, bigint] => [bss.commit_ns.get(), bss.earlier_commit_ns.get()];
  const read = (): number => {
    ask(reader, get);
    return verdict(reader.fromGuest('$1\r\n1\r\n'));
  };
  const { clientSeq: seq } = talk;
  ask(talk, set.slice(0, 20)); // and the client is gone
  commit();
  commit();
  agedOpen(9);
  assert.is(read(), held, 'not long enough');
  commit();
  assert.is(services.unsettledNs(...times()), undefined);
  agedOpen(1);
  assert.is(services.unsettledNs(...times()), 0n);
  assert.is(read(), passed);
  toGuest(talk.fromClient(set.slice(0, 20), { seq }));
  logAll();
  assert.is(read(), held, 'but what is said again may arrive only now');
  commit();
  commit();
  agedOpen(10);
  assert.is(read(), passed);
  ask(talk, set.slice(20));
  commit();
  commit();
  agedOpen(10);
  assert.is(read(), passed);
  verdict(talk.fromGuest('', { flags: Tcp.ack }));
  assert.is(read(), held, 'nor may it have been done before it was acknowledged');
  agedOpen(10);
  commit();
  commit();
  assert.is(read(), passed);
  const { guestSeq: reply } = talk;
  assert.is(verdict(talk.fromGuest('$3\r\nold')), held, 'a late reply waits as any does, from its first piece');
  commit();
  agedOpen(10);
  commit();
  assert.is(read(), passed, 'others did not wait for it');
  assert.is(verdict(talk.fromGuest('', { flags: Tcp.ack, seq: reply })), passed, 'nor does what says nothing of it');
  assert.is(verdict(talk.fromGuest('\r\n')), held, 'to its last');
  assert.is(read(), held, 'and settles it all the same');
  commit();
  assert.is(read(), passed);
  ask(talk, get);
  assert.is(verdict(talk.fromGuest('$1\r\n1\r\n')), passed, 'and then its flow is one like all the others');
});

test('the reply to a read behind a write without a reply is held, once: it tells that the write is done', () => {
  const talk = opened(memcachedPort);
  ask(talk, 'set a 0 0 1 noreply\r\n1\r\n');
  ask(talk, 'get a\r\n');
  verdict(talk.fromGuest('', { flags: Tcp.ack }));
  commit();
  commit();
  agedOpen(10);
  assert.ok(unharmed(cache));
  assert.is(verdict(talk.fromGuest('VALUE a 0 1\r\n1\r\nEND\r\n')), held);
  commit();
  ask(talk, 'get a\r\n');
  assert.is(verdict(talk.fromGuest('VALUE a 0 1\r\n1\r\nEND\r\n')), passed);
});

test('nor does a datagram that nobody answers hold a service up for ever', () => {
  const query = Buffer.concat([Buffer.from('123401000001000000000000', 'hex'), Buffer.from('0161026578', 'hex'), Buffer.from('0000010001', 'hex')]);
  const response = Buffer.from(query);
  response[2] = 0x81;
  const [spoofed, reader] = [nextPort++, nextPort++];
  settle();
  const read = (): number => {
    toGuest(datagram(reader, dnsPort, query, false));
    logAll();
    return verdict(datagram(reader, dnsPort, response, true));
  };
  assert.is(read(), passed);
  toGuest(datagram(spoofed, dnsPort, response, false));
  commit();
  commit();
  assert.is(read(), held);
  agedOpen(10);
  commit();
  assert.is(read(), passed);
});

/** The same packet as the first of several fragments. */
function fragmented(frame: Buffer): Buffer {
  frame.writeUInt16BE(0x2000, 14 + 6);
  return frame;
}

test('what the guest acknowledges in a fragment\'s stead waits for a commit, and the flow is not to be followed', () => {
  for (const request of [set, get, 'x']) {
    const talk = opened();
    toGuest(fragmented(talk.fromClient(request)));
    const ack = talk.fromGuest('', { flags: Tcp.ack });
    assert.is(verdict(ack), held, 'not in the log');
    doubtPasses();
    logAll();
    assert.is(needs(ack), 0n, 'the log does not help: the secondary could not translate it');
    assert.not(unharmed(redis), 'now, the guest has it');
    doubtPasses();
    assert.is(verdict(talk.fromGuest('+OK\r\n')), held, 'nor is the reply to a slow write one from synchronised state');
    assert.not(unharmed(redis));
    doubtPasses();
    ask(talk, get);
    assert.is(verdict(talk.fromGuest('$1\r\n1\r\n')), held, 'for good');
  }
});

test('the reply to what came in a fragment is held, however late it comes', () => {
  const talk = opened();
  toGuest(fragmented(talk.fromClient(set)));
  logAll();
  doubtPasses();
  assert.is(verdict(talk.fromGuest('+OK\r\n')), held);
  assert.not(unharmed(redis));
});

test('so is a datagram whose request came so, though its conversation is known', () => {
  const query = Buffer.from('12340100000100000000000001610265780000010001', 'hex');
  const response = Buffer.from(query);
  response[2] = 0x81;
  const [one, many] = [nextPort++, nextPort++];
  const answered = (port: number): number => verdict(datagram(port, dnsPort, response, true));
  settle();
  for (const port of [one, many, many]) toGuest(datagram(port, dnsPort, query, false));
  logAll();
  for (const port of [one, many, many]) assert.is(answered(port), passed, 'one reply to each');
  toGuest(fragmented(datagram(one, dnsPort, query, false)));
  logAll();
  doubtPasses();
  assert.is(answered(one), held);
  toGuest(datagram(nextPort, dnsPort, query, false));
  logAll();
  assert.is(answered(nextPort++), held, 'others, in doubt');
});

test('everybody waits until what may have been for them is in the input log', () => {
  const talk = opened();
  ask(talk, get);
  toGuest(fragmented(new Conversation(nextPort++, redisPort).fromClient(set)));
  const hidden = bss.input_iseq.get();
  assert.is(needs(talk.fromGuest('', { flags: Tcp.ack })), hidden);
  logAll();
  bss.unlogged_drained_ns.set(now());
  assert.is(verdict(talk.fromGuest('', { flags: Tcp.ack })), passed);
});

test('the end of a client\'s stream is no hidden byte, and nothing else is the end', () => {
  for (const ends of ['', get]) {
    const talk = opened();
    if (ends === '') ask(talk, get);
    toGuest(talk.fromClient(ends, { flags: Tcp.fin | Tcp.ack }));
    logAll();
    assert.is(verdict(talk.fromGuest('', { flags: Tcp.ack })), passed);
    assert.is(verdict(talk.fromGuest('$1\r\n1\r\n')), passed);
    assert.is(verdict(talk.fromGuest('', { flags: Tcp.ack, ack: talk.clientSeq + 1 })), held);
  }
  const talk = opened();
  assert.is(verdict(talk.fromGuest('', { flags: Tcp.ack, ack: talk.clientSeq + 1 })), held);
});

test('a fragment may hide a request to any service, and so may two VLAN tags', () => {
  const fragment = fragmented(new Conversation(nextPort++, redisPort).fromClient(set));
  const whole = new Conversation(nextPort++, redisPort).fromClient(set);
  const tagged = Buffer.concat([whole.subarray(0, 12), Buffer.from('8100606481006064', 'hex'), whole.subarray(12)]);
  for (const frame of [fragment, tagged]) {
    const reader = opened();
    assert.ok(mirroredAsWrite(frame));
    logAll();
    ask(reader, get);
    assert.is(verdict(reader.fromGuest('$1\r\n1\r\n')), held);
  }
});

/** The same packet with an IP option. */
function withIpOption(frame: Buffer): Buffer {
  const longer = Buffer.concat([frame.subarray(0, 14 + 20), Buffer.alloc(4, 1), frame.subarray(14 + 20)]);
  longer.writeUInt8(0x46, 14);
  longer.writeUInt16BE(longer.length - 14, 14 + 2);
  return longer;
}

test('so may what has IP options, which the secondary could not translate: nothing of it leaves early', () => {
  settle();
  const talk = new Conversation(nextPort++, redisPort);
  assert.ok(mirroredAsWrite(withIpOption(talk.fromClient('', { flags: Tcp.syn, ack: 0 }))));
  logAll();
  assert.not(unharmed(redis));
  doubtPasses();
  assert.is(needs(talk.fromGuest('', { flags: Tcp.syn | Tcp.ack })), 0n);
  const early = opened();
  ask(early, get);
  assert.is(needs(withIpOption(early.fromGuest('$1\r\n1\r\n'))), 0n, 'nor what the guest says so');
});

/** The same segment with TCP options. */
function withTcpOptions(frame: Buffer, options: readonly number[]): Buffer {
  const longer = Buffer.concat([frame.subarray(0, 14 + 20 + 20), Buffer.from(options), frame.subarray(14 + 20 + 20)]);
  longer.writeUInt16BE(longer.length - 14, 14 + 2);
  longer.writeUInt8(5 + options.length / 4 << 4, 14 + 20 + 12);
  return longer;
}

test('of connections whose segments are signed nothing leaves early, as the secondary could not translate them', () => {
  const mss = [2, 4, 5, 0xb4];
  const stamps = [8, 10, ...Buffer.alloc(8)];
  const signature = (kind: number): number[] => [kind, 18, ...Buffer.alloc(16)];
  const cases: [options: number[], signed: boolean][] = [
    [[...mss, 1, 1, ...stamps], false],
    [[...mss, 1, 3, 3, 7], false],
    [[...signature(19), 1, 1], true],
    [[...mss, 1, 1, ...signature(29)], true],
    [[...mss, ...stamps, ...signature(19)], true],
    [[0, 0, ...signature(19)], false], // behind the end
    [[...mss, 8, 0, ...signature(19)], false], // malformed: nobody looks further
  ];
  for (const [options, signed] of cases) {
    settle();
    const talk = new Conversation(nextPort++, redisPort);
    toGuest(withTcpOptions(talk.fromClient('', { flags: Tcp.syn, ack: 0 }), options));
    logAll();
    assert.is(verdict(talk.fromGuest('', { flags: Tcp.syn | Tcp.ack })), signed ? held : passed, `${options}`);
    commit();
    ask(talk, get);
    assert.is(verdict(talk.fromGuest('$1\r\n1\r\n')), signed ? held : passed, `${options}`);
  }
  const late = opened();
  toGuest(withTcpOptions(late.fromClient('', { flags: Tcp.syn, seq: late.clientSeq - 1, ack: 0 }), [...signature(19), 1, 1]));
  logAll();
  assert.is(verdict(late.fromGuest('', { flags: Tcp.ack })), held);
});

/** Whether a reader's reply still leaves at once behind an IPv4 packet of that protocol. */
function harmless(protocol: number): boolean {
  const reader = opened();
  const packet = new Conversation(nextPort++, redisPort).fromClient('x');
  packet.writeUInt8(protocol, 14 + 9);
  toGuest(packet);
  logAll();
  ask(reader, get);
  return verdict(reader.fromGuest('$1\r\n1\r\n')) === passed;
}

test('ICMP and other protocols without a place for requests put nothing in doubt', () => {
  for (const protocol of [1, 2, 89, 112, 132]) assert.ok(harmless(protocol), `${protocol}`);
});

test('nor does ICMPv6, also behind hop-by-hop options, as groups are reported', () => {
  for (const [behind, hides] of [[IpProtocol.icmpv6, false], [IpProtocol.tcp, true], [IpProtocol.hopByHop, true], [IpProtocol.fragment, true]] as const) {
    const options = Buffer.from([behind, 0, 5, 2, 0, 0, 1, 0]);
    for (const send of [toGuest, verdict]) {
      settle();
      send(ethernet(EtherType.ipv6, ipv6(IpProtocol.hopByHop, Buffer.concat([options, icmpv6(143)]))));
      assert.is(unharmed(redis), !hides, `${behind}`);
    }
  }
  settle();
  toGuest(ethernet(EtherType.ipv6, ipv6(IpProtocol.icmpv6, icmpv6(143))));
  assert.ok(unharmed(redis));
});

test('a tunnel may hide a request to any service, and so may what nobody knows', () => {
  for (const protocol of [4, 41, 47, 50, 51, 94, 253]) assert.not(harmless(protocol), `${protocol}`);
});

const seconds = (count: number): bigint => BigInt(count) * 1_000_000_000n;
const known = (): number => [...gate.maps.flows.keys()].length;

test('flows are forgotten: soon if they are over, later if they never began, and in the end if they are idle', () => {
  const forgets = (afterSeconds: number, prepare: () => void): boolean => {
    sweepFlows(gate, now() + seconds(10 * 24 * 3600));
    assert.is(known(), 0);
    prepare();
    const before = known();
    sweepFlows(gate, now() + seconds(afterSeconds) - seconds(1));
    assert.is(known(), before, 'not yet');
    sweepFlows(gate, now() + seconds(afterSeconds) + seconds(1));
    return known() === before - 1;
  };
  for (const flag of [Tcp.fin, Tcp.rst]) assert.ok(forgets(10, () => verdict(opened().fromGuest('', { flags: flag | Tcp.ack }))), `the guest's ${flag}`);
  assert.ok(forgets(10, () => toGuest(opened().fromClient('', { flags: Tcp.rst }))), 'a client that is gone');
  assert.ok(forgets(60, () => toGuest(new Conversation(nextPort++, redisPort).fromClient('', { flags: Tcp.syn, ack: 0 }))), 'never accepted');
  assert.ok(forgets(60, () => toGuest(datagram(nextPort++, dnsPort, Buffer.from('what is it'), false))), 'a datagram');
  assert.ok(forgets(5 * 24 * 3600, () => opened()), 'an idle one');
  assert.ok(forgets(5 * 24 * 3600, () => {
    const talk = opened();
    toGuest(talk.fromClient('', { flags: Tcp.rst, seq: talk.clientSeq + 1 }));
  }), 'a reset that is none');
});

test('a forgotten flow leaves no write open, and none of whose end nobody knew out of doubt', () => {
  const [talk, other] = [opened(), opened()];
  const open = (): number => services.stats()[0]!.openWrites;
  ask(talk, set);
  assert.is(open(), 1);
  sweepFlows(gate, now() + seconds(6 * 24 * 3600));
  assert.is(open(), 0);
  assert.not(unharmed(redis), 'settled now, at the earliest');
  commit();
  assert.ok(unharmed(redis));

  settle();
  assert.is(verdict(other.fromGuest('+OK\r\n')), held, 'it is not known any more');
  const vague = opened();
  ask(vague, get + set);
  settle();
  sweepFlows(gate, now() + seconds(6 * 24 * 3600));
  assert.not(unharmed(redis));
});

test('unprotected, everything passes and is followed all the same', () => {
  bss.mode.set(GateMode.GATE_PASS);
  const talk = opened();
  ask(talk, get);
  assert.is(verdict(talk.fromGuest('$1\r\n1\r\n')), passed);
  bss.mode.set(GateMode.GATE_PROTECTED);
  ask(talk, get);
  assert.is(verdict(talk.fromGuest('$1\r\n1\r\n')), passed);
});

test('no mutation of either side makes the gate fail, and lengths that lie make packets opaque', () => {
  const shortest = 34; // a test run refuses frames that end before the IPv4 header does
  let state = 12345;
  const random = (): number => (state = (Math.imul(state, 1103515245) + 12345) >>> 0) / 2 ** 32;
  const talk = opened();
  for (let i = 0; i < 5000; i++) {
    const frame = random() < 0.5 ? talk.fromClient(random() < 0.5 ? get : set, { seq: 1 }) : talk.fromGuest('+OK\r\n', { seq: 1 });
    for (let flips = 0; flips < 4; flips++) frame[14 + Math.floor(random() * (frame.length - 14))] = Math.floor(random() * 256);
    const cut = frame.subarray(0, shortest + Math.floor(random() * (frame.length + 1 - shortest)));
    for (const program of [gate.programs.gate_in, gate.programs.gate_out]) {
      const { retval } = program.testRun({ data: cut });
      assert.ok([passed, held].includes(retval | 0), `verdict ${retval}`);
    }
  }
});

test('the services say what became of their packets', () => {
  const before = services.stats()[0]!;
  const talk = opened();
  ask(talk, get);
  verdict(talk.fromGuest('$1\r\n1\r\n'));
  ask(talk, set);
  verdict(talk.fromGuest('+OK\r\n'));
  const after = services.stats()[0]!;
  assert.is(after.port, redisPort);
  assert.is(after.prereleasedPackets - before.prereleasedPackets, 1);
  assert.is(after.heldPackets.doubt - before.heldPackets.doubt, 1);
});

test.run();
