import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { BpfProgram } from 'libbpf-napi';
import { GateCounter, GateMode, openGate } from '../../src/dataplane/skel/gate.skel.js';
import {
  ETHERNET_BYTES, EtherType, IPV4_BYTES, IPV6_BYTES, IpProtocol, arp, ethernet, icmpv6, ipv4, ipv6, pattern, tcp, udp,
} from './frames.js';

const NEXT = -1;
const DROP = 2;
const REDIRECT = 7;
const MARK = 0x600d_cafe;
const LOG_MARK = 0x1091_ca11;
const TAG_BYTES = 40;
const endOfTime = (1n << 64n) - 1n;

const specs = openGate();
specs.globals.rodata.tap_ifindex.set(1);
specs.globals.rodata.hold_ifindex.set(1);
specs.globals.rodata.release_mark.set(MARK);
specs.globals.rodata.log_mark.set(LOG_MARK);
const gate = specs.load();
const { gate_out, gate_in, gate_release } = gate.programs;
const { mode, lease_until_ns } = gate.globals.bss;

/** Offsets in `struct __sk_buff` (the kernel's ABI) of the fields that a test run takes. */
const skBuff = { bytes: 192, mark: 8, gsoSegs: 164, gsoSize: 176 } as const;

interface Given {
  mark?: number;
  gsoSegs?: number;
  gsoSize?: number;
}

interface Ran {
  verdict: number;
  frame: Buffer;
  mark: number;
  /** What was counted meanwhile: packets and bytes by counter. */
  counted: { [counter: string]: [packets: number, bytes: number] };
}

const counterNames = Object.entries(GateCounter).filter(([name]) => name !== 'GATE_COUNTERS');

function readCounters(): { packets: bigint; bytes: bigint }[] {
  return counterNames.map(([, which]) => {
    const perCpu = gate.maps.counters.lookup(which) ?? [];
    return perCpu.reduce((sum, { packets, bytes }) => ({ packets: sum.packets + packets, bytes: sum.bytes + bytes }), { packets: 0n, bytes: 0n });
  });
}

function run(program: BpfProgram, frame: Uint8Array, { mark = 0, gsoSegs = 0, gsoSize = 0 }: Given = {}): Ran {
  const ctx = Buffer.alloc(skBuff.bytes);
  ctx.writeUInt32LE(mark, skBuff.mark);
  ctx.writeUInt32LE(gsoSegs, skBuff.gsoSegs);
  ctx.writeUInt32LE(gsoSize, skBuff.gsoSize);
  const before = readCounters();
  const done = program.testRun({ data: frame, ctx });
  const counted: Ran['counted'] = {};
  readCounters().forEach(({ packets, bytes }, i) => {
    const [name] = counterNames[i]!;
    const more = packets - before[i]!.packets;
    if (more > 0n) counted[name] = [Number(more), Number(bytes - before[i]!.bytes)];
  });
  return { verdict: done.retval | 0, frame: Buffer.from(done.data), mark: Buffer.from(done.ctx).readUInt32LE(skBuff.mark), counted };
}

const out = (frame: Uint8Array, given?: Given): Ran => run(gate_out, frame, given);

function setGate(to: number, leaseUntilNs = endOfTime): void {
  mode.set(to as GateMode);
  lease_until_ns.set(leaseUntilNs);
}

/** The frame was left as it is, counted once as `counter`, and got this verdict. */
function leftAlone(ran: Ran, frame: Uint8Array, verdict: number, counter: keyof typeof GateCounter): void {
  assert.is(ran.verdict, verdict);
  assert.ok(ran.frame.equals(frame), 'the frame was changed');
  assert.equal(ran.counted, { [counter]: [1, frame.length] });
}

/** The frame went to the hold tap behind a tag that tells all about it. */
function held(frame: Uint8Array, given: Given = {}): void {
  const earliestNs = process.hrtime.bigint();
  const ran = out(frame, given);
  const latestNs = process.hrtime.bigint();
  assert.is(ran.verdict, REDIRECT);
  assert.equal(ran.counted, { GATE_OUT_HELD: [1, frame.length] });
  assert.is(ran.frame.length, TAG_BYTES + frame.length);
  assert.ok(ran.frame.subarray(TAG_BYTES).equals(frame), 'the frame behind the tag was changed');
  assert.ok(ran.frame.subarray(0, 12).equals(Buffer.alloc(12)), 'the addresses are not zero');
  assert.is(ran.frame.readUInt16BE(12), 0x88b5, 'ethertype');
  assert.is(ran.frame.readUInt16LE(14), given.gsoSize ?? 0, 'GSO size');
  const timeNs = ran.frame.readBigUInt64LE(16);
  assert.ok(timeNs >= earliestNs && timeNs <= latestNs, `time ${timeNs} is not from ${earliestNs} to ${latestNs}`);
  assert.is(ran.frame.readUInt32LE(24), 0x636f6c70, 'magic');
  assert.is(ran.frame.readUInt32LE(28), frame.length, 'frame bytes');
}

