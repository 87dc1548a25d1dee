/** Comparing over real taps: what the gate holds, what comes in as shadow outputs, and what clients then get. */
import { setTimeout as sleep } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { TapHold, type CompareEvent, type CompareLimits, type HoldNotice, type TapHoldError } from 'tap-hold';
import { EtherType, IpProtocol, ethernet, inputAck, ipv4, offloaded, pattern, plain, tcp, udp, type Packet } from './frames.js';
import { thrown, until } from './libbpf-support.js';
import { FarEnd, attachGate, bridged, deviceExists, enterOwnNamespace, ip } from './tap.js';

enterOwnNamespace(import.meta.url);

const holdTap = 'colopp-t-hold';
const shadowTap = 'colopp-t-shadow';
const { guestTap, guest, client } = await bridged();
/** So that nothing is late by chance. */
const patient: CompareLimits = { lateMinMs: 60_000, lateFirstMs: 60_000, lateMaxMs: 60_000 };

interface Rig {
  hold: TapHold;
  found: CompareEvent[];
  notices: HoldNotice[];
  /** As the secondary's guest says it, after it has loaded the checkpoint `epoch`. */
  shadow: (frame: Buffer, epoch?: number) => void;
  /** As the gate copies what left early. */
  audit: (frame: Buffer) => void;
  /** To the hold tap. */
  forge: (packet: Packet) => void;
}

/** The tags of bpf/wire.h. */
function tagged(magic: number, frame: Buffer, { flags = 0, epoch, needsInput = 0n }: { flags?: number; epoch?: number; needsInput?: bigint } = {}): Packet {
  const tag = Buffer.alloc(epoch === undefined ? 40 : 48);
  tag.writeUInt16LE(flags, 10);
  tag.writeUInt16BE(0x88b5, 12);
  tag.writeBigUInt64LE(process.hrtime.bigint(), 16);
  tag.writeUInt32LE(magic, 24);
  tag.writeUInt32LE(frame.length, 28);
  tag.writeBigUInt64LE(needsInput, 32);
  if (epoch !== undefined) tag.writeUInt32LE(epoch, 40);
  return { vnet: plain, frame: Buffer.concat([tag, frame]) };
}

function compareTest(name: string, limits: CompareLimits, body: (rig: Rig) => Promise<void>): void {
  test(name, async () => {
    const found: CompareEvent[] = [];
    const notices: HoldNotice[] = [];
    const hold = new TapHold({ ifname: holdTap, onNotice: (notice) => notices.push(notice), compare: { ifname: shadowTap, onFound: (events) => found.push(...events) } });
    const { detach } = attachGate(guestTap, hold);
    const [secondary, gate] = await Promise.all([FarEnd.open('packet', shadowTap), FarEnd.open('packet', holdTap)]);
    client.take();
    try {
      hold.setCompare(limits);
      hold.commit(process.hrtime.bigint(), 1);
      await body({
        hold, found, notices,
        shadow: (frame, epoch = 1) => secondary.send(tagged(0x636f_6c73, frame, { epoch })),
        audit: (frame) => gate.send(tagged(0x636f_6c70, frame, { flags: 1 })),
        forge: (packet) => gate.send(packet),
      });
    } finally {
      detach();
      hold.close();
      await Promise.all([secondary.close(), gate.close()]);
    }
  });
}

/** A segment from the guest: the sequence numbers of `frames.ts` begin at 1000. */
function segment(payload: Uint8Array, at = 0): Buffer {
  const bytes = tcp(payload);
  bytes.writeUInt32BE(1000 + at, 4);
  bytes.writeUInt16BE(0, 16); // the bridge does not look
  return ethernet(EtherType.ipv4, ipv4(IpProtocol.tcp, bytes));
}

const send = (frame: Buffer): void => guest.send({ vnet: plain, frame });
const text = (words: string): Buffer => Buffer.from(words);
const held = (hold: TapHold, packets: number): Promise<void> => until(() => hold.stats().heldPackets === packets, 10_000);
const got = (packets: number): Promise<void> => until(() => client.received.length === packets, 10_000);
/** Long enough for what must not happen to happen. */
const patience = (): Promise<void> => sleep(60);

compareTest('what both say leaves, whoever says it first and in whatever packets', patient, async ({ hold, found, shadow }) => {
  const first = segment(text('one two '));
  send(first);
  await held(hold, 1);
  await patience();
  assert.is(client.received.length, 0);
  shadow(segment(text('one')));
  shadow(segment(text(' two three'), 3));
  await got(1);
  assert.ok(client.received[0]!.frame.equals(first), 'it is not what the guest sent');
  send(segment(text('three'), 8));
  await got(2);
  const { compare, holdTimes, heldPackets } = hold.stats();
  assert.is(compare.matchedPackets, 2);
  assert.is(heldPackets, 0);
  assert.is(holdTimes.match.packets.reduce((sum, count) => sum + count, 0), 2);
  assert.ok(compare.lagP99Ms > 0);
  assert.equal(found, []);
});

