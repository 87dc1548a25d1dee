/** The logs of a drill that did not pass. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { keepLogs, type DrillResult } from '../../src/drill/run.js';

test('a folder that takes no logs is told of, beside why the drill failed', () => {
  const folder = mkdtempSync(join(tmpdir(), 'colopp-drill-logs-'));
  try {
    const log = join(folder, 'agent.log');
    writeFileSync(log, 'one\ntwo\n');
    const result: DrillResult = { drill: 'd', proves: '', seed: 1, outcome: 'failed', reason: 'a step failed', seconds: 0, steps: [], findings: [], loads: [], logs: {} };
    keepLogs({ log: () => log }, result, log);
    assert.match(result.reason, /^a step failed; the logs of host a could not be kept: .*; the logs of host b could not be kept: /);
    assert.equal(result.logs, { a: 'one\ntwo', b: 'one\ntwo' });
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test.run();
