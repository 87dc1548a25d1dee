/** What an operator relies on beside the agent itself, over a real lab: its metrics and the doctor's view of the pair. */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { locateQemu, tryColo, type QemuError } from '../../src/qemu/index.js';
import type { HostName } from '../../src/lab/topology.js';
import { assertUnharmed, cli, colopp, fetchInLab, ownLab, startClients, until, untilProtected } from './lab-harness.js';
import { receiveNotifications } from '../notify-receiver.js';

const run = promisify(execFile);
const lab = ownLab('t-operate');

test.before(async () => {
  await lab.down();
  await lab.up({ preRelease: true });
  await untilProtected(lab, 'a', 60_000);
});
test.after(async () => void await lab.down());

/** Runs a program on a host of the lab; what it prints counts, also if it fails. */
async function onHost(host: HostName, ...command: string[]): Promise<string> {
  const outcome = await run('ip', ['netns', 'exec', lab.topology.hosts[host], ...command], { timeout: 60_000 }).catch((error: { stdout: string }) => error);
  return outcome.stdout;
}

/** The value of a metric without labels of its own. */
async function metric(host: HostName, name: string): Promise<number> {
  const script = "fetch('http://127.0.0.1:9749/metrics').then((r) => r.text()).then((t) => process.stdout.write(t))";
  const text = await onHost(host, process.execPath, '-e', script);
  return Number(new RegExp(`^${name}\\{[^}]*\\} (\\S+)$`, 'm').exec(text)?.[1] ?? NaN);
}

test('metrics: what both agents offer agrees with what they do', async () => {
  assert.equal([await metric('a', 'colopp_active'), await metric('b', 'colopp_active')], [1, 0]);
  assert.equal([await metric('a', 'colopp_protected'), await metric('b', 'colopp_protected')], [1, 1]);
  const before = await metric('a', 'colopp_checkpoint_pause_seconds_count');
  await lab.waitForGuest(60_000);
  const clients = await startClients(lab, { writers: 1, readers: 1 });
  await sleep(1000);
  await assertUnharmed(clients, process.hrtime.bigint() - 1_000_000_000n);
  assert.ok(await metric('a', 'colopp_checkpoint_pause_seconds_count') > before, 'writes have needed commits');
  assert.ok(await metric('a', 'colopp_hold_seconds_count') > 0, 'by a commit it was released');
  assert.ok(await metric('a', 'colopp_checkpoint_bytes_total') > 1024 * 1024, 'the VM was copied');
});

test('pause and reprotect: clients notice neither, and in between nobody begins a protection', async () => {
  assert.is((await colopp('pause', '--lab', lab.name, '--host', 'b')).code, 1, 'only at the primary');
  const paused = await colopp('pause', '--lab', lab.name);
  assert.is(paused.code, 0, paused.stderr);
  assert.match(paused.stdout, 'a runs the VM unprotected');
  await sleep(2500); // longer than the agents' retries
  const status = await lab.status('a');
  assert.equal([status.protected, status.active, status.paused], [false, true, true]);
  assert.match(status.reason, /operator has paused/);
  assert.is((await lab.status('b')).vm.pid, null, 'the other host has given its copy up');
  assert.is((await fetchInLab(lab, 'http://10.77.0.10/1k')).length, 1024);
  const again = await colopp('reprotect', '--lab', lab.name);
  assert.is(again.code, 0, again.stderr);
  await untilProtected(lab, 'a', 60_000);
  assert.not.ok((await lab.status('a')).paused);
});

test('a service is switched off and on while it is in use', async () => {
  const off = await colopp('service', '6379', '--pre-release', 'off', '--lab', lab.name);
  assert.is(off.code, 0, off.stderr);
  assert.match(off.stdout, /^port 6379 {2}resp, pre-release off: /);
  assert.is((await lab.status('a')).output.services.find(({ port }) => port === 6379)?.preRelease, false);
  const on = await colopp('service', '6379', '--pre-release', 'on', '--lab', lab.name, '--json');
  assert.is((JSON.parse(on.stdout) as { preRelease: boolean }).preRelease, true);
  const none = await colopp('service', '7', '--pre-release', 'off', '--lab', lab.name);
  assert.is(none.code, 1);
  assert.match(none.stderr, /^colopp \[NO_SERVICE\]: No service is declared at port 7/);
  assert.match(readFileSync(lab.log('a', 'agent'), 'utf8'), /switched the pre-release of port 6379 off/);
});

test('the hold tap taken away: said, and the VM goes on unprotected until the agent is another', async () => {
  await onHost('a', 'ip', 'link', 'del', 'clp-hold0');
  await lab.waitFor('a', 'unprotected, and heard', (s) => s.paused && s.active && !s.protected, 10_000);
  assert.is((await fetchInLab(lab, 'http://10.77.0.10/1k')).length, 1024);
  assert.match(readFileSync(lab.log('a', 'agent'), 'utf8'), /HOLD_TAP_LOST/);
  const again = await colopp('reprotect', '--lab', lab.name);
  assert.match(again.stderr, /^colopp \[HOLD_TAP_LOST\]: a can hold no output/);
  const { pid, vm } = await lab.status('a');
  process.kill(pid, 'SIGKILL');
  await lab.startAgent('a');
  await untilProtected(lab, 'a', 60_000);
  assert.is((await lab.status('a')).vm.pid, vm.pid, 'the same VM');
});

