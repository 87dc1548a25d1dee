import { setTimeout as sleep } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { holdBoundsNs, TapHold, type HoldNotice, type HoldStats, type ReleaseCause, type TapHoldOptions } from 'tap-hold';
import { GateCounter, GateMode, type GateObjects } from '../../src/dataplane/skel/gate.skel.js';
import {
  ETHERNET_BYTES, EtherType, GsoType, IPV4_BYTES, IpProtocol, NEEDS_CSUM, TCP_BYTES, UDP_BYTES,
  arp, ethernet, guestMac, clientMac, holdTag as tag, icmpv6, ipv4, ipv6, offloaded, pattern, plain, tcp, udp, type Packet, type VnetHeader,
} from './frames.js';
import { until } from './libbpf-support.js';
import { FarEnd, attachGate, bridged, deviceExists, enterOwnNamespace } from './tap.js';

enterOwnNamespace(import.meta.url);

const holdTap = 'colopp-t-hold';
const mib = 1024 * 1024;
const endOfTime = (1n << 64n) - 1n;
const { guestTap, guest, client } = await bridged();

interface Rig {
  hold: TapHold;
  gate: GateObjects;
  notices: [notice: HoldNotice, oldestNs: bigint][];
}

/** A test with a gate and a hold thread of its own; protected. */
function holdTest(name: string, options: Partial<TapHoldOptions>, body: (rig: Rig) => Promise<void>): void {
  test(name, async () => {
    const notices: Rig['notices'] = [];
    const hold = new TapHold({ ifname: holdTap, onNotice: (...notice) => notices.push(notice), ...options });
    const { gate, detach } = attachGate(guestTap, hold);
    guest.take();
    client.take();
    try {
      await body({ hold, gate, notices });
    } finally {
      detach();
      hold.close();
    }
  });
}

const nowNs = (): bigint => process.hrtime.bigint();

/** Waits until the statistics are as `holds` wants them, and returns them; says what they were instead. */
async function statsAre(hold: TapHold, holds: (stats: HoldStats) => boolean, limitMs = 10_000): Promise<HoldStats> {
  const end = Date.now() + limitMs;
  for (;;) {
    const stats = hold.stats();
    if (holds(stats)) return stats;
    if (Date.now() > end) throw new Error(`not within ${limitMs} ms: ${holds}; it is ${JSON.stringify(stats, (_, value: unknown) => typeof value === 'bigint' ? String(value) : value)}`);
    await sleep(2);
  }
}

const heldAre = (hold: TapHold, packets: number): Promise<HoldStats> => statsAre(hold, ({ heldPackets }) => heldPackets === packets);

let fences = 0;

/**
 * What the client got: waits for `packets` of them, and then for one that was sent after them all
 * and is never held, so that none can still be on its way.
 */
async function came(packets = 0): Promise<Packet[]> {
  await until(() => client.received.length >= packets, 10_000);
  const fence = arp();
  fence.writeUInt32BE(++fences, 20); // unused in a request
  const frame = ethernet(EtherType.arp, fence);
  guest.send(frameOf(frame));
  await until(() => client.received.at(-1)?.frame.equals(frame) === true, 10_000);
  return client.take().slice(0, -1);
}

/** Notices come from another thread by way of the event loop. */
const patience = (): Promise<void> => sleep(40);

function count(gate: GateObjects, which: GateCounter): number {
  return Number((gate.maps.counters.lookup(which) ?? []).reduce((sum, { packets }) => sum + packets, 0n));
}

const frameOf = (frame: Buffer, vnet: VnetHeader = plain): Packet => ({ vnet, frame });
/** A small packet that can be told from others. */
const numbered = (number: number, bytes = 32): Packet =>
  frameOf(ethernet(EtherType.ipv4, ipv4(IpProtocol.udp, udp(Buffer.concat([Buffer.from([0, 0, number >> 8, number & 0xff]), pattern(bytes - 4)])))));
