/** Completion in a real bash: what it offers for the beginnings of command lines. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { colopp } from './lab-harness.js';

const run = promisify(execFile);
let script = '';

test.before(async () => {
  const end = await colopp('completion', 'bash');
  assert.is(end.code, 0, end.stderr);
  script = end.stdout;
});

/** What bash offers for the last of these words. */
async function offers(...words: string[]): Promise<string[]> {
  const ask = `${script}\nCOMP_WORDS=(colopp "$@"); COMP_CWORD=$#; COMPREPLY=(); _colopp; printf '%s\\n' "\${COMPREPLY[@]}"`;
  const { stdout } = await run('bash', ['--norc', '-c', ask, 'bash', ...words], { cwd: '/' });
  return stdout.split('\n').filter(Boolean);
}

test('commands, subcommands and their options', async () => {
  assert.equal(await offers('moni'), ['monitor']);
  for (const command of ['agent', 'doctor', 'lab', 'failover', 'completion']) assert.ok((await offers('')).includes(command), command);
  assert.equal((await offers('lab', '')).filter((word) => !word.startsWith('-')).sort(), ['down', 'help', 'status', 'up']);
  assert.equal(await offers('lab', 'up', '--vc'), ['--vcpus']);
  assert.equal(await offers('lab', 'up', '--network-only', '--na'), ['--name'], 'after other options, too');
  assert.equal(await offers('monitor', '--vc'), [], 'not those of another command');
});

test('values: choices, files, and nothing where anything may stand', async () => {
  assert.equal(await offers('status', '--lab', 'x', '--host', ''), ['a', 'b']);
  assert.equal(await offers('completion', 'z'), ['zsh']);
  assert.equal(await offers('agent', '--config', 'et'), ['etc']);
  assert.equal(await offers('agent', '-c', 'et'), ['etc']);
  assert.equal(await offers('demo', '--rounds', ''), []);
  assert.equal(await offers('status', '--host', 'lab', '--js'), ['--json'], 'a value is no command');
});

test('the script for zsh is the same behind its bridge to bash', async () => {
  const { stdout } = await colopp('completion', 'zsh');
  assert.is(stdout, `autoload -Uz bashcompinit && bashcompinit\n${script}`);
  const other = await colopp('completion', 'tcsh');
  assert.is(other.code, 2);
  assert.match(other.stderr, /Allowed choices are bash, zsh/);
});

test.run();
