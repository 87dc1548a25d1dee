/** The translation between clients and a guest that was set back, frame by frame in test runs of the kernel. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { BpfProgram } from 'libbpf-napi';
import { openShadow, ShadowCounter, ShadowFlowState, ShadowForward, ShadowMode, type ShadowFlow } from '../../src/dataplane/skel/shadow.skel.js';
import { readTranslations, writeTranslations } from '../../src/dataplane/translations.js';
import type { TranslatedFlow } from '../../src/protocol/messages.js';
import { arp, ethernet, EtherType, pattern } from './frames.js';
import { frameOf, guestPort, optionBytes, Tcp, type Segment, type TcpOption } from './shadow/segments.js';

const NEXT = -1;
const DROP = 2;
const REDIRECT = 7;
const MARK = 0x600d_cafe;
const TAG_BYTES = 56;
const MAX_FLOWS = 8;
const PROBE_SHIFT = 2 ** 29;

const specs = openShadow();
specs.globals.rodata.tap_ifindex.set(1);
specs.globals.rodata.log_ifindex.set(1);
specs.globals.rodata.replay_mark.set(MARK);
specs.maps.shadow_flows.resize(MAX_FLOWS);
const shadow = specs.load();
const { shadow_in, shadow_out, shadow_log, shadow_write, shadow_sweep } = shadow.programs;
const { bss } = shadow.globals;
const flows = shadow.maps.shadow_flows;

/** Offsets in `struct __sk_buff` (the kernel's ABI) of the fields that a test run takes. */
const skBuff = { bytes: 192, mark: 8, gsoSegs: 164, gsoSize: 176 } as const;

interface Ran {
  verdict: number;
  frame: Buffer;
  mark: number;
}

function run(program: BpfProgram, frame: Uint8Array, { mark = 0, gsoSegs = 0, gsoSize = 0 } = {}): Ran {
  const ctx = Buffer.alloc(skBuff.bytes);
  ctx.writeUInt32LE(mark, skBuff.mark);
  ctx.writeUInt32LE(gsoSegs, skBuff.gsoSegs);
  ctx.writeUInt32LE(gsoSize, skBuff.gsoSize);
  const done = program.testRun({ data: frame, ctx });
  return { verdict: done.retval | 0, frame: Buffer.from(done.data), mark: Buffer.from(done.ctx).readUInt32LE(skBuff.mark) };
}

function counted(which: ShadowCounter, action: () => void): number {
  const read = (): bigint => (shadow.maps.counters.lookup(which) ?? []).reduce((sum, packets) => sum + packets, 0n);
  const before = read();
  action();
  return Number(read() - before);
}

/** @returns how many flows are left */
function forget(endedNs = (1n << 64n) - 1n, usedNs = endedNs): number {
  bss.sweep_ended_ns.set(endedNs);
  bss.sweep_used_ns.set(usedNs);
  return shadow_sweep.testRun({ data: new Uint8Array(14) }).retval;
}

function begin(mode: ShadowMode, tsOffset = 0): void {
  forget();
  bss.mode.set(mode);
  bss.ts_offset.set(tsOffset);
}

/** From the log to the guest. */
const replayed = (segment: Segment): Buffer => passed(run(shadow_in, frameOf(segment), { mark: MARK }));
/** From a client to the guest, when the replay is over. */
const live = (segment: Segment): Buffer => passed(run(shadow_in, frameOf(segment)));
/** From the guest to the client. */
const said = (segment: Segment): Buffer => passed(run(shadow_out, frameOf({ fromGuest: true, ...segment })));

function passed({ verdict, frame, mark }: Ran): Buffer {
  assert.is(verdict, NEXT);
  assert.is(mark, 0, 'the mark went on');
  return frame;
}

/** The frame is that of `segment`, in every byte, with the right checksum. */
function is(frame: Buffer, segment: Segment): void {
  assert.is(frame.toString('hex'), frameOf(segment).toString('hex'));
}

function flowOf(clientPort = 40_000): ShadowFlow | undefined {
  for (const [key, flow] of flows.entries()) {
    if (key.client_port === ((clientPort & 0xff) << 8 | clientPort >> 8) && key.guest_port === guestPort << 8) return flow;
  }
  return undefined;
}

