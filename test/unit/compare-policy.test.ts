/** When to compare, and whom to trust: the policy by itself. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import {
  decideCompare, divergenceLimit, divergenceWindowMs, firstBackoffMs, forgive, forwardingOf, hopelessDivergences, hopelessMs, idleMs, initialComparePolicy, longestBackoffMs, lookMs, matchesPerDivergence, mismatchWindowMs, mostUncompared, settleMs,
  startMs, trialMs,
  type CompareDecision, type ComparePolicyConfig, type ComparePolicyState, type CompareWindow,
} from '../../src/protocol/compare-policy.js';

const auto: ComparePolicyConfig = { mode: 'auto', auditShare: 0.01, mismatchLimit: 3 };
const windowMs = 250;
/** A window in which nothing happens. */
const quiet: Omit<CompareWindow, 'atMs'> = {
  early: 0, matched: { packets: 0, waitedMs: 0 }, committed: { packets: 0, waitedMs: 0 }, uncompared: { packets: 0, waitedMs: 0 },
  writes: 0, doubtPackets: 0, writtenMsAgo: undefined, divergences: new Map(), mismatches: new Map(), late: 0,
};

/** So many divergences of each of these ports, which have never matched. */
function times(count: number, ...ports: number[]): CompareWindow['divergences'] {
  return new Map((ports.length === 0 ? [80] : ports).map((port) => [port, { count, matched: 0 }]));
}

/** Packets a second. */
interface Load {
  early?: number;
  matched?: number;
  committed?: number;
  /** Of those that waited. */
  waitMs?: number;
  writes?: number;
  doubt?: number;
  more?: Partial<CompareWindow>;
}

class Bench {
  state: ComparePolicyState;
  readonly decided: (CompareDecision & { atMs: number })[] = [];
  nowMs = 0;

  constructor(readonly config: ComparePolicyConfig = auto) {
    this.state = initialComparePolicy(0);
  }

  run(ms: number, { early = 0, matched = 0, committed = 0, waitMs = 10, writes = 0, doubt = 0, more = {} }: Load = {}): void {
    for (let end = this.nowMs + ms; this.nowMs < end;) {
      this.nowMs += windowMs;
      const packets = (perSecond: number): number => perSecond * windowMs / 1000;
      const released = (perSecond: number): { packets: number; waitedMs: number } => ({ packets: packets(perSecond), waitedMs: packets(perSecond) * waitMs });
      const { state, decisions } = decideCompare(this.state, {
        ...quiet, atMs: this.nowMs, early: packets(early), matched: released(matched), committed: released(committed),
        writes: packets(writes), doubtPackets: packets(doubt), ...more,
      }, this.config);
      this.state = state;
      for (const decision of decisions) this.decided.push({ ...decision, atMs: this.nowMs });
    }
  }

  /** As long as the policy compares, output waits `comparedMs`, else `committedMs`. */
  load(ms: number, comparedMs: number, committedMs: number): void {
    for (let end = this.nowMs + ms; this.nowMs < end;) {
      this.either(windowMs, { matched: 200, waitMs: comparedMs }, { committed: 200, waitMs: committedMs });
    }
  }

  /** A load that fares in one way while the policy compares, and in the other while it does not. */
  either(ms: number, comparing: Load, committing: Load): void {
    for (let end = this.nowMs + ms; this.nowMs < end;) this.run(windowMs, this.state.comparing ? comparing : committing);
  }

  /** Of the last switch. */
  get reason(): string {
    return this.decided.flatMap((decision) => decision.type === 'compare' ? [decision.reason] : []).at(-1) ?? '';
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
  assert.ok(bench.decided[0]!.atMs <= 2 * lookMs, 'within a second');
  assert.match(bench.reason, /wait 25\.0 ms for commits/);
});

test('auto: reads that leave early need no secondary that runs, nor does a write now and then', () => {
  const bench = new Bench();
  bench.run(60_000, { early: 6000 });
  bench.run(60_000, { early: 6000, committed: 600 });
  assert.equal(bench.decided, []);
});

test('auto: of two ways in which output waits, the one that brings more of it is better', () => {
  const slower = { committed: 400, waitMs: 8 };
  const bench = new Bench();
  bench.either(60_000, { matched: 3000, waitMs: 8 }, slower);
  assert.equal(bench.switches(), [true]);
  const other = new Bench();
  other.either(startMs + trialMs + 2 * lookMs, { matched: 300, waitMs: 2 }, slower);
  assert.equal(other.switches(), [true, false]);
  assert.match(other.reason, /300 packets a second, against 400/);
});