/** Where `numbered` and the bursts below keep their number. */
const numberAt = ETHERNET_BYTES + IPV4_BYTES + UDP_BYTES;
const numbersOf = (packets: readonly Packet[], at = numberAt): number[] => packets.map(({ frame }) => frame.readUInt32BE(at));
const upTo = (count: number): number[] => Array.from({ length: count }, (_, i) => i);

/** 45 segments: what Linux makes of a bulk transfer. */
const bulk = offloaded(pattern(45 * 1448), { gsoSize: 1448 });
const bulkNumberAt = ETHERNET_BYTES + IPV4_BYTES + TCP_BYTES;

const vlan = { ethertype: EtherType.vlan, tci: 0x6064 };
const priorityOnly = { ethertype: EtherType.vlan, tci: 0xe000 };
const service = { ethertype: EtherType.qinq, tci: 0x0007 };
const fragments = (payload: Buffer): Buffer[] => [0, 1480, 2960].map((offset) =>
  ethernet(EtherType.ipv4, ipv4(IpProtocol.udp, payload.subarray(offset, offset + 1480), { fragment: (offset + 1480 < payload.length ? 0x2000 : 0) | offset / 8 })));
/** The longest that IPv4 can be: with our tag it exceeds what the kernel hands on unsegmented. */
const longest = offloaded(pattern(65_535 - IPV4_BYTES - TCP_BYTES), { gsoSize: 1448 });
const datagram = offloaded(pattern(8000), { protocol: 'udp', gsoSize: 1480 });

const wholePackets: [name: string, packet: Packet][] = [
  ['UDP, 60 bytes', frameOf(ethernet(EtherType.ipv4, ipv4(IpProtocol.udp, udp(pattern(18)))))],
  ['UDP, 42 bytes', frameOf(ethernet(EtherType.ipv4, ipv4(IpProtocol.udp, udp(Buffer.alloc(0)))))],
  ['TCP, 1514 bytes', frameOf(ethernet(EtherType.ipv4, ipv4(IpProtocol.tcp, tcp(pattern(1460)))))],
  ['TCP, partial checksum', offloaded(pattern(1000))],
  ['TCP over IPv6, partial checksum', offloaded(pattern(999), { version: 6 })],
  ['UDP, partial checksum', offloaded(pattern(77), { protocol: 'udp' })],
  ['TCP, 64 KiB to segment', bulk],
  ['TCP, to segment, with congestion notification', offloaded(pattern(20_000), { gsoSize: 1400, gsoFlags: GsoType.ecn })],
  ['TCP over IPv6, 64 KiB to segment', offloaded(pattern(45 * 1428), { version: 6, gsoSize: 1428 })],
  ['UDP, to segment', offloaded(pattern(12_000), { protocol: 'udp', gsoSize: 1200 })],
  ...fragments(udp(pattern(3500))).map((frame, i): [string, Packet] => [`UDP, fragment ${i + 1} of 3`, frameOf(frame)]),
  ['jumbo', frameOf(ethernet(EtherType.ipv4, ipv4(IpProtocol.udp, udp(pattern(8900)))))],
  ['802.1Q', frameOf(ethernet(EtherType.ipv4, ipv4(IpProtocol.udp, udp(pattern(18))), [vlan]))],
  ['802.1Q with a priority and no number', frameOf(ethernet(EtherType.ipv6, ipv6(IpProtocol.udp, udp(pattern(18), { version: 6 })), [priorityOnly]))],
  ['802.1Q, partial checksum', offloaded(pattern(500), { tags: [vlan] })],
  ['802.1Q, 64 KiB to segment', offloaded(pattern(45 * 1444), { tags: [vlan], gsoSize: 1444 })],
  ['802.1ad', frameOf(ethernet(EtherType.ipv4, ipv4(IpProtocol.udp, udp(pattern(18))), [service]))],
  ['two VLAN tags', frameOf(ethernet(EtherType.ipv4, ipv4(IpProtocol.udp, udp(pattern(18))), [service, vlan]))],
  ['two VLAN tags, partial checksum', offloaded(pattern(501), { tags: [service, vlan] })],
  ['two VLAN tags with ARP inside', frameOf(ethernet(EtherType.arp, arp(), [service, vlan]))],
  ['LLC', frameOf(ethernet(60, pattern(60)))],
  ['our own ethertype, as if it were a tag', frameOf(ethernet(0x88b5, pattern(100)))],
];
/** The kernel changes these on the way to the client, held or not. */
const alteredPackets: [name: string, packet: Packet][] = [
  // A bridge with netfilter removes the padding.
  ['TCP, padded to 60 bytes', frameOf(ethernet(EtherType.ipv4, Buffer.concat([ipv4(IpProtocol.tcp, tcp(Buffer.alloc(0))), Buffer.alloc(6)])))],
  // Segmented: too long to be handed on whole.
  ['TCP, the longest there is, to segment', longest],
  ['two VLAN tags, to segment', offloaded(pattern(3 * 1440), { tags: [service, vlan], gsoSize: 1440 })],
  // What guests of before Linux 4.14 and others send: fragments of a datagram.
  ['UDP, to fragment', { ...datagram, vnet: { ...datagram.vnet, gsoType: GsoType.udp } }],
];

