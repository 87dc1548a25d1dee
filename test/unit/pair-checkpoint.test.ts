/** When checkpoints are made, what they commit, and what is promised before. */

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { Bench, commit, ns, primaryAt, secondaryAt } from './pair-bench.js';

test('the gate holds before the first checkpoint is asked for', () => {
  const bench = primaryAt('syncing');
  const effects = bench.on({ type: 'colo-entered' });
  assert.ok(effects.indexOf('gate protected') < effects.indexOf('trigger-checkpoint'));
  assert.ok(effects.includes('gate protected'));
  assert.is(bench.state.phase, 'syncing');
});

test('the RESUME that ends the copying commits nothing', () => {
  const bench = primaryAt('syncing');
  bench.on({ type: 'vm-stopped', stampNs: ns(bench.nowMs), receivedNs: ns(bench.nowMs) });
  bench.on({ type: 'colo-entered' });
  assert.equal(bench.on({ type: 'vm-resumed', receivedNs: ns(bench.nowMs) }), []);
  assert.is(bench.state.phase, 'syncing');
});

test('the first commit is remembered, then promised, then released', () => {
  const bench = primaryAt('syncing');
  bench.on({ type: 'colo-entered' });
  const stopNs = ns(bench.nowMs + 1);
  const effects = commit(bench);
  assert.equal(effects.filter((word) => /persist|send|release/.test(word)), ['persist primary 0 false', 'send protected', `release ${stopNs}`]);
  assert.ok(effects.includes('cancel sync-timeout'));
  assert.ok(effects.includes('cancel checkpoint-timeout'));
  assert.ok(effects.includes('timer period 10000'));
  assert.is(bench.state.phase, 'protected');
  assert.is(bench.state.commits, 1);
});

test('later commits release exactly up to their STOP, and promise nothing anew', () => {
  const bench = primaryAt('protected');
  bench.on({ type: 'command', command: 'checkpoint' });
  const stopNs = ns(bench.nowMs + 1);
  const effects = commit(bench, 7);
  assert.equal(effects, ['cancel checkpoint-timeout', `release ${stopNs}`, 'timer period 10000']);
  const release = bench.effects.find((effect) => effect.type === 'release');
  assert.equal(release, { type: 'release', upToNs: stopNs, stopNs, askNs: ns(1), pauseNs: ns(8) });
  assert.is(bench.state.commits, 2);
});

test('STOP alone releases nothing', () => {
  const bench = primaryAt('checkpointing');
  assert.equal(bench.on({ type: 'vm-stopped', stampNs: ns(bench.nowMs), receivedNs: ns(bench.nowMs) }), []);
  assert.is(bench.state.phase, 'checkpointing');
});

test('a RESUME without STOP commits nothing', () => {
  const bench = primaryAt('checkpointing');
  assert.equal(bench.on({ type: 'vm-resumed', receivedNs: ns(bench.nowMs) }), []);
  assert.is(bench.state.phase, 'checkpointing');
});

test('a STOP and RESUME that nobody asked for commit nothing', () => {
  const bench = primaryAt('protected');
  bench.on({ type: 'vm-stopped', stampNs: ns(bench.nowMs), receivedNs: ns(bench.nowMs) });
  assert.equal(bench.on({ type: 'vm-resumed', receivedNs: ns(bench.nowMs) }), []);
  assert.is(bench.state.commits, 1);
});

test('of two STOPs, the first counts', () => {
  const bench = primaryAt('checkpointing');
  const askedMs = bench.nowMs;
  bench.sleep(10);
  bench.on({ type: 'vm-stopped', stampNs: ns(askedMs + 2), receivedNs: ns(bench.nowMs) });
  bench.on({ type: 'vm-stopped', stampNs: ns(askedMs + 9), receivedNs: ns(bench.nowMs) });
  assert.ok(bench.on({ type: 'vm-resumed', receivedNs: ns(bench.nowMs) }).includes(`release ${ns(askedMs + 2)}`));
});

