/** An operator pauses the protection, and asks for it again. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { hello, primaryAt, secondaryAt } from './pair-bench.js';

const pause = { type: 'command', command: 'pause' } as const;
const reprotect = { type: 'command', command: 'reprotect' } as const;

test('a protected primary parts from its secondary in order, and holds until that has given its copy up', () => {
  const bench = primaryAt('protected');
  const effects = bench.on(pause);
  assert.ok(effects.includes('drop-secondary'));
  assert.not.ok(effects.includes('gate pass'), 'the secondary may still take over');
  assert.equal(bench.notes, ['PAUSED']);
  assert.equal(bench.on({ type: 'secondary-dropped' }), ['send unprotect']);
  assert.ok(bench.hear({ type: 'unprotected' }).includes('gate pass'));
  assert.is(bench.state.phase, 'active-alone');
  assert.is(bench.state.reason, 'an operator has paused the protection');
});

for (const phase of ['pairing', 'syncing', 'checkpointing'] as const) {
  test(`while ${phase}, too`, () => {
    const bench = primaryAt(phase);
    bench.on(pause);
    assert.is(bench.state.phase, 'parting');
    if (phase !== 'pairing') bench.on({ type: 'secondary-dropped' });
    bench.hear({ type: 'unprotected' });
    assert.match(bench.state.phase, /^(active-)?alone$/);
  });
}

test('while it is paused the two meet, and no secondary is asked for', () => {
  const bench = primaryAt('protected');
  bench.on(pause);
  bench.on({ type: 'secondary-dropped' });
  bench.hear({ type: 'unprotected' });
  assert.equal(bench.on({ type: 'timer', name: 'retry' }), ['dial']);
  bench.on({ type: 'peer-up' });
  assert.equal(bench.hear(hello()), []);
  assert.is(bench.state.phase, 'active-alone');
  assert.equal(bench.on(pause), [], 'twice is once');
  const effects = bench.on(reprotect);
  assert.ok(effects.includes('send offer'));
  assert.is(bench.state.phase, 'pairing');
  assert.not.ok(bench.state.paused);
});

test('asked for again while the other host is away: it is called at once', () => {
  const bench = primaryAt('alone');
  bench.on(pause);
  assert.equal(bench.on(reprotect), ['dial']);
  bench.on({ type: 'peer-up' });
  assert.ok(bench.hear(hello()).includes('send offer'));
});

test('reprotect offers nothing to a secondary that is being prepared already', () => {
  const bench = primaryAt('pairing');
  assert.equal(bench.on(reprotect), []);
});

test('a secondary has nothing to pause', () => {
  const bench = secondaryAt('protected');
  assert.equal(bench.on(pause), []);
  assert.is(bench.state.phase, 'protected');
});

test('a host that has stepped down, and takes over later, is not paused any more', () => {
  const bench = primaryAt('alone');
  bench.on(pause);
  bench.on({ type: 'peer-up' });
  bench.hear(hello({ role: 'primary', active: true, generation: 5, phase: 'active-alone' }));
  assert.is(bench.state.role, 'secondary');
  assert.not.ok(bench.state.paused);
});

test('a host that can hold no output ends the protection, and begins none', () => {
  const bench = primaryAt('protected');
  assert.ok(bench.on({ type: 'hold-lost' }).includes('drop-secondary'));
  bench.on({ type: 'secondary-dropped' });
  bench.hear({ type: 'unprotected' });
  assert.match(bench.state.reason, 'hold');
  bench.on({ type: 'peer-up' });
  assert.equal(bench.hear(hello()), []);
  assert.equal(bench.on(reprotect), []);
  assert.ok(bench.state.paused);
});

test('nor does it after a takeover, if that was known before', () => {
  const bench = secondaryAt('protected');
  assert.equal(bench.on({ type: 'hold-lost' }), [], 'a secondary holds nothing');
  bench.sleep(400).on({ type: 'peer-lost', reason: 'silence' });
  bench.on({ type: 'took-over' });
  bench.on({ type: 'peer-up' });
  assert.equal(bench.hear(hello({ generation: 4 })), [], 'protected, its VM would be mute');
  assert.is(bench.state.phase, 'active-alone');
  assert.ok(bench.state.paused);
  assert.equal(bench.notes, ['PAUSED']);
});

test.run();