/**
 * Without what is a hint only: the length of the headers, which depends on how the kernel keeps a
 * packet, and whether it knows a complete checksum to be right.
 */
const essence = ({ vnet, frame }: Packet): { vnet: VnetHeader; bytes: string } =>
  ({ vnet: { ...vnet, hdrLen: 0, flags: vnet.flags & NEEDS_CSUM }, bytes: frame.toString('hex') });

for (const [name, packet] of [...wholePackets, ...alteredPackets]) {
  holdTest(`held and released as if never held: ${name}`, {}, async ({ hold, gate }) => {
    gate.globals.bss.mode.set(GateMode.GATE_PASS);
    guest.send(packet);
    const unheld = await came();
    assert.ok(unheld.length > 0, 'it does not arrive unheld either');

    gate.globals.bss.mode.set(GateMode.GATE_PROTECTED);
    guest.send(packet);
    await statsAre(hold, ({ heldPackets }) => heldPackets > 0);
    assert.equal(await came(), [], 'it was seen before its release');
    const { receivedPackets } = hold.stats();
    hold.releaseUpTo(nowNs());
    const released = await came(unheld.length);

    assert.equal(released.map(essence), unheld.map(essence));
    if (wholePackets.some(([whole]) => whole === name)) {
      assert.is(receivedPackets, 1);
      assert.is(released.length, 1);
      assert.ok(released[0]!.frame.equals(packet.frame), 'it is not what the guest sent');
    }
    assert.is(hold.stats().malformedPackets, 0);
  });
}

holdTest('held: IPv6 cut off anywhere before the ICMPv6 type', {}, async ({ hold, gate }) => {
  const solicit = ethernet(EtherType.ipv6, ipv6(IpProtocol.icmpv6, icmpv6(135)));
  for (let bytes = ETHERNET_BYTES; bytes <= 54; bytes++) guest.send(frameOf(solicit.subarray(0, bytes)));
  await heldAre(hold, 54 - ETHERNET_BYTES + 1);
  assert.is(count(gate, GateCounter.GATE_OUT_NEIGHBOUR), 0);
  assert.equal(await came(), []);
});

holdTest('neighbour discovery passes at once, on a VLAN too, ahead of what is held', {}, async ({ hold, gate }) => {
  const discovery = [
    ethernet(EtherType.arp, arp()),
    ethernet(EtherType.ipv6, ipv6(IpProtocol.icmpv6, icmpv6(136))),
    // By now the kernel has taken the VLAN tag out of the frame.
    ethernet(EtherType.arp, arp(), [vlan]),
    ethernet(EtherType.ipv6, ipv6(IpProtocol.icmpv6, icmpv6(135)), [vlan]),
  ];
  guest.send(numbered(0));
  for (const frame of discovery) guest.send(frameOf(frame));
  await heldAre(hold, 1);
  assert.equal((await came(discovery.length)).map(({ frame }) => frame.toString('hex')), discovery.map((frame) => frame.toString('hex')));
  assert.is(count(gate, GateCounter.GATE_OUT_NEIGHBOUR), discovery.length + 1); // and the fence
});

