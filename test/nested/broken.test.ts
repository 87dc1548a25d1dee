/** The nested tests against what they are there to notice. Takes a minute or more: `npm test -- nested/`. */
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';

const main = fileURLToPath(new URL('main.js', import.meta.url));
const results = fileURLToPath(new URL('../../../build/nested/results/forky/', import.meta.url));

/** Runs the nested tests to their end. */
async function nested(...args: string[]): Promise<{ status: number; stdout: string }> {
  return new Promise((resolve) => {
    const child = execFile(process.execPath, [main, ...args], { maxBuffer: 16 * 1024 * 1024 }, (_, stdout) => resolve({ status: child.exitCode ?? -1, stdout }));
  });
}

const test = suite('nested tests');

test('a BPF program that the kernel refuses makes them fail, with the verifier\'s log in both reports', async () => {
  const { status, stdout } = await nested('--break-bpf', 'doctor', 'bpf/gate');
  assert.is(status, 1, stdout);
  assert.match(stdout, /\n0 passed, 2 failed\n$/);
  for (const name of ['report.txt', 'junit.xml']) {
    const report = readFileSync(results + name, 'utf8');
    assert.match(report, /invalid mem access (&#39;|')map_value_or_null/, name);
    assert.match(report, /processed \d+ insns/, name);
  }
});

test('wrong usage is refused before anything is made', async () => {
  const { status, stdout } = await nested('--kernel', 'potato');
  assert.is(status, 2);
  assert.is(stdout, '');
});

test.run();
