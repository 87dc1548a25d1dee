/** An agent that cannot work says why in one sentence, ends with code 2, or 75 if it may work later, and leaves nothing behind. */
import { execFile, spawn } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { stringify } from 'yaml';
import { demoGuest } from '../../src/lab/lab.js';
import { addresses, processesIn } from '../../src/lab/topology.js';
import { assertRefused, cli, ended, LabTrace, ownLab, type CommandEnd } from './lab-harness.js';

const lab = ownLab('t-refusals');
const host = lab.topology.hosts.a;
const scratch = mkdtempSync(join(tmpdir(), 'colopp-refusals-'));
const config = join(scratch, 'agent.yaml');
const file = (name: string, content: string): string => {
  writeFileSync(join(scratch, name), content);
  return join(scratch, name);
};
let linksBefore: string[];

test.before(async () => {
  await lab.down();
  await lab.up({ networkOnly: true });
  linksBefore = await links();
});
test.after(async () => {
  const trace = new LabTrace(lab);
  await trace.note();
  await lab.down();
  rmSync(scratch, { recursive: true });
  await trace.assertGone();
});

async function links(): Promise<string[]> {
  const { stdout } = await promisify(execFile)('ip', ['-n', host, '-json', 'link', 'show']);
  return (JSON.parse(stdout) as { ifname: string }[]).map(({ ifname }) => ifname);
}

/** A sound configuration for host a, changed at one place: `network.bridge`, say. */
function configuration(path = '', value?: unknown): string {
  const guest = demoGuest();
  const whole: Record<string, unknown> = {
    host: 'a', role: 'primary', runDir: join(scratch, 'run'), stateDir: join(scratch, 'state'),
    vm: { name: 'guest', memoryMiB: guest.memoryMiB, kernel: guest.kernel, initrd: guest.initrd, append: guest.append, mac: guest.mac },
    network: { bridge: 'br0', tap: 'clp-tap0', holdTap: 'clp-hold0' },
    peer: { listen: `${addresses.replication.a}:7749`, address: `${addresses.replication.b}:7749` },
  };
  const keys = path.split('.');
  const last = keys.pop()!;
  if (path !== '') {
    const section = keys.reduce((at, key) => at[key] as Record<string, unknown>, whole);
    if (value === undefined) delete section[last];
    else section[last] = value;
  }
  return stringify(whole);
}

async function runAgent(text: string): Promise<CommandEnd> {
  writeFileSync(config, text);
  return ended(spawn('ip', ['netns', 'exec', host, process.execPath, cli, 'agent', '--config', config], {
    stdio: ['ignore', 'pipe', 'pipe'], timeout: 20_000,
  }));
}

async function assertAgentRefuses(text: string, sentence: RegExp, code?: number): Promise<void> {
  assertRefused(await runAgent(text), sentence, code);
  assert.equal(await links(), linksBefore, 'no interface is left');
  assert.equal(await processesIn(host), [], 'no process is left');
}

