/** What a service manager hears of us, and that nobody is asked to listen where there is none. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { ServiceManager } from 'sd-notify';
import { systemdUnit } from '../../src/cli/systemd-unit.js';
import { receiveNotifications } from '../notify-receiver.js';

const dir = mkdtempSync(join(tmpdir(), 'colopp-notify-'));
test.after(() => rmSync(dir, { recursive: true }));

async function until(condition: () => boolean): Promise<void> {
  const deadlineMs = performance.now() + 10_000;
  while (!condition()) {
    if (performance.now() > deadlineMs) throw new Error(`Not within 10 s: ${condition}`);
    await sleep(5);
  }
}

for (const path of [join(dir, 'notify'), `@colopp-test-${process.pid}`]) {
  test(`ready, alive, how it is, stopping: to ${path[0] === '@' ? 'an abstract socket' : 'a socket'}`, async () => {
    const receiver = await receiveNotifications(path);
    const manager = new ServiceManager({ NOTIFY_SOCKET: path, WATCHDOG_USEC: '60000', WATCHDOG_PID: String(process.pid) });
    try {
      assert.is(manager.watchdogMs, 60);
      manager.ready();
      manager.status(`primary,\nprotected ${'x'.repeat(5000)}`);
      await until(() => receiver.messages.filter((message) => message === 'WATCHDOG=1').length >= 3);
      manager.stopping();
      await until(() => receiver.messages.includes('STOPPING=1'));
    } finally {
      manager.close();
      receiver.close();
    }
    assert.is(receiver.messages[0], 'READY=1');
    assert.match(receiver.messages[1]!, /^STATUS=primary, protected x{400,}$/);
  });
}

test('an event loop that stands still gives no sign of life', async () => {
  const path = join(dir, 'busy');
  const receiver = await receiveNotifications(path);
  const manager = new ServiceManager({ NOTIFY_SOCKET: path, WATCHDOG_USEC: '60000' });
  manager.ready();
  await until(() => receiver.messages.includes('WATCHDOG=1'));
  const endMs = performance.now() + 300;
  while (performance.now() < endMs);
  await sleep(0);
  manager.close();
  await sleep(50);
  receiver.close();
  const signs = receiver.messages.filter((message) => message === 'WATCHDOG=1').length;
  assert.ok(signs < 12, `${signs} signs of life in 300 ms of silence`);
});

test('no manager, or one that watches somebody else: nothing is sent, nothing fails', () => {
  const none = new ServiceManager({});
  assert.equal([none.present, none.watchdogMs], [false, undefined]);
  none.ready();
  none.status('well');
  none.close();
  assert.is(new ServiceManager({ NOTIFY_SOCKET: '/x', WATCHDOG_USEC: '1000', WATCHDOG_PID: '1' }).watchdogMs, undefined);
  assert.is(new ServiceManager({ NOTIFY_SOCKET: '/x', WATCHDOG_USEC: 'soon' }).watchdogMs, undefined);
  assert.is(new ServiceManager({ NOTIFY_SOCKET: 'vsock:2:3' }).present, false);
  const gone = new ServiceManager({ NOTIFY_SOCKET: join(dir, 'nobody') });
  gone.ready();
  new ServiceManager({ NOTIFY_SOCKET: `/${'long'.repeat(100)}` }).ready();
});

test('the unit names this installation, also where its path has blanks', () => {
  const unit = systemdUnit('/opt/my node/50%/node', '/usr/lib/colopp/main.js');
  assert.match(unit, /^ExecStart="\/opt\/my node\/50%%\/node" \/usr\/lib\/colopp\/main\.js agent --config \/etc\/colopp\/%i\.yaml$/m);
  for (const line of ['Type=notify', 'WatchdogSec=5', 'KillMode=process', 'RestartPreventExitStatus=2', 'StartLimitIntervalSec=0']) assert.match(unit, `\n${line}\n`);
});

test.run();
