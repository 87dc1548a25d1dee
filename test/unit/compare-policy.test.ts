/** When to compare, and whom to trust: the policy by itself. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  decideCompare, divergenceLimit, divergenceWindowMs, firstBackoffMs, forgive, forwardingOf, idleMs, initialComparePolicy, longestBackoffMs, trialMs,
  type CompareDecision, type ComparePolicyConfig, type ComparePolicyState, type CompareWindow,
} from '../../src/protocol/compare-policy.js';

const auto: ComparePolicyConfig = { mode: 'auto', auditShare: 0.01, mismatchLimit: 3 };
const windowMs = 250;

class Bench {
  state: ComparePolicyState;
  readonly decided: (CompareDecision & { atMs: number })[] = [];
  nowMs = 0;

  constructor(readonly config: ComparePolicyConfig = auto) {
    this.state = initialComparePolicy(0);
  }

  /** So many packets a second, each waiting so long, released by this. */
  run(ms: number, { matched = 0, committed = 0, waitMs = 10, more = {} }: { matched?: number; committed?: number; waitMs?: number; more?: Partial<CompareWindow> } = {}): void {
    for (let end = this.nowMs + ms; this.nowMs < end;) {
      this.nowMs += windowMs;
      const released = (perSecond: number): { packets: number; waitedMs: number } => {
        const packets = perSecond * windowMs / 1000;
        return { packets, waitedMs: packets * waitMs };
      };
      const { state, decisions } = decideCompare(this.state, {
        atMs: this.nowMs, matched: released(matched), committed: released(committed), divergences: new Map(), mismatches: new Map(), late: 0, ...more,
      }, this.config);
      this.state = state;
      for (const decision of decisions) this.decided.push({ ...decision, atMs: this.nowMs });
    }
  }

  /** As long as the policy compares, output waits `comparedMs`, else `committedMs`. */
  load(ms: number, comparedMs: number, committedMs: number): void {
    for (let end = this.nowMs + ms; this.nowMs < end;) {
      if (this.state.comparing) this.run(windowMs, { matched: 200, waitMs: comparedMs });
      else this.run(windowMs, { committed: 200, waitMs: committedMs });
    }
  }

  switches(): boolean[] {
    return this.decided.flatMap((decision) => decision.type === 'compare' ? [decision.on] : []);
  }
}

test('fixed modes are what they say, at once', () => {
  for (const mode of ['commit', 'compare'] as const) {
    const bench = new Bench({ ...auto, mode });
    bench.load(60_000, 50, 5);
    assert.equal(bench.switches(), mode === 'compare' ? [true] : []);
    assert.is(bench.state.comparing, mode === 'compare');
  }
});

test('auto: without output that waits there is nothing to try', () => {
  const bench = new Bench();
  bench.run(120_000);
  assert.equal(bench.decided, []);
  bench.run(10_000, { committed: 2 });
  assert.equal(bench.decided, []);
});

test('auto: where matches are faster, they stay', () => {
  const bench = new Bench();
  bench.load(600_000, 4, 25);
  assert.equal(bench.switches(), [true]);
  assert.ok(bench.decided[0]!.atMs <= 2 * trialMs);
  assert.match(bench.decided[0]!.reason, /wait 25\.0 ms for commits/);
});

test('auto: where they are not, commits do, and it is tried again later and later', () => {
  const bench = new Bench();
  bench.load(3_600_000, 30, 25);
  const times = bench.decided.flatMap((decision) => decision.type === 'compare' && decision.on ? [decision.atMs] : []);
  const comparingMs = bench.decided.reduce((total, decision, i) => total + (decision.type === 'compare' && !decision.on ? decision.atMs - bench.decided[i - 1]!.atMs : 0), 0);
  assert.ok(comparingMs < 0.02 * bench.nowMs, `${comparingMs} ms of ${bench.nowMs}`);
  const waits = times.slice(1).map((ms, i) => ms - times[i]!);
  assert.ok(waits.every((wait, i) => i === 0 || wait >= waits[i - 1]! - trialMs), `${waits}`);
  assert.ok(waits[0]! >= firstBackoffMs && waits.at(-1)! >= longestBackoffMs);
});

