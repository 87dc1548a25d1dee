/** How a hold thread begins and ends: closed, forgotten, killed, in a worker, with its device taken away. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { BpfProgram } from 'libbpf-napi';
import { TapHold, type HoldNotice, type TapHoldError } from 'tap-hold';
import { Gate } from '../../src/dataplane/gate.js';
import { EtherType, IpProtocol, ethernet, ipv4, pattern, plain, udp, type Packet } from './frames.js';
import { collectGarbage, thrown, until } from './libbpf-support.js';
import { attachGate, bridged, deviceExists, enterOwnNamespace, ip } from './tap.js';

enterOwnNamespace(import.meta.url);

const holdTap = 'colopp-t-hold';
const { bridge, guestTap, guest, client } = await bridged();
const packet: Packet = { vnet: plain, frame: ethernet(EtherType.ipv4, ipv4(IpProtocol.udp, udp(pattern(100)))) };

const openHold = (): TapHold => new TapHold({ ifname: holdTap, onNotice: () => {} });
const openFiles = (): number => readdirSync('/proc/self/fd').length;
const threads = (): number => readdirSync('/proc/self/task').length;

/** What the client got, once nothing more comes. */
async function seen(): Promise<number> {
  let count = -1;
  while (count !== client.received.length) {
    count = client.received.length;
    await sleep(40);
  }
  return client.take().length;
}

test('a hold tap can be opened once, and its name must be one', () => {
  const hold = openHold();
  const error = thrown<TapHoldError>(openHold);
  assert.is(error.code, 'TAP_HOLD');
  assert.is(error.operation, 'ioctl(TUNSETIFF)');
  assert.match(error.message, /colopp-t-hold could not be made: .*busy/);
  hold.close();
  for (const ifname of ['', 'a'.repeat(16), 'a/b', 'a b', 'a%d']) {
    assert.throws(() => new TapHold({ ifname, onNotice: () => {} }), (raised: Error) => raised instanceof RangeError);
  }
  for (const wrong of [{ ringBytes: 0 }, { queuePackets: 0 }, { limitPackets: 1.5 }, { limitBytes: Number.NaN }]) {
    assert.throws(() => new TapHold({ ifname: holdTap, onNotice: () => {}, ...wrong }), (raised: Error) => raised instanceof RangeError);
  }
  assert.not.ok(deviceExists(holdTap));
});

test('a hundred times opened and closed, held packets and all: no file, no thread is left', async () => {
  openHold().close();
  await sleep(20);
  const before = { files: openFiles(), threads: threads() };
  for (let i = 0; i < 100; i++) {
    const hold = openHold();
    if (i % 10 === 0) {
      const { detach } = attachGate(guestTap, hold);
      guest.send(packet, 50);
      await until(() => hold.stats().heldPackets > 0);
      detach();
    }
    hold.close();
  }
  await sleep(20);
  assert.equal({ files: openFiles(), threads: threads() }, before);
  assert.not.ok(deviceExists(holdTap));
  assert.is(await seen(), 0);
});

test('forgotten by all, it still holds: only close ends it', async () => {
  let hold: TapHold | undefined = openHold();
  const weak = new WeakRef(hold);
  hold = undefined;
  await sleep(0);
  await collectGarbage();
  assert.ok(deviceExists(holdTap), 'the device was collected');
  // The wrapper in JavaScript may be gone; end the rest with the device.
  weak.deref()?.close();
  if (deviceExists(holdTap)) ip(`link del ${holdTap}`);
});

test('its device taken away: said so, and no thread spins', async () => {
  const notices: HoldNotice[] = [];
  const hold = new TapHold({ ifname: holdTap, onNotice: (notice) => notices.push(notice) });
  const { detach } = attachGate(guestTap, hold);
  guest.send(packet, 10);
  await until(() => hold.stats().heldPackets === 10);
  assert.not.ok(hold.stats().deviceLost);
  ip(`link del ${holdTap}`);
  guest.send(packet, 10);
  hold.releaseAll();
  await until(() => hold.stats().deviceLost);
  await until(() => hold.stats().failedPackets === 10);
  await until(() => notices.includes('lost'));
  const before = process.cpuUsage();
  await sleep(200);
  const { user, system } = process.cpuUsage(before);
  assert.equal(notices.filter((notice) => notice === 'lost'), ['lost'], 'once');
  assert.ok(user + system < 100_000, `${user + system} µs of CPU time in 200 ms of nothing`);
  assert.is(await seen(), 0);
  detach();
  hold.close();
});

const modules = { gate: new URL('../../src/dataplane/gate.js', import.meta.url).href, hold: import.meta.resolve('tap-hold') };