test('auto: goes back when there is little left that would wait for commits, and comes again at once', () => {
  const bench = new Bench();
  const write = (ms: number): void => bench.either(ms, { matched: 3000, waitMs: 1, writes: 3000, doubt: 3000 }, { committed: 400, waitMs: 8 });
  write(10_000);
  // With so few writes, commits would let nearly all of the reads leave early.
  bench.run(2 * trialMs, { matched: 3000, waitMs: 1, writes: 2, doubt: 3000 });
  assert.equal(bench.switches(), [true, false]);
  assert.match(bench.reason, /only 3 % of the output would wait/);
  bench.run(10_000, { early: 6000 });
  write(2 * lookMs);
  assert.equal(bench.switches(), [true, false, true]);
});

test('auto: stays where few requests are writes, but more of the reads would have to wait for them', () => {
  const bench = new Bench();
  bench.either(60_000, { matched: 2000, waitMs: 1, writes: 100, doubt: 2000 }, { early: 200, committed: 1200, waitMs: 8 });
  assert.equal(bench.switches(), [true]);
  const rare = new Bench();
  rare.either(60_000, { matched: 20, waitMs: 1, writes: 20, doubt: 20 }, { committed: 20, waitMs: 8 });
  assert.equal(rare.switches(), [true], 'writes alone, however rare, do wait');
});

test('auto: what belongs to services that are not compared is no reason', () => {
  const bench = new Bench();
  bench.run(60_000, { more: { uncompared: { packets: 100, waitedMs: 1000 } } });
  assert.equal(bench.decided, []);
});

test('auto: another load is tried before its time', () => {
  const bench = new Bench();
  bench.either(20_000, { matched: 90, waitMs: 30 }, { early: 200, committed: 100, waitMs: 25 });
  assert.ok(bench.state.notBeforeMs > bench.nowMs && !bench.state.comparing);
  bench.load(2 * lookMs, 4, 25);
  assert.ok(bench.state.comparing);
});