holdTest('input passes while output is held', {}, async ({ hold }) => {
  guest.send(numbered(0));
  await heldAre(hold, 1);
  const input = ethernet(EtherType.ipv4, ipv4(IpProtocol.tcp, tcp(pattern(64))));
  guestMac.copy(input, 0);
  clientMac.copy(input, 6);
  client.send(frameOf(input));
  await until(() => guest.received.length === 1);
  assert.ok(guest.received[0]!.frame.equals(input));
});

holdTest('the watermark: what was sent at it or before comes out, and nothing after it', {}, async ({ hold }) => {
  guest.send(numbered(0));
  const { oldestNs } = await heldAre(hold, 1);
  guest.send(numbered(1));
  await heldAre(hold, 2);
  assert.is(hold.stats().oldestNs, oldestNs);

  hold.releaseUpTo(oldestNs - 1n);
  assert.equal(await came(), []);
  hold.releaseUpTo(oldestNs);
  assert.equal(numbersOf(await came(1)), [0]);
  const { oldestNs: secondNs, heldPackets } = hold.stats();
  assert.is(heldPackets, 1);
  assert.ok(secondNs > oldestNs);
  hold.releaseUpTo(nowNs());
  assert.equal(numbersOf(await came(1)), [1]);
  assert.is(hold.stats().oldestNs, 0n);
});

holdTest('the watermark also counts for what comes later', {}, async ({ hold }) => {
  const afterNs = nowNs() + 100_000_000n;
  hold.releaseUpTo(afterNs);
  guest.send(numbered(0), 3, numberAt);
  await until(() => client.received.length === 3);
  assert.equal(numbersOf(client.take()), [0, 1, 2]);
  while (nowNs() <= afterNs) await sleep(5);
  guest.send(numbered(9));
  await heldAre(hold, 1);
  assert.equal(await came(), []);
  hold.releaseAll();
  assert.equal(numbersOf(await came(1)), [9]);
  guest.send(numbered(10));
  assert.equal(numbersOf(await came(1)), [10]);
});

holdTest('how long packets were held is counted by what released them', {}, async ({ hold }) => {
  const inBuckets = (cause: ReleaseCause): number[] => holdBoundsNs.flatMap((_, bucket) => Array<number>(hold.stats().holdTimes[cause].packets[bucket]!).fill(bucket));
  guest.send(numbered(0), 3, numberAt);
  const { oldestNs } = await heldAre(hold, 3);
  await sleep(20);
  const heldNs = Number(nowNs() - oldestNs);
  hold.releaseUpTo(nowNs());
  await heldAre(hold, 0);
  const { commit, ...others } = (await statsAre(hold, ({ releasedPackets }) => releasedPackets === 3)).holdTimes;
  assert.is(inBuckets('commit').length, 3);
  assert.ok(inBuckets('commit').every((bucket) => holdBoundsNs[bucket]! >= 20_000_000), `${commit.packets}`);
  assert.ok(commit.totalNs >= 60_000_000 && commit.totalNs >= heldNs, `${commit.totalNs}`);
  for (const { packets, totalNs } of Object.values(others)) assert.is(packets.reduce((sum, count) => sum + count, totalNs), 0);

  guest.send(numbered(3));
  await heldAre(hold, 1);
  hold.releaseAll();
  await statsAre(hold, ({ releasedPackets }) => releasedPackets === 4);
  assert.equal([inBuckets('commit').length, inBuckets('end').length], [3, 1]);
  await came(4);
});