const guestIsn = 0x7000_0000;
const primaryIsn = 0x1234_5678;
const clientIsn = 0xffff_fff0; // wraps soon
const delta = primaryIsn - guestIsn;
const ts = (value: number, echo: number): TcpOption[] => [{ kind: 'nop' }, { kind: 'nop' }, { kind: 'timestamps', value, echo }];

/** A connection whose client got another SYN-ACK than this guest sends now. */
function open(version: 4 | 6 = 4, clientPort = 40_000): void {
  replayed({ version, clientPort, flags: Tcp.syn, seq: clientIsn });
  said({ version, clientPort, flags: Tcp.syn | Tcp.ack, seq: guestIsn, ack: clientIsn + 1 });
  is(replayed({ version, clientPort, seq: clientIsn + 1, ack: primaryIsn + 1 }), { version, clientPort, seq: clientIsn + 1, ack: guestIsn + 1 });
}

for (const version of [4, 6] as const) {
  test(`IPv${version}: the other initial sequence number is learned and translated`, () => {
    begin(ShadowMode.SHADOW_REPLAY);
    is(replayed({ version, flags: Tcp.syn, seq: clientIsn }), { version, flags: Tcp.syn, seq: clientIsn });
    assert.is(flowOf()?.state, ShadowFlowState.SHADOW_SYN);
    const synAck = { version, fromGuest: true, flags: Tcp.syn | Tcp.ack, seq: guestIsn, ack: clientIsn + 1 };
    is(said(synAck), synAck);
    assert.is(flowOf()?.state, ShadowFlowState.SHADOW_SYN_ACK);
    const learned = counted(ShadowCounter.SHADOW_LEARNED, () => {
      is(replayed({ version, seq: clientIsn + 1, ack: primaryIsn + 1 }), { version, seq: clientIsn + 1, ack: guestIsn + 1 });
    });
    assert.is(learned, 1);
    const payload = pattern(33);
    is(replayed({ version, flags: Tcp.ack | Tcp.psh, seq: clientIsn + 1, ack: primaryIsn + 1, payload }), { version, flags: Tcp.ack | Tcp.psh, seq: clientIsn + 1, ack: guestIsn + 1, payload });
    is(said({ version, seq: guestIsn + 1, ack: clientIsn + 34, payload: pattern(60) }), { version, fromGuest: true, seq: primaryIsn + 1, ack: clientIsn + 34, payload: pattern(60) });
    assert.is(flowOf()!.replies, 0, 'the beginning of one');
    for (const _ of ['once', 'and again']) said({ version, flags: Tcp.ack | Tcp.psh, seq: guestIsn + 61, ack: clientIsn + 34, payload: pattern(40) });
    bss.mode.set(ShadowMode.SHADOW_LIVE);
    is(live({ version, seq: clientIsn + 34, ack: primaryIsn + 101 }), { version, seq: clientIsn + 34, ack: guestIsn + 101 });
    const flow = flowOf()!;
    assert.is(flow.seq_delta, delta >>> 0);
    assert.is(flow.snd_max, guestIsn + 101);
    assert.is(flow.rcv_ack, (clientIsn + 34) >>> 0);
    assert.is(flow.replies, 1);
  });

  test(`IPv${version}: acknowledgements never go beyond what the guest has sent`, () => {
    begin(ShadowMode.SHADOW_REPLAY);
    open(version);
    const clamped = counted(ShadowCounter.SHADOW_CLAMPED, () => {
      is(replayed({ version, seq: clientIsn + 1, ack: primaryIsn + 5000, payload: pattern(10) }), { version, seq: clientIsn + 1, ack: guestIsn + 1, payload: pattern(10) });
    });
    assert.is(clamped, 1);
    said({ version, seq: guestIsn + 1, ack: clientIsn + 11, payload: pattern(1000) });
    is(replayed({ version, seq: clientIsn + 11, ack: primaryIsn + 5000 }), { version, seq: clientIsn + 11, ack: guestIsn + 1001 });
    is(replayed({ version, seq: clientIsn + 11, ack: primaryIsn + 900 }), { version, seq: clientIsn + 11, ack: guestIsn + 900 });
  });

  test(`IPv${version}: a connection as old as the checkpoint: the first segment is a probe`, () => {
    begin(ShadowMode.SHADOW_REPLAY);
    const segment = { version, seq: 5000, ack: 9000, payload: pattern(70) };
    const flags = Tcp.ack | Tcp.psh | Tcp.fin;
    const probes = counted(ShadowCounter.SHADOW_PROBES, () => {
      is(replayed({ ...segment, flags }), { ...segment, flags: Tcp.ack, seq: 5000 - PROBE_SHIFT });
      is(replayed({ ...segment, flags: Tcp.ack }), { ...segment, seq: 5000 - PROBE_SHIFT });
    });
    assert.is(probes, 2);
    // The guest tells where it is: it has sent less than the client has.
    const duplicate = { version, fromGuest: true, seq: 8000, ack: 5000 };
    is(said(duplicate), duplicate);
    assert.is(flowOf()?.state, ShadowFlowState.SHADOW_KNOWN);
    is(replayed(segment), { ...segment, ack: 8000 });
    said({ version, seq: 8000, ack: 5070, payload: pattern(2000) });
    is(replayed({ version, seq: 5070, ack: 9000 }), { version, seq: 5070, ack: 9000 });
  });
}

