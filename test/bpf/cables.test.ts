/** The cables of a lab: what drills do to them, and who is heard on them. Real frames between real namespaces. */
import { execFile, fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { ipBatch } from '../../src/dataplane/ip.js';
import { Cables, type CableFault } from '../../src/lab/cables.js';
import { Lab } from '../../src/lab/lab.js';
import { addresses, type HostName } from '../../src/lab/topology.js';
import { FrameType } from '../../src/peer/frame.js';
import type { Arrival, EndOrder } from './cable-end.js';

const run = promisify(execFile);
const guestMac = '52:54:00:00:00:07';
const port = 9000;
const mirrorPort = 7750;
const lab = new Lab('t-cables');
const ends = new Map<string, ChildProcess>();
let cables: Cables;

function end(namespace: string): ChildProcess {
  const main = fileURLToPath(new URL('cable-end.js', import.meta.url));
  const child = fork(main, [], { execPath: 'ip', execArgv: ['netns', 'exec', namespace, process.execPath], stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
  ends.set(namespace, child);
  return child;
}

async function tell<T>(namespace: string, order: EndOrder): Promise<T> {
  const child = ends.get(namespace) ?? end(namespace);
  const answer = once(child, 'message');
  child.send(order);
  const [{ value, error }] = await answer as [{ value: T; error?: string }];
  if (error !== undefined) throw new Error(error);
  return value;
}

const host = (name: HostName): string => lab.topology.hosts[name];
const received = (name: HostName, atLeast: number, withinMs = 3000): Promise<Arrival[]> => tell(host(name), { type: 'received', atLeast, withinMs });
const datagrams = (from: HostName, to: HostName, count: number, hex = '00', toPort = port): Promise<number> =>
  tell(host(from), { type: 'datagrams', address: addresses.replication[to], port: toPort, hex, count });
const fault = (some: Partial<CableFault>): CableFault => ({ host: 'a', network: 'replication', direction: 'from', of: 'all', drop: 0, delay: 0, delayMs: 0, ...some });

test.before(async () => {
  await lab.down();
  await lab.up({ networkOnly: true });
  cables = await Cables.attach(lab.topology, guestMac);
  for (const name of ['a', 'b'] as const) for (const at of [port, mirrorPort]) await tell(host(name), { type: 'listen', port: at });
});
test.before.each(() => cables.heal());
test.after(async () => {
  for (const child of ends.values()) child.kill('SIGKILL');
  cables?.close();
  await lab.down();
});

test('a whole cable carries everything, both ways', async () => {
  await datagrams('a', 'b', 50);
  await datagrams('b', 'a', 50);
  assert.is((await received('b', 50)).length, 50);
  assert.is((await received('a', 50)).length, 50);
});

test('a cable that is cut in one direction carries the other', async () => {
  for (const direction of ['from', 'to'] as const) {
    await cables.heal();
    await datagrams('a', 'b', 1); // neighbours find each other before the cut
    await received('b', 1);
    await cables.spoil(fault({ direction, drop: 1 }));
    const [lost, carried] = direction === 'from' ? ['a', 'b'] as const : ['b', 'a'] as const;
    await datagrams(lost, carried, 20);
    await datagrams(carried, lost, 20);
    assert.is((await received(lost, 20)).length, 20);
    assert.is((await received(carried, 1, 100)).length, 0);
  }
  await cables.heal();
  await datagrams('a', 'b', 5);
  assert.is((await received('b', 5)).length, 5, 'healed');
});

test('a share of the frames is lost, and counted', async () => {
  const before = (await cables.report()).droppedFrames;
  await cables.spoil(fault({ drop: 0.5 }));
  await datagrams('a', 'b', 1000);
  await cables.heal();
  await datagrams('a', 'b', 1, 'ff');
  const arrived: Arrival[] = [];
  while (arrived.at(-1)?.text !== 'ff') arrived.push(...await received('b', 1));
  const lost = 1001 - arrived.length;
  assert.ok(lost > 350 && lost < 650, `${lost} of 1000 were lost`);
  assert.is((await cables.report()).droppedFrames - before, lost);
});

test('only the mirror loses its frames, if so wished', async () => {
  await cables.spoil(fault({ of: 'mirror', drop: 1 }));
  await datagrams('a', 'b', 10, 'aa', mirrorPort);
  await datagrams('a', 'b', 10, 'bb');
  assert.equal(new Set((await received('b', 10)).map(({ text }) => text)), new Set(['bb']));
});

test('late frames are late by so much, and none is lost or changed', async () => {
  await cables.spoil(fault({ delay: 1, delayMs: 80 }));
  const sentMs = await datagrams('a', 'b', 10, 'c0ffee');
  const arrivals = await received('b', 10);
  assert.equal(arrivals.map(({ text }) => text), Array(10).fill('c0ffee'));
  assert.ok(arrivals[0]!.atMs - sentMs >= 79, `the first came after ${arrivals[0]!.atMs - sentMs} ms`);
  assert.ok((await cables.report()).delayedFrames >= 10);
});

test('large segments of TCP come late and whole', async () => {
  await cables.spoil(fault({ delay: 1, delayMs: 20 }));
  const chunk = 'ab'.repeat(60_000);
  await tell(host('a'), { type: 'stream', address: addresses.replication.b, port, chunks: [chunk] });
  let text = '';
  while (text.length < chunk.length) {
    const more = await received('b', 1);
    assert.ok(more.length > 0, 'the rest never came');
    text += more.map((part) => part.text).join('');
  }
  assert.is(text, chunk);
});

test('the next frame of one type arrives as garbage, and no other', async () => {
  const frame = (type: number): string => `00000004${type.toString(16).padStart(2, '0')}01020304`;
  await cables.corruptFrame('a', FrameType.beat);
  await tell(host('a'), { type: 'stream', address: addresses.replication.b, port, chunks: [frame(FrameType.beatAck), frame(FrameType.beat), frame(FrameType.beat)] });
  const arrivals = (await received('b', 3)).map(({ text }) => text).join('');
  assert.is(arrivals, frame(FrameType.beatAck) + frame(0xee) + frame(FrameType.beat));
  assert.is((await cables.report()).corruptedFrames, 1);
});

test('who speaks with the voice of the guest, when, and how often the speaker changes', async () => {
  const speakers = { a: '10.77.0.21', b: '10.77.0.22' };
  for (const name of ['a', 'b'] as const) {
    // The kernel would look for IPv6 neighbours now and then, with the guest's voice.
    await run('ip', ['netns', 'exec', host(name), 'sysctl', '-qw', 'net.ipv6.conf.br0.disable_ipv6=1']);
    await ipBatch(host(name), ['link set br0 address 52:54:00:00:00:08 up', `addr add ${speakers[name]}/24 dev br0`, `neigh add ${addresses.client} lladdr 52:54:00:00:00:09 dev br0`]);
  }
  const speak = (name: HostName, count: number): Promise<number> => tell(host(name), { type: 'datagrams', address: addresses.client, port, hex: '00', count });
  await cables.forget();
  await speak('a', 3);
  assert.equal((await cables.report()).reigns, [], 'another voice is not heard');
  for (const name of ['a', 'b'] as const) await ipBatch(host(name), [`link set br0 address ${guestMac}`, `neigh replace ${addresses.client} lladdr 52:54:00:00:00:09 dev br0`]);
  await cables.forget();
  await speak('a', 3);
  await speak('b', 2);
  await cables.spoil(fault({ network: 'client', drop: 1 }));
  await speak('a', 5);
  await cables.heal();
  await speak('b', 4);
  await speak('a', 1);
  const { reigns, reignCount } = await cables.report();
  assert.equal(reigns.map(({ host: speaker, frames }) => [speaker, frames]), [['a', 3], ['b', 6], ['a', 1]], 'what the cable swallowed nobody has heard');
  assert.is(reignCount, 3);
  for (const [i, { firstNs, lastNs }] of reigns.entries()) assert.ok(firstNs <= lastNs && lastNs <= (reigns[i + 1]?.firstNs ?? process.hrtime.bigint()));
  await cables.forget();
  for (let i = 0; i < 40; i++) for (const name of ['a', 'b'] as const) await speak(name, 1);
  const many = await cables.report();
  assert.equal([many.reignCount, many.reigns.length], [80, 64]);
});

test.run();
