/** The agent's log where its disk has no room. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { test } from 'uvu';
import * as assert from 'uvu/assert';

const program = `
  const { openLog } = await import(${JSON.stringify(new URL('../../src/cli/log.js', import.meta.url).href)});
  const { log, end } = openLog('info');
  for (let line = 0; line < 500; line++) {
    log.info('x'.repeat(100));
    if (line % 100 === 0) await new Promise((resolve) => setTimeout(resolve, 10));
  }
  end();
  console.error('ended');`;

const runTo = (file: string) => promisify(execFile)('sh', ['-c', `exec "$0" --input-type=module -e "$1" ${file}`, process.execPath, program], { timeout: 10_000, maxBuffer: 1e7 });

test('a full disk ends neither the agent nor keeps it from ending', async () => {
  const { stderr } = await runTo('> /dev/full').catch((error: { stderr: string }) => error);
  assert.is(stderr, 'ended\n');
});

test('where there is room, every line is there', async () => {
  assert.is((await runTo('')).stdout.trimEnd().split('\n').length, 500);
});

test.run();
