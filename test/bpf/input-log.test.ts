/** The input log behind a real tunnel: what arrives, what does not, and what is told to the primary. */
import { createSocket } from 'node:dgram';
import { setTimeout as sleep } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { ifIndex } from 'libbpf-napi';
import { InputLog, type LogNotice } from 'tap-hold';
import { Shadow, type ShadowOptions } from '../../src/dataplane/shadow.js';
import { createTunnel, removeTunnel, tunnelAddress, tunnelPort } from '../../src/dataplane/tunnel.js';
import { pattern } from './frames.js';
import { frameOf } from './shadow/segments.js';
import { deviceExists, enterOwnNamespace, ip } from './tap.js';

enterOwnNamespace(import.meta.url);
const { Mirror, Rig, eventually, guestAddress } = await import('./shadow/rig.js');
const { Client } = await import('./shadow/client.js');
const { crc32 } = await import('./shadow/crc32.js');

ip('link set lo up', 'link add colopp-s-tap type veth peer name colopp-s-far', 'link set colopp-s-tap up', 'link set colopp-s-far up');
const [tunnel, logTap] = ['clp-s-vx0', 'clp-s-log0'];

/** Datagrams to the tunnel's port, from the machine itself: it is its own peer. */
class Wire {
  readonly #socket = createSocket('udp4');
  #pending: Promise<unknown> = Promise.resolve();

  /** Exactly these bytes. */
  raw(bytes: Uint8Array): void {
    this.#pending = this.#pending.then(() => new Promise((resolve) => this.#socket.send(bytes, tunnelPort, '127.0.0.1', resolve)));
  }

  /** An input as the gate mirrors it. */
  input(iseq: number, { segments = 1, write = false, frame = frameOf({ seq: iseq, payload: pattern(40) }) } = {}): void {
    const header = Buffer.alloc(8);
    header.writeUInt8(0x88, 0); // with a group policy, and a network
    header.writeUInt16BE(segments | (write ? 0x8000 : 0), 2);
    header.writeUIntBE(iseq & 0xffffff, 4, 3);
    this.raw(Buffer.concat([header, frame]));
  }

  sent(): Promise<unknown> {
    return this.#pending;
  }

  close(): void {
    this.#socket.close();
  }
}

interface Bench {
  wire: Wire;
  shadow: Shadow;
  told: InstanceType<typeof Mirror>;
  notices: [notice: LogNotice, value: bigint][];
  /** Waits until this is acknowledged, and sees that nothing more is. */
  acknowledged: (iseq: number) => Promise<void>;
}

function logTest(name: string, options: Partial<ShadowOptions>, body: (bench: Bench) => Promise<void>): void {
  test(name, async () => {
    await createTunnel(tunnel);
    const told = new Mirror(ifIndex(tunnel), tunnelAddress('127.0.0.1'));
    const notices: Bench['notices'] = [];
    const wire = new Wire();
    const shadow = Shadow.open({
      tap: 'colopp-s-tap', tunnel, logTap, peerAddress: '127.0.0.1', onNotice: (...notice) => { notices.push(notice); }, ...options,
    });
    told.attach('acknowledged', { ifname: tunnel, direction: 'ingress' });
    const acknowledged = async (iseq: number): Promise<void> => {
      await wire.sent();
      await eventually(() => told.get('acked_iseq') >= iseq, () => [told.get('acked_iseq'), notices, shadow.stats()]);
      await sleep(15);
      assert.is(told.get('acked_iseq'), iseq);
      assert.is(Number(shadow.stats().log.ackedIseq), iseq);
    };
    try {
      shadow.reset(0x1234_5678_9abcn, 1n);
      await body({ wire, shadow, told, notices, acknowledged });
    } finally {
      wire.close();
      shadow.close();
      told.close();
      await removeTunnel(tunnel);
    }
    assert.not.ok(deviceExists(logTap));
  });
}

const upTo = (count: number, from = 1): number[] => Array.from({ length: count }, (_, i) => i + from);
const logOf = ({ shadow }: Bench): ReturnType<Shadow['stats']>['log'] => shadow.stats().log;
const notice = ({ notices }: Bench, count = 1): Promise<void> => eventually(() => notices.length >= count, () => notices);

