/** Connections that go on against the other replica, with the kernel's own TCP at both ends. */
import { setTimeout as sleep } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { pattern } from './frames.js';
import { enterOwnNamespace } from './tap.js';

enterOwnNamespace(import.meta.url);
const { RepairServer, Rig, eventually, guestAddress, primaryVm, repairPort, secondaryVm } = await import('./shadow/rig.js');
const { Client } = await import('./shadow/client.js');
const { crc32 } = await import('./shadow/crc32.js');
type Rig = import('./shadow/rig.js').Rig;
type Client = import('./shadow/client.js').Client;
type RigOptions = import('./shadow/rig.js').RigOptions;
type TakeOverOptions = import('../../src/dataplane/shadow.js').TakeOverOptions;

const mib = 1024 * 1024;
/** Anything but how far the guests' clocks are apart: they are the same here, unless a test moves one. */
const clockBehindMs = 100;

/** A test with two replicas of its own, that logs from the start: the "checkpoint" is older than every connection. */
function takeoverTest(name: string, options: RigOptions, body: (rig: Rig) => Promise<void>): void {
  test(name, async () => {
    const rig = await Rig.open(options);
    try {
      rig.reset();
      await body(rig);
      const { untrackedPackets, log } = rig.shadow.stats();
      assert.is(untrackedPackets, 0);
      assert.is(log.malformedPackets, 0);
      assert.is(log.failedPackets, 0);
    } finally {
      Client.closeAll();
      await rig.close();
    }
  });
}

async function failOver(rig: Rig, options: Partial<TakeOverOptions> = {}): Promise<Awaited<ReturnType<Rig['shadow']['takeOver']>>> {
  rig.killPrimary();
  const replay = await rig.shadow.takeOver({ clockBehindMs, ...options });
  assert.is(replay.abandonedFrames, 0, JSON.stringify(replay));
  assert.is(replay.flushedFrames, 0, JSON.stringify(replay));
  assert.is(rig.shadow.stats().mode, 'live');
  return replay;
}

/** Waits until the service has counted so many, and sees that it counts no more. */
async function eventuallyCounts(client: Client, count: number): Promise<void> {
  const endMs = performance.now() + 5000;
  while (await client.count('get') < count && performance.now() < endMs) await sleep(10);
  await sleep(50);
  assert.is(await client.count('get'), count);
}

for (const version of [4, 6] as const) {
  for (const timestamps of [true, false]) {
    takeoverTest(`IPv${version}, ${timestamps ? 'with' : 'without'} timestamps: an open connection goes on`, { timestamps }, async (rig) => {
      const client = await Client.connect(guestAddress[version]);
      for (let i = 1; i <= 5; i++) {
        assert.is(await client.count('inc'), i);
        assert.is(await client.count('get'), i);
      }
      await rig.settled();
      const { loggedFrames, flows } = await failOver(rig);
      assert.ok(loggedFrames >= 12, `${loggedFrames} frames`);
      assert.is(flows, 1);
      assert.is(rig.shadow.stats().learnedFlows, 1);
      for (let i = 6; i <= 20; i++) {
        assert.is(await client.count('inc', 1000), i);
        assert.is(await client.count('get', 1000), i);
      }
      // Both ends close, and nobody resets anything.
      client.socket.end();
      await eventually(() => client.socket.destroyed, () => client.socket.readyState);
      assert.not.ok(client.socket.errored);
    });
  }
}

takeoverTest('a connection without a request yet', {}, async (rig) => {
  const client = await Client.connect(guestAddress[4]);
  await rig.settled();
  await failOver(rig);
  assert.is(await client.count('inc', 1000), 1);
  client.close();
});

takeoverTest('connections opened after the takeover, beside those from before', {}, async (rig) => {
  const before = await Client.connect(guestAddress[6]);
  assert.is(await before.count('inc'), 1);
  await rig.settled();
  await failOver(rig);
  const after = await Client.connect(guestAddress[4]);
  assert.is(await after.count('inc', 1000), 2);
  assert.is(await before.count('inc', 1000), 3);
  assert.is(await after.count('get', 1000), 3);
  before.close();
  after.close();
});