test('auto: reacts when matches become slow, and when they become fast again', () => {
  const bench = new Bench();
  bench.load(20_000, 4, 25);
  assert.ok(bench.state.comparing);
  bench.load(2 * trialMs, 40, 25);
  assert.not.ok(bench.state.comparing);
  assert.match(bench.decided.at(-1)!.reason, /40\.0 ms, against 25\.0 ms/);
  bench.load(2 * firstBackoffMs, 4, 25);
  assert.ok(bench.state.comparing);
});

test('auto: stops when nothing waits any more', () => {
  const bench = new Bench();
  bench.load(20_000, 4, 25);
  bench.run(idleMs + 1000);
  assert.equal(bench.switches(), [true, false]);
});

test('a service that keeps diverging is left out, and tried again; the others are not', () => {
  const bench = new Bench({ ...auto, mode: 'compare' });
  const more = { divergences: new Map([[80, 1]]) };
  bench.run(divergenceLimit * windowMs, { matched: 100, more });
  const trust = (): [number, number, boolean][] => bench.decided.flatMap((d) => d.type === 'trust' ? [[d.atMs, d.port, d.on] as [number, number, boolean]] : []);
  assert.equal(trust(), [[divergenceLimit * windowMs, 80, false]]);
  bench.run(firstBackoffMs, { matched: 100 });
  assert.equal(trust().slice(1).map(([, port, on]) => [port, on]), [[80, true]]);
  const again = bench.nowMs;
  bench.run(3 * windowMs * divergenceLimit, { matched: 100, more });
  assert.equal(trust().at(-1)!.slice(1), [80, false]);
  assert.ok(trust().at(-1)![0] >= again);
  bench.run(firstBackoffMs + 1000, { matched: 100 });
  assert.equal(trust().length, 3, 'the second time it takes longer');
});

test('a divergence now and then is no reason', () => {
  const bench = new Bench({ ...auto, mode: 'compare' });
  for (let i = 0; i < 100; i++) {
    bench.run(windowMs, { matched: 100, more: { divergences: new Map([[80, 1]]) } });
    bench.run(divergenceWindowMs / 2, { matched: 100 });
  }
  assert.equal(bench.decided.filter(({ type }) => type === 'trust'), []);
});

test('a service whose audits fail is caught once, until it is forgiven', () => {
  const bench = new Bench({ ...auto, mode: 'compare' });
  const more = { mismatches: new Map([[6379, 1]]) };
  const caught = (): number => bench.decided.filter(({ type }) => type === 'caught').length;
  bench.run(2 * windowMs, { more });
  assert.is(caught(), 0);
  bench.run(10 * windowMs, { more });
  assert.is(caught(), 1);
  bench.state = forgive(bench.state, 6379);
  bench.run(3 * windowMs, { more });
  assert.is(caught(), 2);
});

test('the secondary sends what is needed, and no more', () => {
  const off = initialComparePolicy(0);
  const on = { ...off, comparing: true };
  assert.is(forwardingOf(off, auto), 'none');
  assert.is(forwardingOf(on, auto), 'all');
  assert.is(forwardingOf(on, { ...auto, auditShare: 0 }), 'dirty');
});

test('equal windows give equal decisions, and no window is changed', () => {
  const window: CompareWindow = Object.freeze({
    atMs: 5000, matched: Object.freeze({ packets: 1, waitedMs: 2 }), committed: Object.freeze({ packets: 100, waitedMs: 2000 }),
    divergences: new Map([[80, 9]]), mismatches: new Map([[80, 9]]), late: 1,
  });
  const before = initialComparePolicy(0);
  const [first, second] = [decideCompare(before, window, auto), decideCompare(before, window, auto)];
  assert.equal(first, second);
  assert.equal(before, initialComparePolicy(0));
});

test.run();