const tcpSegment = ethernet(EtherType.ipv4, ipv4(IpProtocol.tcp, tcp(pattern(100))));
const neighbourSolicit = ethernet(EtherType.ipv6, ipv6(IpProtocol.icmpv6, icmpv6(135)));
const arpRequest = ethernet(EtherType.arp, arp());

test('unprotected: everything passes, lease or not', () => {
  for (const leaseNs of [0n, endOfTime]) {
    setGate(GateMode.GATE_PASS, leaseNs);
    for (const frame of [tcpSegment, neighbourSolicit, arpRequest]) leftAlone(out(frame), frame, NEXT, 'GATE_OUT_PASSED');
  }
});

test('closed: nothing passes, lease or not', () => {
  for (const leaseNs of [0n, endOfTime]) {
    setGate(GateMode.GATE_CLOSED, leaseNs);
    for (const frame of [tcpSegment, neighbourSolicit, arpRequest]) leftAlone(out(frame), frame, DROP, 'GATE_OUT_CLOSED');
  }
});

test('a mode that is none closes the gate both ways', () => {
  setGate(77);
  leftAlone(out(tcpSegment), tcpSegment, DROP, 'GATE_OUT_CLOSED');
  leftAlone(run(gate_in, tcpSegment), tcpSegment, DROP, 'GATE_IN_CLOSED');
});

test('protected, without a lease: nothing passes, not even neighbour discovery', () => {
  for (const leaseNs of [0n, 1n, process.hrtime.bigint()]) {
    setGate(GateMode.GATE_PROTECTED, leaseNs);
    for (const frame of [tcpSegment, neighbourSolicit, arpRequest]) leftAlone(out(frame), frame, DROP, 'GATE_OUT_LEASE_EXPIRED');
  }
});

test('protected: a lease runs out by the clock alone', () => {
  const untilNs = process.hrtime.bigint() + 500_000_000n;
  setGate(GateMode.GATE_PROTECTED, untilNs);
  held(tcpSegment);
  while (process.hrtime.bigint() < untilNs); // not a timer: the kernel must agree to the nanosecond
  leftAlone(out(tcpSegment), tcpSegment, DROP, 'GATE_OUT_LEASE_EXPIRED');
});

test('protected: ARP and RARP pass', () => {
  setGate(GateMode.GATE_PROTECTED);
  const frames = [
    arpRequest,
    ethernet(EtherType.arp, arp(2)),
    ethernet(EtherType.rarp, arp(3)),
    ethernet(EtherType.arp, Buffer.concat([arp(), Buffer.alloc(18)])), // padded to the 60 bytes of Ethernet
  ];
  for (const frame of frames) leftAlone(out(frame), frame, NEXT, 'GATE_OUT_NEIGHBOUR');
});

test('protected: an ARP frame too short to be one is held', () => {
  setGate(GateMode.GATE_PROTECTED);
  for (const ethertype of [EtherType.arp, EtherType.rarp]) {
    for (let bytes = 0; bytes < 28; bytes++) held(ethernet(ethertype, arp().subarray(0, bytes)));
  }
});

test('protected: of ICMPv6 only neighbour discovery, types 133 to 137, passes', () => {
  setGate(GateMode.GATE_PROTECTED);
  for (let type = 0; type < 256; type++) {
    const frame = ethernet(EtherType.ipv6, ipv6(IpProtocol.icmpv6, icmpv6(type)));
    if (type >= 133 && type <= 137) leftAlone(out(frame), frame, NEXT, 'GATE_OUT_NEIGHBOUR');
    else held(frame); // echo 128 and 129, MLD 130 to 132 and 143, errors 1 to 4, the rest
  }
});