compareTest('what has matched holds up nothing that comes after it', patient, async ({ hold, shadow }) => {
  const words = new BigUint64Array(3);
  const [loggedIseq, drainedNs, unloggedDrainedNs] = [0, 1, 2].map((i) => new Uint8Array(words.buffer, 8 * i, 8)) as [Uint8Array, Uint8Array, Uint8Array];
  hold.share({ loggedIseq, drainedNs, unloggedDrainedNs });
  send(segment(text('one')));
  await held(hold, 1);
  const heldNs = process.hrtime.bigint();
  send(segment(text('two'), 3));
  await held(hold, 2);
  shadow(segment(text('one')));
  await got(1);
  await until(() => Atomics.load(words, 1) > 0n);
  assert.ok(Atomics.load(words, 1) < heldNs);
  shadow(segment(text('two'), 3));
  await got(2);
  await until(() => Atomics.load(words, 1) > heldNs);
});

compareTest('64 KiB to segment against segments, and what is said around it in other flows', patient, async ({ hold, found, shadow }) => {
  const bulk = offloaded(pattern(45 * 1448), { gsoSize: 1448 });
  const other = ethernet(EtherType.ipv4, ipv4(IpProtocol.udp, udp(text('nobody else says this'))));
  send(other);
  guest.send(bulk);
  await held(hold, 2);
  const bytes = pattern(45 * 1448);
  for (let at = 0; at < bytes.length; at += 1000) shadow(segment(bytes.subarray(at, at + 1000), at));
  await got(1);
  assert.ok(client.received[0]!.frame.equals(bulk.frame));
  assert.is(hold.stats().heldPackets, 1);
  hold.commit(process.hrtime.bigint(), 2);
  await got(2);
  assert.ok(client.received[1]!.frame.equals(other));
  assert.equal(found, []);
});

compareTest('with a difference is told how much of its port had matched', patient, async ({ hold, found, shadow }) => {
  send(segment(text('a')));
  await held(hold, 1);
  shadow(segment(text('a')));
  await got(1);
  send(segment(text('b'), 1));
  shadow(segment(text('c'), 1));
  await until(() => found.length > 0);
  assert.is(found[0]!.portMatched, 1);
});

compareTest('a difference is reported, and waits for a commit', patient, async ({ hold, found, shadow }) => {
  send(segment(text('12:30 o\'clock')));
  send(segment(text('.'), 13));
  await held(hold, 2);
  shadow(segment(text('12:31 o\'clock.')));
  await until(() => found.length > 0);
  const { ageNs, primary, shadow: other, ...event } = found[0]!;
  assert.equal(event, {
    finding: 'divergence', difference: 'payload', seq: 1004, offset: 4, portMatched: 0,
    flow: { ethertype: 0x0800, protocol: 6, guest: '192.0.2.1', guestPort: 80, client: '192.0.2.2', clientPort: 40_000 },
  });
  assert.ok(ageNs > 0);
  assert.is(primary.bytes, 13);
  assert.is(other.bytes, 14);
  assert.match(primary.digest, /^[0-9a-f]{16}$/);
  assert.is.not(primary.digest, other.digest);
  await patience();
  assert.is(client.received.length, 0);
  hold.commit(process.hrtime.bigint(), 2);
  await got(2);
  assert.is(hold.stats().compare.divergences, 1);
});

compareTest('a secondary that says nothing is late, once', { lateFirstMs: 10 }, async ({ hold, found }) => {
  send(segment(text('hello')));
  send(segment(text('hello'), 5));
  await until(() => found.length > 0);
  await patience();
  assert.equal(found.map(({ finding, difference, seq }) => [finding, difference, seq]), [['late', 'nothing', 1000]]);
  assert.ok(found[0]!.ageNs >= 10e6);
  assert.is(hold.stats().compare.late, 1);
  assert.is(hold.stats().heldPackets, 2);
});

compareTest('what was said before a checkpoint says nothing after it', patient, async ({ hold, found, shadow }) => {
  shadow(segment(text('said before ')));
  await until(() => hold.stats().compare.shadowPackets === 1);
  hold.suspendCompare();
  send(segment(text('said before '))); // before the STOP or after: nobody knows yet
  await held(hold, 1);
  await patience();
  assert.is(client.received.length, 0);
  const stopNs = process.hrtime.bigint();
  send(segment(text('and after'), 12));
  await held(hold, 2);
  shadow(segment(text('and'), 12), 2); // from the next epoch, of whose commit nobody was told
  await until(() => hold.stats().compare.shadowPackets === 2);
  hold.commit(stopNs, 2);
  await got(1);
  shadow(segment(text(' after'), 15), 1); // late, from the last one
  await patience();
  assert.is(client.received.length, 1);
  shadow(segment(text(' after'), 15), 2);
  await got(2);
  assert.equal(found, []);
});

compareTest('an audit compares what has left, and releases nothing', patient, async ({ hold, found, shadow, audit }) => {
  audit(segment(text('right')));
  shadow(segment(text('right')));
  await until(() => hold.stats().compare.audited === 1);
  audit(segment(text('wrong'), 5));
  shadow(segment(text('wrung'), 5));
  await until(() => found.length > 0);
  assert.is(found[0]!.finding, 'auditMismatch');
  assert.is(found[0]!.flow.guestPort, 80);
  assert.is(found[0]!.seq, 1007);
  hold.releaseAll();
  await patience();
  assert.is(client.received.length, 0);
  assert.is(hold.stats().receivedPackets, 0);
  assert.is(hold.stats().compare.auditMismatches, 1);
});

