/** An active secondary: it gets its input as it comes, says what the primary says, and goes on from where it is. */
import { setTimeout as sleep } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { pattern } from './frames.js';
import { enterOwnNamespace } from './tap.js';

enterOwnNamespace(import.meta.url);
const { Rig, eventually, guestAddress } = await import('./shadow/rig.js');
const { Client } = await import('./shadow/client.js');
const { crc32 } = await import('./shadow/crc32.js');
type Rig = import('./shadow/rig.js').Rig;
type Client = import('./shadow/client.js').Client;
type RigOptions = import('./shadow/rig.js').RigOptions;

const mib = 1024 * 1024;
const generation = 4711;

/** Both guests begin alike, and the secondary runs from the beginning. */
function activeTest(name: string, options: RigOptions, body: (rig: Rig) => Promise<void>): void {
  test(name, async () => {
    const rig = await Rig.open({ ...options, neighbours: true });
    try {
      rig.reset();
      rig.shadow.forward('all');
      rig.shadow.begin(generation);
      rig.shadow.activate(0n);
      await body(rig);
      const { untrackedPackets, log } = rig.shadow.stats();
      assert.is(untrackedPackets, 0);
      assert.is(log.malformedPackets, 0);
      assert.is(log.failedPackets, 0);
    } finally {
      await rig.close();
    }
  });
}

/** Waits until the secondary has said to this client as much as the primary. */
async function keptUp(rig: Rig, client: Client, limitMs = 5000): Promise<void> {
  const port = client.socket.localPort!;
  const said = (): ReturnType<Rig['said']> => rig.said(port);
  await eventually(() => said()?.primary === said()?.secondary, () => ({ ...said(), ...rig.shadow.stats() }), limitMs);
}

/**
 * A VM that stops for a checkpoint says nothing more; here the guest runs on, so it must have nothing
 * to say: what was on its way has gone in, also an acknowledgement that the client delayed.
 */
async function standStill(rig: Rig): Promise<void> {
  rig.shadow.suspend();
  await sleep(100);
}

async function failOver(rig: Rig): ReturnType<Rig['shadow']['takeOver']> {
  rig.killPrimary();
  const replay = await rig.shadow.takeOver({ clockBehindMs: 0 });
  assert.is(replay.abandonedFrames, 0, JSON.stringify(replay));
  assert.is(replay.flushedFrames, 0, JSON.stringify(replay));
  return replay;
}

for (const version of [4, 6] as const) {
  for (const timestamps of [true, false]) {
    activeTest(`IPv${version}, ${timestamps ? 'with' : 'without'} timestamps: says the same in the same numbers, and goes on`, { timestamps }, async (rig) => {
      const client = await Client.connect(guestAddress[version]);
      for (let i = 1; i <= 20; i++) {
        assert.is(await client.count('inc'), i);
        assert.is(await client.count('get'), i);
      }
      await keptUp(rig, client);
      assert.is(rig.get('shadow_generation'), generation);
      assert.is(rig.shadow.stats().learnedFlows, 1);
      await rig.settled();
      const { loggedFrames } = await failOver(rig);
      assert.is(loggedFrames, 0, 'all of it had gone in before');
      for (let i = 21; i <= 40; i++) assert.is(await client.count('inc', 2000), i, 'nothing was done twice');
      const newcomer = await Client.connect(guestAddress[version]);
      assert.is(await newcomer.count('get'), 40);
      client.close();
      newcomer.close();
    });
  }
}

activeTest('many connections that come and go', {}, async (rig) => {
  for (let round = 0; round < 5; round++) {
    const clients = await Promise.all(Array.from({ length: 20 }, (_, i) => Client.connect(guestAddress[i % 2 ? 4 : 6])));
    for (const client of clients) await client.count('inc');
    for (const client of clients) await keptUp(rig, client);
    for (const client of clients) client.socket.end();
    await Promise.all(clients.map((client) => eventually(() => client.socket.destroyed, () => client.socket.readyState)));
  }
  const last = await Client.connect(guestAddress[4]);
  assert.is(await last.count('get'), 100);
  await rig.settled();
  await failOver(rig);
  assert.is(await last.count('inc', 2000), 101);
  last.close();
});