test('protected: neighbour discovery behind an extension header is held', () => {
  setGate(GateMode.GATE_PROTECTED);
  const extension = Buffer.from([IpProtocol.icmpv6, 0, 1, 4, 0, 0, 0, 0]); // eight bytes, padded
  for (const kind of [IpProtocol.hopByHop, 43, IpProtocol.fragment, 60]) {
    held(ethernet(EtherType.ipv6, ipv6(kind, Buffer.concat([extension, icmpv6(135)]))));
  }
});

// A test run takes no IP packet without a whole header: hold.test.ts sends those through a tap.
const leastBytes = (ethertype: number): number =>
  ETHERNET_BYTES + (ethertype === EtherType.ipv4 ? IPV4_BYTES : ethertype === EtherType.ipv6 ? IPV6_BYTES : 0);

test('protected: IPv6 cut off before the ICMPv6 type is held', () => {
  setGate(GateMode.GATE_PROTECTED);
  const typeAt = ETHERNET_BYTES + IPV6_BYTES;
  held(neighbourSolicit.subarray(0, typeAt));
  const frame = neighbourSolicit.subarray(0, typeAt + 1);
  leftAlone(out(frame), frame, NEXT, 'GATE_OUT_NEIGHBOUR');
});

const vlan = { ethertype: EtherType.vlan, tci: 0x6064 };
const outer = { ethertype: EtherType.qinq, tci: 0x0007 };
const heldFrames: [name: string, frame: Buffer][] = [
  ['IPv4 TCP', tcpSegment],
  ['IPv4 TCP without payload', ethernet(EtherType.ipv4, ipv4(IpProtocol.tcp, tcp(Buffer.alloc(0))))],
  ['IPv4 UDP, full', ethernet(EtherType.ipv4, ipv4(IpProtocol.udp, udp(pattern(1472))))],
  ['IPv4 first fragment', ethernet(EtherType.ipv4, ipv4(IpProtocol.udp, udp(pattern(1472)), { fragment: 0x2000 }))],
  ['IPv4 middle fragment', ethernet(EtherType.ipv4, ipv4(IpProtocol.udp, pattern(1480), { fragment: 0x2000 | 185 }))],
  ['IPv4 last fragment', ethernet(EtherType.ipv4, ipv4(IpProtocol.udp, pattern(9), { fragment: 370 }))],
  ['IPv4 ICMP', ethernet(EtherType.ipv4, ipv4(IpProtocol.icmp, Buffer.from([8, 0, 0xf7, 0xff, 0, 0, 0, 0])))],
  // The byte where IPv6 has its next header is 58, and where ICMPv6 has its type 135.
  ['IPv4 that looks like neighbour discovery', ethernet(EtherType.ipv4, Buffer.concat([neighbourSolicit.subarray(ETHERNET_BYTES)]))],
  ['IPv6 TCP', ethernet(EtherType.ipv6, ipv6(IpProtocol.tcp, tcp(pattern(33), { version: 6 })))],
  ['IPv6 UDP', ethernet(EtherType.ipv6, ipv6(IpProtocol.udp, udp(pattern(33), { version: 6 })))],
  ['802.1Q', ethernet(EtherType.ipv4, ipv4(IpProtocol.tcp, tcp(pattern(10))), [vlan])],
  ['802.1Q, ARP inside, tag in the frame', ethernet(EtherType.arp, arp(), [vlan])],
  ['802.1Q, neighbour discovery inside, tag in the frame', ethernet(EtherType.ipv6, ipv6(IpProtocol.icmpv6, icmpv6(135)), [vlan])],
  ['802.1ad', ethernet(EtherType.ipv6, ipv6(IpProtocol.tcp, tcp(pattern(10), { version: 6 })), [outer])],
  ['two VLAN tags', ethernet(EtherType.ipv4, ipv4(IpProtocol.tcp, tcp(pattern(10))), [outer, vlan])],
  ['LLC, with a length for a type', ethernet(60, pattern(60))],
  ['LLDP', ethernet(0x88cc, pattern(60))],
  ['our own ethertype', ethernet(0x88b5, pattern(60))],
  ['a header and nothing behind it', ethernet(0x88cc, Buffer.alloc(0))],
];
for (const [name, frame] of heldFrames) {
  test(`protected: held: ${name}`, () => {
    setGate(GateMode.GATE_PROTECTED);
    held(frame);
  });
}