holdTest('a watermark that goes back holds again', {}, async ({ hold }) => {
  hold.releaseAll();
  guest.send(numbered(0));
  await until(() => client.received.length === 1);
  hold.releaseUpTo(0n);
  guest.send(numbered(1));
  await heldAre(hold, 1);
  assert.equal(numbersOf(await came(1)), [0]);
});

holdTest('packets of all sizes keep their order through many partial releases', {}, async ({ hold }) => {
  const sent: Buffer[] = [];
  for (let i = 0; i < 300; i++) {
    const packet = i % 7 === 0 ? offloaded(Buffer.concat([Buffer.from([i >> 8, i & 0xff]), pattern(1448 * (1 + i % 45), i)]), { gsoSize: 1448 }) : numbered(i, 8 + (i * 37) % 1400);
    guest.send(packet);
    sent.push(packet.frame);
    if (i % 10 === 9) {
      await statsAre(hold, ({ receivedPackets }) => receivedPackets === i + 1);
      hold.releaseUpTo(hold.stats().oldestNs + 1_000n * BigInt(i));
    }
  }
  hold.releaseUpTo(nowNs() + 1_000_000_000n);
  const released = (await came(sent.length)).map(({ frame }) => frame);
  assert.is(released.length, sent.length);
  released.forEach((frame, i) => assert.ok(frame.equals(sent[i]!), `packet ${i} is not the one that was sent then`));
  const stats = hold.stats();
  assert.is(stats.releasedPackets, 300);
  assert.is(stats.releasedBytes, sent.reduce((sum, frame) => sum + frame.length, 0));
  assert.is(stats.releasedBytes, stats.receivedBytes);
});

holdTest('notices: held once, limit once, and again after each watermark', { limitPackets: 5 }, async ({ hold, notices }) => {
  guest.send(numbered(0), 5, numberAt);
  const { oldestNs } = await heldAre(hold, 5);
  await patience();
  assert.equal(notices, [['held', oldestNs]]);
  guest.send(numbered(0), 5, numberAt);
  await heldAre(hold, 10);
  await patience();
  assert.equal(notices.splice(0), [['held', oldestNs], ['limit', oldestNs]]);

  hold.releaseUpTo(oldestNs); // nine are left: still too many
  const { oldestNs: nextNs } = await heldAre(hold, 9);
  await patience();
  assert.equal(notices.splice(0), [['held', nextNs], ['limit', nextNs]]);
  hold.releaseUpTo(nowNs());
  await heldAre(hold, 0);
  await patience();
  assert.equal(notices, []);
  guest.send(numbered(0));
  const { oldestNs: lastNs } = await heldAre(hold, 1);
  await patience();
  assert.equal(notices, [['held', lastNs]]);
});

holdTest('notices: the limit of bytes', { limitBytes: 100_000 }, async ({ hold, notices }) => {
  guest.send(bulk);
  await heldAre(hold, 1);
  await patience();
  assert.equal(notices.map(([notice]) => notice), ['held']);
  guest.send(bulk);
  await heldAre(hold, 2);
  await patience();
  assert.equal(notices.map(([notice]) => notice), ['held', 'limit']);
});

holdTest('notices: none for what a watermark already covers', { limitPackets: 10 }, async ({ hold, notices }) => {
  guest.send(numbered(0), 1000, numberAt);
  await heldAre(hold, 1000);
  await patience();
  notices.length = 0;
  hold.releaseUpTo(nowNs());
  await heldAre(hold, 0);
  hold.releaseAll();
  guest.send(numbered(0), 1000, numberAt);
  await statsAre(hold, ({ releasedPackets }) => releasedPackets === 2000);
  await patience();
  assert.equal(notices, []);
});