for (const [what, stampMs] of [['before it was asked for', -5], ['long ago', -1e9], ['after it was seen', 5], ['far ahead', 1e9]] as const) {
  test(`a STOP stamped ${what} counts as of the request: the wall clock was stepped`, () => {
    const bench = primaryAt('checkpointing');
    const askedMs = bench.nowMs;
    bench.sleep(3).on({ type: 'vm-stopped', stampNs: ns((stampMs < 0 ? askedMs : bench.nowMs) + stampMs), receivedNs: ns(bench.nowMs) });
    assert.ok(bench.on({ type: 'vm-resumed', receivedNs: ns(bench.nowMs) }).includes(`release ${ns(askedMs)}`));
  });
}

test('stamps at the very edges are believed', () => {
  for (const edge of ['asked', 'seen'] as const) {
    const bench = primaryAt('checkpointing');
    const stampNs = edge === 'asked' ? ns(bench.nowMs) : ns(bench.nowMs + 3);
    bench.sleep(3).on({ type: 'vm-stopped', stampNs, receivedNs: ns(bench.nowMs) });
    assert.ok(bench.on({ type: 'vm-resumed', receivedNs: ns(bench.nowMs) }).includes(`release ${stampNs}`));
  }
});

test('a checkpoint follows the first held packet after the hold interval, minus what it has waited', () => {
  const bench = primaryAt('protected');
  assert.equal(bench.on({ type: 'held', oldestNs: ns(bench.nowMs) }), ['timer checkpoint 10']);
  assert.equal(bench.on({ type: 'held', oldestNs: ns(bench.nowMs - 4) }), ['timer checkpoint 6']);
  assert.is(bench.state.phase, 'protected');
  assert.ok(bench.on({ type: 'timer', name: 'checkpoint' }).includes('trigger-checkpoint'));
  assert.is(bench.state.phase, 'checkpointing');
});

test('a packet that has waited long enough starts one at once; so does a hold interval of 0', () => {
  const late = primaryAt('protected');
  assert.ok(late.on({ type: 'held', oldestNs: ns(late.nowMs - 10) }).includes('trigger-checkpoint'));
  const eager = primaryAt('protected', { holdMs: 0 });
  assert.ok(eager.on({ type: 'held', oldestNs: ns(eager.nowMs) }).includes('trigger-checkpoint'));
});

test('the limit on held packets, an input log that lags, and the period start one at once', () => {
  for (const type of ['hold-limit', 'log-lags'] as const) {
    assert.equal(primaryAt('protected').on({ type }), ['cancel checkpoint', 'trigger-checkpoint', 'timer checkpoint-timeout 5000']);
  }
  assert.ok(primaryAt('protected').on({ type: 'timer', name: 'period' }).includes('trigger-checkpoint'));
});

test('while one is under way no other is asked for', () => {
  const bench = primaryAt('checkpointing');
  assert.equal(bench.on({ type: 'held', oldestNs: ns(bench.nowMs) }), []);
  assert.equal(bench.on({ type: 'hold-limit' }), []);
  assert.equal(bench.on({ type: 'log-lags' }), []);
  assert.equal(bench.on({ type: 'timer', name: 'period' }), []);
  assert.equal(bench.on({ type: 'timer', name: 'checkpoint' }), []);
  assert.equal(bench.on({ type: 'command', command: 'checkpoint' }), []);
  assert.equal(bench.hear({ type: 'request-checkpoint' }), []);
});

test('an operator who asks meanwhile gets another one: what was said since the STOP is to be released, too', () => {
  const bench = primaryAt('checkpointing');
  const stopNs = bench.state.checkpoint!.requestedNs + 1n;
  bench.on({ type: 'vm-stopped', stampNs: stopNs, receivedNs: stopNs });
  bench.on({ type: 'command', command: 'checkpoint' });
  bench.on({ type: 'command', command: 'checkpoint' });
  const effects = bench.live(1).on({ type: 'vm-resumed', receivedNs: ns(bench.nowMs) });
  assert.ok(effects.indexOf(`release ${stopNs}`) < effects.indexOf('trigger-checkpoint'), `${effects}`);
  assert.is(bench.state.phase, 'checkpointing');
  bench.on({ type: 'vm-stopped', stampNs: ns(bench.nowMs), receivedNs: ns(bench.nowMs) });
  assert.not(bench.live(1).on({ type: 'vm-resumed', receivedNs: ns(bench.nowMs) }).includes('trigger-checkpoint'), 'one is enough');
});

