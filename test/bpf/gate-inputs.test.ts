/** Which of its inputs the VM has read, as the gate tells it: one too many, and the log forgets what the VM never saw. */
import { execFileSync } from 'node:child_process';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { Gate, type GateOptions } from '../../src/dataplane/gate.js';
import { EtherType, IpProtocol, ethernet, ipv4, pattern, plain, udp } from './frames.js';
import { until } from './libbpf-support.js';
import { bridged, enterOwnNamespace, FarEnd, ip } from './tap.js';

enterOwnNamespace(import.meta.url);

const { bridge, guestTap, guest, client } = await bridged();
const packet = { vnet: plain, frame: ethernet(EtherType.ipv4, ipv4(IpProtocol.udp, udp(pattern(30)))) };
const options = (holdTap: string): GateOptions => ({
  bridge, tap: guestTap, holdTap, holdMemoryBytes: 16e6, limitPackets: 100, limitBytes: 1e6,
  services: [{ port: 80, protocol: 'http', preRelease: true }], onNotice: () => {},
});
const nothingDiverted = 0n;

async function reads(end: FarEnd, packets: number): Promise<void> {
  await until(() => end.received.length >= packets);
  assert.is(end.take().length, packets);
}

const before = await Gate.open(options('colopp-t-hold1'));
before.setMode('pass');
guest.standStill();
client.send(packet, 5);
await until(() => before.stats().inputPackets === 5);
// The agent that had this one has died; the next one takes its place while five packets wait.
const gate = await Gate.open(options('colopp-t-hold2'));
gate.setMode('pass');

test('what waited in the tap before this gate opened is none of its inputs', async () => {
  assert.is(gate.beginLog(1n), 1n);
  client.send(packet, 3);
  await until(() => gate.logProgress().input === 3n);
  assert.is(gate.readInputs(nothingDiverted), 0n);
  guest.goOn();
  await reads(guest, 8);
  assert.is(gate.readInputs(nothingDiverted), 3n);
  guest.standStill();
  client.send(packet, 4);
  await until(() => gate.logProgress().input === 7n);
  assert.is(gate.readInputs(nothingDiverted), 3n);
});

test('what an ended VM has not read does not wait for the next one', async () => {
  await guest.close();
  gate.vmBegins(nothingDiverted);
  const next = await FarEnd.open('tap', guestTap);
  client.send(packet, 2);
  await reads(next, 2);
  assert.is(gate.logProgress().input, 9n);
  assert.is(gate.readInputs(nothingDiverted), 9n);
  next.standStill();
  client.send(packet, 2);
  await until(() => gate.logProgress().input === 11n);
  assert.is(gate.readInputs(nothingDiverted), 9n);
  await next.close();
});

test('what the tap has no room for counts as read once all before it is, and no sooner', async () => {
  gate.vmBegins(nothingDiverted);
  const vm = await FarEnd.open('tap', guestTap);
  ip(`link set ${guestTap} txqueuelen 4`);
  let inputs = 11;
  const come = async (packets: number): Promise<void> => {
    client.send(packet, packets);
    inputs += packets;
    await until(() => gate.logProgress().input === BigInt(inputs));
  };
  const read = (): number => Number(gate.readInputs(nothingDiverted));

  vm.standStill();
  await come(10); // six of them are dropped
  assert.is(read(), 11);
  vm.goOn();
  await reads(vm, 4);
  assert.is(read(), 21);

  // Others wait already when it is asked, as always under load.
  vm.standStill();
  await come(10);
  assert.is(read(), 21);
  vm.goOn();
  await reads(vm, 4);
  vm.standStill();
  await come(3);
  assert.is(read(), 31);
  vm.goOn();
  await reads(vm, 3);
  assert.is(read(), 34);

  // Unnoticed while they were dropped, they are made up for later.
  vm.standStill();
  await come(10);
  vm.goOn();
  await reads(vm, 4);
  vm.standStill();
  await come(3);
  assert.is(read(), 38);
  await come(3); // two more
  assert.is(read(), 38);
  vm.goOn();
  await reads(vm, 4);
  assert.is(read(), 50);

  // Nor are they owed to the next VM.
  vm.standStill();
  await come(10);
  await vm.close();
  gate.vmBegins(nothingDiverted);
  const next = await FarEnd.open('tap', guestTap);
  await come(2);
  await reads(next, 2);
  assert.is(read(), 62);
  next.standStill();
  await come(2);
  assert.is(read(), 62);
  await next.close();
});

test('the tap has no queue but its own, whose drops it counts', () => {
  assert.match(execFileSync('tc', ['qdisc', 'show', 'dev', guestTap], { encoding: 'utf8' }), 'noqueue');
});

test.after(async () => {
  await client.close();
  await gate.close();
});
test.run();