holdTest('gathering: the notice waits until nothing has come for a while, with the time of the first', {}, async ({ hold, notices }) => {
  hold.setGathering(400, 5000);
  guest.send(numbered(0));
  const { oldestNs } = await heldAre(hold, 1);
  for (let i = 1; i <= 4; i++) {
    await sleep(100);
    guest.send(numbered(i));
    await heldAre(hold, i + 1);
  }
  const lastNs = nowNs();
  assert.equal(notices, []);
  await until(() => notices.length > 0);
  const waitedMs = Number(nowNs() - lastNs) / 1e6;
  assert.ok(waitedMs > 300, `after ${waitedMs} ms`);
  assert.equal(notices, [['held', oldestNs]]);
});

holdTest('gathering: no longer than it may, and never what is over the limit', { limitPackets: 100 }, async ({ hold, notices }) => {
  hold.setGathering(1000, 300);
  const sinceNs = nowNs();
  guest.send(numbered(0));
  const { oldestNs } = await heldAre(hold, 1);
  await until(() => notices.length > 0);
  assert.equal(notices.splice(0), [['held', oldestNs]]);
  assert.ok(nowNs() - sinceNs >= 300_000_000n);
  hold.releaseUpTo(nowNs());
  hold.setGathering(10_000, 10_000);
  guest.send(numbered(0), 101, numberAt);
  await heldAre(hold, 101);
  await patience();
  assert.equal(notices.map(([notice]) => notice), ['limit']);
});

holdTest('gathering: given up while it gathers nothing, tried again, and kept up where it does', {}, async ({ hold, notices }) => {
  const waitMs = 60;
  hold.setGathering(waitMs, 1000);
  const waits: boolean[] = [];
  const round = async (packets: number): Promise<void> => {
    const sinceNs = nowNs();
    guest.send(numbered(0), packets, numberAt);
    await until(() => notices.length > 0);
    waits.push(Number(nowNs() - sinceNs) / 1e6 >= waitMs);
    notices.length = 0;
    hold.releaseUpTo(nowNs());
    await heldAre(hold, 0);
  };
  for (let i = 0; i < 40; i++) await round(1);
  assert.ok(waits.slice(0, 4).every(Boolean), 'at first they are waited for');
  // On a busy machine one that was told at once may have come late.
  assert.ok(waits.slice(4).filter((waited) => !waited).length >= 25, String(waits));
  waits.length = 0;
  for (let i = 0; i < 40; i++) await round(3);
  await came(40 + 40 * 3);
  assert.ok(waits.slice(32).every(Boolean), String(waits));
});

holdTest('discard: what waits is forgotten, what comes later is not', {}, async ({ hold, notices }) => {
  guest.send(numbered(0), 20, numberAt);
  await heldAre(hold, 20);
  hold.discard();
  const stats = await heldAre(hold, 0);
  assert.is(stats.discardedPackets, 20);
  guest.send(numbered(33));
  await heldAre(hold, 1);
  await patience();
  assert.equal(notices.map(([notice]) => notice), ['held', 'held']);
  hold.releaseAll();
  assert.equal(numbersOf(await came(1)), [33]);
});

holdTest('discard: also what did not fit and waits in the device', { ringBytes: mib }, async ({ hold, gate }) => {
  guest.send(bulk, 60, bulkNumberAt);
  await until(() => count(gate, GateCounter.GATE_OUT_HELD) === 60);
  await statsAre(hold, ({ fullEvents }) => fullEvents > 0);
  hold.discard();
  await statsAre(hold, ({ discardedPackets }) => discardedPackets === 60);
  hold.releaseAll();
  assert.equal(await came(), []);
  guest.send(numbered(5));
  assert.equal(numbersOf(await came(1)), [5]);
});

holdTest('a full ring loses nothing: the rest waits in the device, in order', { ringBytes: mib }, async ({ hold }) => {
  guest.send(bulk, 200, bulkNumberAt);
  const { heldPackets, heldBytes } = await statsAre(hold, ({ fullEvents }) => fullEvents > 0);
  assert.ok(heldPackets >= 10 && heldPackets < 20, `${heldPackets} of 64 KiB in 1 MiB`);
  assert.ok(heldBytes <= mib);
  await patience();
  assert.is(hold.stats().heldPackets, heldPackets);
  assert.is(hold.stats().droppedPackets, 0);
  hold.releaseAll();
  const released = await came(200);
  assert.equal(numbersOf(released, bulkNumberAt), upTo(200));
  assert.ok(released.every(({ frame }) => frame.length === bulk.frame.length), 'some were segmented');
});

