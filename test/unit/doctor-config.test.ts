/** What the doctor says of a configuration, where that needs no lab. */

import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { parseConfig } from '../../src/agent/config.js';
import { configChecks, parking } from '../../src/agent/doctor/config-checks.js';
import type { Verdict } from '../../src/agent/doctor/finding.js';

const text = `{ host: a, role: primary, runDir: /run/a, stateDir: /var/lib/a,
  vm: { name: web, memoryMiB: 256, kernel: /boot/vmlinuz, mac: "52:54:00:00:00:01" },
  network: { bridge: br0, tap: tap0, holdTap: hold0 }, peer: { listen: "10.0.0.1:7000", address: "10.0.0.2:7000" }`;

/** Undefined: not checked. */
async function verdict(name: string, more = ''): Promise<Verdict | undefined> {
  return await configChecks(parseConfig(`${text}${more} }`, 'a.yaml')).find(([each]) => each === name)?.[1]();
}

test('a witness that listens, one that does not, and none', async () => {
  const server = createServer((socket) => void socket.resume()).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const witness = `, witness: { address: "127.0.0.1:${port}" }`;
  const there = await verdict('witness', witness);
  assert.is(there?.verdict, 'ok', there?.detail);
  server.close();
  await once(server, 'close');
  const gone = await verdict('witness', witness);
  assert.is(gone?.verdict, 'fail');
  assert.match(gone!.detail, new RegExp(`^127\\.0\\.0\\.1 port ${port} cannot be reached: .*ECONNREFUSED`));
  assert.match(gone!.remedy, 'colopp witness');
  assert.is(await verdict('witness'), undefined);
});

test('parking is checked only where vCPUs may be parked', () => {
  const isChecked = (vcpus: number, more: string): boolean =>
    configChecks(parseConfig(`${text.replace('memoryMiB', `vcpus: ${vcpus}, memoryMiB`)}${more} }`, 'a.yaml')).some(([name]) => name === 'parking');
  assert.ok(isChecked(2, ', mode: compare'));
  assert.ok(isChecked(2, ', secondary: active, activeVcpus: 1'));
  assert.not(isChecked(1, ', mode: compare'), 'one vCPU has nobody beside it');
  assert.not(isChecked(2, ''), 'a paused secondary runs none');
  assert.not(isChecked(2, ', secondary: active'), 'one that is always active runs all');
});

test('autogroups that are on, off, and unknown to the kernel', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'colopp-doctor-'));
  try {
    const path = join(folder, 'sched_autogroup_enabled');
    assert.is((await parking(path)).verdict, 'ok', 'no such file');
    writeFileSync(path, '0\n');
    assert.is((await parking(path)).verdict, 'ok');
    writeFileSync(path, '1\n');
    const on = await parking(path);
    assert.is(on.verdict, 'warn');
    assert.match(on.remedy, 'sysctl kernel.sched_autogroup_enabled=0');
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test.run();
