import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { judge, secondTries, type Exit } from '../outcome.js';

const well: Exit = { status: 0, signal: null, timedOut: false };
const summary = (total: number, passed: number, skipped = 0): string =>
  `• • •   (${passed} / ${total})\n\n  Total:     ${total}\n  Passed:    ${passed}\n  Skipped:   ${skipped}\n  Duration:  0.95ms\n\n`;

test('counts what uvu counted', () => {
  assert.equal(judge(summary(3, 3), well), { passed: 3, failed: 0, skipped: 0 });
  assert.equal(judge(summary(3, 1, 2), { ...well, status: 1 }), { passed: 1, failed: 2, skipped: 2 });
});

test('reads a coloured summary', () => {
  assert.equal(judge(`\x1b[32m  Total:     2\x1b[39m\n  Passed:    2\n\x1b[33m  Skipped:   0\x1b[39m\n`, well), { passed: 2, failed: 0, skipped: 0 });
});

test('believes the last summary, not text that a test printed before it', () => {
  assert.equal(judge(summary(100, 100) + summary(2, 1), { ...well, status: 1 }), { passed: 1, failed: 1, skipped: 0 });
});

test('a file that ends well without a summary, or with no test in it, has failed', () => {
  assert.equal(judge('', well), { passed: 0, failed: 1, skipped: 0, trouble: 'ran no test' });
  assert.equal(judge(summary(0, 0), well), { passed: 0, failed: 1, skipped: 0, trouble: 'ran no test' });
  assert.equal(judge(summary(0, 0, 3), well), { passed: 0, failed: 1, skipped: 3, trouble: 'ran no test' });
});

test('a file that dies after its summary has failed, and keeps its counts', () => {
  assert.equal(judge(summary(2, 2), { status: null, signal: 'SIGSEGV', timedOut: false }), { passed: 2, failed: 1, skipped: 0, trouble: 'ended by SIGSEGV' });
  assert.equal(judge(summary(2, 2), { ...well, status: 7 }), { passed: 2, failed: 1, skipped: 0, trouble: 'ended with status 7' });
});

test('a file whose time was over has failed, however it ended', () => {
  assert.equal(judge(summary(2, 2), { status: 0, signal: null, timedOut: true }), { passed: 2, failed: 1, skipped: 0, trouble: 'ran out of time' });
});

test('a second try is for the few that failed in real time, when nothing else has failed', () => {
  const [a, b, c] = [{ realTime: true }, { realTime: true }, { realTime: true }];
  const logic = { realTime: false };
  assert.equal(secondTries([]), []);
  assert.equal(secondTries([a, b]), [a, b]);
  assert.equal(secondTries([a, b, c]), []);
  assert.equal(secondTries([logic]), []);
  assert.equal(secondTries([a, logic]), []);
});

test.run();