test('unprotected, nothing starts a checkpoint', () => {
  for (const phase of ['alone', 'pairing', 'syncing', 'parting'] as const) {
    const bench = primaryAt(phase);
    assert.equal(bench.on({ type: 'hold-limit' }), [], phase);
    assert.equal(bench.on({ type: 'held', oldestNs: 0n }), [], phase);
    assert.equal(bench.on({ type: 'timer', name: 'period' }), [], phase);
    assert.equal(bench.hear({ type: 'request-checkpoint' }), [], phase);
  }
});

test('the secondary passes an operator\'s checkpoint on', () => {
  assert.equal(secondaryAt('protected').on({ type: 'command', command: 'checkpoint' }), ['send request-checkpoint']);
  assert.ok(primaryAt('protected').hear({ type: 'request-checkpoint' }).includes('trigger-checkpoint'));
});

test('the secondary is paused after every commit, if it is to be', () => {
  const bench = secondaryAt('protected');
  assert.equal(bench.on({ type: 'vm-resumed', receivedNs: ns(bench.nowMs) }), ['pause-vm']);
  assert.equal(secondaryAt('syncing').on({ type: 'vm-resumed', receivedNs: 0n }), ['pause-vm']);
  assert.equal(secondaryAt('protected', { pauseSecondary: false }).on({ type: 'vm-resumed', receivedNs: 0n }), []);
  assert.equal(secondaryAt('taking-over').on({ type: 'vm-resumed', receivedNs: 0n }), [], 'it is to run now');
});

test('the secondary is set active, and paused again, from the next commit on', () => {
  const bench = secondaryAt('protected');
  const resumed = { type: 'vm-resumed', receivedNs: ns(bench.nowMs) } as const;
  assert.equal(bench.on({ type: 'secondary-active', on: true }), []);
  assert.equal(bench.on(resumed), []);
  assert.equal(bench.on({ type: 'secondary-active', on: false }), []);
  assert.equal(bench.on(resumed), ['pause-vm']);
});

test('an acknowledged heartbeat extends the lease from when it was sent', () => {
  const bench = primaryAt('protected');
  assert.equal(bench.on({ type: 'heartbeat-acked', sentNs: ns(5000) }), [`lease ${ns(5300)}`]);
  assert.is(bench.state.trustedUntilNs, ns(5300));
  assert.equal(secondaryAt('protected').on({ type: 'heartbeat-acked', sentNs: ns(5000) }), [], 'a secondary has none');
});

test('a step leaves the state before it alone', () => {
  const bench = primaryAt('checkpointing');
  const { state } = bench;
  const copy = structuredClone(state);
  commit(bench);
  assert.equal(state, copy);
  assert.is.not(bench.state, state);
});

test('every event in every phase has an answer', () => {
  const events = (bench: Bench) => [
    { type: 'peer-up' }, { type: 'vm-listening' }, { type: 'colo-entered' }, { type: 'took-over' },
    { type: 'colo-exit', reason: 'r' }, { type: 'peer-lost', reason: 'r' }, { type: 'takeover-failed', reason: 'r' },
    { type: 'peer-unreached', sign: 'silent', reason: 'r' }, { type: 'failed', what: 'w', reason: 'r' },
    { type: 'vm-exited', clean: true, reason: 'r' }, { type: 'vm-resumed', receivedNs: ns(bench.nowMs) },
    { type: 'command', command: 'failover' }, { type: 'command', command: 'start-alone' }, { type: 'command', command: 'stop' },
  ] as const;
  const primaries = ['alone', 'pairing', 'syncing', 'protected', 'checkpointing', 'parting'] as const;
  const secondaries = ['alone', 'pairing', 'syncing', 'protected', 'taking-over', 'fenced'] as const;
  for (const make of [...primaries.map((p) => () => primaryAt(p)), ...secondaries.map((p) => () => secondaryAt(p))]) {
    for (let i = 0; i < events(make()).length; i++) {
      const bench = make();
      const event = events(bench)[i]!;
      const before = bench.state.phase;
      const words = bench.on(event);
      // Whatever happens, a release needs a commit, and to be heard needs a decision.
      if (words.some((word) => word.startsWith('release '))) assert.ok(event.type === 'vm-resumed' && before === 'checkpointing');
      if (words.includes('gate pass')) assert.ok(['took-over', 'peer-lost', 'command'].includes(event.type), `${event.type} in ${before}`);
    }
  }
});

test.run();
