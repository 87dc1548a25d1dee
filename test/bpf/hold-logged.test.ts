/** The hold thread and the input log: what only waits for an input leaves as soon as that is logged. */
import { setTimeout as sleep } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { TapHold, type HoldNotice } from 'tap-hold';
import { ETHERNET_BYTES, EtherType, IPV4_BYTES, IpProtocol, UDP_BYTES, ethernet, holdTag, inputAck, ipv4, pattern, plain, udp } from './frames.js';
import { until } from './libbpf-support.js';
import { FarEnd, attachGate, bridged, enterOwnNamespace } from './tap.js';

enterOwnNamespace(import.meta.url);

const holdTap = 'colopp-t-hold';
const { guestTap, guest, client } = await bridged();
const nowNs = (): bigint => process.hrtime.bigint();
const numberAt = ETHERNET_BYTES + IPV4_BYTES + UDP_BYTES;

/** The hold thread, and what is between it and the programs in the kernel. */
class Rig {
  readonly hold: TapHold;
  readonly notices: readonly HoldNotice[];
  readonly #forger: FarEnd;
  readonly #words = new BigUint64Array(3);

  constructor(hold: TapHold, forger: FarEnd, notices: readonly HoldNotice[]) {
    this.hold = hold;
    this.notices = notices;
    this.#forger = forger;
    const [loggedIseq, drainedNs, unloggedDrainedNs] = [0, 1, 2].map((i) => new Uint8Array(this.#words.buffer, 8 * i, 8)) as [Uint8Array, Uint8Array, Uint8Array];
    hold.share({ loggedIseq, drainedNs, unloggedDrainedNs });
  }

  /** As the gate holds a packet: until a commit, or, too, until the secondary has input `needs`. @returns when it was sent */
  held(number: number, needs = 0n): bigint {
    const frame = ethernet(EtherType.ipv4, ipv4(IpProtocol.udp, udp(Buffer.concat([Buffer.from([0, 0, 0, number]), pattern(28)]))));
    const timeNs = nowNs();
    this.#forger.send({ vnet: plain, frame: Buffer.concat([holdTag({ frameBytes: frame.length, timeNs, needsInput: needs }), frame]) });
    return timeNs;
  }

  /** The secondary has inputs up to this one, and says so. */
  logged(iseq: bigint): void {
    Atomics.store(this.#words, 0, iseq);
    this.#forger.send({ vnet: plain, frame: inputAck({ iseq }) });
  }

  get drainedNs(): bigint {
    return Atomics.load(this.#words, 1);
  }

  get unloggedDrainedNs(): bigint {
    return Atomics.load(this.#words, 2);
  }

  async heldAre(packets: number): Promise<void> {
    await until(() => this.hold.stats().heldPackets === packets);
  }
}

function logTest(name: string, body: (rig: Rig) => Promise<void>): void {
  test(name, async () => {
    const notices: HoldNotice[] = [];
    const hold = new TapHold({ ifname: holdTap, onNotice: (notice) => notices.push(notice) });
    const { detach } = attachGate(guestTap, hold);
    const forger = await FarEnd.open('packet', holdTap);
    client.take();
    try {
      await body(new Rig(hold, forger, notices));
      assert.is(hold.stats().malformedPackets, 0);
    } finally {
      detach();
      await forger.close();
      hold.close();
    }
  });
}

/** The numbers of the packets that the client gets, `count` of them and no more. */
async function came(count: number): Promise<number[]> {
  await until(() => client.received.length >= count, 10_000);
  await sleep(20);
  return client.take().map(({ frame }) => frame.readUInt32BE(numberAt));
}

logTest('a packet that needs an input leaves when that is logged, and no sooner', async (rig) => {
  rig.held(1, 7n);
  await rig.heldAre(1);
  rig.logged(6n);
  assert.equal(await came(0), []);
  rig.logged(7n);
  assert.equal(await came(1), [1]);
  const { heldPackets, oldestNs, releasedPackets, holdTimes } = rig.hold.stats();
  assert.equal([heldPackets, oldestNs, releasedPackets], [0, 0n, 1]);
  assert.is(holdTimes.logged.packets.reduce((sum, packets) => sum + packets), 1);
});

logTest('what is logged already waits for nothing', async (rig) => {
  rig.logged(100n);
  const sentNs = rig.held(1, 100n);
  assert.equal(await came(1), [1]);
  assert.is(rig.unloggedDrainedNs, sentNs);
  rig.held(2, 101n);
  await rig.heldAre(1);
  assert.equal(await came(0), []);
});

logTest('in the order they came, though some need less than those before them', async (rig) => {
  rig.held(1, 20n);
  const lastNs = [11n, 25n, 5n].map((needs, i) => rig.held(2 + i, needs));
  await rig.heldAre(4);
  rig.logged(19n);
  assert.equal(await came(0), [], 'the first one is not ready');
  rig.logged(20n);
  assert.equal(await came(2), [1, 2]);
  assert.is(rig.unloggedDrainedNs, lastNs[0]);
  rig.logged(25n);
  assert.equal(await came(2), [3, 4]);
  assert.is(rig.unloggedDrainedNs, lastNs[2]);
});

logTest('packets that wait for a commit are passed over, and released by it in order', async (rig) => {
  rig.held(1);
  rig.held(2, 1n);
  rig.held(3);
  rig.held(4, 2n);
  const lastNs = rig.held(5);
  await rig.heldAre(5);
  rig.logged(1n);
  assert.equal(await came(1), [2]);
  await rig.heldAre(4);
  rig.hold.releaseUpTo(lastNs);
  assert.equal(await came(4), [1, 3, 4, 5], 'a commit releases what the log had not yet');
  assert.is(rig.drainedNs, lastNs);
  rig.logged(2n);
  assert.equal(await came(0), [], 'not twice');
  const { heldPackets, heldBytes, releasedPackets, holdTimes } = rig.hold.stats();
  assert.equal([heldPackets, heldBytes, releasedPackets], [0, 0, 5]);
  assert.is(holdTimes.commit.packets.reduce((sum, packets) => sum + packets), 4);
});

logTest('a packet that has left holds nobody up, once all before it have left too', async (rig) => {
  rig.held(1);
  const lastNs = rig.held(2, 3n);
  rig.logged(3n);
  assert.equal(await came(1), [2]);
  assert.ok(rig.drainedNs < lastNs, 'the first one waits still');
  rig.hold.releaseUpTo(lastNs - 1n);
  assert.equal(await came(1), [1]);
  await until(() => rig.drainedNs === lastNs);
});

logTest('what was discarded stays so, also when its input is logged', async (rig) => {
  rig.held(1, 3n);
  await rig.heldAre(1);
  rig.hold.discard();
  await rig.heldAre(0);
  rig.logged(3n);
  assert.equal(await came(0), []);
  assert.is(rig.hold.stats().discardedPackets, 1);
});

logTest('many of both kinds: each leaves once', async (rig) => {
  for (let round = 0; round < 40; round++) {
    for (let i = 0; i < 6; i++) rig.held(6 * round + i, i % 3 ? BigInt(round + 1) : 0n);
    rig.logged(BigInt(round + 1));
    if (round % 4 === 3) rig.hold.releaseUpTo(nowNs());
  }
  rig.hold.releaseAll();
  const numbers = await came(240);
  assert.equal([...numbers].sort((a, b) => a - b), Array.from({ length: 240 }, (_, i) => i));
  for (const kind of [true, false]) {
    const inOrder = numbers.filter((number) => (number % 6 % 3 === 0) === kind);
    assert.equal(inOrder, [...inOrder].sort((a, b) => a - b));
  }
});

logTest('a checkpoint is asked for what waits for a commit at once, and for what waits for the log when that takes too long', async (rig) => {
  rig.logged(1n);
  rig.held(1, 1n);
  assert.equal(await came(1), [1]);
  assert.equal(rig.notices, [], 'it did not wait');
  rig.held(2, 2n);
  await until(() => rig.notices.length > 0);
  assert.ok(nowNs() - rig.hold.stats().oldestNs >= 10_000_000n);
  rig.hold.releaseUpTo(nowNs());
  rig.held(3);
  await until(() => rig.notices.length > 1);
  assert.equal(rig.notices, ['held', 'held']);
});

logTest('at the end of a protection no more is told to have left than has: the next one holds again', async (rig) => {
  rig.hold.releaseAll();
  const sentNs = [rig.held(1), rig.held(2)];
  assert.equal(await came(2), [1, 2]);
  assert.is(rig.drainedNs, sentNs[1]);
  rig.hold.releaseUpTo(0n);
  rig.held(3);
  await rig.heldAre(1);
  assert.is(rig.drainedNs, sentNs[1]);
});

test.after(async () => {
  await Promise.all([guest.close(), client.close()]);
});
test.run();