holdTest('a full ring reads on as soon as a release makes room', { ringBytes: mib }, async ({ hold }) => {
  guest.send(bulk, 5, bulkNumberAt);
  await heldAre(hold, 5);
  const watermarkNs = nowNs();
  guest.send(bulk, 40, bulkNumberAt);
  const { receivedPackets } = await statsAre(hold, ({ fullEvents }) => fullEvents > 0);
  hold.releaseUpTo(watermarkNs);
  await statsAre(hold, (stats) => stats.releasedPackets === 5 && stats.receivedPackets >= receivedPackets + 4);
  hold.releaseAll();
  assert.equal(numbersOf(await came(45), bulkNumberAt), [...upTo(5), ...upTo(40)]);
});

holdTest('only when the device overflows too does the kernel drop, and count', { ringBytes: mib, queuePackets: 10 }, async ({ hold, gate }) => {
  guest.send(bulk, 100, bulkNumberAt);
  await until(() => count(gate, GateCounter.GATE_OUT_HELD) === 100);
  await patience();
  const dropped = hold.stats().droppedPackets;
  assert.ok(dropped > 50 && dropped < 95, `${dropped} dropped`);
  hold.releaseAll();
  const released = numbersOf(await came(100 - dropped), bulkNumberAt);
  assert.is(released.length, 100 - dropped);
  assert.ok(released.every((number, i) => i === 0 || number > released[i - 1]!), 'out of order');
});

holdTest('what does not come from the gate is thrown away and counted', {}, async ({ hold }) => {
  const forger = await FarEnd.open('packet', holdTap);
  try {
    const { frame } = numbered(500);
    const good = tag({ frameBytes: frame.length });
    const vlanTag = Buffer.from([0x81, 0x00, 0, 100]);
    const tagged = Buffer.concat([good.subarray(0, 12), vlanTag, good.subarray(12), frame]);
    const malformed: Packet[] = [
      frame, // no tag
      frame.subarray(0, 14),
      good.subarray(0, good.length - 1), // not even a tag
      good, // a tag and nothing behind it
      tag({ frameBytes: 0 }),
      Buffer.concat([tag({ frameBytes: 13 }), frame.subarray(0, 13)]),
      Buffer.concat([tag({ frameBytes: frame.length, magic: 0x636f6c71 }), frame]),
      Buffer.concat([tag({ frameBytes: frame.length, ethertype: 0x88b7 }), frame]),
      Buffer.concat([tag({ frameBytes: frame.length + 1 }), frame]),
      Buffer.concat([tag({ frameBytes: frame.length - 1 }), frame]),
      Buffer.concat([tag({ frameBytes: frame.length - 1, gsoSize: 1448 }), frame]),
      Buffer.concat([tag({ frameBytes: 0xffff_ffff }), frame]),
      tagged.subarray(0, good.length), // cut off in its VLAN tag
      tagged.subarray(0, good.length + 3),
      tagged.subarray(0, good.length + 4),
      tagged.subarray(0, tagged.length - 1),
      Buffer.concat([good.subarray(0, 12), vlanTag, vlanTag, good.subarray(12), frame]),
    ].map((bytes) => frameOf(bytes));
    // A checksum that would begin within the tag.
    malformed.push(frameOf(Buffer.concat([good, frame]), { ...plain, flags: NEEDS_CSUM, csumStart: 30, csumOffset: 0 }));

    guest.send(numbered(1));
    await heldAre(hold, 1);
    for (const packet of malformed) forger.send(packet);
    const stats = await statsAre(hold, ({ malformedPackets }) => malformedPackets === malformed.length);
    assert.is(stats.receivedPackets, 1);
    guest.send(numbered(2));
    await heldAre(hold, 2);
    // These are good: were they refused, the others would prove nothing.
    forger.send(frameOf(Buffer.concat([good, frame])));
    forger.send(frameOf(tagged));
    forger.send(frameOf(Buffer.concat([tag({ frameBytes: 60_000, gsoSize: 1448 }), frame]))); // a segment
    await heldAre(hold, 5);
    hold.releaseAll();
    const released = await came(5);
    assert.equal(released.map(({ frame: { length } }) => length), [frame.length, frame.length, frame.length, frame.length + 4, frame.length]);
    assert.equal(numbersOf(released.filter((_, i) => i !== 3)), [1, 2, 500, 500]);
    assert.is(hold.stats().malformedPackets, malformed.length);
  } finally {
    await forger.close();
  }
});