logTest('inputs in order: all acknowledged, in batches, with the epoch', {}, async (bench) => {
  for (const iseq of upTo(1000)) bench.wire.input(iseq);
  await bench.acknowledged(1000);
  assert.is(bench.told.get('acked_epoch'), 0x1234_5678_9abc);
  const { loggedPackets, receivedPackets, acks } = logOf(bench);
  assert.equal([loggedPackets, receivedPackets], [1000, 1000]);
  assert.is(bench.shadow.stats().loggedPackets, 1000);
  assert.ok(acks <= 1002, `${acks} acknowledgements`);
  assert.equal(bench.notices, []);
});

logTest('an acknowledgement is told twice, in case it was lost', {}, async (bench) => {
  bench.wire.input(1);
  await bench.acknowledged(1);
  await sleep(30);
  assert.is(bench.told.get('acks'), 3); // with the one of the beginning
});

logTest('disordered and doubled', {}, async (bench) => {
  for (let start = 1; start <= 1000; start += 10) {
    const some = upTo(10, start);
    for (const iseq of [...some.reverse(), ...some.filter((each) => each % 3 === 0)]) bench.wire.input(iseq);
  }
  await bench.acknowledged(1000);
  assert.is(logOf(bench).duplicatePackets, 333);
  assert.is(logOf(bench).loggedPackets, 1000);
});

logTest('a gap: nothing after it is acknowledged until a commit covers it', {}, async (bench) => {
  for (const iseq of [...upTo(10), ...upTo(20, 12)]) bench.wire.input(iseq);
  await bench.acknowledged(10);
  await notice(bench);
  assert.equal(bench.notices, [['gap', 11n]]);
  bench.shadow.forget(5n);
  await notice(bench, 2); // still there
  assert.equal(bench.notices[1], ['gap', 11n]);
  bench.shadow.forget(12n);
  await bench.acknowledged(31);
  assert.is(logOf(bench).loggedPackets, 19);
  assert.is(logOf(bench).gaps, 2);
  assert.is(bench.notices.length, 2);
});

logTest('a gap that is filled late is none any more', {}, async (bench) => {
  for (const iseq of [1, 2, 4]) bench.wire.input(iseq);
  await notice(bench);
  bench.wire.input(3);
  await bench.acknowledged(4);
});

logTest('a gap is noticed after so many later inputs, however early', {}, async (bench) => {
  const frame = frameOf({});
  for (const iseq of upTo(200, 2)) bench.wire.input(iseq, { frame });
  await notice(bench);
  assert.equal(bench.notices, [['gap', 1n]]);
});

for (const [where, start] of [['the first', 1], ['the third', 3]] as const) {
  logTest(`numbers go on over ${where} wrap of their 24 bits`, {}, async (bench) => {
    const from = start * 2 ** 24 - 50;
    bench.shadow.reset(9n, BigInt(from));
    await eventually(() => bench.told.get('acked_epoch') === 9, () => bench.told.get('acked_epoch'));
    for (const iseq of upTo(100, from)) bench.wire.input(iseq);
    await bench.acknowledged(from + 99);
    bench.shadow.forget(BigInt(from + 49));
    await eventually(() => logOf(bench).loggedPackets === 50, () => logOf(bench));
  });
}

logTest('an input in several packets counts when the last one is here', {}, async (bench) => {
  const part = (seq: number): Buffer => frameOf({ seq, payload: pattern(100, seq) });
  bench.wire.input(1);
  for (const at of [0, 1, 3, 3, 1]) bench.wire.input(2, { segments: 4, frame: part(1000 + 100 * at) });
  bench.wire.input(3);
  await bench.acknowledged(1);
  await notice(bench);
  bench.wire.input(2, { segments: 4, frame: part(1200) });
  await bench.acknowledged(3);
  assert.is(logOf(bench).duplicatePackets, 2);
  assert.is(logOf(bench).loggedPackets, 6);
});

