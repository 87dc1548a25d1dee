/** Rules 3 to 6 of the design's section 3, on real frames: what of a declared service leaves early. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { Services } from '../../src/dataplane/services.js';
import { GateMode, openGate } from '../../src/dataplane/skel/gate.skel.js';
import { Conversation, Tcp } from './conversation.js';
import { inputAck } from './frames.js';

const held = 7; // TC_ACT_REDIRECT, to the hold tap
const passed = -1;
const dropped = 2;
const redisPort = 6379;
const offPort = 6380;
const get = '*2\r\n$3\r\nGET\r\n$1\r\na\r\n';
const set = '*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\n1\r\n';
const endOfTime = (1n << 64n) - 1n;

const specs = openGate();
specs.globals.rodata.tap_ifindex.set(1);
specs.globals.rodata.hold_ifindex.set(1);
specs.globals.rodata.release_mark.set(0x1234_5678);
specs.globals.rodata.follow_flows.set(true);
specs.globals.rodata.hash_secret.set(0x1234_5678_9abc_def1n);
const gate = specs.load();
const { bss } = gate.globals;
const services = new Services(gate, [
  { port: redisPort, protocol: 'resp', preRelease: true },
  { port: offPort, protocol: 'resp', preRelease: false },
]);
bss.mode.set(GateMode.GATE_PROTECTED);
bss.lease_until_ns.set(endOfTime);

let nextPort = 40_000;
const now = (): bigint => process.hrtime.bigint();

function toGuest(frame: Buffer): void {
  assert.is(gate.programs.gate_in.testRun({ data: frame }).retval | 0, passed);
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
function opened(port = redisPort, version: 4 | 6 = 4): Conversation {
  const talk = new Conversation(nextPort++, port, version);
  toGuest(talk.fromClient('', { flags: Tcp.syn, ack: 0 }));
  verdict(talk.fromGuest('', { flags: Tcp.syn | Tcp.ack }));
  toGuest(talk.fromClient('', { flags: Tcp.ack }));
  settle();
  return talk;
}

/** As if nothing had happened for long: no held packets, no doubt. */
function settle(): void {
  for (let index = 0; index < 2; index++) {
    const service = gate.maps.services.lookup(index)!;
    gate.maps.services.update(index, { ...service, open_writes: 0n, settled_ns: 0n, vague_ns: 0n });
  }
  bss.opaque_ns.set(0n);
  commit();
  commit();
  logAll();
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
  settle();
  const talk = new Conversation(nextPort++, redisPort);
  toGuest(talk.fromClient(get, { flags: Tcp.syn, ack: 0 }));
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

test('a fragment may hide a request to any service', () => {
  const reader = opened();
  const fragment = new Conversation(nextPort++, redisPort).fromClient(set);
  fragment.writeUInt16BE(0x2000, 14 + 6);
  toGuest(fragment);
  logAll();
  ask(reader, get);
  assert.is(verdict(reader.fromGuest('$1\r\n1\r\n')), held);
});

test('ICMP, ARP and other protocols put nothing in doubt', () => {
  const reader = opened();
  const icmp = new Conversation(nextPort++, redisPort).fromClient('x');
  icmp.writeUInt8(1, 14 + 9);
  toGuest(icmp);
  logAll();
  ask(reader, get);
  assert.is(verdict(reader.fromGuest('$1\r\n1\r\n')), passed);
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
