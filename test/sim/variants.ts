/** The rules of the pair, each broken on purpose: the simulator must find every one. */

import { step, type PairEvent, type Step } from '../../src/protocol/pair.js';
import type { Rules } from './host.js';
import type { Scenario } from './faults.js';
import { slowWrites, type Load } from './load.js';

export interface Variant {
  name: string;
  rules: Partial<Rules>;
  /** Where it shows soonest. */
  scenario: Scenario;
  load?: Partial<Load>;
}

/** Much has to be said again. */
const lossy: Partial<Load> = {
  clients: 12, loss: 0.2, mirrorLoss: 0, holdMs: [50], declared: [true, true],
  habits: { thinkMs: 3, writes: 0.05, pipeline: 1, requests: 200, aborts: 0, keys: 1 },
};

type StepFunction = typeof step;

/** The machine, given further events right after some. */
function then(follow: (event: PairEvent, after: Step, before: Parameters<StepFunction>[0]) => PairEvent | undefined): StepFunction {
  return (before, event, nowNs, config) => {
    const first = step(before, event, nowNs, config);
    const next = follow(event, first, before);
    if (!next) return first;
    const second = step(first.state, next, nowNs, config);
    return { state: second.state, effects: [...first.effects, ...second.effects] };
  };
}

export const variants: readonly Variant[] = [
  {
    name: 'release at STOP',
    scenario: 'takeovers',
    rules: {
      step: (before, event, nowNs, config) => {
        const result = step(before, event, nowNs, config);
        const stopNs = result.state.checkpoint?.stopNs;
        if (event.type !== 'vm-stopped' || stopNs === undefined || before.checkpoint?.stopNs !== undefined) return result;
        return { ...result, effects: [...result.effects, { type: 'release', upToNs: stopNs, stopNs, askNs: 0n, pauseNs: 0n }] };
      },
    },
  },
  {
    name: 'take over before protected',
    scenario: 'meeting',
    rules: {
      step: (before, event, nowNs, config) => {
        const early = event.type === 'peer-lost' && before.role === 'secondary' && before.phase === 'syncing';
        return step(early ? { ...before, phase: 'protected' } : before, event, nowNs, config);
      },
    },
  },
  {
    name: 'take over before the lease ends',
    scenario: 'connection',
    rules: { lostWithoutSilence: true },
  },
  {
    name: 'go on alone without waiting for unprotected',
    scenario: 'mixed',
    rules: {
      step: then((event, after, before) => before.phase !== 'parting' && after.state.phase === 'parting' && event.type !== 'peer-lost'
        ? { type: 'message', message: { type: 'unprotected' } } : undefined),
    },
  },
  {
    name: 'go on alone unasked',
    scenario: 'connection',
    rules: { step: then((event, after) => event.type === 'peer-lost' && after.state.phase === 'parting' ? { type: 'peer-unreached', sign: 'absent', reason: '' } : undefined) },
  },
  {
    name: 'decide late',
    scenario: 'freeze',
    rules: { step: (before, event, nowNs, config) => step({ ...before, trustedUntilNs: 1n << 62n }, event, nowNs, config) },
  },
  {
    name: 'forget that the peer may have taken over',
    scenario: 'kill',
    rules: { step: (before, event, nowNs, config) => step(before, event.type === 'start' ? { ...event, mayRunAlone: true } : event, nowNs, config) },
  },
  {
    name: 'believe every stamp',
    scenario: 'clock',
    rules: {
      step: (before, event, nowNs, config) => {
        const result = step(before, event, nowNs, config);
        const { checkpoint } = result.state;
        if (event.type === 'vm-stopped' && checkpoint && before.checkpoint?.stopNs === undefined) checkpoint.stopNs = event.stampNs;
        return result;
      },
    },
  },
  {
    name: 'try to remember it only once',
    scenario: 'disk',
    rules: {
      step: (before, event, nowNs, config) => event.type === 'timer' && event.name === 'persist'
        ? { state: before, effects: [] } : step(before, event, nowNs, config),
    },
  },
  // ---- what leaves before a checkpoint, and what a takeover makes of it
  { name: 'forget in-doubt writes', scenario: 'takeovers', rules: { forgetWrites: true } },
  { name: 'trust a write with its reply', scenario: 'takeovers', rules: { settleAtReply: true } },
  { name: 'speak of inputs that are not logged', scenario: 'takeovers', rules: { ignoreLog: true } },
  { name: 'acknowledge before logging', scenario: 'takeovers', rules: { ackBeforeLogging: true } },
  { name: 'acknowledge past gaps', scenario: 'takeovers', rules: { ackPastGaps: true } },
  { name: 'drop at RESUME what was logged, not what was read at STOP', scenario: 'takeovers', rules: { forgetAtResume: true } },
  { name: 'replay nothing', scenario: 'takeovers', rules: { noReplay: true } },
  { name: 'replay everything at once', scenario: 'takeovers', rules: { unpaced: true } },
  { name: 'let writes overtake reads in the replay', scenario: 'takeovers', rules: { noBarrier: true } },
  { name: 'let the first write to a service free those to another', scenario: 'takeovers', rules: { oneBarrier: true } },
  { name: 'no clamp', scenario: 'takeovers', rules: { noClamp: true }, load: lossy },
  { name: 'learn no offset', scenario: 'takeovers', rules: { noLearning: true } },
  { name: 'keep translations from the next secondary', scenario: 'takeovers', rules: { handNothing: true }, load: lossy },
  // ---- these were ours
  { name: 'take writes that are committed for the first ones', scenario: 'takeovers', rules: { committedWrites: true } },
  { name: 'take what is repeated for a write', scenario: 'takeovers', rules: { repeatedWrites: true }, load: lossy },
  { name: 'take input that was diverted for unread', scenario: 'takeovers', rules: { countDiverted: true } },
  { name: 'let the reply before, said again, settle a write', scenario: 'takeovers', rules: { settleByRepeats: true }, load: lossy },
  { name: 'let the reply to a slow write go early', scenario: 'takeovers', rules: { releaseLateReplies: true }, load: slowWrites },
  { name: 'take what is said on unfollowed connections for nothing', scenario: 'takeovers', rules: { ignoreUnfollowed: true }, load: slowWrites },
  { name: 'commit without a mark', scenario: 'connection', rules: { commitUnmarked: true } },
];