for (const smallPackets of [false, true]) {
  activeTest(`transfers in both directions (${smallPackets ? 'packet by packet' : 'segmentation left to the kernel'})`, { smallPackets }, async (rig) => {
    const client = await Client.connect(guestAddress[4]);
    const content = pattern(4 * mib, 3);
    client.send(`up ${content.length}\n`);
    client.send(content);
    assert.is(await client.line(), `${crc32(content)}`);
    await keptUp(rig, client);
    // The primary is far ahead, and its client acknowledges what the secondary has still to say.
    client.send(`down ${4 * mib}\n`);
    assert.ok((await client.bytes(4 * mib)).equals(pattern(4 * mib)));
    await keptUp(rig, client);
    await rig.settled();
    await failOver(rig);
    assert.is(await client.count('inc', 2000), 1);
    client.close();
  });
}

activeTest('a takeover in the middle of a download', {}, async (rig) => {
  const client = await Client.connect(guestAddress[4]);
  const size = 16 * mib;
  client.send(`down ${size}\n`);
  await eventually(() => client.receivedBytes > mib, () => client.receivedBytes);
  await rig.settled();
  await failOver(rig);
  assert.ok((await client.bytes(size, 20_000)).equals(pattern(size)), 'it is not what was asked for');
  assert.is(await client.count('inc'), 1);
  client.close();
});

activeTest('a takeover in the middle of a checkpoint: it was not loaded, so the guest goes on from where it was', {}, async (rig) => {
  const client = await Client.connect(guestAddress[4]);
  for (let i = 1; i <= 5; i++) assert.is(await client.count('inc'), i);
  await keptUp(rig, client);
  await standStill(rig);
  rig.shadow.begin(generation + 1);
  const { deliveredPackets } = rig.shadow.stats().log;
  assert.is(await client.count('inc'), 6);
  await rig.settled();
  assert.is(rig.shadow.stats().log.deliveredPackets, deliveredPackets, 'nothing goes into a guest that has stopped');
  const { loggedFrames } = await failOver(rig);
  assert.ok(loggedFrames > 0);
  assert.is(await client.count('inc', 2000), 7);
  client.close();
});

activeTest('an input that was lost: nothing behind it goes in', {}, async (rig) => {
  const client = await Client.connect(guestAddress[4]);
  assert.is(await client.count('inc'), 1);
  await keptUp(rig, client);
  await rig.settled();
  rig.set('lost_per_mille', 1000);
  assert.is(await client.count('inc'), 2);
  rig.set('lost_per_mille', 0);
  const before = rig.said(client.socket.localPort!);
  assert.is(await client.count('inc'), 3);
  await eventually(() => rig.notices.some(([notice]) => notice === 'gap'), () => rig.notices);
  await sleep(50);
  assert.is(rig.said(client.socket.localPort!)!.secondary, before!.secondary);
  assert.is.not(rig.said(client.socket.localPort!)!.primary, before!.primary);
  client.close();
});

activeTest('forwarding is switched while it goes on', {}, async (rig) => {
  const client = await Client.connect(guestAddress[4]);
  const forwarded = async (what: 'all' | 'dirty' | 'none', verb: 'get' | 'inc'): Promise<number> => {
    rig.shadow.forward(what);
    const before = rig.get('shadow_outputs');
    for (let i = 0; i < 5; i++) await client.count(verb);
    await sleep(50);
    return rig.get('shadow_outputs') - before;
  };
  assert.is(await forwarded('dirty', 'get'), 0);
  assert.ok(await forwarded('all', 'get') >= 5);
  assert.is(await forwarded('none', 'inc'), 0);
  assert.ok(await forwarded('dirty', 'get') >= 5, 'a write came, and no commit since');
  rig.shadow.suspend();
  rig.shadow.begin(generation + 1);
  rig.shadow.forget(BigInt(rig.get('input_iseq')));
  rig.shadow.activate(process.hrtime.bigint());
  assert.is(await forwarded('dirty', 'get'), 0, 'settled');
  client.close();
});

activeTest('a checkpoint that is loaded makes room: what was open before is another connection now', {}, async (rig) => {
  const clients = await Promise.all(Array.from({ length: 20 }, () => Client.connect(guestAddress[4])));
  for (const each of clients) {
    await each.count('get');
    await keptUp(rig, each);
  }
  await rig.settled();
  rig.shadow.suspend();
  rig.shadow.begin(generation + 1);
  rig.shadow.forget(BigInt(rig.get('input_iseq')));
  rig.shadow.activate(0n);
  assert.is(rig.shadow.stats().flows, 0);
  const client = await Client.connect(guestAddress[4]);
  assert.is(await client.count('inc'), 1);
  await keptUp(rig, client);
  rig.shadow.suspend();
  rig.shadow.begin(generation + 2);
  await rig.settled();
  await failOver(rig);
  assert.is(await client.count('inc', 2000), 2);
  for (const each of [client, ...clients]) each.close();
});

test.run();