test('every layout of options, both ways, against a model', () => {
  const sentBytes = 3000;
  let state = 92110;
  const random = (limit: number): number => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0; // Numerical Recipes; its high bits are good
    return Math.floor(state / 2 ** 32 * limit);
  };
  const number = (): number => random(2 ** 32);
  const others: TcpOption[] = [
    { kind: 'nop' }, { kind: 'nop' }, { kind: 'raw', bytes: [2, 4, 5, 0xb4] }, { kind: 'raw', bytes: [3, 3, 7] }, { kind: 'raw', bytes: [4, 2] },
    { kind: 'raw', bytes: [254, 5, 1, 2, 3] }, { kind: 'raw', bytes: [30, 8, 0, 1, 2, 3, 4, 5] },
  ];
  const seen = new Set<string>();
  for (let i = 0; i < 3000; i++) {
    const version = random(2) ? 4 : 6;
    const offset = random(2 ** 31);
    begin(ShadowMode.SHADOW_REPLAY, offset);
    open(version);
    said({ version, seq: guestIsn + 1, ack: clientIsn + 1, payload: pattern(sentBytes) });
    // The first with a timestamp also says from where on echoes are believed.
    said({ version, seq: guestIsn + 1, ack: clientIsn + 1, options: ts(1000, 0) });
    said({ version, seq: guestIsn + 1, ack: clientIsn + 1, options: ts(2000, 0) });
    const options: TcpOption[] = [];
    const used = (): number => 40 - optionBytes(options);
    while (used() > 0 && random(6)) {
      const choice = random(3);
      const next: TcpOption = choice === 0 && !options.some(({ kind }) => kind === 'timestamps')
        ? { kind: 'timestamps', value: number(), echo: 1000 + offset + random(1001) }
        : choice === 1 && !options.some(({ kind }) => kind === 'sack')
          ? { kind: 'sack', blocks: Array.from({ length: 1 + random(4) }, () => [number(), number()] as const) }
          : others[random(others.length)]!;
      if (optionBytes([next]) <= used()) options.push(next);
    }
    if (used() > 0 && random(8) === 0) options.push({ kind: 'end' });
    seen.add(options.map(({ kind }) => kind).join());
    const payload = pattern(random(64), i);
    const ackOffset = random(sentBytes);
    const given = { version, seq: number(), ack: primaryIsn + 1 + ackOffset, options, payload, urgent: number() & 0xffff } as const;
    is(replayed(given), {
      ...given, ack: guestIsn + 1 + ackOffset,
      options: options.map((option) => option.kind === 'timestamps' ? { ...option, echo: option.echo - offset }
        : option.kind === 'sack' ? { ...option, blocks: option.blocks.map(([left, right]) => [left - delta, right - delta] as const) } : option),
    });
    const back = { ...given, fromGuest: true, seq: guestIsn + 1 + random(sentBytes), ack: number() };
    is(said(back), {
      ...back, seq: back.seq + delta,
      // What the guest reports as received counts in the client's own numbers.
      options: options.map((option) => option.kind === 'timestamps' ? { ...option, value: option.value + offset } : option),
    });
  }
  assert.ok(seen.size > 300, `${seen.size} layouts`);
});

