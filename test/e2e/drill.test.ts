/** Drills from the command line: what passes, what fails, what cannot be run, and what is left of it. And reprotection on request. */
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { DrillResult } from '../../src/drill/run.js';
import { demoGuest } from '../../src/lab/lab.js';
import { addresses } from '../../src/lab/topology.js';
import {
  assertInterrupted, assertRefused, cli, colopp, ended, isAlive, LabTrace, other, ownLab, pressCtrlC, startColopp, until,
  vmPid, type CommandEnd,
} from './lab-harness.js';

const lab = ownLab('t-drill');
/** A busy machine takes its time. */
const bootTimeoutMs = 120_000;
const scratch = mkdtempSync(join(tmpdir(), 'colopp-drill-'));

test.before(async () => void await lab.down());
test.after(async () => {
  await lab.down();
  rmSync(scratch, { recursive: true });
});

function drillFile(name: string, text: string): string {
  const path = join(scratch, `${name}.yaml`);
  writeFileSync(path, `drill: ${name}\nproves: What this test wants to know.\n${text}`);
  return path;
}

test('the quick set passes, and is reported to people, JUnit and programs', async () => {
  const [json, junit] = [join(scratch, 'quick.json'), join(scratch, 'quick.xml')];
  const end = await colopp('drill', 'run', '--quick', '--name', lab.name, '--seed', '3', '--json', json, '--junit', junit);
  assert.is(end.code, 0, end.stdout + end.stderr);
  const results = JSON.parse(readFileSync(json, 'utf8')) as DrillResult[];
  assert.ok(results.length >= 3);
  for (const { outcome, findings, loads, seed } of results) {
    assert.is(outcome, 'passed');
    assert.is(seed, 3);
    assert.ok(findings.some(({ expectation }) => expectation === 'oneActive'));
    assert.ok(loads[0]!.acknowledged > 0);
  }
  assert.match(readFileSync(junit, 'utf8'), `<testsuites tests="${results.length}" failures="0" errors="0"`);
  assert.match(end.stdout, `${results.length} drills in `);
  assert.match((await colopp('lab', 'down', '--name', lab.name)).stdout, 'There is no lab');
});

test('Ctrl-C in the middle of a drill leaves nothing', async () => {
  const child = startColopp('drill', 'run', 'disk-full', '--name', lab.name);
  const end = ended(child);
  await until('the lab stands', () => lab.exists());
  await sleep(500 + Math.random() * 2000);
  const trace = new LabTrace(lab);
  await trace.note();
  pressCtrlC(child);
  assertInterrupted(await end);
  await trace.assertGone();
});

/** A drill on the pair that the next test makes, and the others use. */
const here = (text: string): string => `pair: { agents: { a: ${lab.socket('a')}, b: ${lab.socket('b')} }, service: { address: ${addresses.guest} } }\n${text}`;

/** Runs Node.js where the clients are. */
function nodeAmongClients(...args: string[]): Promise<CommandEnd> {
  return ended(spawn('ip', ['netns', 'exec', lab.topology.client, process.execPath, ...args], { stdio: ['ignore', 'pipe', 'pipe'], detached: true }));
}

const coloppAmongClients = (...args: string[]): Promise<CommandEnd> => nodeAmongClients(cli, ...args);

/** How many keys there are in the guest's Redis. */
async function countKeys(): Promise<number> {
  const { stdout, stderr } = await nodeAmongClients('--input-type=module', '-e', `
    import { RespConnection } from ${JSON.stringify(new URL('../../src/drill/resp.js', import.meta.url).href)};
    const connection = await RespConnection.connect('${addresses.guest}', ${demoGuest().ports.redis}, 5000);
    console.log(String(await connection.command('DBSIZE')));
    connection.close();`);
  assert.match(stdout, /^\d+\n$/, stderr);
  return Number(stdout);
}

test('a pair that runs already is drilled, and goes on', async () => {
  await lab.up();
  await lab.waitForGuest(bootTimeoutMs);
  const pids = await Promise.all((['a', 'b'] as const).map(async (host) => (await lab.status(host)).pid));
  const file = drillFile('gentle', here(`steps:
  - startLoad
  - checkpoint
  - waitUntil: { host: primary, metric: checkpoints.commits, atLeast: 3, within: 10s }
  - failover
  - waitUntil: { state: protected, within: 60s }
  - sleep: 200ms
  - failover: { askedAt: secondary }
  - waitUntil: { host: primary, state: active, within: 20s }
  - reprotect
expect: { protectedAtEnd: true }
`));
  const end = await coloppAmongClients('drill', 'run', file);
  assert.is(end.code, 0, end.stdout + end.stderr);
  assert.match(end.stdout, /4 of 4 connections go on, after/);
  assert.equal(await Promise.all((['a', 'b'] as const).map(async (host) => (await lab.status(host)).pid)), pids, 'the same agents');
  assert.is(await countKeys(), 0, 'no key of the load is left');
});

