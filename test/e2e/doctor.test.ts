/** The doctor on hosts that lack something, or have something too much: each in a namespace of its own. */
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import 'libbpf-napi'; // so that this process maps its add-on
import type { Finding } from '../../src/agent/doctor/finding.js';
import { cli, ended } from './lab-harness.js';

const scratch = mkdtempSync(join(tmpdir(), 'colopp-doctor-'));
test.after(() => rmSync(scratch, { recursive: true }));

/** Runs the doctor with mounts and a network of its own, once `script` has changed them; QEMU is left out. */
async function findings(script: string, ...args: string[]): Promise<(name: string) => Finding | undefined> {
  const command = ['--mount', '--net', 'sh', '-ec', `${script}\nexec "$@"`, 'sh', process.execPath, cli, 'doctor', '--json', '--qemu', '/bin/true', ...args];
  const { code, stdout, stderr } = await ended(spawn('unshare', command, { stdio: ['ignore', 'pipe', 'pipe'] }));
  assert.is(code, 2, stderr);
  const all = JSON.parse(stdout) as Finding[];
  return (name) => all.find((each) => each.name === name);
}

test('without the add-on: it says so, and all that does not need it', async () => {
  const [addon] = /\/\S+\/bpf_napi\.node/.exec(readFileSync('/proc/self/maps', 'utf8'))!;
  const found = await findings(`mount --bind /dev/null ${addon}`);
  assert.is(found('libbpf')?.verdict, 'fail');
  assert.match(found('libbpf')!.detail, /bpf_napi\.node: file too short/);
  assert.match(found('libbpf')!.remedy, 'npm run setup');
  for (const name of ['root', 'tunnel', 'clocks', 'leftovers']) assert.is(found(name)?.verdict, 'ok', name);
});

/** @param more of the configuration @returns its file */
function configuration(more = ''): string {
  const path = join(scratch, 'agent.yaml');
  writeFileSync(path, `{ host: a, role: primary, runDir: ${scratch}/run, stateDir: ${scratch}/state,
  vm: { name: web, memoryMiB: 256, kernel: /boot/vmlinuz, mac: "52:54:00:00:00:01" },
  network: { bridge: br0, tap: mine0, holdTap: mine1 }, peer: { listen: "127.0.0.1:7000", address: "127.0.0.1:7001" }${more} }`);
  return path;
}

const deadAgent = `
  ip link add clp-tunnel0 type vxlan external gbp nolearning noudpcsum udp6zerocsumtx udp6zerocsumrx dstport 7750
  ip link add br0 type bridge
  ip tuntap add mine0 mode tap
  ip link set clp-tunnel0 up
  ip link set mine0 up
  ip link set br0 up`;

test('what a killed agent has left: its tunnel, which keeps its carrier, and a tap named in the configuration', async () => {
  const found = await findings(deadAgent, '--config', configuration());
  assert.is(found('leftovers')?.verdict, 'warn');
  assert.match(found('leftovers')!.detail, /clp-tunnel0/);
  assert.match(found('leftovers')!.detail, /mine0/);
  assert.match(found('leftovers')!.remedy, 'ip link del clp-tunnel0');
  assert.match(found('leftovers')!.remedy, 'ip link del mine0');
  assert.not.match(found('leftovers')!.remedy, 'br0');
  assert.not.match(found('tunnel')!.detail, /an agent .* uses/);
});

test('a tunnel beside a tap in use belongs to an agent, maybe to one of another configuration', async () => {
  const found = await findings(`${deadAgent}\nip link add clp-hold0 type veth peer name other\nip link set clp-hold0 up\nip link set other up`);
  assert.is(found('leftovers')?.verdict, 'ok');
  assert.is(found('tunnel')?.verdict, 'ok');
});

test('an MTU too small for mirrored input, where input is mirrored and where it is not', async () => {
  for (const [more, verdict] of [['', 'ok'], [', mode: compare', 'warn'], [', secondary: active', 'warn'], [', services: [{ port: 80, protocol: http }]', 'warn']] as const) {
    assert.is((await findings('ip link set lo mtu 1500 up', '--config', configuration(more)))('MTU')?.verdict, verdict, more);
  }
});

test.run();