compareTest('what only waited for the input log is audited once it has left, if the gate says so', patient, async ({ hold, found, shadow, forge }) => {
  const words = new BigUint64Array(3);
  const [loggedIseq, drainedNs, unloggedDrainedNs] = [0, 1, 2].map((i) => new Uint8Array(words.buffer, 8 * i, 8)) as [Uint8Array, Uint8Array, Uint8Array];
  hold.share({ loggedIseq, drainedNs, unloggedDrainedNs });
  const logged = (iseq: bigint): void => {
    Atomics.store(words, 0, iseq);
    forge({ vnet: plain, frame: inputAck({ iseq }) });
  };
  const sampled = 4;
  forge(tagged(0x636f_6c70, segment(text('right')), { flags: sampled, needsInput: 7n }));
  await held(hold, 1);
  logged(7n);
  await got(1);
  shadow(segment(text('right')));
  await until(() => hold.stats().compare.audited === 1);
  for (const [flags, needsInput, at] of [[0, 8n, 5], [sampled, 9n, 10]] as const) {
    forge(tagged(0x636f_6c70, segment(text('wrong'), at), { flags, needsInput }));
    await held(hold, 1);
    logged(needsInput);
    await held(hold, 0);
    shadow(segment(text('wrung'), at));
    await patience();
    assert.is(hold.stats().compare.auditMismatches, flags === sampled ? 1 : 0);
  }
  await until(() => found.length > 0);
  assert.is(found[0]!.finding, 'auditMismatch');
  assert.is(found[0]!.seq, 1012);
  assert.is(client.received.length, 3);
});

compareTest('switched off, everything waits for a commit; switched on again, for a commit too', patient, async ({ hold, shadow }) => {
  hold.setCompare(undefined);
  send(segment(text('abc')));
  shadow(segment(text('abc')));
  await held(hold, 1);
  hold.setCompare(patient);
  shadow(segment(text('abc')));
  await patience();
  assert.is(client.received.length, 0);
  hold.commit(1n, 1);
  shadow(segment(text('abc')));
  await got(1);
});

compareTest('frames that are no shadow outputs are counted', patient, async ({ hold, shadow }) => {
  const stray = await FarEnd.open('packet', shadowTap);
  stray.send({ vnet: plain, frame: ethernet(0x1234, pattern(100)) });
  const damaged = segment(text('x'));
  damaged.writeUInt8(0x10, 14 + 20 + 12); // a header shorter than a header
  shadow(damaged);
  await until(() => hold.stats().compare.shadowMalformed === 2);
  await stray.close();
});

compareTest('the tap of shadow outputs taken away: said, and what is held waits for commits, also later', patient, async ({ hold, notices }) => {
  send(segment(text('one')));
  await held(hold, 1);
  await patience();
  assert.equal(notices, [], 'it is compared');
  ip(`link del ${shadowTap}`);
  await until(() => notices.length === 2);
  assert.equal(notices, ['shadowLost', 'held']);
  assert.ok(hold.stats().shadowLost);
  assert.not.ok(hold.stats().deviceLost);
  hold.setCompare(patient);
  hold.commit(process.hrtime.bigint(), 2);
  await got(1);
  send(segment(text('two'), 3));
  await until(() => notices.length === 3);
  assert.is(notices[2], 'held');
});

test('errors name what is wrong', () => {
  const hold = new TapHold({ ifname: holdTap, onNotice: () => {} });
  try {
    const error = thrown<TapHoldError>(() => hold.setCompare({}));
    assert.is(error.code, 'TAP_HOLD');
    assert.match(error.message, 'it was made without a tap for shadow outputs');
    assert.throws(() => hold.commit(1n, 1), /without a tap/);
    const taken = thrown<TapHoldError>(() => new TapHold({ ifname: 'colopp-t-hold2', onNotice: () => {}, compare: { ifname: holdTap, onFound: () => {} } }));
    assert.is(taken.operation, 'ioctl(TUNSETIFF)');
    assert.not(deviceExists('colopp-t-hold2'));
  } finally {
    hold.close();
  }
  const comparing = new TapHold({ ifname: holdTap, onNotice: () => {}, compare: { ifname: shadowTap, onFound: () => {} } });
  try {
    assert.ok(comparing.shadowIfIndex > 0);
    assert.throws(() => comparing.setCompare({ lateMinMs: 5, lateMaxMs: 1 }), /must not be more/);
    assert.throws(() => comparing.setCompare({ flowBytes: 1 }), RangeError);
    assert.throws(() => comparing.commit(1n, -1), RangeError);
  } finally {
    comparing.close();
  }
  assert.not(deviceExists(shadowTap));
});

test.after(async () => {
  await Promise.all([guest.close(), client.close()]);
});
test.run();