const malformed: [name: string, bytes: number[]][] = [
  ['a length of 0', [8, 0, 1, 1]],
  ['a length of 1', [1, 1, 5, 1]],
  ['a length beyond the header', [8, 10, 1, 2, 3, 4, 5, 6]],
  ['cut off after its kind', [1, 1, 1, 8]],
  ['timestamps of another length', [8, 9, 1, 2, 3, 4, 5, 6, 7, 1, 1, 1]],
  ['SACK that is no multiple of a block', [5, 9, 1, 2, 3, 4, 5, 6, 7, 1, 1, 1]],
  ['SACK of nothing', [5, 2, 1, 1]],
  ['an end, and more behind it', [0, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]],
];
for (const [name, bytes] of malformed) {
  test(`options that are none stay as they are: ${name}`, () => {
    begin(ShadowMode.SHADOW_REPLAY, 777);
    open();
    const options: TcpOption[] = [{ kind: 'raw', bytes }];
    is(replayed({ seq: clientIsn + 1, ack: primaryIsn + 1, options }), { seq: clientIsn + 1, ack: guestIsn + 1, options });
    is(said({ seq: guestIsn + 1, ack: clientIsn + 1, options }), { fromGuest: true, seq: primaryIsn + 1, ack: clientIsn + 1, options });
  });
}

test('what is not plain TCP, or signed, stays as it is and is counted', () => {
  begin(ShadowMode.SHADOW_REPLAY, 777);
  open();
  open(6);
  const plain = frameOf({ seq: 1, ack: primaryIsn + 1, options: ts(1, 2), payload: pattern(20) });
  const plain6 = frameOf({ version: 6, seq: 1, ack: primaryIsn + 1, options: ts(1, 2), payload: pattern(20) });
  const changed = (frame: Buffer, at: number, ...bytes: number[]): Buffer => {
    const copy = Buffer.from(frame);
    copy.set(bytes, at);
    return copy;
  };
  const withIpOption = Buffer.concat([changed(plain.subarray(0, 34), 14, 0x46), Buffer.alloc(4, 1), plain.subarray(34)]);
  withIpOption.writeUInt16BE(withIpOption.length - 14, 16);
  const frames: [name: string, frame: Buffer][] = [
    ['UDP', changed(plain, 23, 17)],
    ['IP options', withIpOption],
    ['the first fragment', changed(plain, 20, 0x20, 0)],
    ['a later fragment', changed(plain, 20, 0, 3)],
    ['IPv4 that says version 6', changed(plain, 14, 0x65)],
    ['longer than the frame', changed(plain, 16, 0x7f)],
    ['a TCP header too short', changed(plain, 46, 0x40)],
    ['a TCP header longer than the packet', changed(frameOf({}), 46, 0xf0)],
    ['no room for a TCP header', changed(plain.subarray(0, 50), 16, 0, 36)],
    ['nothing behind the IP header', plain.subarray(0, 34)],
    ['IPv6 with an extension header', changed(plain6, 20, 0)],
    ['IPv6 that says version 4', changed(plain6, 14, 0x40)],
    ['IPv6, longer than the frame', changed(plain6, 18, 0x7f)],
    ['IPv6, nothing behind the header', plain6.subarray(0, 54)],
    ['signed with MD5', frameOf({ seq: 1, ack: primaryIsn + 1, options: [{ kind: 'raw', bytes: [19, 18, ...pattern(16)] }] })],
    ['signed with TCP-AO', frameOf({ seq: 1, ack: primaryIsn + 1, options: [{ kind: 'nop' }, { kind: 'nop' }, { kind: 'raw', bytes: [29, 16, ...pattern(14)] }] })],
  ];
  for (const [name, frame] of frames) {
    for (const [program, mark] of [[shadow_in, MARK], [shadow_out, 0]] as const) {
      const opaque = counted(ShadowCounter.SHADOW_OPAQUE, () => {
        assert.ok(passed(run(program, frame, { mark })).equals(frame), `${name}: it was changed`);
      });
      assert.is(opaque, 1, name);
    }
  }
});

