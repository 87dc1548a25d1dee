/** What cuts a command short: it cleans up, also when nobody reads any more what it says. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';

const folder = mkdtempSync(join(tmpdir(), 'colopp-interrupt-'));
const cleaned = join(folder, 'cleaned');
test.before.each(() => rmSync(cleaned, { force: true }));
test.after(() => rmSync(folder, { recursive: true }));

const command = `
  import { writeFileSync } from 'node:fs';
  import { setTimeout as sleep } from 'node:timers/promises';
  import { interruptible } from ${JSON.stringify(new URL('../../src/cli/interrupt.js', import.meta.url).href)};
  await interruptible(async (signal) => {
    console.log('begun');
    try {
      await sleep(60_000, undefined, { signal });
    } finally {
      for (const say of [console.log, console.error, console.log]) {
        say('cleaning up');
        await sleep(20);
      }
      writeFileSync(${JSON.stringify(cleaned)}, '');
    }
  });`;

async function begun(): Promise<ChildProcess> {
  const child = spawn(process.execPath, ['--input-type=module', '-e', command], { stdio: ['ignore', 'pipe', 'pipe'] });
  await once(child.stdout!, 'data');
  return child;
}

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  test(`${signal} ends it in order`, async () => {
    const child = await begun();
    child.kill(signal);
    assert.equal(await once(child, 'exit'), [130, null]);
    assert.ok(existsSync(cleaned));
  });
}

test('a terminal that is closed, too', async () => {
  const child = await begun();
  child.stdout!.destroy();
  child.stderr!.destroy();
  child.kill('SIGHUP');
  assert.equal(await once(child, 'exit'), [130, null]);
  assert.ok(existsSync(cleaned));
});

test.run();
