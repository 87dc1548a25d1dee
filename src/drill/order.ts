/** Mistakes in a drill that its grammar allows: steps in an order that makes no sense, and expectations that nothing can meet. */

import type { Mistake } from './mistakes.js';
import { stepName, type Script, type Step } from './script.js';

/** Steps that undo others: without one of these before them they are a mistake. */
const undoing: Record<string, readonly string[]> = {
  thaw: ['freeze'], heal: ['partition', 'impair'], freeDisk: ['fillDisk'], bringBack: ['kill', 'stop'], stopLoad: ['startLoad'],
};
/** What can make the guest move. */
const upsetting = ['kill', 'freeze', 'partition', 'impair', 'failover', 'corrupt', 'fillDisk', 'startAlone', 'upgrade', 'stop'];
/** What can be done to a pair through its agents. */
const gentle = ['startLoad', 'stopLoad', 'sleep', 'waitUntil', 'checkpoint', 'failover', 'reprotect', 'startAlone'];
const onTheWire = ['takeovers', 'takeoverWithin'] as const;
const ofTheLoad = ['longestSilence'] as const;

export function findDisorder(script: Script): Mistake[] {
  return [...misplacedSteps(script), ...idleExpectations(script)];
}

function misplacedSteps({ steps, lab, pair, load }: Script): Mistake[] {
  const mistakes: Mistake[] = [];
  const blame = (index: number, what: string, suggestion: string): void => void mistakes.push({ path: ['steps', index], what, suggestion });
  if (lab && pair) mistakes.push({ path: [], key: 'pair', what: 'a drill has a lab or a pair, not both', suggestion: 'Remove one of them.' });
  let open: string[] = [];
  steps.forEach((step, index) => {
    const name = stepName(step);
    const undoes = undoing[name];
    if (undoes && !open.some((other) => undoes.includes(other))) {
      blame(index, `"${name}" has nothing to do here`, `Put a step "${undoes.join('" or "')}" before it, or remove it.`);
    }
    // What concerns one host only may leave something for another such step.
    if (undoes && typeof step === 'string') open = open.filter((other) => !undoes.includes(other));
    if (name === 'startLoad' && open.includes(name)) blame(index, 'the load runs already', 'Put a step "stopLoad" before it, or remove it.');
    open.push(name);
    if (pair && !gentle.includes(name)) blame(index, `"${name}" can be done in a lab only`, `Remove "pair", or use only: ${gentle.join(', ')}.`);
    if (name === 'startLoad' && pair && !pair.service) blame(index, 'nobody knows where clients find the guest', 'Add to "pair", for example: service: { address: 10.0.0.5 }');
    if (name === 'startLoad' && load.writers + load.readers + load.redisReaders + load.newcomers === 0) blame(index, 'a load of no clients is none', 'Add for example: load: { writers: 2 }');
    mistakes.push(...unableStep(step, index, lab));
  });
  return mistakes;
}

function unableStep(step: Step, index: number, lab: Script['lab']): Mistake[] {
  if (typeof step === 'string') return [];
  if ('impair' in step) {
    const { traffic, drop, delay, direction } = step.impair;
    const path = ['steps', index, 'impair'];
    if (traffic === 'mirror' && !lab?.preRelease) return [{ path, what: 'without declared services nothing is mirrored', suggestion: 'Add: lab: { preRelease: true }' }];
    if (drop === 0 && delay === undefined) return [{ path, what: 'this cable is a good one', suggestion: 'Add for example: drop: 10%' }];
    if (delay !== undefined && (traffic === 'client' || direction !== 'from')) return [{ path, what: 'only what a host sends on the replication network can be late', suggestion: 'Write: traffic: replication or mirror, and direction: from' }];
  }
  if ('fillDisk' in step && lab?.diskMiB === undefined) return [{ path: ['steps', index], what: 'the disk is that of this machine, and will not be filled', suggestion: 'Add: lab: { diskMiB: 16 }' }];
  if ('waitUntil' in step && 'state' in step.waitUntil && step.waitUntil.host === undefined && step.waitUntil.state !== 'protected') {
    return [{ path: ['steps', index, 'waitUntil'], what: `"${step.waitUntil.state}" is a state of one host`, suggestion: 'Add for example: host: b' }];
  }
  return [];
}

function idleExpectations({ steps, pair, expect }: Script): Mistake[] {
  const names = steps.map(stepName);
  const mistakes: Mistake[] = [];
  const blame = (key: string, what: string, suggestion: string): void => void mistakes.push({ path: ['expect'], key, what, suggestion });
  for (const key of ofTheLoad) {
    if (expect[key] !== undefined && !names.includes('startLoad')) blame(key, `without clients "${key}" means nothing`, 'Add a step "startLoad", or remove it.');
  }
  for (const key of onTheWire) {
    if (expect[key] !== undefined && pair) blame(key, `"${key}" is seen on the wire, and only a lab's is watched`, 'Remove it, or "pair".');
  }
  const moves = (expect.takeovers ?? 0) > 0 ? 'takeovers' : expect.takeoverWithin !== undefined ? 'takeoverWithin' : undefined;
  if (moves !== undefined && !names.some((name) => upsetting.includes(name))) {
    blame(moves, 'nothing in this drill can cause a takeover', 'Add for example the step: kill: { host: primary, what: host }');
  }
  if (expect.takeovers === 0 && expect.takeoverWithin !== undefined) blame('takeoverWithin', 'it contradicts "takeovers: 0"', 'Remove one of them.');
  return mistakes;
}