test('reads that wait since the last write get a commit, once writes have ended', () => {
  const bench = new Bench({ ...auto, mode: 'compare' });
  const settles = (): number => bench.decided.filter(({ type }) => type === 'settle').length;
  bench.run(1000, { matched: 3000, more: { writtenMsAgo: settleMs - 1 } });
  bench.run(1000, { more: { writtenMsAgo: 60_000 } });
  assert.is(settles(), 0);
  bench.run(windowMs, { matched: 3000, more: { writtenMsAgo: settleMs } });
  assert.is(settles(), 1);
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

test('auto: a trial in which little matches ends early; one that is only slow at first does not', () => {
  const commits = { committed: 400, waitMs: 8 };
  const bench = new Bench();
  bench.either(lookMs, commits, commits);
  assert.ok(bench.state.comparing);
  const beganMs = bench.nowMs;
  while (bench.state.comparing && bench.nowMs < 10_000) bench.run(windowMs, { committed: 40, matched: 4, waitMs: 200 });
  assert.is(bench.nowMs - beganMs, windowMs * Math.ceil(hopelessMs / windowMs));
  assert.match(bench.reason, /^1 of the 11 packets that had to wait matched after 0\.8 s, and 0 diverged; tried again in 10 s/);
  bench.run(firstBackoffMs - lookMs, commits);
  assert.is(bench.switches().length, 2, 'that was a failure: it is not tried again at once,');
  bench.run(lookMs + windowMs, commits);
  assert.is(bench.switches().length, 3, 'but in its time');
  const other = new Bench();
  other.either(lookMs, commits, commits);
  other.run(hopelessMs, { committed: 40, waitMs: 200 });
  other.run(firstBackoffMs - lookMs, { committed: 4000, waitMs: 8 });
  assert.is(other.switches().length, 2, 'nor because of another load');
  const slow = new Bench();
  slow.either(lookMs, commits, commits);
  slow.run(hopelessMs, { committed: 40, matched: 20, waitMs: 200 });
  slow.run(5000, { matched: 1000, waitMs: 2 });
  assert.equal(slow.switches(), [true]);
  const usual = new Bench();
  usual.either(lookMs, commits, commits);
  usual.run(windowMs, { committed: 288, waitMs: 5 }); // until the first checkpoint, after which the other VM runs
  usual.run(windowMs, { committed: 16, waitMs: 200 }); // nothing matches before that
  usual.run(5000, { matched: 3000, waitMs: 1 });
  assert.equal(usual.switches(), [true]);
});

test('auto: a load that does not match any more is not compared for long', () => {
  const bench = new Bench();
  bench.either(5000, { matched: 3000, waitMs: 1 }, { committed: 500, waitMs: 8 });
  assert.equal(bench.switches(), [true]);
  bench.run(windowMs, { committed: 300, waitMs: 10 });
  bench.run(windowMs, { matched: 3000, waitMs: 1 }); // a bad moment is no other load
  bench.run(windowMs, { committed: 300, waitMs: 10 });
  assert.equal(bench.switches(), [true]);
  bench.run(windowMs, { committed: 300, matched: 20, waitMs: 10 });
  assert.equal(bench.switches(), [true, false]);
  assert.match(bench.reason, /^5 of the 80 packets that had to wait matched of late; tried again in 10 s/);
});

test('auto: a trial in which everything diverges ends sooner still', () => {
  const bench = new Bench();
  bench.run(lookMs, { committed: 400, waitMs: 8 });
  bench.run(windowMs, { committed: 40, waitMs: 80, more: { divergences: times(hopelessDivergences) } });
  assert.equal(bench.switches(), [true, false]);
});

test('auto: a trial in which no output waits at all is not over early', () => {
  const bench = new Bench();
  bench.either(lookMs, {}, { committed: 400, waitMs: 8 });
  bench.run(hopelessMs + windowMs);
  assert.equal(bench.switches(), [true]);
});

test('auto: reacts when matches become slow, and when they become fast again', () => {
  const bench = new Bench();
  bench.load(20_000, 4, 25);
  assert.ok(bench.state.comparing);
  bench.load(2 * trialMs, 40, 25);
  assert.not.ok(bench.state.comparing);
  assert.match(bench.reason, /40\.0 ms, against 25\.0 ms/);
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
  const more = { divergences: times(1) };
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

test('where more services diverge than the gate can leave out, the rest wait for their turn', () => {
  const bench = new Bench({ ...auto, mode: 'compare' });
  const ports = Array.from({ length: 3 * mostUncompared }, (_, i) => 1000 + i);
  const more = { divergences: times(divergenceLimit, ...ports) };
  const out = new Set<number>();
  const turns = new Set<number>();
  for (let round = 0; round < 200; round++) {
    const before = bench.decided.length;
    bench.run(windowMs, { matched: 100, more });
    for (const decision of bench.decided.slice(before)) {
      if (decision.type !== 'trust') continue;
      if (decision.on) out.delete(decision.port);
      else out.add(decision.port);
      turns.add(decision.port);
      assert.ok(out.size <= mostUncompared);
    }
  }
  assert.is(out.size, mostUncompared);
  assert.ok(turns.size > mostUncompared, 'others have had their turn');
});

test('a service of which nothing is heard any more is forgotten, but not before its divergences count no more', () => {
  const bench = new Bench({ ...auto, mode: 'compare' });
  bench.run(windowMs, { matched: 100, more: { divergences: times(1, 40_000, 40_001) } });
  bench.run(divergenceLimit * windowMs, { matched: 100, more: { divergences: times(1) } });
  assert.is(bench.state.services.size, 3);
  bench.run(divergenceWindowMs, { matched: 100 });
  assert.equal([...bench.state.services.keys()], [80]);
  bench.run(longestBackoffMs - firstBackoffMs, { matched: 100 });
  assert.is(bench.state.services.size, 1, 'it diverged often, and may again');
  bench.run(2 * firstBackoffMs, { matched: 100 });
  assert.is(bench.state.services.size, 0);
});

test('a divergence now and then is no reason', () => {
  const bench = new Bench({ ...auto, mode: 'compare' });
  for (let i = 0; i < 100; i++) {
    bench.run(windowMs, { matched: 100, more: { divergences: times(1) } });
    bench.run(divergenceWindowMs / 2, { matched: 100 });
  }
  assert.equal(bench.decided.filter(({ type }) => type === 'trust'), []);
});

test('as long as matches of its own are that many more, divergences of a service are worth their checkpoints', () => {
  const trusted = (matchedPerWindow: number): boolean => {
    const bench = new Bench({ ...auto, mode: 'compare' });
    for (let i = 0; i < 3 * divergenceWindowMs / windowMs; i++) {
      bench.run(windowMs, { matched: 100_000, more: { divergences: new Map([[80, { count: 1, matched: i * matchedPerWindow }]]) } });
    }
    return !bench.decided.some(({ type }) => type === 'trust');
  };
  assert.ok(trusted(2 * matchesPerDivergence));
  assert.not.ok(trusted(0.5 * matchesPerDivergence), 'those of others do not count');
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

test('mismatches that are far apart may be chance', () => {
  const bench = new Bench({ ...auto, mode: 'compare' });
  const more = { mismatches: new Map([[6379, 1]]) };
  for (let i = 0; i < 10; i++) {
    bench.run(windowMs, { more });
    bench.nowMs += mismatchWindowMs / 2;
  }
  assert.not(bench.decided.some(({ type }) => type === 'caught'));
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
    ...quiet, atMs: 5000, matched: Object.freeze({ packets: 1, waitedMs: 2 }), committed: Object.freeze({ packets: 100, waitedMs: 2000 }),
    divergences: times(9), mismatches: new Map([[80, 9]]), late: 1,
  });
  const before = initialComparePolicy(0);
  const [first, second] = [decideCompare(before, window, auto), decideCompare(before, window, auto)];
  assert.equal(first, second);
  assert.equal(before, initialComparePolicy(0));
});

test.run();