logTest('what is no TCP is told apart by its content', {}, async (bench) => {
  const datagram = (seed: number): Buffer => {
    const frame = frameOf({ payload: pattern(60, seed) });
    frame[23] = 17;
    return frame;
  };
  for (const seed of [1, 1, 2]) bench.wire.input(1, { segments: 3, frame: datagram(seed) });
  bench.wire.input(2);
  await notice(bench);
  assert.is(bench.told.get('acked_iseq'), 0);
  bench.wire.input(1, { segments: 3, frame: datagram(3) });
  await bench.acknowledged(2);
});

logTest('a commit forgets what it covers, but for the margin', {}, async (bench) => {
  for (const iseq of upTo(100)) bench.wire.input(iseq);
  await bench.acknowledged(100);
  bench.shadow.forget(60n, 10);
  await eventually(() => logOf(bench).loggedPackets === 50, () => logOf(bench));
  bench.shadow.forget(60n);
  await eventually(() => logOf(bench).loggedPackets === 40, () => logOf(bench));
  // Ahead of all that has come: it never will.
  bench.shadow.forget(500n);
  await bench.acknowledged(500);
  assert.is(logOf(bench).loggedPackets, 0);
  for (const iseq of [499, 500, 501]) bench.wire.input(iseq);
  await bench.acknowledged(501);
  assert.is(logOf(bench).loggedPackets, 1);
  assert.is(logOf(bench).forgottenPackets, 100);
});

logTest('what is missing in the margin of a commit is missed until a later one settles it', {}, async (bench) => {
  for (const iseq of [1, 2, 3, 5, 6]) bench.wire.input(iseq);
  await bench.acknowledged(3);
  bench.shadow.forget(4n, 1);
  bench.wire.input(7);
  await eventually(() => logOf(bench).loggedPackets === 3, () => logOf(bench));
  assert.is(bench.told.get('acked_iseq'), 3, 'the guest may not have seen the fourth yet');
  bench.shadow.forget(6n, 2);
  await bench.acknowledged(7);
  assert.is(logOf(bench).loggedPackets, 3);
  bench.shadow.forget(1n, 5); // all of it in doubt
  await eventually(() => logOf(bench).loggedPackets === 3, () => logOf(bench));
});

logTest('a new beginning empties the log', {}, async (bench) => {
  for (const iseq of upTo(50)) bench.wire.input(iseq);
  await bench.acknowledged(50);
  bench.shadow.reset(5n, 1000n);
  await eventually(() => bench.told.get('acked_epoch') === 5, () => bench.told.get('acked_epoch'));
  assert.is(bench.told.get('acked_iseq'), 999);
  assert.is(logOf(bench).loggedPackets, 0);
  bench.wire.input(1000);
  await bench.acknowledged(1000);
});

const limits: [name: string, options: Partial<ShadowOptions>][] = [
  ['packets', { limitPackets: 10 }], ['bytes', { limitBytes: 1000 }], ['age', { limitAgeMs: 40 }],
];
for (const [name, options] of limits) {
  logTest(`the limit of ${name}: one notice until the next commit`, options, async (bench) => {
    for (const iseq of upTo(9)) bench.wire.input(iseq);
    await bench.wire.sent();
    await sleep(10);
    assert.equal(bench.notices, []);
    for (const iseq of upTo(11, 10)) bench.wire.input(iseq);
    await bench.acknowledged(20);
    await notice(bench);
    const { oldestNs } = logOf(bench);
    assert.equal(bench.notices, [['limit', oldestNs]]);
    await sleep(60);
    assert.is(bench.notices.length, 1);
    bench.shadow.forget(1n);
    await notice(bench, 2);
    bench.shadow.forget(20n);
    await sleep(60);
    assert.is(bench.notices.length, 2);
  });
}

logTest('a full log: the rest waits in the device until a commit makes room', { logMemoryBytes: 1024 * 1024 }, async (bench) => {
  const frame = frameOf({ payload: pattern(1400) });
  for (const iseq of upTo(1500)) bench.wire.input(iseq, { frame });
  await eventually(() => logOf(bench).fullEvents > 0, () => logOf(bench));
  const kept = logOf(bench).loggedPackets;
  assert.ok(kept > 500 && kept < 750, `${kept} in 1 MiB`);
  assert.is(Number(logOf(bench).ackedIseq), kept);
  bench.shadow.forget(BigInt(kept));
  await eventually(() => logOf(bench).fullEvents > 1, () => logOf(bench));
  bench.shadow.forget(logOf(bench).ackedIseq);
  await bench.acknowledged(1500);
});

