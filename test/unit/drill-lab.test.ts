/** The configuration that a lab's agents get: what the drill says, what the lab decides, and how slow the machine is. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { parseDrill } from '../../src/drill/read.js';
import { slowedDown } from '../../src/lab/lab.js';

const agentOf = (lab: string): unknown => parseDrill(`drill: x\nproves: What agents are told.\nlab: ${lab}\nsteps: [sleep: 1s]\n`, 'x.yaml').lab!.agent;

test('of the configuration a drill says what its file says, and nothing else', () => {
  assert.equal(agentOf('{ preRelease: true }'), {});
  assert.equal(agentOf('{ agent: { mode: compare } }'), { mode: 'compare' });
  assert.equal(agentOf('{ agent: { checkpoint: { holdMs: 50 }, heartbeat: {} } }'), { checkpoint: { holdMs: 50 }, heartbeat: {} });
});

test('a slow lab slows heartbeats and time limits down, whoever set them', () => {
  assert.equal(slowedDown({}, 1), { heartbeat: { intervalMs: 100 }, checkpoint: { timeoutMs: 10_000, syncTimeoutMs: 120_000 } });
  assert.equal(slowedDown({}, 2.5), { heartbeat: { intervalMs: 250 }, checkpoint: { timeoutMs: 25_000, syncTimeoutMs: 300_000 } });
  assert.equal(slowedDown({ mode: 'compare', heartbeat: { intervalMs: 50, missed: 5 }, checkpoint: { holdMs: 50, timeoutMs: 2000 } }, 3), {
    mode: 'compare', heartbeat: { intervalMs: 150, missed: 5 }, checkpoint: { holdMs: 50, timeoutMs: 6000, syncTimeoutMs: 360_000 },
  });
});

test.run();