test('timestamps: moved for all, back in the echoes, and only echoes of what this guest sent', () => {
  begin(ShadowMode.SHADOW_REPLAY, 30_000);
  replayed({ flags: Tcp.syn, seq: 7, options: ts(50, 0) });
  is(said({ flags: Tcp.syn | Tcp.ack, seq: guestIsn, ack: 8, options: ts(1000, 50) }), { fromGuest: true, flags: Tcp.syn | Tcp.ack, seq: guestIsn, ack: 8, options: ts(31_000, 50) });
  // The primary sent its SYN-ACK 20 s after the checkpoint: this guest has never sent that.
  is(replayed({ seq: 8, ack: primaryIsn + 1, options: ts(60, 21_000) }), { seq: 8, ack: guestIsn + 1, options: ts(60, 1000) });
  is(said({ seq: guestIsn + 1, ack: 8, options: ts(1010, 60) }), { fromGuest: true, seq: primaryIsn + 1, ack: 8, options: ts(31_010, 60) });
  is(replayed({ seq: 8, ack: primaryIsn + 1, options: ts(61, 31_005) }), { seq: 8, ack: guestIsn + 1, options: ts(61, 1005) });
  is(replayed({ seq: 8, ack: primaryIsn + 1, options: ts(61, 0) }), { seq: 8, ack: guestIsn + 1, options: ts(61, 0) });
});

test('timestamps of a guest that draws their zero anew for each connection', () => {
  begin(ShadowMode.SHADOW_REPLAY, 30_000);
  replayed({ flags: Tcp.syn, seq: 7, options: ts(50, 0) });
  said({ flags: Tcp.syn | Tcp.ack, seq: guestIsn, ack: 8, options: ts(0x9000_0000, 50) });
  replayed({ seq: 8, ack: primaryIsn + 1, options: ts(60, 0x1000_0000) });
  // As far ahead as the client's knowledge was, and as the primary may have got since.
  is(said({ seq: guestIsn + 1, ack: 8, options: ts(0x9000_0010, 60) }), { fromGuest: true, seq: primaryIsn + 1, ack: 8, options: ts(0x1000_0010 + 30_000, 60) });
});

test('timestamps of a connection that nobody follows: moved all the same', () => {
  begin(ShadowMode.SHADOW_LIVE, 30_000);
  is(live({ flags: Tcp.syn, seq: 7, options: ts(50, 0) }), { flags: Tcp.syn, seq: 7, options: ts(50, 0) });
  is(said({ flags: Tcp.syn | Tcp.ack, seq: 9, ack: 8, options: ts(1000, 50) }), { fromGuest: true, flags: Tcp.syn | Tcp.ack, seq: 9, ack: 8, options: ts(31_000, 50) });
  is(live({ seq: 8, ack: 10, options: ts(51, 31_000) }), { seq: 8, ack: 10, options: ts(51, 1000) });
  assert.is(flowOf(), undefined);
});

test('a client that never saw the primary: nothing is translated', () => {
  begin(ShadowMode.SHADOW_REPLAY);
  replayed({ flags: Tcp.syn, seq: 7 });
  said({ flags: Tcp.syn | Tcp.ack, seq: guestIsn, ack: 8 });
  const ack = { seq: 8, ack: guestIsn + 1 };
  assert.is(counted(ShadowCounter.SHADOW_LEARNED, () => is(replayed(ack), ack)), 0);
  is(said({ seq: guestIsn + 1, ack: 8, payload: pattern(5) }), { fromGuest: true, seq: guestIsn + 1, ack: 8, payload: pattern(5) });
});

test('a SYN of a connection that the guest has: its answer shows so', () => {
  begin(ShadowMode.SHADOW_REPLAY);
  replayed({ flags: Tcp.syn, seq: 7 });
  const challenge = { fromGuest: true, seq: 4000, ack: 100 };
  is(said(challenge), challenge);
  assert.is(flowOf()?.state, ShadowFlowState.SHADOW_KNOWN);
  is(replayed({ seq: 50, ack: 4400 }), { seq: 50, ack: 4000 });
});