takeoverTest('fifty connections with reads and writes', {}, async (rig) => {
  const clients = await Promise.all(Array.from({ length: 50 }, (_, i) => Client.connect(guestAddress[i % 2 ? 4 : 6])));
  let count = 0;
  for (let round = 0; round < 3; round++) {
    for (const client of clients) assert.is(await client.count('inc'), ++count);
    assert.equal(await Promise.all(clients.map((client) => client.count('get'))), clients.map(() => count));
  }
  await rig.settled();
  const { flows, durationNs } = await failOver(rig);
  assert.is(flows, 50);
  assert.is(rig.shadow.stats().learnedFlows, 50);
  // What was logged went in; the service itself may still be busy with it.
  await Promise.all(clients.map((client) => client.count('inc', 1000)));
  await eventuallyCounts(clients[0]!, count + 50);
  process.stdout.write(`50 connections, ${3 * 50 * 2} requests: replayed in ${(durationNs / 1e6).toFixed(1)} ms\n`);
  for (const client of clients) client.close();
});

takeoverTest('what clients send during the takeover', {}, async (rig) => {
  const clients = await Promise.all(Array.from({ length: 10 }, () => Client.connect(guestAddress[4])));
  for (const client of clients) await client.count('get');
  await rig.settled();
  rig.killPrimary();
  for (const client of clients) client.send('inc\n');
  await sleep(20);
  const done = rig.shadow.takeOver({ clockBehindMs });
  for (const client of clients) client.send('get\n');
  const newcomer = Client.connect(guestAddress[4]);
  await done;
  const counts = await Promise.all(clients.map((client) => client.line(3000)));
  assert.equal(counts.map(Number).sort((a, b) => a - b), Array.from(clients, (_, i) => i + 1));
  for (const client of clients) assert.ok(Number(await client.line(3000)) >= 1);
  assert.is(await (await newcomer).count('get', 3000), 10);
  for (const client of [...clients, await newcomer]) client.close();
});

for (const segmented of [false, true]) {
  takeoverTest(`an upload is cut in the middle (${segmented ? 'segmented on the' : 'whole through the'} replication network)`, { segmented }, async (rig) => {
    const client = await Client.connect(guestAddress[4]);
    const content = pattern(8 * mib, 3);
    client.send(`up ${content.length}\n`);
    client.send(content.subarray(0, 3 * mib));
    await eventually(() => rig.get('input_iseq') > 40, () => rig.get('input_iseq'));
    await sleep(50);
    await rig.settled();
    await failOver(rig);
    client.send(content.subarray(3 * mib));
    assert.is(await client.line(), `${crc32(content)}`);
    client.close();
  });
}

takeoverTest('a download is cut in the middle: clients have more than the replica has sent', {}, async (rig) => {
  const client = await Client.connect(guestAddress[4]);
  const size = 16 * mib;
  client.send(`down ${size}\n`);
  await eventually(() => client.receivedBytes > mib, () => client.receivedBytes);
  client.socket.pause();
  await sleep(50);
  await rig.settled();
  assert.ok(client.receivedBytes < size, 'it was too fast for this test');
  await failOver(rig);
  client.socket.resume();
  assert.ok((await client.bytes(size)).equals(pattern(size)), 'it is not what was asked for');
  assert.ok(rig.shadow.stats().clampedPackets > 0);
  assert.is(await client.count('inc'), 1);
  client.close();
});

for (const sack of [true, false]) {
  takeoverTest(`a bad link after the takeover, ${sack ? 'with' : 'without'} SACK`, { sack, smallPackets: true }, async (rig) => {
    const client = await Client.connect(guestAddress[4]);
    assert.is(await client.count('inc'), 1);
    await rig.settled();
    await failOver(rig);
    rig.set('link_lost_per_mille', 10);
    const content = pattern(2 * mib, 9);
    client.send(`up ${content.length}\n`);
    client.send(content);
    assert.is(await client.line(60_000), `${crc32(content)}`);
    client.send(`down ${content.length}\n`);
    assert.ok((await client.bytes(content.length, 60_000)).equals(pattern(content.length)));
    assert.ok(rig.get('link_lost') > 5, `${rig.get('link_lost')} were lost`);
    client.close();
  });
}

takeoverTest('a bad link also during the replay', {}, async (rig) => {
  const clients = await Promise.all(Array.from({ length: 20 }, () => Client.connect(guestAddress[4])));
  for (const client of clients) assert.is(await client.count('get'), 0);
  await rig.settled();
  rig.set('link_lost_per_mille', 100);
  // The guest asks for its client once a second, and one time in five question or answer is lost.
  await failOver(rig, { limitMs: 30_000 });
  await Promise.all(clients.map((client) => client.count('inc', 20_000)));
  rig.set('link_lost_per_mille', 0);
  await eventuallyCounts(clients[0]!, 20);
  for (const client of clients) client.close();
});