const mistakes: [what: string, text: () => string, sentence: RegExp][] = [
  ['an empty file', () => '', /agent\.yaml: the file: /],
  ['no YAML', () => 'host: [a\nrole: }', /agent\.yaml:2:\d+: not valid YAML/],
  ['a list', () => '- host: a', /agent\.yaml:1:1: the file: /],
  ['a key twice', () => `${configuration()}host: b\n`, /agent\.yaml:\d+:1: not valid YAML: .*unique/],
  ['an unknown key', () => configuration('network.brigde', 'br0'), /network: unknown key "brigde"; see "colopp agent --help"/],
  ['a missing key', () => configuration('vm.mac'), /agent\.yaml:\d+:\d+: vm\.mac: /],
  ['a number out of range', () => configuration('vm.vcpus', 0), /agent\.yaml:\d+:\d+: vm\.vcpus: /],
  ['a word for a number', () => configuration('vm.memoryMiB', 'plenty'), /vm\.memoryMiB: .*number/],
  ['a multicast address', () => configuration('vm.mac', '01:00:5e:00:00:01'), /vm\.mac: must be a unicast MAC address/],
  ['a port that cannot be', () => configuration('peer.listen', '10.78.0.1:99999'), /peer\.listen: has a port outside 1 to 65535/],
  ['one interface for two', () => configuration('network.holdTap', 'clp-tap0'), /network: needs interfaces with different names/],
  ['a relative path', () => configuration('vm.kernel', 'vmlinuz'), /vm\.kernel: must be an absolute path/],
  ['aliases that unfold without end', () => `a: &a [x,x]\n${[...'bcdefghi'].map((c, i) => `${c}: &${c} [${Array(9).fill(`*${'abcdefgh'[i]}`).join(',')}]`).join('\n')}\n`, /not usable YAML: /],
  ['a file without end', () => '#'.repeat(300 * 1024), /it has \d+ bytes, more than \d+/],
  ['an image that is not there', () => configuration('vm.kernel', '/nonexistent/vmlinuz'), /The VM's image \/nonexistent\/vmlinuz cannot be read/],
  ['an image that is a folder', () => configuration('vm.initrd', scratch), /The VM's image .* cannot be read: EISDIR/],
  ['a QEMU that is not there', () => configuration('vm.qemu', '/nonexistent/qemu'), /the configured QEMU \/nonexistent\/qemu is not an executable file/],
  ['a secret that is not there', () => configuration('peer.secretFile', '/nonexistent/secret'), /peer\.secretFile \/nonexistent\/secret cannot be used/],
  ['a secret too short', () => configuration('peer.secretFile', file('short', 'secret')), /peer\.secretFile .* it has 6 bytes; at least 16 are needed/],
  ['a folder that others may enter', () => configuration('runDir', open), /the folder .* is open to other users/],
];
const open = join(scratch, 'open');
mkdirSync(open, { mode: 0o755 });

for (const [what, text, sentence] of mistakes) test(what, () => assertAgentRefuses(text(), sentence));

/** What a host may still get, while it boots say: systemd is to try again. */
const absences: typeof mistakes = [
  ['a bridge that is not there', () => configuration('network.bridge', 'br9'), /There is no bridge br9 on this host.*network\.bridge/],
  ['a bridge that is not there, where inputs are mirrored', () => configuration('services', [{ port: 6379, protocol: 'resp' }]).replace('bridge: br0', 'bridge: br9'), /There is no bridge br9/],
  ['an address of another host', () => configuration('peer.listen', '10.99.0.1:7749'), /cannot listen for the peer on 10\.99\.0\.1:7749/],
  ['metrics at an address of another host', () => configuration('metrics', { listen: '10.99.0.1:9749' }), /cannot offer its metrics at 10\.99\.0\.1 port 9749 \(metrics\.listen\)/],
];

for (const [what, text, sentence] of absences) test(what, () => assertAgentRefuses(text(), sentence, 75));

const script = (name: string, says: string): string => {
  const path = file(name, `#!/bin/sh\necho '${says}'\n`);
  chmodSync(path, 0o755);
  return path;
};

test('a QEMU that is too old', () =>
  assertAgentRefuses(configuration('vm.qemu', script('qemu-old', 'QEMU emulator version 7.2.0 (Debian)')), /QEMU 7\.2\.0 .* cannot replicate a VM.*11.*npm run setup/));

test('a program that is no QEMU', () =>
  assertAgentRefuses(configuration('vm.qemu', script('qemu-not', 'Hello')), /cannot run QEMU .*it says "Hello/));

test('a QEMU that says what it should and then does nothing', async () => {
  const end = await runAgent(configuration('vm.qemu', script('qemu-mute', 'QEMU emulator version 11.1.0')));
  assert.match(end.stderr, /^colopp \[QEMU_START\]: QEMU did not start: it ended with exit code 0; its log .* ends with:\nQEMU emulator version 11\.1\.0\n$/);
  assert.is(end.code, 75);
  assert.equal(await links(), linksBefore);
});

test('what was remembered is damaged', async () => {
  mkdirSync(join(scratch, 'state'), { recursive: true });
  file('state/pair.json', '{"role":"primary"');
  try {
    await assertAgentRefuses(configuration(), /The state file .*pair\.json is damaged/);
  } finally {
    rmSync(join(scratch, 'state'), { recursive: true });
  }
});

test('a second agent of the same host', async () => {
  writeFileSync(config, configuration());
  const first = spawn('ip', ['netns', 'exec', host, process.execPath, cli, 'agent', '--config', config], { stdio: ['ignore', 'pipe', 'inherit'] });
  const firstEnd = ended(first);
  await new Promise<void>((resolve) => first.stdout.on('data', (text: string) => { if (text.includes('has started')) resolve(); }));
  const second = await runAgent(configuration());
  assertRefused(second, /An agent is running already with the folder /);
  const { stdout } = await promisify(execFile)(process.execPath, [cli, 'status', '--socket', join(scratch, 'run/agent.sock'), '--json']);
  assert.is((JSON.parse(stdout) as { host: string }).host, 'a', 'the first still answers');
  first.kill('SIGINT');
  assert.is((await firstEnd).code, 0, 'Ctrl-C ends an agent in order');
  assert.equal(await links(), linksBefore);
  assert.equal(await processesIn(host), []);
});

test('a configuration that is only to be checked', async () => {
  writeFileSync(config, configuration());
  const good = await ended(spawn(process.execPath, [cli, 'agent', '--config', config, '--check'], { stdio: ['ignore', 'pipe', 'pipe'] }));
  assert.is(good.code, 0);
  assert.match(good.stdout, 'is a valid configuration');
});

test.run();
