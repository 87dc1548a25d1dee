/** The vCPU policy: what it decides in plain cases, and what holds whatever it is told. */

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { seededRandom } from '../../src/drill/random.js';
import {
  decide, dwellMs, encouraged, firstBackoffMs, initialPolicy, longestBackoffMs, trialMs,
  type PolicyConfig, type PolicyInput, type PolicyState, type VcpuDecision, type VcpuDemand,
} from '../../src/protocol/vcpu-policy.js';
import type { VcpuWindow } from '../../src/protocol/vcpu-trace.js';

const windowMs = 100;

/** A load: what the primary tells, and what else happens on the secondary's host. */
interface Load extends Partial<VcpuDemand> {
  comparing?: boolean;
  own?: { run: number; wait: number }[];
  others?: { run: number; wait: number };
}

const writes: Load = { comparing: true, run: [1, 0, 0, 0], outputsPerSecond: 1000, heldPerSecond: 900, matchedPerSecond: 850 };
const quiet: Load = { comparing: true, run: [0, 0, 0, 0] };

/** A policy and the time. */
class Bench {
  state: PolicyState;
  atMs = 0;
  readonly decisions: VcpuDecision[] = [];

  constructor(readonly config: PolicyConfig = { vcpus: 4, cpus: 8 }) {
    this.state = initialPolicy(config);
  }

  /** Lets a load last. @returns the decisions it led to */
  run(load: Load | undefined, ms: number, override?: number): VcpuDecision[] {
    const made: VcpuDecision[] = [];
    for (const endMs = this.atMs + ms; this.atMs < endMs;) {
      this.atMs += windowMs;
      const decision = this.feed({ atMs: this.atMs, comparing: load?.comparing ?? true, demand: load && demandOf(load), window: windowOf(load, this.config), override });
      if (decision) made.push(decision);
    }
    return made;
  }

  feed(input: PolicyInput): VcpuDecision | undefined {
    const { state, decision } = decide(this.state, input, this.config);
    this.state = state;
    if (decision) this.decisions.push(decision);
    return decision;
  }
}

function demandOf(load: Load): VcpuDemand {
  const { run = [], outputsPerSecond = 0, heldPerSecond = 0, matchedPerSecond = 0 } = load;
  return { run, outputsPerSecond, heldPerSecond, matchedPerSecond };
}

function windowOf(load: Load | undefined, { vcpus }: PolicyConfig): VcpuWindow {
  return {
    fromNs: 0, toNs: windowMs * 1e6, others: load?.others ?? { run: 0, wait: 0 },
    vcpus: Array.from({ length: vcpus }, (_, vcpu) => ({
      vcpu, run: 0, wait: 0, ...load?.own?.[vcpu], sleep: 0, preemptedBesideSibling: 0,
      voluntary: 0, involuntary: 0, migrations: 0, waits: [], runs: [], exits: null,
    })),
  };
}

test('nothing compared, nothing waiting, nothing known: paused', () => {
  for (const load of [{ ...writes, comparing: false }, quiet, { ...writes, heldPerSecond: 2 }, undefined]) {
    const bench = new Bench();
    assert.equal(bench.run(load, 5000), []);
    assert.is(bench.state.k, 0);
  }
});

test('read-mostly: what leaves early needs no second opinion', () => {
  assert.equal(new Bench().run({ ...writes, heldPerSecond: 100, matchedPerSecond: 0 }, 5000), []);
});

test('writes that match: as many vCPUs as are busy', () => {
  const bench = new Bench();
  const [first, ...more] = bench.run(writes, 10_000);
  assert.is(first!.to, 1);
  assert.equal(first!.active, [0]);
  assert.match(first!.reason, /a trial; 1 vCPU is busy/);
  assert.is(first!.inputs.heldPerSecond, 900);
  assert.equal(more, []);
  const [second] = bench.run({ ...writes, run: [0.9, 0, 0.8, 0.7] }, 3000);
  assert.is(second!.to, 3);
  assert.equal([...second!.active].sort(), [0, 2, 3]);
  assert.is(second!.reason, '3 vCPUs are busy');
});

test('a vCPU that is busier here than at the primary counts; one that waits to do nothing does not', () => {
  const bench = new Bench();
  bench.run({ ...writes, own: [{ run: 0.9, wait: 0.1 }, { run: 0.6, wait: 0.3 }, { run: 0.01, wait: 0.9 }] }, 3000);
  assert.is(bench.state.k, 2);
  assert.equal(bench.state.active, [0, 1]);
  assert.ok(Math.abs(bench.state.waiting - 0.2) < 0.05, 'and how long they wait is known');
});

