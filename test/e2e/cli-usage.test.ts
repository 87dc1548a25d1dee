/** The command line without any lab: help, wrong usage, exit codes, and what it says to those who may not. */
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { requireKernel, requireRetranslation, type RequirementError } from '../../src/agent/requirements.js';
import { exitCodeOf } from '../../src/cli/errors.js';
import { assertRefused, cli, colopp, ended } from './lab-harness.js';

test('every command has a help text with examples, and so have the commands in it', async () => {
  const seen: string[] = [];
  const look = async (command: string[]): Promise<void> => {
    const name = ['colopp', ...command].join(' ');
    seen.push(name);
    const end = await colopp(...command, '--help');
    assert.is(end.code, 0, name);
    assert.is(end.stderr, '', name);
    assert.match(end.stdout, `Usage: ${name}`);
    assert.match(end.stdout, new RegExp(`\\nExamples?:\\n(?:  .*\\n)*?  .*${command.at(-1) ?? 'colopp'}`), `${name} shows how it is used`);
    for (const line of end.stdout.split('\n')) assert.ok(line.length <= 120, `${name}: too long for a terminal: ${line}`);
    const [, list = ''] = /\nCommands:\n((?: {2}.*\n)+)/.exec(end.stdout) ?? [];
    for (const [, sub] of list.matchAll(/^ {2}([a-z-]+)/gm)) if (sub !== 'help') await look([...command, sub!]);
  };
  await look([]);
  assert.ok(seen.length > 15, `only ${seen.length}: ${seen.join(', ')}`);
});

test('the version', async () => {
  const end = await colopp('--version');
  assert.is(end.code, 0);
  assert.match(end.stdout, /^\d+\.\d+\.\d+\n$/);
});

test('wrong usage: exit code 2 and what is wrong', async () => {
  for (const [args, sentence] of [
    [['nonsense'], /unknown command 'nonsense'/],
    [['lab', 'sideways'], /unknown command 'sideways'/],
    [['status', '--nonsense'], /unknown option '--nonsense'/],
    [['agent'], /required option '-c, --config <file>'/],
    [['demo', '--rounds', 'none'], /Give a whole number from 1 to 1000/],
    [['demo', '--rounds', '0'], /Give a whole number from 1 to 1000/],
    ...[['--rounds', '2'], ['--json', '/nonexistent/demo.json'], ['--seed', '1'], ['--no-pre-release'], ['--secondary', 'paused'], ['--keep']].map((more) =>
      [['demo', '--monitor', ...more], new RegExp(`option '--monitor' cannot be used with option '${more[0]}`)] as const),
    [['lab', 'up', '--vcpus', 'many'], /Give a whole number from 1 to/],
  ] as const) {
    const end = await colopp(...args);
    assert.is(end.code, 2, args.join(' '));
    assert.match(end.stderr, sentence);
    assert.is(end.stdout, '');
  }
  for (const [args, sentence] of [
    [['lab', 'up', '--name', 'No Such'], /A lab cannot be named "No Such"/],
    [['lab', 'down', '--name', '../etc'], /A lab cannot be named "..\/etc"/],
    [['demo', '--name', ''], /A lab cannot be named ""/],
    [['status', '--lab', 'x', '--host', 'c'], /has the hosts a and b, not "c"/],
    [['status', '--lab', 'x', '--socket', '/x'], /--socket or --lab, not both/],
    [['agent', '--config', '/nonexistent/agent.yaml'], /The configuration \/nonexistent\/agent.yaml cannot be read/],
  ] as const) assertRefused(await colopp(...args), sentence);
});

test('where results cannot be written: told before anything is done, and afterwards no result is lost', async () => {
  const scratch = mkdtempSync(join(tmpdir(), 'colopp-results-'));
  try {
    const [file, json, nowhere] = [join(scratch, 'nobody.yaml'), join(scratch, 'results.json'), join(scratch, 'none/results')];
    writeFileSync(file, 'drill: nobody\nproves: That results are kept.\npair: { agents: { a: /run/colopp/no-such.sock } }\nsteps: [checkpoint]\n');
    for (const args of [['drill', 'run', file, '--junit', nowhere], ['drill', 'run', file, '--json', scratch], ['demo', '--name', 't-none', '--json', nowhere], ['vcpu', 'trace', '--lab', 't-none', '--svg', nowhere]]) {
      const refused = await colopp(...args);
      assert.is(refused.stdout, '');
      assertRefused(refused, /Results cannot be written to .*: E(NOENT|ISDIR).*\. Name a file in a folder that exists\./);
    }
    const end = await colopp('drill', 'run', file, '--junit', '/dev/full', '--json', json);
    assert.is(end.code, 2);
    assert.match(end.stdout, '1 drills in 0 s: 0 passed, 0 failed, 1 not run');
    assert.match(end.stderr, /Results cannot be written to \/dev\/full: ENOSPC/);
    assert.is((JSON.parse(readFileSync(json, 'utf8')) as unknown[]).length, 1);
    assertRefused(await colopp('drill', 'run', file, '--junit', nowhere, '--json', json), /cannot be written/);
    assert.is((JSON.parse(readFileSync(json, 'utf8')) as unknown[]).length, 1, 'what is there already is left alone until there are new results');
  } finally {
    rmSync(scratch, { recursive: true });
  }
});