test('what is expected and does not happen is a failure: exit code 1, and why', async () => {
  const junit = join(scratch, 'failed.xml');
  const silence = drillFile('silence', here('steps: [startLoad, sleep: 300ms]\nexpect: { longestSilence: 1ms }\n'));
  const waiting = drillFile('waiting', here('steps: [{ waitUntil: { host: primary, state: fenced, within: 200ms } }]\n'));
  const end = await coloppAmongClients('drill', 'run', silence, waiting, '--junit', junit);
  assert.is(end.code, 1, end.stdout + end.stderr);
  assert.match(end.stdout, /FAILED {2}longestSilence: \d+ ms; 1 ms are allowed/);
  assert.match(end.stdout, /FAILED {2}Host primary was not fenced within 0\.2 s: a is (primary|secondary), \w+.*; b is (primary|secondary), \w+.*\./);
  assert.match(end.stdout, /2 drills in \d+ s: 0 passed, 2 failed, 0 not run/);
  assert.match(readFileSync(junit, 'utf8'), 'tests="2" failures="2" errors="0"');
});

test('what cannot be run is no pass: exit code 2, and why', async () => {
  const junit = join(scratch, 'not-run.xml');
  const file = drillFile('nobody', 'pair: { agents: { a: /run/colopp/no-such.sock } }\nsteps: [checkpoint]\n');
  const end = await colopp('drill', 'run', file, '--junit', junit);
  assert.is(end.code, 2);
  assert.match(end.stdout, /not run {2}The agent at \/run\/colopp\/no-such\.sock cannot be reached/);
  assert.match(readFileSync(junit, 'utf8'), 'failures="0" errors="1"');
});

test('wrong files: every mistake of every file, before anything is run', async () => {
  const [one, two] = [drillFile('one', 'steps: [startLaod]\n'), drillFile('two', 'steps: [sleep: 5]\n')];
  for (const command of ['run', 'check']) {
    const end = await colopp('drill', command, one, two, 'host-lost', 'no-such-drill');
    assert.is(end.code, 2);
    assert.match(end.stderr, `${one}:3:9: steps.1: there is no "startLaod". Did you mean "startLoad"?`);
    assert.match(end.stderr, `${two}:3:16: steps.1.sleep: must be a time`);
    assert.match(end.stderr, 'no-such-drill:1:1: the file cannot be read');
    assert.is(end.stdout, '');
  }
  assert.is((await colopp('drill', 'check', 'host-lost')).code, 0);
  JSON.parse((await colopp('drill', 'schema')).stdout);
  assertRefused(await colopp('drill', 'run', 'lost-twice', '--quick'), /belongs to the quick set/);
});

test('colopp reprotect: what there is, what is missing, and what comes of it', async () => {
  const primary = (await lab.status('a')).active ? 'a' : 'b';
  const secondary = other(primary);
  const already = await colopp('reprotect', '--lab', lab.name, '--host', primary);
  assert.is(already.code, 0, already.stderr);
  assert.match(already.stdout, `${secondary} protects the VM already.`);
  const wrong = await colopp('reprotect', '--lab', lab.name, '--host', secondary);
  assert.is(wrong.code, 1);
  assert.match(wrong.stderr, `Protection begins at the host that runs the VM, and ${secondary} does not`);
  const lost = await lab.status(secondary);
  for (const pid of [lost.pid, vmPid(lost)]) process.kill(pid, 'SIGKILL');
  await until('they are gone', () => !isAlive(lost.pid));
  await lab.waitFor(primary, 'alone', (status) => status.active && !status.protected, 10_000);
  const late = await colopp('reprotect', '--lab', lab.name, '--host', primary, '--timeout', '1');
  assert.is(late.code, 1);
  assert.match(late.stderr, /The VM on [ab] was not protected within 1 s: .*See that the other host's agent runs and can be reached\./);
  await lab.startAgent(secondary);
  const end = await colopp('reprotect', '--lab', lab.name, '--host', primary, '--json');
  assert.is(end.code, 0, end.stderr);
  assert.ok((JSON.parse(end.stdout) as { protected: boolean }).protected);
  assert.match(end.stderr, /syncing|pairing/, 'progress');
});

test.run();