/** Runs a program in another process; returns when it has written a line, with that. */
async function runNode(source: string, wrapper: string[] = []): Promise<{ child: ChildProcess; written: string }> {
  const [command, ...args] = [...wrapper, process.execPath, '--input-type=module', '-e', source];
  const child = spawn(command!, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const ended = once(child, 'exit').then(() => { throw new Error('it ended before it was ready'); });
  const [written] = await Promise.race([once(child.stdout, 'data'), ended]) as [Buffer];
  return { child, written: written.toString() };
}

test('no file descriptors left: an error that names what failed, and nothing stays open', async () => {
  const { written } = await runNode(`
    import { closeSync, openSync } from 'node:fs';
    import { TapHold } from ${JSON.stringify(modules.hold)};
    const open = [];
    for (;;) {
      try { open.push(openSync('/dev/null')); } catch { break; }
    }
    const tries = [0, 1, 2, 3].map((free) => {
      open.splice(0, free).forEach(closeSync);
      let said = 'opened';
      try {
        new TapHold({ ifname: '${holdTap}', onNotice: () => {} }).close();
      } catch ({ operation, errno }) {
        said = operation + ' ' + errno;
      }
      // Whatever is free now was free before.
      for (let i = 0; i < free; i++) open.push(openSync('/dev/null'));
      return said;
    });
    open.splice(0).forEach(closeSync);
    console.log(JSON.stringify(tries));
  `, ['prlimit', '--nofile=256']);
  const emfile = 24;
  assert.equal(JSON.parse(written), [`open(/dev/net/tun) ${emfile}`, `socket(AF_INET) ${emfile}`, `start of the hold thread ${emfile}`, 'opened']);
});

test('a process that just ends takes its hold tap along, without a hitch', async () => {
  const { child } = await runNode(`
    import { TapHold } from ${JSON.stringify(modules.hold)};
    const hold = new TapHold({ ifname: '${holdTap}', onNotice: () => {} });
    globalThis.kept = hold;
    console.log('ready');
    await new Promise((resolve) => setTimeout(resolve, 50));
  `);
  assert.ok(deviceExists(holdTap));
  const [status, signal] = await once(child, 'exit') as [number | null, string | null];
  assert.equal([status, signal], [0, null]);
  assert.not.ok(deviceExists(holdTap));
});

for (const end of ['terminate', 'exit', 'throw'] as const) {
  test(`in a worker, under load, not closed: ${end}`, async () => {
    const before = { files: openFiles(), threads: threads() };
    for (let i = 0; i < 5; i++) {
      const worker = new Worker(`
        const { parentPort } = require('node:worker_threads');
        import(${JSON.stringify(modules.hold)}).then(({ TapHold }) => {
          const hold = new TapHold({ ifname: '${holdTap}', onNotice: () => hold.releaseUpTo(process.hrtime.bigint()) });
          parentPort.postMessage(hold.ifIndex);
          parentPort.on('message', () => {
            if (${JSON.stringify(end)} === 'exit') process.exit(3);
            if (${JSON.stringify(end)} === 'throw') throw new Error('for the test');
          });
        });
      `, { eval: true });
      worker.on('error', () => {}); // of 'throw'
      const [ifIndex] = await once(worker, 'message') as [number];
      const { detach } = attachGate(guestTap, { ifIndex });
      guest.send(packet, 5000);
      await until(() => client.received.length > 0);
      const gone = new Promise((resolve) => { worker.once('exit', resolve); });
      if (end === 'terminate') await worker.terminate();
      else worker.postMessage('now');
      await gone;
      assert.not.ok(deviceExists(holdTap));
      detach();
      client.take();
    }
    await until(() => openFiles() === before.files && threads() === before.threads);
    await seen();
  });
}

test('a killed agent: nothing leaks; the next one takes over', async () => {
  const options = `{ bridge: '${bridge}', tap: '${guestTap}', holdTap: '${holdTap}', holdMemoryBytes: 16e6, limitPackets: 100, limitBytes: 1e6 }`;
  const { child } = await runNode(`
    import { Gate } from ${JSON.stringify(modules.gate)};
    const gate = await Gate.open({ ...${options}, onNotice: () => console.log('held') });
    gate.setLease((1n << 64n) - 1n);
    gate.setMode('protected');
    console.log('ready');
    setInterval(() => {}, 1000);
  `);
  guest.send(packet, 20);
  await once(child.stdout!, 'data');
  const gone = once(child, 'exit');
  child.kill('SIGKILL');
  await gone;
  await until(() => !deviceExists(holdTap));
  guest.send(packet, 20);
  assert.is(await seen(), 0);

  const attached = (): number[] => (['ingress', 'egress'] as const).flatMap((direction) => BpfProgram.queryTcx({ ifname: guestTap, direction }).map(({ progId }) => progId));
  const earlier = attached();
  assert.is(earlier.length, 2, 'the programs went with the process: the guest is heard');
  const gate = await Gate.open({ bridge, tap: guestTap, holdTap, holdMemoryBytes: 16e6, limitPackets: 100, limitBytes: 1e6, onNotice: () => {} });
  assert.is(attached().length, 2);
  assert.not.ok(attached().some((id) => earlier.includes(id)));
  guest.send(packet, 20); // closed until told otherwise
  assert.is(await seen(), 0);
  gate.setLease((1n << 64n) - 1n);
  gate.setMode('protected');
  guest.send(packet, 20);
  await until(() => gate.stats().heldPackets === 20);
  assert.is(await seen(), 0);
  gate.commit(process.hrtime.bigint());
  assert.is(await seen(), 20);
  const { droppedPackets, releasedPackets, everHeldPackets } = gate.stats();
  assert.equal({ droppedPackets, releasedPackets, everHeldPackets }, { droppedPackets: 20, releasedPackets: 20, everHeldPackets: 20 });
  await gate.close();
  assert.not.ok(deviceExists(holdTap));
  assert.not.ok(deviceExists(guestTap));
});

test.after(async () => {
  await Promise.all([guest.close(), client.close()]);
});
test.run();