test('a command without arguments shows what there is', async () => {
  for (const args of [[], ['lab']]) {
    const end = await colopp(...args);
    assert.match(end.stdout + end.stderr, /Usage: colopp/);
    assert.is(end.code, 2);
  }
});

test('no agent, no lab', async () => {
  for (const command of ['status', 'checkpoint', 'failover', 'start-alone']) {
    assertRefused(await colopp(command, '--lab', 't-none'), /agent at .*t-none\/a\/agent\.sock cannot be reached: no agent listens there/);
  }
  const down = await colopp('lab', 'down', '--name', 't-none');
  assert.is(down.code, 0);
  assert.is(down.stdout, 'There is no lab "t-none".\n');
});

test('doctor: every check with its verdict; exit code 2 if one fails', async () => {
  const end = await colopp('doctor', '--json');
  assert.is(end.code, 0, end.stdout);
  const findings = JSON.parse(end.stdout) as { name: string; verdict: string; detail: string; remedy: string }[];
  assert.equal(findings.map(({ name }) => name), ['root', 'rights', 'machine', 'BTF', 'tun', 'ip', 'tunnel', 'clocks', 'libbpf', 'gate', 'tracing', 'QEMU', 'KVM', 'nested', 'COLO', 'peer', 'leftovers']);
  assert.match(findings.find(({ name }) => name === 'COLO')!.detail, /made a checkpoint \(pause [\d.]+ ms\), and the second took over/);
  for (const { verdict, remedy, name } of findings) assert.is(remedy === '', verdict === 'ok', `${name}: a remedy where one is needed`);
  const wrong = await colopp('doctor', '--qemu', '/bin/true');
  assert.is(wrong.code, 2);
  assert.match(wrong.stdout, /fail +QEMU +.*\/bin\/true/);
  assert.match(wrong.stdout, /npm run setup/);
});

/** Runs the command line as a user without any rights. */
const asNobody = (...args: string[]) => ended(spawn('setpriv', ['--reuid=65534', '--regid=65534', '--clear-groups', process.execPath, cli, ...args], { stdio: ['ignore', 'pipe', 'pipe'] }));

test('without root', async () => {
  assertRefused(await asNobody('lab', 'up', '--name', 't-nobody'), /A lab needs root/);
  assertRefused(await asNobody('lab', 'down', '--name', 't-nobody'), /A lab needs root/);
  assertRefused(await asNobody('demo', '--name', 't-nobody'), /A lab needs root/);
  const doctor = await asNobody('doctor');
  assert.is(doctor.code, 2);
  assert.match(doctor.stdout, /fail +root +running as user 65534/);
});

test('without type information of the kernel', () => {
  let error: RequirementError | undefined;
  try {
    requireKernel('/nonexistent/vmlinux');
  } catch (thrown) {
    error = thrown as RequirementError;
  }
  assert.is(error?.code, 'NO_BTF');
  assert.match(error?.message ?? '', /^This kernel has no type information \(\/nonexistent\/vmlinux is missing\).*CONFIG_DEBUG_INFO_BTF=y/);
  assert.is(exitCodeOf(error), 2);
});

test('an emulated secondary that is to run, without the plugin it needs', () => {
  let error: RequirementError | undefined;
  try {
    requireRetranslation('tcg', []);
  } catch (thrown) {
    error = thrown as RequirementError;
  }
  assert.is(error?.code, 'NO_RETRANSLATE');
  assert.match(error?.message ?? '', /is not built .*"npm run setup"/);
  assert.is(exitCodeOf(error), 2);
  requireRetranslation('kvm', []);
  requireRetranslation('tcg', ['retranslate.node']);
});

test.run();
