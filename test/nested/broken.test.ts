/** The nested tests against what they are there to notice: `npm test -- nested/`, or after all kernels. Takes a minute or two. */
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';

const main = fileURLToPath(new URL('main.js', import.meta.url));
const results = fileURLToPath(new URL('../../../build/nested/results/forky/', import.meta.url));

/** Runs the nested tests to their end. @param onOutput sees all they have printed so far, and their process */
async function nested(args: string[], onOutput: (stdout: string, pid: number) => void = () => {}): Promise<{ status: number; stdout: string }> {
  const child = spawn(process.execPath, [main, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  let stdout = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
    onOutput(stdout, child.pid!);
  });
  return new Promise((resolve) => child.once('close', (status) => resolve({ status: status ?? -1, stdout })));
}

const test = suite('nested tests');

test('a BPF program that the kernel refuses makes them fail, with the verifier\'s log in both reports', async () => {
  const { status, stdout } = await nested(['--break-bpf', 'doctor', 'bpf/gate']);
  assert.is(status, 1, stdout);
  assert.match(stdout, /\n0 passed, 2 failed\n$/);
  for (const name of ['report.txt', 'junit.xml']) {
    const report = readFileSync(results + name, 'utf8');
    assert.match(report, /invalid mem access (&#39;|')map_value_or_null/, name);
    assert.match(report, /processed \d+ insns/, name);
  }
});

test('an outer VM that dies is reported with its last words, and what it had not reached has failed', async () => {
  let killed = false;
  const { status, stdout } = await nested(['bpf/gate', 'bpf/compare'], (soFar, pid) => {
    if (killed || !/start the outer VM: Linux/.test(soFar)) return;
    killed = true;
    for (const qemu of readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean)) process.kill(Number(qemu), 'SIGKILL');
  });
  assert.ok(killed, stdout);
  assert.is(status, 1);
  assert.match(stdout, /\n0 passed, 2 failed\n$/);
  const report = readFileSync(`${results}report.txt`, 'utf8');
  assert.match(report, /The outer VM ended before the tests did \(QEMU: ended by SIGKILL\)/);
  assert.match(report, /The console's last lines:\n(.*\n)*.*(kvm|9p|squashfs)/i);
  assert.match(report, /---- bpf\/compare ----\nIt was not reached\./);
});

test('wrong usage is refused before anything is made', async () => {
  for (const args of [['--kernel', 'potato'], ['bpf', 'potato']]) {
    const { status, stdout } = await nested(args);
    assert.is(status, 2, args.join(' '));
    assert.is(stdout, '');
  }
});

test.run();