test('the busiest are active; one that is little busier does not take the place of another', () => {
  const bench = new Bench();
  bench.run({ ...writes, run: [0, 0.5, 0, 0] }, 3000);
  assert.equal(bench.state.active, [1]);
  bench.run({ ...writes, run: [0, 0.09, 0, 0.15] }, 3000);
  assert.equal(bench.state.active, [1]);
  const [moved] = bench.run({ ...writes, run: [0, 0, 0, 0.8] }, 3000);
  assert.equal(bench.state.active, [3]);
  assert.is(moved!.reason, 'vCPU 3 is busier than vCPU 1');
});

test('no more than the host has CPUs for', () => {
  const busy = { ...writes, run: [1, 1, 1, 1] };
  const small = new Bench({ vcpus: 4, cpus: 2 });
  small.run(busy, 3000);
  assert.is(small.state.k, 2);
  const crowded = new Bench({ vcpus: 4, cpus: 4 });
  crowded.run({ ...busy, others: { run: 1.5, wait: 0.5 } }, 3000);
  assert.is(crowded.state.k, 2);
  assert.match(crowded.decisions.at(-1)!.reason, /4 vCPUs are busy, but other work of this host wants \d\.\d of its 4 CPUs/);
  crowded.run({ ...busy, others: { run: 4, wait: 6 } }, 3000);
  assert.is(crowded.state.k, 1, 'but one');
});

test('a trial that earns little ends, and the next one comes later each time', () => {
  for (const poor of [{ ...writes, matchedPerSecond: 40 }, { ...writes, matchedPerSecond: 0 }]) {
    const bench = new Bench();
    bench.run(poor, 300_000);
    const trials = bench.decisions.filter(({ to }) => to > 0).map(({ atMs }) => atMs);
    const ends = bench.decisions.filter(({ to }) => to === 0);
    assert.ok(trials.length >= 6 && trials.length <= 8, `${trials.length} trials in five minutes`);
    ends.forEach(({ atMs, reason }, i) => {
      assert.match(reason, /^matches release only \d+ % of the output; next trial in \d+ s$/);
      assert.ok(Math.abs(atMs - trials[i]! - trialMs) <= 2 * windowMs, 'each lasts as long');
    });
    const pauses = trials.slice(1).map((atMs, i) => atMs - ends[i]!.atMs);
    pauses.forEach((ms, i) => {
      const expectedMs = Math.min(longestBackoffMs, firstBackoffMs * 2 ** i);
      assert.ok(Math.abs(ms - expectedMs) <= windowMs, `pause ${i}: ${ms} ms`);
    });
  }
});

test('one that stops matching is paused, and one that matches again begins with short pauses', () => {
  const bench = new Bench();
  bench.run(writes, 10_000);
  const [end] = bench.run({ ...writes, matchedPerSecond: 0 }, 4000);
  assert.is(end!.to, 0);
  assert.is(bench.state.backoffMs, 2 * firstBackoffMs);
  bench.run(writes, 20_000);
  assert.is(bench.state.k, 1);
  assert.is(bench.state.backoffMs, firstBackoffMs);
});

test('a primary that begins to compare is not told to wait for what failed before', () => {
  const bench = new Bench();
  const useless: Load = { ...writes, matchedPerSecond: 0 };
  bench.run(useless, 3 * longestBackoffMs);
  bench.run({ ...useless, comparing: false }, 2 * dwellMs);
  assert.is(bench.state.k, 0);
  bench.state = encouraged(bench.state);
  bench.run(writes, 2 * dwellMs);
  assert.ok(bench.state.k > 0);
  assert.is(bench.state.backoffMs, firstBackoffMs);
});

test("an operator's word counts at once and within bounds, and then the policy goes on", () => {
  const bench = new Bench();
  const [set] = bench.run(quiet, windowMs, 9);
  assert.is(set!.to, 4);
  assert.is(set!.reason, 'set by the operator');
  assert.is(bench.run(quiet, windowMs, 2)[0]!.to, 2, 'without a dwell');
  assert.equal(bench.run(quiet, 5000, 2), []);
  assert.is(bench.run(quiet, windowMs)[0]!.to, 0);
  bench.run(writes, windowMs, -3);
  assert.is(bench.state.k, 0);
});