takeoverTest('a guest whose clock was set back', {}, async (rig) => {
  const client = await Client.connect(guestAddress[4]);
  const idle = await Client.connect(guestAddress[6]);
  for (let i = 1; i <= 5; i++) assert.is(await client.count('inc'), i);
  await rig.settled();
  rig.set('clock_behind_ms', 30_000);
  await failOver(rig, { clockBehindMs: 31_000 });
  const startMs = performance.now();
  for (let i = 6; i <= 20; i++) assert.is(await client.count('inc', 1000), i);
  assert.is(await idle.count('get', 1000), 20);
  const newcomer = await Client.connect(guestAddress[4]);
  assert.is(await newcomer.count('get', 1000), 20);
  assert.ok(performance.now() - startMs < 500, 'somebody had to retransmit');
  for (const each of [client, idle, newcomer]) each.close();
});

takeoverTest('commits: what they cover is not replayed, and what is kept of it is not done twice', {}, async (rig) => {
  const first = await Client.connect(guestAddress[4]);
  assert.is(await first.count('inc'), 1);
  first.socket.end();
  await eventually(() => first.socket.destroyed, () => first.socket.readyState);
  await sleep(50);
  await rig.settled();
  const committed = rig.get('input_iseq');
  const second = await Client.connect(guestAddress[4]);
  assert.is(await second.count('get'), 1);
  await rig.settled();
  // All of the first connection is kept, with its SYN and its write.
  rig.shadow.forget(BigInt(committed), committed);
  await failOver(rig);
  // The replica was not really brought forward by the commit, so nothing was counted there.
  assert.is(await second.count('get', 1000), 0);
  assert.is(await second.count('inc', 1000), 1);
  second.close();
});

for (const timestamps of [true, false]) {
  for (const kept of [0, 64]) {
    takeoverTest(`a connection that the checkpoint has, ${timestamps ? 'with' : 'without'} timestamps, ${kept} inputs kept`, { timestamps }, async (rig) => {
      const [primary, secondary] = await Promise.all([RepairServer.start(primaryVm), RepairServer.start(secondaryVm)]);
      try {
        const client = await Client.connect(guestAddress[4], repairPort);
        client.send('ab');
        assert.is((await client.bytes(200)).toString(), 'a'.repeat(100) + 'b'.repeat(100));
        await sleep(60);
        await primary.copyTo(secondary);
        await rig.settled();
        rig.shadow.forget(BigInt(rig.get('input_iseq')), kept);
        // What the primary answers from now on, this client has, and the replica has not sent.
        for (const letter of 'cdefghij') {
          client.send(letter);
          assert.is((await client.bytes(100)).toString(), letter.repeat(100));
        }
        await rig.settled();
        rig.set('clock_behind_ms', timestamps ? 20_000 : 0);
        // Slower than the replay, so that it certainly has not sent what the client has.
        secondary.pause();
        const { durationNs, knownFrames } = await failOver(rig, { clockBehindMs: 21_000 });
        secondary.resume();
        const { probes, clampedPackets, learnedFlows } = rig.shadow.stats();
        assert.is(probes, 1);
        assert.ok(clampedPackets > 0);
        assert.is(learnedFlows, 0);
        assert.ok(kept === 0 || knownFrames > 0, `${knownFrames} frames were known`);
        const startMs = performance.now();
        for (const letter of 'klmnop') {
          client.send(letter);
          assert.is((await client.bytes(100, 1000)).toString(), letter.repeat(100));
        }
        assert.ok(durationNs < 400e6 && performance.now() - startMs < 400, `${durationNs / 1e6} ms, then ${performance.now() - startMs} ms`);
        client.close();
      } finally {
        await Promise.all([primary.close(), secondary.close()]);
      }
    });
  }
}

test('without its log tap nothing is replayed, which is said, and clients reach the VM', async () => {
  const rig = await Rig.open();
  try {
    rig.reset();
    const before = await Client.connect(guestAddress[4]);
    assert.is(await before.count('inc'), 1);
    await rig.settled();
    rig.loseLogTap();
    await eventually(() => rig.notices.length > 0, () => rig.shadow.stats());
    rig.killPrimary();
    const said = await rig.shadow.takeOver({ clockBehindMs }).then(() => 'done', (error: Error) => error.message);
    assert.match(said, 'cannot replay: somebody deleted it');
    const after = await Client.connect(guestAddress[4]);
    assert.is(await after.count('inc'), 1);
    for (const client of [before, after]) client.close();
  } finally {
    await rig.close();
  }
});

test.run();
