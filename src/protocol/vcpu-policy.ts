/**
 * How many vCPUs of the secondary are worth running, as a pure function:
 * (state, input) -> (state, decision).
 *
 * An active secondary earns its keep only where much of the output waits, and
 * comparing releases it before a commit would. Whether it does is found out by
 * trying: a trial that earns little ends with the secondary paused, and the next
 * one comes after twice the time. While it is active, as many vCPUs run as the
 * load keeps busy, and no more than the host has CPUs left for.
 */

import type { VcpuWindow } from './vcpu-trace.js';

/** What the primary tells of its load. */
export interface VcpuDemand {
  /** How busy each of its vCPUs is: 0 to 1. */
  run: readonly number[];
  /** Outputs a second: all, those of them that had to wait, and those of these that a match released. */
  outputsPerSecond: number;
  heldPerSecond: number;
  matchedPerSecond: number;
}

export interface PolicyConfig {
  /** vCPUs of the VM, and CPUs that it may use on this host. */
  vcpus: number;
  cpus: number;
}

export interface PolicyInput {
  atMs: number;
  /** The primary compares outputs, if there is something to compare them with. */
  comparing: boolean;
  /** Undefined: not heard of the primary for too long. */
  demand: VcpuDemand | undefined;
  /** What the secondary's own vCPUs did since the last input. */
  window: VcpuWindow | undefined;
  /** An operator's word; undefined: decide. */
  override: number | undefined;
}

/** A change of the active vCPUs, and why. */
export interface VcpuDecision {
  /** As the input's. */
  atMs: number;
  from: number;
  to: number;
  /** Which are active from now on, the busiest first. */
  active: number[];
  reason: string;
  /** What it was decided by, smoothed. */
  inputs: {
    comparing: boolean;
    heldPerSecond: number;
    heldShare: number;
    benefit: number | null;
    busy: number[];
    /** How long the active vCPUs wait for their CPUs, as a share of the time. */
    waiting: number;
    othersCpus: number;
    override: number | null;
  };
}

export interface PolicyState {
  /** So many are active; 0: the secondary is paused after every commit. */
  k: number;
  active: number[];
  /** Why so many, as last judged. */
  reason: string;
  changedMs: number | undefined;
  lastMs: number | undefined;
  /** Smoothed: how busy each vCPU is, on whichever host it is busier; outputs that wait, and their share; CPUs that others want. */
  busy: number[];
  /** The same, smoothed over longer: who is the busiest. */
  load: number[];
  heldPerSecond: number;
  heldShare: number;
  othersCpus: number;
  /** Smoothed: share of the time that the active vCPUs wait. */
  waiting: number;
  /** vCPUs that count as busy, with hysteresis. */
  busyNow: boolean[];
  /** Smoothed: share of all output that matches released in this trial, or the last one. */
  benefit: number | undefined;
  trialSinceMs: number | undefined;
  /** After a trial that earned too little: when the next one may begin, and how long the one after that will wait. */
  notBeforeMs: number;
  backoffMs: number;
}

/** Between two changes at least. */
export const dwellMs = 500;
/** A step in what is measured shows to nine tenths after 2.3 of these. */
const smoothMs = 120;
/** What must not be judged by a moment. */
const slowMs = 1000;
/** Outputs a second from which on running a secondary may be worth it, and below which it is not any more. */
const heldRise = 5;
const heldFall = 1;
/** More than this is no more reason, and would only take longer to forget. */
const heldMost = 4 * heldRise;
/** And the share of all output. */
const shareRise = 0.25;
const shareFall = 0.1;
/** A vCPU counts as busy from the first on, and until the second. */
const busyRise = 0.25;
const busyFall = 0.1;
/** An active vCPU keeps its place unless another is busier by this. */
const placeBonus = 0.2;
/** A secondary is tried for so long, and has to release this share of all output by matches. */
export const trialMs = 2000;
const leastBenefit = 0.1;
export const firstBackoffMs = 5000;
export const longestBackoffMs = 80_000;

export function initialPolicy(config: PolicyConfig): PolicyState {
  return {
    k: 0, active: [], reason: 'nothing has been judged yet', changedMs: undefined, lastMs: undefined,
    busy: Array<number>(config.vcpus).fill(0), load: Array<number>(config.vcpus).fill(0), busyNow: Array<boolean>(config.vcpus).fill(false),
    heldPerSecond: 0, heldShare: 0, othersCpus: 0, waiting: 0,
    benefit: undefined, trialSinceMs: undefined, notBeforeMs: 0, backoffMs: firstBackoffMs,
  };
}

/** @param input not earlier than the one before */
export function decide(before: PolicyState, input: PolicyInput, config: PolicyConfig): { state: PolicyState; decision: VcpuDecision | undefined } {
  const state = observe(before, input, config);
  const mayChange = state.changedMs === undefined || input.atMs - state.changedMs >= dwellMs;
  if (!mayChange && input.override === undefined) return { state, decision: undefined };
  const { k, reason } = target(state, input, config);
  const active = busiest(state, k);
  if (k === state.k) state.reason = reason;
  const same = active.length === state.active.length && active.every((vcpu) => state.active.includes(vcpu));
  if (same) return { state, decision: undefined };
  // An operator's word counts at once; what then is busiest waits like everything else.
  if (!mayChange && k === state.k) return { state, decision: undefined };
  const decision: VcpuDecision = {
    atMs: input.atMs, from: state.k, to: k, active, inputs: inputsOf(state, input),
    reason: k === state.k ? `${names(active.filter((vcpu) => !state.active.includes(vcpu)))} is busier than ${names(state.active.filter((vcpu) => !active.includes(vcpu)))}` : reason,
  };
  if (state.k === 0) state.benefit = 0;
  Object.assign(state, { k, active, reason, changedMs: input.atMs });
  return { state, decision };
}