test('repeated SYNs and SYN-ACKs change nothing that is known', () => {
  begin(ShadowMode.SHADOW_REPLAY);
  open();
  is(replayed({ flags: Tcp.syn, seq: clientIsn }), { flags: Tcp.syn, seq: clientIsn });
  is(said({ flags: Tcp.syn | Tcp.ack, seq: guestIsn, ack: clientIsn + 1 }), { fromGuest: true, flags: Tcp.syn | Tcp.ack, seq: primaryIsn, ack: clientIsn + 1 });
  is(replayed({ seq: clientIsn + 1, ack: primaryIsn + 1 }), { seq: clientIsn + 1, ack: guestIsn + 1 });
});

test('sequence numbers that wrap', () => {
  begin(ShadowMode.SHADOW_REPLAY);
  replayed({ flags: Tcp.syn, seq: 0xffff_ffff });
  said({ flags: Tcp.syn | Tcp.ack, seq: 0xffff_ffff, ack: 0 });
  is(replayed({ seq: 0, ack: 0 }), { seq: 0, ack: 0 }); // ISN 2^32 - 1 there, too
  begin(ShadowMode.SHADOW_REPLAY);
  replayed({ flags: Tcp.syn, seq: 1 });
  said({ flags: Tcp.syn | Tcp.ack, seq: 0xffff_fffe, ack: 2 });
  is(replayed({ seq: 2, ack: 0x8000_0000 }), { seq: 2, ack: 0xffff_ffff });
  is(said({ seq: 0xffff_ffff, ack: 2, payload: pattern(10) }), { fromGuest: true, seq: 0x8000_0000, ack: 2, payload: pattern(10) });
  is(replayed({ seq: 2, ack: 0x8000_000a }), { seq: 2, ack: 9 });
  is(replayed({ seq: 2, ack: 0x8000_000b }), { seq: 2, ack: 9 });
});

test('a flow ends with both FINs or a RST, and is forgotten later', () => {
  begin(ShadowMode.SHADOW_REPLAY);
  open();
  said({ flags: Tcp.fin | Tcp.ack, seq: guestIsn + 1, ack: clientIsn + 1 });
  assert.is(flowOf()?.ended_ns, 0n);
  is(replayed({ flags: Tcp.fin | Tcp.ack, seq: clientIsn + 1, ack: primaryIsn + 2 }), { flags: Tcp.fin | Tcp.ack, seq: clientIsn + 1, ack: guestIsn + 2 });
  const { ended_ns: endedNs } = flowOf()!;
  assert.ok(endedNs > 0n);
  // Repeated segments are still translated.
  is(said({ seq: guestIsn + 2, ack: clientIsn + 2 }), { fromGuest: true, seq: primaryIsn + 2, ack: clientIsn + 2 });
  forget(endedNs, 0n);
  assert.ok(flowOf());
  forget(endedNs + 1n, 0n);
  assert.is(flowOf(), undefined);

  for (const reset of [(): unknown => replayed({ flags: Tcp.rst, seq: clientIsn + 1 }), (): unknown => said({ flags: Tcp.rst, seq: guestIsn + 1 })]) {
    begin(ShadowMode.SHADOW_REPLAY);
    open();
    reset();
    assert.ok(flowOf()!.ended_ns > 0n);
    // The same addresses again: nothing of the old connection is left.
    bss.mode.set(ShadowMode.SHADOW_LIVE);
    live({ flags: Tcp.syn, seq: 77 });
    said({ flags: Tcp.syn | Tcp.ack, seq: 99, ack: 78 });
    is(live({ seq: 78, ack: 100 }), { seq: 78, ack: 100 });
    is(said({ seq: 100, ack: 78, payload: pattern(3) }), { fromGuest: true, seq: 100, ack: 78, payload: pattern(3) });
  }
});

test('idle flows are forgotten', () => {
  begin(ShadowMode.SHADOW_REPLAY);
  open();
  const { used_ns: usedNs } = flowOf()!;
  forget(0n, usedNs);
  assert.ok(flowOf());
  forget(0n, usedNs + 1n);
  assert.is(flowOf(), undefined);
});