holdTest('the gate drops what it cannot tag', {}, async ({ hold, gate }) => {
  guest.send(frameOf(ethernet(EtherType.ipv4, ipv4(IpProtocol.udp, udp(pattern(20_000))))));
  await until(() => count(gate, GateCounter.GATE_OUT_UNTAGGABLE) === 1);
  assert.equal(await came(), []);
  assert.is(hold.stats().receivedPackets, 0);
});

holdTest('without a lease, what is released stays unseen', {}, async ({ hold, gate }) => {
  guest.send(numbered(0), 10, numberAt);
  await heldAre(hold, 10);
  gate.globals.bss.lease_until_ns.set(nowNs());
  hold.releaseAll();
  await until(() => count(gate, GateCounter.GATE_OUT_LEASE_EXPIRED) === 10);
  gate.globals.bss.lease_until_ns.set(endOfTime);
  assert.equal(await came(), []);
  guest.send(numbered(77));
  assert.equal(numbersOf(await came(1)), [77]);
});

holdTest('a burst of 50 000 is held, released and seen in full and in order', { limitPackets: 1_000_000 }, async ({ hold, gate }) => {
  const packets = 50_000;
  const startNs = nowNs();
  guest.send(numbered(0, 64), packets, numberAt);
  await statsAre(hold, ({ heldPackets }) => heldPackets === packets);
  const heldNs = nowNs();
  assert.is(client.received.length, 0);
  hold.releaseAll();
  await statsAre(hold, ({ releasedPackets }) => releasedPackets === packets);
  const releasedNs = nowNs();
  await until(() => client.received.length === packets, 10_000);
  assert.equal(numbersOf(client.take()), upTo(packets));
  assert.is(count(gate, GateCounter.GATE_OUT_RELEASED), packets);
  const perSecond = (ns: bigint): string => `${Math.round(packets / Number(ns) * 1e6)} 000 packets/s`;
  process.stdout.write(`held: ${perSecond(heldNs - startNs)}; released: ${perSecond(releasedNs - heldNs)}\n`);
});

test('close: the device goes, and what it held', async () => {
  const hold = new TapHold({ ifname: holdTap, onNotice: () => {} });
  const { detach } = attachGate(guestTap, hold);
  guest.send(numbered(0), 100, numberAt);
  await heldAre(hold, 100);
  hold.close();
  hold.close();
  assert.not.ok(deviceExists(holdTap));
  guest.send(numbered(0), 100, numberAt); // the gate still holds, and there is nobody to hold for it
  assert.equal(await came(), []);
  for (const use of [() => hold.stats(), () => hold.releaseAll(), () => hold.releaseUpTo(1n), () => hold.discard(), () => hold.ifIndex]) {
    assert.throws(use, (error: Error & { code?: string }) => error.code === 'TAP_HOLD' && /colopp-t-hold.*closed/.test(error.message));
  }
  detach();
  client.take();
});

test.after(async () => {
  await Promise.all([guest.close(), client.close()]);
});
test.run();