/** The primary begins to compare, for reasons of its own: that matches earned too little before is no reason to wait. */
export function encouraged(state: PolicyState): PolicyState {
  return { ...state, notBeforeMs: 0, backoffMs: firstBackoffMs };
}

/** Takes in what has been measured; changes nothing of k. */
function observe(before: PolicyState, { atMs, demand, window, override }: PolicyInput, config: PolicyConfig): PolicyState {
  const state = structuredClone(before);
  const passedMs = before.lastMs === undefined ? smoothMs : Math.max(0, atMs - before.lastMs);
  const smooth = (old: number, now: number, overMs = smoothMs): number => old + (1 - Math.exp(-passedMs / overMs)) * (now - old);
  state.lastMs = atMs;
  for (let vcpu = 0; vcpu < config.vcpus; vcpu++) {
    const own = window?.vcpus.find((seen) => seen.vcpu === vcpu);
    // That it waits here is no sign: a parked one waits long to do next to nothing.
    const busy = Math.max(demand?.run[vcpu] ?? 0, own?.run ?? 0);
    const smoothed = state.busy[vcpu] = smooth(state.busy[vcpu]!, Math.min(1, busy));
    state.load[vcpu] = smooth(state.load[vcpu]!, Math.min(1, busy), slowMs);
    state.busyNow[vcpu] = smoothed >= (state.busyNow[vcpu] ? busyFall : busyRise);
  }
  state.heldPerSecond = smooth(state.heldPerSecond, Math.min(heldMost, demand?.heldPerSecond ?? 0));
  const waits = (window?.vcpus ?? []).filter(({ vcpu }) => state.active.includes(vcpu)).map(({ wait }) => wait);
  state.waiting = smooth(state.waiting, waits.reduce((sum, wait) => sum + wait, 0) / Math.max(1, waits.length), slowMs);
  if (window) state.othersCpus = smooth(state.othersCpus, window.others.run + window.others.wait, slowMs);
  if (demand && demand.outputsPerSecond > 0) {
    const share = (of: number): number => Math.min(1, of / demand.outputsPerSecond);
    state.heldShare = smooth(state.heldShare, share(demand.heldPerSecond));
    if (state.k > 0) state.benefit = smooth(state.benefit ?? 0, share(demand.matchedPerSecond), slowMs);
  }
  state.trialSinceMs = state.k === 0 || override !== undefined ? undefined : state.trialSinceMs ?? atMs;
  return state;
}

/** How many should be active. Notes in `state` how a trial has ended. */
function target(state: PolicyState, { atMs, comparing, demand, override }: PolicyInput, config: PolicyConfig): { k: number; reason: string } {
  if (override !== undefined) return { k: Math.min(config.vcpus, Math.max(0, Math.trunc(override))), reason: 'set by the operator' };
  if (!comparing) return { k: 0, reason: 'the primary compares nothing' };
  if (!demand) return { k: 0, reason: 'the primary does not tell its load' };
  if (state.heldPerSecond < (state.k === 0 ? heldRise : heldFall)) return { k: 0, reason: 'hardly any output waits' };
  if (state.heldShare < (state.k === 0 ? shareRise : shareFall)) return { k: 0, reason: `only ${percent(state.heldShare)} of the output waits` };
  const benefit = state.benefit ?? 0;
  if (state.trialSinceMs !== undefined && atMs - state.trialSinceMs >= trialMs) {
    if (benefit >= leastBenefit) {
      state.backoffMs = firstBackoffMs;
    } else {
      state.notBeforeMs = atMs + state.backoffMs;
      state.backoffMs = Math.min(longestBackoffMs, 2 * state.backoffMs);
    }
  }
  if (atMs < state.notBeforeMs) {
    return { k: 0, reason: `matches release only ${percent(benefit)} of the output; next trial in ${Math.ceil((state.notBeforeMs - atMs) / 1000)} s` };
  }
  const busy = state.busyNow.filter(Boolean).length;
  const wanted = Math.max(1, busy);
  const room = Math.max(1, Math.min(config.cpus, Math.round(config.cpus - state.othersCpus)));
  const load = `${busy} ${busy === 1 ? 'vCPU is' : 'vCPUs are'} busy`;
  if (wanted > room) return { k: room, reason: `${load}, but other work of this host wants ${state.othersCpus.toFixed(1)} of its ${config.cpus} CPUs` };
  const why = state.k === 0 ? `output waits, and matches may release it: a trial; ${load}` : load;
  return { k: wanted, reason: why };
}

/** The k busiest vCPUs, the busiest first. Only one that counts as busy takes the place of an active one. */
function busiest({ load, busyNow, active }: PolicyState, k: number): number[] {
  const weight = (vcpu: number): number => load[vcpu]! + (active.includes(vcpu) ? placeBonus : busyNow[vcpu] ? 0 : -1);
  return load.map((_, vcpu) => vcpu).sort((a, b) => weight(b) - weight(a) || a - b).slice(0, k);
}

function inputsOf(state: PolicyState, { comparing, demand, override }: PolicyInput): VcpuDecision['inputs'] {
  const rounded = (value: number): number => Math.round(value * 1000) / 1000;
  return {
    comparing, heldPerSecond: rounded(demand?.heldPerSecond ?? 0), heldShare: rounded(state.heldShare),
    benefit: state.benefit === undefined ? null : rounded(state.benefit),
    busy: state.busy.map(rounded), waiting: rounded(state.waiting), othersCpus: rounded(state.othersCpus), override: override ?? null,
  };
}

function names(vcpus: readonly number[]): string {
  return `vCPU ${vcpus.join(', ')}`;
}

function percent(share: number): string {
  return `${Math.round(100 * share)} %`;
}