test('flows of a checkpoint that nobody goes back to are forgotten, however young', () => {
  begin(ShadowMode.SHADOW_REPLAY);
  for (const generation of [5, 6, 7]) {
    bss.generation.set(generation);
    open(4, 40_000 + generation);
  }
  const left = (): number[] => [5, 6, 7].filter((generation) => flowOf(40_000 + generation));
  bss.guest_generation.set(6);
  assert.is(forget(0n), 2);
  assert.equal(left(), [6, 7]);
  bss.guest_generation.set(7);
  assert.is(forget(0n), 1);
  assert.equal(left(), [7]);
  for (const generation of [bss.generation, bss.guest_generation]) generation.set(0);
});

test('a connection that the guest opens itself ends what was known of it', () => {
  begin(ShadowMode.SHADOW_REPLAY);
  open();
  said({ flags: Tcp.syn, seq: 500 });
  const answer = { flags: Tcp.syn | Tcp.ack, seq: 900, ack: 501 };
  is(replayed(answer), answer);
  is(said({ seq: 501, ack: 901 }), { fromGuest: true, seq: 501, ack: 901 });
});

test('what a host translates, its secondary can take on: through the whole life of a connection', () => {
  bss.generation.set(5);
  begin(ShadowMode.SHADOW_REPLAY, 100);
  open();
  const before = readTranslations(flows, 100, 5);
  assert.is(before.flows.length, 1);
  assert.is(before.flows[0]!.seqDelta, delta >>> 0);
  assert.is(before.flows[0]!.tsDelta, 100);
  assert.equal(readTranslations(flows, 100, 6).flows, [], 'of another state of the VM');

  // Another host, whose VM is 50 ms behind that one, and has the connection from a checkpoint.
  begin(ShadowMode.SHADOW_LIVE, 150);
  bss.generation.set(6);
  writeTranslations(flows, before, 50, 6, process.hrtime.bigint());
  assert.equal(readTranslations(flows, 150, 6).flows, [{ ...before.flows[0]!, tsDelta: 150 }], 'and so can the next');
  const payload = pattern(9);
  is(live({ seq: clientIsn + 1, ack: primaryIsn + 50, options: ts(7, 1150), payload }), { seq: clientIsn + 1, ack: guestIsn + 50, options: ts(7, 1000), payload });
  is(said({ seq: guestIsn + 20, ack: clientIsn + 10, options: ts(1001, 7), payload }), { fromGuest: true, seq: primaryIsn + 20, ack: clientIsn + 10, options: ts(1151, 7), payload });
  is(live({ seq: clientIsn + 10, ack: primaryIsn + 50 }), { seq: clientIsn + 10, ack: guestIsn + 29 });

  // Over, but what was said last may have to be said again; then the same ports begin anew.
  const changes = bss.flow_changes.get();
  live({ seq: clientIsn + 10, ack: primaryIsn + 29, flags: Tcp.rst | Tcp.ack });
  assert.is(readTranslations(flows, 150, 6).flows.length, 1);
  live({ seq: clientIsn + 5000, ack: 0, flags: Tcp.syn });
  assert.is(bss.flow_changes.get(), changes + 1n);
  assert.equal(readTranslations(flows, 150, 6).flows, []);
  bss.generation.set(0);
});

test('the log of a VM that had its translations handed on: a probe, then both ways; a SYN begins anew', () => {
  const handed = { tsOffset: 0, flows: [] as TranslatedFlow[] };
  begin(ShadowMode.SHADOW_REPLAY);
  open();
  handed.flows = readTranslations(flows, 0, 0).flows;
  begin(ShadowMode.SHADOW_REPLAY);
  writeTranslations(flows, handed, 0, 0, process.hrtime.bigint());
  const segment = { seq: clientIsn + 1, ack: primaryIsn + 1, payload: pattern(5) };
  is(replayed(segment), { ...segment, seq: clientIsn + 1 - PROBE_SHIFT, ack: guestIsn + 1 });
  is(said({ seq: guestIsn + 1, ack: clientIsn + 1 }), { fromGuest: true, seq: primaryIsn + 1, ack: clientIsn + 1 });
  is(replayed(segment), { ...segment, ack: guestIsn + 1 });
  begin(ShadowMode.SHADOW_REPLAY);
  writeTranslations(flows, handed, 0, 0, process.hrtime.bigint());
  replayed({ flags: Tcp.syn, seq: 1 });
  assert.is(flowOf()!.seq_delta, 0);
});