test('protected: a packet that is yet to be segmented is held whole', () => {
  setGate(GateMode.GATE_PROTECTED);
  for (const version of [4, 6] as const) {
    const packet = (version === 4 ? ipv4 : ipv6)(IpProtocol.tcp, tcp(pattern(2800), { version, partialChecksum: true }));
    held(ethernet(version === 4 ? EtherType.ipv4 : EtherType.ipv6, packet), { gsoSize: 1400, gsoSegs: 2 });
  }
});

test('protected: a packet that cannot be tagged is dropped, not leaked', () => {
  setGate(GateMode.GATE_PROTECTED);
  // Every repetition tags the same packet once more, until the kernel has no more room in front of it.
  const before = readCounters();
  const { retval } = gate_out.testRun({ data: tcpSegment, repeat: 2000, dataSizeOut: 1 << 16 });
  const after = readCounters();
  const packets = (which: GateCounter): number => Number(after[which]!.packets - before[which]!.packets);
  assert.is(retval, DROP);
  assert.ok(packets(GateCounter.GATE_OUT_HELD) > 0);
  assert.ok(packets(GateCounter.GATE_OUT_UNTAGGABLE) > 0);
  assert.is(packets(GateCounter.GATE_OUT_HELD) + packets(GateCounter.GATE_OUT_UNTAGGABLE), 2000);
});

test('a released packet passes, unmarked, while unprotected and while protected', () => {
  for (const [to, leaseNs] of [[GateMode.GATE_PASS, 0n], [GateMode.GATE_PROTECTED, endOfTime]] as const) {
    setGate(to, leaseNs);
    for (const frame of [tcpSegment, arpRequest, neighbourSolicit]) {
      const ran = out(frame, { mark: MARK });
      leftAlone(ran, frame, NEXT, 'GATE_OUT_RELEASED');
      assert.is(ran.mark, 0);
    }
  }
});

test('a released packet is dropped where the gate is closed or the lease is over', () => {
  setGate(GateMode.GATE_CLOSED);
  leftAlone(out(tcpSegment, { mark: MARK }), tcpSegment, DROP, 'GATE_OUT_CLOSED');
  setGate(GateMode.GATE_PROTECTED, 0n);
  leftAlone(out(tcpSegment, { mark: MARK }), tcpSegment, DROP, 'GATE_OUT_LEASE_EXPIRED');
});

test('no other mark releases a packet, and none is touched', () => {
  setGate(GateMode.GATE_PROTECTED);
  for (const mark of [1, MARK - 1, MARK + 1, MARK & 0xffff, 0xffff_ffff]) {
    held(tcpSegment, { mark });
    assert.is(out(tcpSegment, { mark }).mark, mark);
  }
  setGate(GateMode.GATE_PASS);
  const ran = out(tcpSegment, { mark: MARK ^ 1 });
  leftAlone(ran, tcpSegment, NEXT, 'GATE_OUT_PASSED');
  assert.is(ran.mark, MARK ^ 1);
});

test('a gate that was given no mark releases nothing', () => {
  const specs = openGate();
  specs.globals.bss.mode.set(GateMode.GATE_PROTECTED);
  specs.globals.bss.lease_until_ns.set(endOfTime);
  const unmarked = specs.load();
  try {
    assert.is(unmarked.programs.gate_out.testRun({ data: tcpSegment }).retval, REDIRECT);
  } finally {
    unmarked.close();
  }
});

test('gate_release: marks and redirects', () => {
  const ran = run(gate_release, tcpSegment);
  assert.is(ran.verdict, REDIRECT);
  assert.is(ran.mark, MARK);
  assert.ok(ran.frame.equals(tcpSegment));
  assert.equal(ran.counted, {});
});

test('input passes unless the gate is closed', () => {
  for (const frame of [tcpSegment, neighbourSolicit, arpRequest, ethernet(0x88cc, Buffer.alloc(0))]) {
    setGate(GateMode.GATE_PASS, 0n);
    leftAlone(run(gate_in, frame), frame, NEXT, 'GATE_IN_PASSED');
    setGate(GateMode.GATE_PROTECTED, 0n);
    leftAlone(run(gate_in, frame), frame, NEXT, 'GATE_IN_PASSED');
    setGate(GateMode.GATE_CLOSED);
    leftAlone(run(gate_in, frame), frame, DROP, 'GATE_IN_CLOSED');
  }
});

/** Numbers that are the same on every run (xorshift32). */
function random(seed: number): (below: number) => number {
  let x = seed;
  return (below) => {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    return (x >>> 0) % below;
  };
}

