/** What the README promises a newcomer: one command after the clone, three keys, and a failover has been watched. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { assertRefused, colopp, LabTrace, ownLab } from './lab-harness.js';
import { Terminal } from './terminal.js';

const root = fileURLToPath(new URL('../../../', import.meta.url));
const dir = mkdtempSync(join(tmpdir(), 'colopp-newcomer-'));
const terminal = new Terminal(dir);
/** The name that the command of the README gives its lab. */
const lab = ownLab('demo');

test.before(async () => void await lab.down());
test.after(async () => {
  await terminal.end();
  await lab.down();
  rmSync(dir, { recursive: true });
});

test('npm run demo -- --monitor, f, y, q', async () => {
  const command = 'npm run demo -- --monitor';
  assert.match(readFileSync(join(root, 'README.md'), 'utf8'), `\n${command}`, 'the README says so');
  await terminal.startProgram(['env', '-C', root, ...command.split(' ')]);
  // Usually from a to b; a machine that is too busy may have moved it once already.
  const before = await terminal.shows(/ PROTECTED {2}\w can take over from \w,?[^]*services of /, 240_000);
  const [, to, from] = / PROTECTED {2}(\w) can take over from (\w)/.exec(before)!;
  const trace = new LabTrace(lab);
  await trace.note();

  await terminal.keys('f');
  await terminal.shows(new RegExp(`Move the VM from ${from} to ${to} now\\? y/n`));
  await terminal.keys('y');
  await terminal.shows(new RegExp(`▶ ${to} +primary`), 30_000);
  await terminal.keys('q');
  const end = await terminal.shows(/^ended with \d+$/m, 60_000);
  assert.match(end, /Nobody was cut off, nothing acknowledged was lost\.[^]*(\d+) of \1 open TCP connections[^]*ended with 0$/m, end);
  await trace.assertGone();
});

test('where there is no terminal it says so before it makes anything', async () => {
  assertRefused(await colopp('demo', '--monitor', '--name', 't-newcomer'), /needs a terminal/);
  assert.not.ok(await ownLab('t-newcomer').exists());
});

test.run();