test('an active secondary speaks in the numbers that its primary holds, not in those of clients', () => {
  begin(ShadowMode.SHADOW_REPLAY);
  open();
  const handed = readTranslations(flows, 0, 0);
  begin(ShadowMode.SHADOW_ACTIVE);
  writeTranslations(flows, handed, 0, 0, process.hrtime.bigint());
  const segment = { seq: clientIsn + 1, ack: primaryIsn + 1, payload: pattern(5) };
  is(replayed(segment), { ...segment, ack: guestIsn + 1 });
  bss.forward.set(ShadowForward.FORWARD_ALL);
  const answer = { fromGuest: true, seq: guestIsn + 1, ack: clientIsn + 6, payload: pattern(40) };
  const forwarded = run(shadow_out, frameOf(answer));
  assert.is(forwarded.verdict, REDIRECT);
  is(forwarded.frame, answer);
});

test('a full table: what has no room stays as it is, but for timestamps, and is counted', () => {
  begin(ShadowMode.SHADOW_REPLAY, 100);
  let ports = 0;
  // A hash of eight may take a few more at once, as each CPU keeps some free entries.
  const full = counted(ShadowCounter.SHADOW_FLOWS_FULL, () => {
    for (; ports < 500; ports++) replayed({ clientPort: 1000 + ports, flags: Tcp.syn, seq: 1 });
  });
  assert.ok(full >= 400 && full < 500, `${full} had no room`);
  const segment = { clientPort: 1499, seq: 2, ack: 99, options: ts(5, 500), payload: pattern(9) };
  is(replayed(segment), { ...segment, options: ts(5, 400) });
  forget();
  is(replayed(segment), { ...segment, seq: 2 - PROBE_SHIFT, options: ts(5, 400) });
});

test('standing by: nothing passes in either direction', () => {
  begin(ShadowMode.SHADOW_STANDBY);
  for (const frame of [frameOf({}), ethernet(EtherType.arp, arp())]) {
    for (const mark of [0, MARK]) assert.is(run(shadow_in, frame, { mark }).verdict, DROP);
    assert.is(run(shadow_out, frame).verdict, DROP);
  }
  bss.mode.set(77 as ShadowMode);
  assert.is(run(shadow_in, frameOf({})).verdict, DROP);
  assert.is(run(shadow_out, frameOf({})).verdict, DROP);
});

test('off: everything passes untouched', () => {
  begin(ShadowMode.SHADOW_OFF, 1000);
  const frame = frameOf({ seq: 1, ack: 2, options: ts(3, 4) });
  assert.ok(passed(run(shadow_in, frame)).equals(frame));
  assert.ok(passed(run(shadow_out, frame)).equals(frame));
});

test('while the log is replayed, what clients send goes to its end behind a tag', () => {
  begin(ShadowMode.SHADOW_REPLAY);
  const frame = frameOf({ payload: pattern(50) });
  const { verdict, frame: tagged } = run(shadow_in, frame, { gsoSegs: 3, gsoSize: 20 });
  assert.is(verdict, REDIRECT);
  assert.ok(tagged.subarray(TAG_BYTES).equals(frame));
  assert.is(tagged.readUInt16BE(12), 0x88b5);
  assert.is(tagged.readUInt16LE(14), 20, 'GSO size');
  assert.is(tagged.readUInt32LE(24), 0x636f6c6c, 'magic');
  assert.is(tagged.readUInt32LE(28), frame.length);
  assert.is(tagged.readUInt32LE(44), 2, 'flags: live');
  const neighbour = ethernet(EtherType.arp, arp());
  assert.ok(passed(run(shadow_in, neighbour)).equals(neighbour), 'finding a neighbour does not wait');
});

test('what the log thread writes: input goes to the tap, marked', () => {
  const { verdict, mark } = run(shadow_write, frameOf({}));
  assert.is(verdict, REDIRECT);
  assert.is(mark, MARK);
});

test('what comes without a tunnel is not input', () => {
  const foreign = counted(ShadowCounter.SHADOW_FOREIGN, () => assert.is(run(shadow_log, frameOf({})).verdict, DROP));
  assert.is(foreign, 1);
});

test.run();
