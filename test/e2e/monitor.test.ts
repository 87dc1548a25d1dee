/** The monitor in a real terminal, with real keys, over a real lab: what it shows, what it does, and what it survives. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { assertRefused, colopp, ownLab, until, untilProtected } from './lab-harness.js';
import { Terminal } from './terminal.js';

const dir = mkdtempSync(join(tmpdir(), 'colopp-monitor-'));
const recording = join(dir, 'recording.jsonl');
const lab = ownLab('t-monitor');

const terminal = new Terminal(dir);
const commits = (text: string): number => Number(/commits +(\d+)/.exec(text)?.[1] ?? NaN);
let agentPid = 0;

test.before(async () => {
  await lab.down();
  await lab.up({ preRelease: true });
  agentPid = (await untilProtected(lab, 'a', 60_000)).pid;
});
test.after.each(() => terminal.end());
test.after(async () => {
  await terminal.end();
  await lab.down();
  rmSync(dir, { recursive: true });
});

test('without a terminal it refuses, and names what to use instead', async () => {
  assertRefused(await colopp('monitor', '--lab', 't-monitor'), /needs a terminal on its standard output.* colopp status --json/);
  assertRefused(await colopp('monitor', '--replay', '/nonexistent', '--record', 'x'), /--record or --replay, not both/);
  assertRefused(await colopp('monitor', '--host', 'a'), /use it with --lab/);
  assertRefused(await colopp('monitor', '--socket', '/x', '--socket', '/x'), /--socket twice/);
  assertRefused(await colopp('monitor', '--socket', '/x', '--socket', '/y', '--socket', '/z'), /has two agents/);
});

test('it shows a protected pair, takes keys, fits every size, and gives the terminal back', async () => {
  await terminal.start(['monitor', '--lab', 't-monitor', '--record', recording]);
  const before = await terminal.shows(/PROTECTED {2}b can take over from a[^]*▶ a +primary +protected[^]*b +secondary +protected/);

  await terminal.keys('c');
  await terminal.shows(/Checkpoint committed, the VM was paused for [\d.]+ ms/);
  await until('the commit is counted', async () => commits(await terminal.screen()) > commits(before));

  await terminal.keys('?');
  await terminal.shows(/checkpoint now[^]*Any key closes this/);
  await terminal.keys('x');
  await terminal.shows(/─ events ─/);
  await terminal.keys('Tab');
  await terminal.shows(/output of b/);
  await terminal.keys('Tab');
  await terminal.shows(/output of a/);
  await terminal.keys('e');
  await terminal.shows(/events ─ warnings and errors/);

  for (const [columns, rows] of [[140, 40], [60, 16], [30, 8], [80, 24]] as const) {
    await terminal.resize(columns, rows);
    const text = await terminal.shows(columns < 50 ? /the monitor needs 50x14/ : new RegExp(`^─ pair ─ lease .{${columns - 16}}─$`, 'm'));
    assert.is(text.match(/─ pair ─/g)?.length ?? 0, columns < 50 ? 0 : 1, `nothing is left of another size:\n${text}`);
  }
  await terminal.shows(/checkpoints of a[^]*q quit/);

  await terminal.keys('q');
  assert.not.match(await terminal.shows(/^ended with 0$/m), 'pair', 'the screen is as it was before');
});

test('an agent that dies and comes back: the last truth turns grey, then the truth is told again', async () => {
  await terminal.start(['monitor', '--lab', 't-monitor', '--host', 'a']);
  await terminal.shows(/ PROTECTED .*b can take over/);
  process.kill(agentPid, 'SIGKILL');
  await terminal.shows(/NO ANSWER {2}What is shown was true [\d.]+ m?s ago[^]*a +primary +protected.* old[^]*does not answer any more: it has ended/);
  assert.match(await terminal.screen(true), /\x1b\[2m[^\x1b]*a +primary/, 'it is faint');
  await terminal.keys('c');
  await terminal.shows(/No agent answers: there is nobody to command/);

  agentPid = await lab.startAgent('a');
  await terminal.shows(/The agent answers again, as process \d+/);
  await untilProtected(lab, 'b', 60_000);
  await terminal.shows(/ PROTECTED {2}a can take over from b/);
});

test('failover: asks first; no leaves everything, yes moves the VM', async () => {
  await terminal.start(['monitor', '--lab', 't-monitor'], { env: { NO_COLOR: '1' } });
  await terminal.shows(/ PROTECTED {2}a can take over from b/);
  await terminal.keys('f');
  await terminal.shows(/Move the VM from b to a now\? y\/n/);
  await terminal.keys('n');
  await terminal.shows(/^ No failover\./m);
  assert.is((await lab.status('b')).role, 'primary');
  assert.not.match(await terminal.screen(true), /\x1b\[(?:\d+;)*[34][0-8]/, 'NO_COLOR');

  await terminal.keys('f');
  await terminal.shows(/Move the VM from b to a now\? y\/n/);
  await terminal.keys('y');
  await terminal.shows(/▶ a +primary[^]*b +secondary/, 20_000);
  assert.ok((await lab.status('a')).active);
});

test('services, active vCPUs and the protection itself: switched by keys, and the screen shows it', async () => {
  await terminal.start(['monitor', '--lab', 't-monitor'], { columns: 120, rows: 40 });
  await terminal.shows(/ PROTECTED [^]*6379 resp +on [^]*secondary b[^]*vCPUs +0 of 1 active/);
  await terminal.keys('s');
  await terminal.shows(/Switch pre-release of 1: port 6379 \(on\) {2}2: port 80 \(on\)/);
  await terminal.keys('1');
  await terminal.shows(/6379 resp +off [^]*pre-release of port 6379 is off/);
  assert.not.ok((await lab.status('b')).output.services[0]!.preRelease, 'at both hosts');
  await terminal.keys('v');
  await terminal.shows(/Active vCPUs of b \(now auto\): 0 to 1, or a for auto/);
  await terminal.keys('1');
  await terminal.shows(/vCPUs +1 of 1 active/, 20_000);
  await terminal.keys('p');
  await terminal.shows(/End the protection of the VM, until p is pressed again\? y\/n/);
  await terminal.keys('y');
  await terminal.shows(/NOT PROTECTED [^]*operator has paused[^]*p protect/, 20_000);
  await terminal.keys('p');
  await terminal.shows(/ PROTECTED {2}b can take over/, 60_000);
});

test('by their sockets both agents of a pair are watched and told, or one of them', async () => {
  const [a, b] = [lab.socket('a'), lab.socket('b')];
  await terminal.start(['monitor', '--socket', a, '--socket', b]);
  await terminal.shows(/ PROTECTED [^]*▶ a +primary[^]*b +secondary[^]*v vCPUs/);
  await terminal.end();
  await terminal.start(['monitor', '--socket', a]);
  await terminal.shows(/ PROTECTED [^]*s services/);
  await terminal.keys('s');
  await terminal.shows(/Switch pre-release/);
  await terminal.keys('1');
  await terminal.shows(/pre-release of port 6379 is on, on this host only/);
});

test('a recording shows what its monitor saw', async () => {
  const lines = readFileSync(recording, 'utf8').trimEnd().split('\n').map((line) => JSON.parse(line) as { kind?: string });
  for (const kind of ['status', 'news', 'said']) assert.ok(lines.some((line) => line.kind === kind), `it holds ${kind}`);
  await terminal.start(['monitor', '--replay', recording, '--speed', '100']);
  await terminal.shows(/ PROTECTED .*b can take over from a[^]*Checkpoint committed[^]*The recording ends here/);
  await terminal.keys('f');
  await terminal.shows(/This is a recording: there is nobody to command/);
  await terminal.keys('q');
  await terminal.shows(/^ended with 0$/m);
});

test.run();