test('doctor with a configuration: a pair that works, and what it says when the other agent is gone', async () => {
  const examine = async (): Promise<Record<string, { verdict: string; detail: string; remedy: string }>> => {
    const findings = JSON.parse(await onHost('a', process.execPath, cli, 'doctor', '--json', '--config', lab.configPath('a'))) as { name: string; verdict: string; detail: string; remedy: string }[];
    return Object.fromEntries(findings.map(({ name, ...finding }) => [name, finding]));
  };
  const refusedBefore = (await lab.status('b')).refusedConnections;
  const whole = await examine();
  for (const name of ['VM', 'bridge', 'secret', 'address', 'COLO']) assert.is(whole[name]?.verdict, 'ok', `${name}: ${whole[name]?.detail}`);
  assert.match(whole['peer']!.detail, 'answers and knows this pair');
  assert.match(whole['MTU']!.detail, 'a packet of that size arrived at 10.78.0.2');
  assert.match(whole['MTU']!.remedy, 'ip link set repl mtu 1570', 'declared services mirror whole frames');
  assert.is((await lab.status('b')).refusedConnections, refusedBefore + 1, 'the doctor was turned away');
  assert.ok((await lab.status('a')).protected, 'and has disturbed nothing');

  process.kill((await lab.status('b')).pid, 'SIGKILL');
  const broken = await examine();
  assert.is(broken['peer']?.verdict, 'warn');
  assert.match(broken['peer']!.detail, /no agent listens at port 7749/);
  assert.match(broken['peer']!.remedy, 'Start the agent there');
});

test('under a service manager the agent says that it is ready, how it is, and that it ends', async () => {
  const socket = join(lab.dir, 'notify');
  const manager = await receiveNotifications(socket);
  const agent = spawn('ip', ['netns', 'exec', lab.topology.hosts.b, process.execPath, cli, 'agent', '--config', lab.configPath('b')], {
    stdio: 'ignore', env: { ...process.env, NOTIFY_SOCKET: socket, WATCHDOG_USEC: '300000' },
  });
  try {
    await until('the pair is protected again', () => manager.messages.includes('STATUS=secondary, protected'), 30_000);
    assert.is(manager.messages[0], 'READY=1');
    await until('it gives signs of life', () => manager.messages.filter((message) => message === 'WATCHDOG=1').length > 2);
    agent.kill('SIGTERM');
    await until('the agent says that it ends', () => manager.messages.includes('STOPPING=1'));
    await once(agent, 'exit');
  } finally {
    agent.kill('SIGKILL');
    manager.close();
  }
});

test('the log: a line for each checkpoint at debug only, and each line a record', () => {
  const lines = readFileSync(lab.log('a', 'agent'), 'utf8').trimEnd().split('\n').map((line) => JSON.parse(line) as { level: number; time: string; msg: string });
  assert.ok(lines.some(({ msg }) => msg === 'The agent of a has started.'));
  assert.not.ok(lines.some(({ msg }) => msg === 'commit'), 'commits are told at debug');
  for (const { level, time } of lines) assert.ok(level >= 30 && time.endsWith('Z'));
});

test('an agent that cannot start over says why, and leaves the VM that it found running and heard', async () => {
  const { pid, vm } = await lab.status('a');
  process.kill(pid, 'SIGKILL');
  const startInVain = async (code: number, why: RegExp, harm: () => unknown, mend: () => unknown): Promise<void> => {
    const loggedBefore = readFileSync(lab.log('a', 'agent'), 'utf8').length;
    await harm();
    const error = await lab.startAgent('a').then(() => undefined, (reason: Error) => reason);
    await mend();
    assert.match(String(error?.message), new RegExp(`ended with exit code ${code}\\b`), String(why));
    assert.match(readFileSync(lab.log('a', 'agent'), 'utf8').slice(loggedBefore), why);
    assert.is((await fetchInLab(lab, 'http://10.77.0.10/1k')).length, 1024, String(why));
  };
  const address = (what: string) => () => onHost('a', 'ip', 'addr', what, '10.78.0.1/24', 'dev', 'repl');
  await startInVain(75, /PEER_LISTEN.*10\.78\.0\.1/, address('del'), address('add'));
  const move = (from: string, to: string) => () => renameSync(join(lab.hostDir('a'), from), join(lab.hostDir('a'), to));
  await startInVain(1, /QMP_CONNECT/, move('qmp.sock', 'qmp.away'), move('qmp.away', 'qmp.sock'));
  const damage = (): void => {
    move('state/pair.json', 'state/sound')();
    writeFileSync(join(lab.hostDir('a'), 'state/pair.json'), '{');
  };
  await startInVain(2, /pair\.json is damaged/, damage, move('state/sound', 'state/pair.json'));
  await lab.startAgent('a');
  const { active, vm: { pid: vmPid } } = await lab.status('a');
  assert.equal([active, vmPid], [true, vm.pid], 'the same VM');
});

test('a checkpoint that does not come in time is a COLO that does not work; nothing is left of the trial', async () => {
  const trials = (): string[] => readdirSync(tmpdir()).filter((name) => name.startsWith('colopp-colo-'));
  const before = trials();
  const error = await tryColo(await locateQemu(), 'tcg', { timeoutMs: 1 }).then(() => undefined, (thrown: QemuError) => thrown);
  assert.is(error?.code, 'QEMU_COLO_FAILED');
  assert.match(error!.message, /COLO does not work with this QEMU .*: starting two VMs failed: it was not done within 0\.001 s/);
  assert.equal(trials().filter((name) => !before.includes(name)), []);
});

test('without any lab or configuration the doctor says what it leaves out', async () => {
  const { stdout } = await colopp('doctor');
  assert.match(stdout, /skip +peer +not checked\n +Name the agent's configuration .*--config FILE/);
});

test.run();
