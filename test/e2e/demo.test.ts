/** The demo itself, and what becomes of it when it is interrupted or killed. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { callAgent } from '../../src/agent/control.js';
import type { DemoSummary } from '../../src/drill/demo.js';
import { assertInterrupted, colopp, ended, LabTrace, ownLab, pressCtrlC, protectTimeoutMs, startColopp, until } from './lab-harness.js';

const lab = ownLab('t-demo');
const scratch = mkdtempSync(join(tmpdir(), 'colopp-demo-'));

test.before(async () => void await lab.down());
test.after(async () => {
  await lab.down();
  rmSync(scratch, { recursive: true });
});

/** Runs the demo for a while, then sends it a signal. */
async function cutShort(signal: 'SIGINT' | 'SIGHUP' | 'SIGKILL', fromMs: number, toMs: number) {
  const demo = startColopp('demo', '--rounds', '9', '--name', lab.name); // it must not end by itself
  const end = ended(demo);
  await sleep(fromMs + Math.random() * (toMs - fromMs));
  const trace = new LabTrace(lab);
  await trace.note();
  if (signal === 'SIGINT') pressCtrlC(demo);
  else demo.kill(signal);
  if (signal === 'SIGHUP') demo.stdout!.destroy();
  return { trace, end: await end };
}

for (const [fromMs, toMs] of [[300, 3000], [3000, 9000]] as const) {
  test(`Ctrl-C between ${fromMs} and ${toMs} ms`, async () => {
    const { trace, end } = await cutShort('SIGINT', fromMs, toMs);
    assertInterrupted(end);
    await trace.assertGone();
  });
}

test('its terminal is closed with everything running', async () => {
  const { trace, end } = await cutShort('SIGHUP', 5000, 9000);
  assert.is(end.code, 130, end.stderr);
  await trace.assertGone();
});

test('killed with everything running: the next demo, or lab down, cleans up', async () => {
  const { trace, end } = await cutShort('SIGKILL', 5000, 9000);
  assert.ok((await trace.leftovers()).length > 0, end.stdout + end.stderr);
  assert.is((await colopp('lab', 'down', '--name', lab.name)).code, 0);
  await trace.assertGone();
});

test('a VM that is not protected when its host is to be killed: the demo says so, and shows nothing', async () => {
  const demo = startColopp('demo', '--name', lab.name);
  let said = '';
  demo.stdout!.on('data', (text: string) => { said += text; });
  const end = ended(demo);
  await until('the demo has a protected VM', () => said.includes(': protected ('), 2 * protectTimeoutMs);
  await callAgent(lab.socket('a'), { command: 'pause' });
  const { code, stdout, stderr } = await end;
  assert.is.not(code, 0, stdout + stderr);
  assert.match(stderr, /Host a was not protected by b within 5 s: it is primary, active-alone \(an operator has paused/, stderr);
  assert.not.match(stdout, 'outlived its host.');
  assert.match((await colopp('lab', 'down', '--name', lab.name)).stdout, 'There is no lab');
});

test('one round: every connection survives, nothing acknowledged is lost', async () => {
  const json = join(scratch, 'demo.json');
  const { code, stdout, stderr } = await colopp('demo', '--name', lab.name, '--json', json);
  assert.is(code, 0, stdout + stderr);
  assert.match(stdout, /The VM outlived its host\. Nobody was cut off, nothing acknowledged was lost\./);
  const figures = JSON.parse(readFileSync(json, 'utf8')) as DemoSummary;
  assert.ok(figures.accel === 'tcg' || figures.accel === 'kvm');
  assert.ok(figures.checkpoints.count > 0 && figures.checkpoints.pauseMsP50 > 0 && figures.checkpoints.pauseMsP99 >= figures.checkpoints.pauseMsP50);
  assert.ok(figures.connections.open >= 8 + 4 + 1);
  assert.is(figures.connections.survived, figures.connections.open);
  assert.ok(figures.writes.acknowledged > 0);
  assert.is(figures.writes.lost, 0);
  const { detectMs, takeoverMs, firstReplyMs } = figures.failover;
  assert.ok(detectMs > 0 && takeoverMs > 0 && firstReplyMs >= detectMs + takeoverMs);
  assert.ok(firstReplyMs <= 1500, `the first reply came ${firstReplyMs} ms after the kill`);
  assert.match((await colopp('lab', 'down', '--name', lab.name)).stdout, 'There is no lab');
});

test.run();
