/** Mistakes in a drill that its grammar allows: steps in an order that makes no sense, and expectations that nothing can meet. */

import { secondaryMayRun } from '../agent/config.js';
import type { Mistake } from './mistakes.js';
import { stepName, type HostWord, type Script, type Step } from './script.js';

/** Steps that undo others: without one of these before them they are a mistake. */
const undoing: Record<string, { others: readonly string[]; inWords: string }> = {
  thaw: { others: ['freeze'], inWords: '"freeze"' },
  heal: { others: ['partition', 'impair'], inWords: '"partition" or "impair"' },
  freeDisk: { others: ['fillDisk'], inWords: '"fillDisk"' },
  bringBack: { others: ['kill', 'stop'], inWords: '"kill" of an agent or a host, or "stop",' },
  stopLoad: { others: ['startLoad'], inWords: '"startLoad"' },
};
/** What can make the guest move. */
const upsetting = ['kill', 'freeze', 'partition', 'impair', 'failover', 'corrupt', 'fillDisk', 'startAlone', 'upgrade', 'stop'];
/** What can be done to a pair through its agents. */
const gentle = ['startLoad', 'stopLoad', 'sleep', 'waitUntil', 'checkpoint', 'failover', 'reprotect', 'startAlone'];
const onTheWire = ['oneActive', 'takeovers', 'takeoverWithin'] as const;
const ofTheLoad = ['connectionsSurvive', 'writesKept', 'longestSilence'] as const;

export function findDisorder(script: Script): Mistake[] {
  return [...misplacedSteps(script), ...idleExpectations(script)];
}

function misplacedSteps({ steps, lab, pair, load }: Script): Mistake[] {
  const mistakes: Mistake[] = [];
  const blame = (index: number, what: string, suggestion: string): void => void mistakes.push({ path: ['steps', index], what, suggestion });
  if (lab && pair) mistakes.push({ path: [], key: 'pair', what: 'a drill has a lab or a pair, not both', suggestion: 'Remove one of them.' });
  let open: { name: string; host: HostWord | undefined }[] = [];
  steps.forEach((step, index) => {
    const name = stepName(step);
    const host = hostOf(step);
    const undoes = undoing[name];
    if (undoes) {
      const undone = open.filter((other) => undoes.others.includes(other.name) && mayBeSame(other.host, host));
      if (undone.length === 0) {
        blame(index, `"${name}" has nothing to do here`, `Put a step ${undoes.inWords} ${host === undefined ? '' : `about host ${host} `}before it, or remove it.`);
      }
      // What concerns one host only may leave something for another such step.
      open = open.filter((other) => !undone.includes(other) || (host !== undefined && other.host !== host));
    }
    if (name === 'startLoad' && open.some((other) => other.name === name)) blame(index, 'the load runs already', 'Put a step "stopLoad" before it, or remove it.');
    if (!isLossOfQemu(step)) open.push({ name, host }); // its agent brings a QEMU back
    if (pair && !gentle.includes(name)) blame(index, `"${name}" can be done in a lab only`, `Remove "pair", or use only: ${gentle.join(', ')}.`);
    else if (host !== undefined && isOutOfReach(host, pair)) mistakes.push(unasked(['steps', index], host));
    if (name === 'startLoad' && pair && !pair.service) blame(index, 'nobody knows where clients find the guest', 'Add to "pair", for example: service: { address: 10.0.0.5 }');
    if (name === 'startLoad' && load.writers + load.readers + load.redisReaders + load.stampReaders + load.newcomers === 0) blame(index, 'a load of no clients is none', 'Add for example: load: { writers: 2 }');
    mistakes.push(...unableStep(step, index, lab));
  });
  return mistakes;
}

/** The host that a step names, if it names one. */
function hostOf(step: Step): HostWord | undefined {
  if (typeof step === 'string') return undefined;
  const [about] = Object.values(step) as [{ host?: HostWord; askedAt?: HostWord }];
  return about.host ?? about.askedAt;
}

/** Which host has which part is not known before the drill is run. */
function mayBeSame(one: HostWord | undefined, other: HostWord | undefined): boolean {
  return one === other || [one, other].some((word) => word !== 'a' && word !== 'b');
}

