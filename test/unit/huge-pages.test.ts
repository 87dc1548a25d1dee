/** The kernel's own word on whether a process may have transparent huge pages. */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { allowHugePages, hugePagesAllowed, withHugePages } from 'huge-pages';

test.after.each(() => allowHugePages(true));

/** What the kernel says of the process itself, and of one it starts: "1" is yes. */
const own = (): string | undefined => thpEnabled(readFileSync('/proc/self/status', 'utf8'));
const child = (): string | undefined => thpEnabled(spawnSync('/bin/cat', ['/proc/self/status'], { encoding: 'utf8' }).stdout);

function thpEnabled(status: string): string | undefined {
  return /^THP_enabled:\s+(\d)$/m.exec(status)?.[1];
}

test('they are refused and allowed again, and children begin likewise', () => {
  assert.is(hugePagesAllowed(), true);
  allowHugePages(false);
  assert.equal([hugePagesAllowed(), own(), child()], [false, '0', '0']);
  allowHugePages(true);
  assert.equal([hugePagesAllowed(), own(), child()], [true, '1', '1']);
});

test('what is started in between may have them, and this process is as before', () => {
  allowHugePages(false);
  assert.is(withHugePages(child), '1');
  assert.equal([hugePagesAllowed(), child()], [false, '0']);
  assert.throws(() => withHugePages(() => { throw new Error('not started'); }), /not started/);
  assert.is(hugePagesAllowed(), false);
});

test.run();
