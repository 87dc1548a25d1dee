/** Which hosts a drill's steps end and bring back. The agents are processes that only wait. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { Faults } from '../../src/drill/faults.js';
import { Performer } from '../../src/drill/perform.js';
import type { Stage } from '../../src/drill/stage.js';
import type { Cables } from '../../src/lab/cables.js';
import type { Lab } from '../../src/lab/lab.js';
import type { HostName } from '../../src/lab/topology.js';

let agents: Record<HostName, ChildProcess>;
let started: HostName[];
let performer: Performer;

const idle = (): ChildProcess => spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)'], { stdio: 'ignore' });

test.before.each(() => {
  agents = { a: idle(), b: idle() };
  started = [];
  const lab = {
    status: async (host: HostName) => ({ pid: agents[host].pid!, vm: { pid: null } }),
    startAgent: async (host: HostName) => {
      started.push(host);
      agents[host] = idle();
    },
  };
  const faults = new Faults(lab as unknown as Lab, {} as Cables);
  const stage = { lab, faults, hostOf: async (word: string) => word };
  performer = new Performer(stage as unknown as Stage, Math.random, new AbortController().signal);
});
test.after.each(() => {
  for (const agent of Object.values(agents)) agent.kill('SIGKILL');
});

test('an upgrade brings back the host that it is about, and no other', async () => {
  const lost = once(agents.b, 'exit');
  await performer.perform({ kill: { host: 'b', what: 'agent' } });
  await lost;
  await performer.perform({ upgrade: { host: 'a' } });
  assert.equal(started, ['a']);
  await performer.perform('bringBack');
  assert.equal(started, ['a', 'b']);
});

const refusal = (steps: Promise<unknown>): Promise<string> => steps.then(() => 'done', (error: Error) => error.message);

test('to bring back a host that is there is no success', async () => {
  assert.match(await refusal(performer.perform('bringBack')), 'No host was killed or stopped');
  await performer.perform({ stop: { host: 'a' } });
  assert.match(await refusal(performer.perform({ bringBack: { host: 'b' } })), 'Nothing of host b was killed or stopped');
  assert.equal(started, []);
});

test.run();