function isLossOfQemu(step: Step): boolean {
  return typeof step !== 'string' && 'kill' in step && step.kill.what === 'qemu';
}

/** The secondary is asked for by asking who is the primary: where only host a can be asked, it is never a. */
function isOutOfReach(host: HostWord, pair: Script['pair']): boolean {
  return pair !== undefined && pair.agents.b === undefined && (host === 'b' || host === 'secondary');
}

function unasked(path: PropertyKey[], host: HostWord): Mistake {
  return { path, what: `"${host}" cannot be asked: only the agent of host a is named`, suggestion: 'Add to "pair.agents", for example: b: /run/colopp/agent-b.sock' };
}

/** Whether the agents of this lab mirror input to each other. */
function mirrors({ preRelease, agent: { mode = 'commit', secondary = 'paused' } }: NonNullable<Script['lab']>): boolean {
  return preRelease || secondaryMayRun({ mode, secondary });
}

function unableStep(step: Step, index: number, lab: Script['lab']): Mistake[] {
  if (typeof step === 'string') return [];
  if ('impair' in step) {
    const { traffic, drop, delay, direction } = step.impair;
    const path = ['steps', index, 'impair'];
    if (traffic === 'mirror' && !(lab && mirrors(lab))) return [{ path, what: 'without declared services nothing is mirrored, unless outputs are compared or the secondary is active', suggestion: 'Add: lab: { preRelease: true }' }];
    if (drop === 0 && delay === undefined) return [{ path, what: 'this cable is a good one', suggestion: 'Add for example: drop: 10%' }];
    if (delay !== undefined && (traffic === 'client' || direction !== 'from')) return [{ path, what: 'only what a host sends on the replication network can be late', suggestion: 'Write: traffic: replication or mirror, and direction: from' }];
  }
  if ('fillDisk' in step && lab?.diskMiB === undefined) return [{ path: ['steps', index], what: 'the disk is that of this machine, and will not be filled', suggestion: 'Add: lab: { diskMiB: 16 }' }];
  if ('waitUntil' in step && 'state' in step.waitUntil && step.waitUntil.host === undefined && step.waitUntil.state !== 'protected') {
    return [{ path: ['steps', index, 'waitUntil'], what: `"${step.waitUntil.state}" is a state of one host`, suggestion: 'Add for example: host: b' }];
  }
  return [];
}

function idleExpectations({ steps, pair, load, expect }: Script): Mistake[] {
  const names = steps.map(stepName);
  const mistakes: Mistake[] = [];
  const blame = (key: string, what: string, suggestion: string): void => void mistakes.push({ path: ['expect'], key, what, suggestion });
  for (const key of ofTheLoad) {
    if (isExpected(expect[key]) && !names.includes('startLoad')) blame(key, `without clients "${key}" means nothing`, 'Add a step "startLoad", or remove it.');
  }
  if (expect.writesKept && names.includes('startLoad') && load.writers === 0) blame('writesKept', 'nobody writes what could be read back', 'Add for example: load: { writers: 2 }');
  for (const key of onTheWire) {
    if (isExpected(expect[key]) && pair) blame(key, `"${key}" is seen on the wire, and only a lab's is watched`, 'Remove it, or "pair".');
  }
  const moves = (expect.takeovers ?? 0) > 0 ? 'takeovers' : expect.takeoverWithin !== undefined ? 'takeoverWithin' : undefined;
  if (moves !== undefined && !names.some((name) => upsetting.includes(name))) {
    blame(moves, 'nothing in this drill can cause a takeover', 'Add for example the step: kill: { host: primary, what: host }');
  }
  if (expect.takeovers === 0 && expect.takeoverWithin !== undefined) blame('takeoverWithin', 'it contradicts "takeovers: 0"', 'Remove one of them.');
  expect.metrics.forEach(({ host }, index) => {
    if (isOutOfReach(host, pair)) mistakes.push(unasked(['expect', 'metrics', index], host));
  });
  return mistakes;
}

const isExpected = (what: number | boolean | undefined): boolean => what !== undefined && what !== false;