// ---- properties --------------------------------------------------------------

/** Loads that jump about at random, some of them nonsense. */
function randomInputs(seed: number, config: PolicyConfig, count: number): PolicyInput[] {
  const random = seededRandom(seed);
  const pick = <T>(...values: T[]): T => values[Math.floor(random() * values.length)]!;
  let atMs = 0;
  let load: Load = quiet;
  return Array.from({ length: count }, () => {
    atMs += pick(1, 20, 100, 100, 100, 400, 3000);
    if (random() < 0.2) {
      load = {
        comparing: random() < 0.9, run: Array.from({ length: config.vcpus }, () => random() * pick(0.2, 1, 2)),
        outputsPerSecond: pick(0, 10, 1000), heldPerSecond: pick(0, 0.5, 4, 900), matchedPerSecond: pick(0, 50, 900),
        others: { run: random() * 4, wait: random() * pick(1, 20) },
        own: Array.from({ length: config.vcpus }, () => ({ run: random(), wait: random() })),
      };
    }
    const silent = random() < 0.05;
    return { atMs, comparing: load.comparing ?? true, demand: silent ? undefined : demandOf(load), window: random() < 0.05 ? undefined : windowOf(load, config), override: undefined };
  });
}

const configs: PolicyConfig[] = [{ vcpus: 1, cpus: 1 }, { vcpus: 2, cpus: 2 }, { vcpus: 4, cpus: 2 }, { vcpus: 4, cpus: 16 }, { vcpus: 64, cpus: 8 }];

test('whatever comes: within bounds, never faster than the dwell time, and every change says why', () => {
  let changes = 0;
  for (const config of configs) {
    for (let seed = 0; seed < 40; seed++) {
      const bench = new Bench(config);
      let lastMs = -Infinity;
      for (const input of randomInputs(seed, config, 300)) {
        const before = bench.state;
        const decision = bench.feed(input);
        const { k, active } = bench.state;
        assert.ok(k >= 0 && k <= Math.min(config.vcpus, config.cpus), `k is ${k} of ${config.vcpus}`);
        assert.is(active.length, k);
        assert.is(new Set(active).size, k);
        assert.ok(active.every((vcpu) => vcpu >= 0 && vcpu < config.vcpus));
        if (!decision) {
          assert.is(k, before.k);
          continue;
        }
        changes++;
        assert.ok(input.atMs - lastMs >= dwellMs, `changed after ${input.atMs - lastMs} ms`);
        lastMs = input.atMs;
        assert.is(decision.from, before.k);
        assert.is(decision.to, k);
        assert.match(decision.reason, /^\S[^\n]+$/);
      }
    }
  }
  assert.ok(changes > 1000, `${changes} changes in all`);
});

test('equal inputs give equal decisions, and no input is changed', () => {
  const config = { vcpus: 4, cpus: 4 };
  for (let seed = 0; seed < 10; seed++) {
    const inputs = randomInputs(seed, config, 300);
    const frozen = structuredClone(inputs);
    const [one, two] = [new Bench(config), new Bench(config)];
    for (const input of inputs) one.feed(input);
    for (const input of frozen) two.feed(input);
    assert.equal(one.decisions, two.decisions);
    assert.equal(inputs, frozen);
    const before = structuredClone(one.state);
    decide(one.state, { ...inputs[0]!, atMs: one.state.lastMs! + 1 }, config);
    assert.equal(one.state, before);
  }
});

test('a step of the load is answered within a second', () => {
  const config = { vcpus: 4, cpus: 8 };
  for (let busy = 1; busy <= config.vcpus; busy++) {
    const step = { ...writes, run: Array.from({ length: config.vcpus }, (_, vcpu) => vcpu < busy ? 0.9 : 0) };
    // Whatever came before, even a change in the last moment.
    for (const beforeMs of [100, 400, 3000, 20_000]) {
      const bench = new Bench(config);
      bench.run(quiet, beforeMs);
      bench.run(step, 1000);
      assert.is(bench.state.k, busy, `${busy} busy after ${beforeMs} ms of quiet`);
      bench.run(step, beforeMs);
      bench.run(quiet, 1000);
      assert.is(bench.state.k, 0, 'and down again');
    }
  }
});

test.run();