/** The rule of what passes while protected, written down once more. */
function isNeighbourDiscovery(frame: Buffer): boolean {
  const ethertype = frame.readUInt16BE(12);
  if (ethertype === EtherType.arp || ethertype === EtherType.rarp) return frame.length >= 14 + 28;
  return ethertype === EtherType.ipv6 && frame[20] === IpProtocol.icmpv6 && frame.length > 54 && frame[54]! >= 133 && frame[54]! <= 137;
}

test('of an active secondary: what the guest says goes on to the shadow programs, lease or not', () => {
  for (const leaseUntilNs of [0n, endOfTime]) {
    setGate(GateMode.GATE_SHADOWED, leaseUntilNs);
    for (const frame of [tcpSegment, neighbourSolicit, arpRequest]) leftAlone(out(frame), frame, NEXT, 'GATE_OUT_SHADOW');
  }
});

test('of an active secondary: only what comes from the input log goes in, and counts as read', () => {
  setGate(GateMode.GATE_SHADOWED);
  const { unnumbered_inputs } = gate.globals.bss;
  const before = unnumbered_inputs.get();
  for (const mark of [0, MARK, LOG_MARK - 1]) leftAlone(run(gate_in, tcpSegment, { mark }), tcpSegment, DROP, 'GATE_IN_CLOSED');
  assert.is(unnumbered_inputs.get(), before);
  leftAlone(run(gate_in, tcpSegment, { mark: LOG_MARK }), tcpSegment, NEXT, 'GATE_IN_PASSED');
  assert.is(unnumbered_inputs.get(), before + 1n);
});

test('closed, nothing goes in, whatever its mark', () => {
  setGate(GateMode.GATE_CLOSED);
  leftAlone(run(gate_in, tcpSegment, { mark: LOG_MARK }), tcpSegment, DROP, 'GATE_IN_CLOSED');
});

test('any bytes of any length from 14 to 1514: held, or neighbour discovery', () => {
  setGate(GateMode.GATE_PROTECTED);
  const below = random(0x1234_5678);
  const ethertypes = Object.values(EtherType);
  let passed = 0;
  for (let bytes = ETHERNET_BYTES; bytes <= 1514; bytes++) {
    const frame = Buffer.from(Uint8Array.from({ length: bytes }, () => below(256)));
    // Most random bytes are of no protocol at all: steer every second frame into the code that reads further.
    const ethertype = ethertypes[below(ethertypes.length)]!;
    if (bytes % 2 === 0 && bytes >= leastBytes(ethertype)) frame.writeUInt16BE(ethertype, 12);
    if (bytes % 4 === 0 && bytes > 54) {
      frame[20] = IpProtocol.icmpv6;
      frame[54] = 128 + below(16);
    }
    if (isNeighbourDiscovery(frame)) {
      leftAlone(out(frame), frame, NEXT, 'GATE_OUT_NEIGHBOUR');
      passed++;
    } else {
      held(frame);
    }
  }
  assert.ok(passed > 50, `only ${passed} of the frames were neighbour discovery`);
});

test('any bytes: the other modes and programs give their one verdict', () => {
  const below = random(0x0bad_cafe);
  for (let bytes = ETHERNET_BYTES; bytes <= 1514; bytes += 1 + below(7)) {
    const frame = Buffer.from(Uint8Array.from({ length: bytes }, () => below(256)));
    setGate(GateMode.GATE_PASS, 0n);
    leftAlone(out(frame), frame, NEXT, 'GATE_OUT_PASSED');
    leftAlone(run(gate_in, frame), frame, NEXT, 'GATE_IN_PASSED');
    assert.is(run(gate_release, frame).verdict, REDIRECT);
    setGate(GateMode.GATE_CLOSED);
    leftAlone(out(frame), frame, DROP, 'GATE_OUT_CLOSED');
    leftAlone(run(gate_in, frame), frame, DROP, 'GATE_IN_CLOSED');
  }
});

test('what the gate costs a packet', () => {
  setGate(GateMode.GATE_PROTECTED);
  const { durationNs } = gate_out.testRun({ data: arpRequest, repeat: 100_000 });
  setGate(GateMode.GATE_PASS);
  const passNs = gate_out.testRun({ data: tcpSegment, repeat: 100_000 }).durationNs;
  process.stdout.write(`gate_out: ${passNs} ns unprotected, ${durationNs} ns for neighbour discovery while protected\n`);
  assert.ok(durationNs < 5000, `${durationNs} ns per packet`);
});

test.after(() => gate.close());
test.run();