logTest('garbage from the network: counted, and nothing else', {}, async (bench) => {
  const { wire, shadow } = bench;
  const frame = frameOf({ payload: pattern(40) });
  const vxlan = (flags: number, policy: number, vni: number, inner: Uint8Array): Buffer => {
    const header = Buffer.alloc(8);
    header.writeUInt8(flags, 0);
    header.writeUInt16BE(policy, 2);
    header.writeUIntBE(vni, 4, 3);
    return Buffer.concat([header, inner]);
  };
  wire.input(1);
  wire.raw(Buffer.alloc(0));
  wire.raw(pattern(7));
  wire.raw(pattern(500));
  wire.raw(vxlan(0x88, 1, 2, Buffer.alloc(0)));
  wire.raw(vxlan(0x88, 1, 2, Buffer.alloc(13)));
  wire.raw(vxlan(0x88, 0, 2, frame)); // no size
  wire.raw(vxlan(0x88, 0x8000, 2, frame)); // a write of no size
  wire.raw(vxlan(0x08, 0, 2, frame)); // no policy
  await wire.sent();
  await eventually(() => shadow.stats().malformedPackets === 3, () => shadow.stats());
  await bench.acknowledged(1);
  assert.equal(bench.notices, []);
  // Far ahead, far behind, and a size that is a lie.
  wire.input(1 + 70_000);
  wire.input(1 + 2 ** 23 + 5);
  await wire.sent();
  await eventually(() => logOf(bench).beyondPackets === 1 && logOf(bench).duplicatePackets === 1, () => logOf(bench));
  wire.input(2, { segments: 0x7fff });
  wire.input(2);
  wire.input(3);
  await bench.acknowledged(1);
  await notice(bench);
  assert.equal(bench.notices, [['gap', 2n]]);
  // Noise by the thousand, with numbers that are expected.
  for (let i = 0; i < 3000; i++) wire.raw(vxlan(0x88, (i * 7) & 0xffff, (i * 31) & 0xfff, pattern(14 + i % 400, i)));
  await wire.sent();
  await eventually(() => logOf(bench).receivedPackets + logOf(bench).duplicatePackets > 2500, () => shadow.stats());
  shadow.forget(100_000n);
  await bench.acknowledged(100_000);
  wire.input(100_001);
  await bench.acknowledged(100_001);
  assert.is(logOf(bench).malformedPackets, 0);
});

logTest('input from anybody else is dropped', { peerAddress: '127.0.0.2' }, async (bench) => {
  for (const iseq of upTo(5)) bench.wire.input(iseq);
  await bench.wire.sent();
  // And the acknowledgement of the beginning, which comes back from the machine itself.
  await eventually(() => bench.shadow.stats().foreignPackets === 6, () => bench.shadow.stats());
  assert.is(logOf(bench).receivedPackets, 0);
});

test('before its first beginning, the log takes nothing', async () => {
  await createTunnel(tunnel);
  const shadow = Shadow.open({ tap: 'colopp-s-tap', tunnel, logTap, peerAddress: '127.0.0.1', onNotice: () => {} });
  const wire = new Wire();
  try {
    for (const iseq of upTo(5)) wire.input(iseq);
    await wire.sent();
    await eventually(() => shadow.stats().log.unexpectedPackets === 5, () => shadow.stats());
    assert.is(shadow.stats().acknowledgements, 0);
  } finally {
    wire.close();
    shadow.close();
    await removeTunnel(tunnel);
  }
});

// ---- mirrored by a BPF program, from the kernel's own TCP

for (const [share, perMille] of [['1 %', 10], ['10 %', 100]] as const) {
  test(`${share} of the mirrored input is lost: gaps, and commits that make up for them`, async () => {
    const rig = await Rig.open();
    try {
      rig.reset();
      rig.set('lost_per_mille', perMille);
      const client = await Client.connect(guestAddress[4]);
      let commits = 0;
      for (let i = 0; i < 400 || rig.get('lost') < 3; i++) {
        await client.count('inc');
        if (rig.notices.length > commits) {
          commits++;
          rig.shadow.forget(BigInt(rig.get('input_iseq')));
        }
      }
      await sleep(10);
      const [lost, inputs] = [rig.get('lost'), rig.get('input_iseq')];
      // The last ones that were lost, nobody knows of.
      rig.set('lost_per_mille', 0);
      await client.count('inc');
      await eventually(() => {
        if (rig.notices.length > commits) {
          commits++;
          rig.shadow.forget(BigInt(rig.get('input_iseq')));
        }
        return rig.get('acked_iseq') === rig.get('input_iseq');
      }, () => [rig.get('acked_iseq'), rig.get('input_iseq'), rig.notices.length, rig.shadow.stats()]);
      assert.ok(commits > 0 && commits <= lost, `${commits} commits for ${lost} lost of ${inputs}`);
      client.close();
    } finally {
      await rig.close();
    }
  });
}

for (const [name, options] of [
  ['whole through the network', {}],
  ['segmented on its way', { segmented: true }],
  ['fragmented on its way', { segmented: true, underlayMtu: 1500 }],
  ['whole over IPv6', { underlayVersion: 6 }],
  ['segmented over IPv6', { underlayVersion: 6, segmented: true }],
] as const) {
  test(`an upload of 1 MiB, ${name}: every byte is in the log`, async () => {
    const rig = await Rig.open({ ...options, shadow: { limitBytes: 1e9 } });
    try {
      rig.reset();
      rig.set('doubled_per_mille', 50);
      const client = await Client.connect(guestAddress[6]);
      const content = pattern(1024 * 1024, 5);
      client.send(`up ${content.length}\n`);
      client.send(content);
      assert.is(await client.line(), `${crc32(content)}`);
      await rig.settled();
      const { loggedBytes, loggedPackets, gaps } = rig.shadow.stats().log;
      assert.is(gaps, 0);
      assert.ok(loggedBytes > content.length, `${loggedBytes} bytes`);
      // Whole, there are fewer of them than there are segments in a megabyte.
      if (name.startsWith('whole')) assert.ok(loggedPackets < 400, `${loggedPackets} packets`);
      client.close();
    } finally {
      await rig.close();
    }
  });
}

test('a closed log says so; a name that is none, too', async () => {
  const log = new InputLog({ ifname: logTap, onNotice: () => {} });
  assert.throws(() => new InputLog({ ifname: logTap, onNotice: () => {} }), /log tap clp-s-log0 could not be made/);
  const replay = log.replay({ generation: 0, flowsFd: 0, limitMs: 1000 }).then(() => 'done', (error: Error) => error.message);
  await replay; // nothing to replay, so it is over at once
  log.close();
  log.close();
  for (const use of [() => log.stats(), () => log.reset(1n, 1n), () => log.forget(1n), () => log.ifIndex]) {
    assert.throws(use, (error: Error & { code?: string }) => error.code === 'TAP_HOLD' && /is closed/.test(error.message));
  }
  assert.throws(() => new InputLog({ ifname: 'no such name', onNotice: () => {} }), RangeError);
  const other = new InputLog({ ifname: logTap, onNotice: () => {} });
  for (const wrong of [() => other.reset(1n, 0n), () => other.reset(-1n, 1n), () => other.forget(1n << 63n), () => other.forget(1n, -1)]) {
    assert.throws(wrong, RangeError);
  }
  other.close();
});

test('its tap taken away: said once, and a replay is none', async () => {
  const notices: LogNotice[] = [];
  const log = new InputLog({ ifname: logTap, onNotice: (name) => notices.push(name) });
  log.reset(1n, 1n);
  ip(`link del ${logTap}`);
  await eventually(() => notices.length > 0, () => log.stats());
  await sleep(20);
  assert.equal(notices, ['lost']);
  assert.ok(log.stats().deviceLost);
  const said = await log.replay({ generation: 0, flowsFd: 0, limitMs: 1000 }).then(() => 'done', (error: Error) => error.message);
  assert.is(said, `The log tap ${logTap} cannot replay: somebody deleted it.`);
  log.close();
});

test.run();
