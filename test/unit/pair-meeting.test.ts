/** How a pair begins: starts and restarts, greetings, offers and refusals. */

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { greeting, isActive } from '../../src/protocol/pair.js';
import { Bench, commit, hello, primaryAt, secondaryAt } from './pair-bench.js';

const start = { type: 'start', generation: 4, term: 2 } as const;

test('a primary starts its VM, or takes an earlier agent\'s on, and looks for the secondary', () => {
  for (const vmAlive of [false, true]) {
    const bench = new Bench();
    assert.equal(bench.on({ ...start, role: 'primary', vmAlive, mayRunAlone: true }), ['start-vm', 'gate pass', 'dial']);
    assert.is(bench.state.phase, 'alone');
    assert.is(bench.state.generation, 4);
  }
});

test('a secondary is closed and waits; what an earlier agent left is destroyed', () => {
  assert.equal(new Bench('secondary').on({ ...start, role: 'secondary', vmAlive: false, mayRunAlone: false }), ['gate closed']);
  assert.equal(new Bench('secondary').on({ ...start, role: 'secondary', vmAlive: true, mayRunAlone: true }), ['gate closed', 'destroy-vm']);
});

test('a primary that was protected when its agent ended is fenced', () => {
  const bench = new Bench();
  assert.equal(bench.on({ ...start, role: 'primary', vmAlive: true, mayRunAlone: false }).filter((w) => !w.startsWith('cancel')), ['gate closed', 'dial']);
  assert.is(bench.state.phase, 'fenced');
  assert.not(isActive(bench.state));
  assert.not(greeting(bench.state, bench.config).active);
  assert.equal(bench.notes, ['FENCED']);
});

function fenced(generation = 4): Bench {
  const bench = new Bench();
  bench.on({ ...start, generation, role: 'primary', vmAlive: true, mayRunAlone: false });
  bench.on({ type: 'peer-up' });
  return bench;
}

test('a fenced primary goes on when the peer has given up its VM, not before', () => {
  const bench = fenced();
  assert.equal(bench.hear(hello({ phase: 'alone' })), ['send unprotect']);
  assert.is(bench.state.phase, 'fenced');
  const effects = bench.hear({ type: 'unprotected' });
  assert.equal(effects.filter((w) => !w.startsWith('cancel')), ['start-vm', 'gate pass', 'hang-up', 'timer retry 1000', 'persist primary 4 true']);
  assert.is(bench.state.phase, 'active-alone');
});

test('a fenced primary waits while the peer is taking over', () => {
  const bench = fenced();
  assert.equal(bench.hear(hello({ phase: 'taking-over', active: true, generation: 4 })), []);
  assert.is(bench.state.phase, 'fenced');
  bench.hear(hello({ phase: 'active-alone', role: 'primary', active: true, generation: 5 }));
  assert.is(bench.state.role, 'secondary');
});

test('a fenced primary gives way to a peer that has taken over', () => {
  const bench = fenced();
  const effects = bench.hear(hello({ phase: 'active-alone', role: 'primary', active: true, generation: 5 }));
  assert.equal(effects.filter((w) => !w.startsWith('cancel')), ['gate closed', 'discard', 'destroy-vm', 'send greeting', 'persist secondary 5 false']);
  assert.is(bench.state.role, 'secondary');
  assert.is(bench.state.phase, 'alone');
  assert.is(bench.sent('greeting').active, false);
  assert.is(bench.state.generation, 5);
});

test('a fenced primary is not moved by refusals, lost sessions or unreached peers', () => {
  const bench = fenced();
  assert.equal(bench.hear({ type: 'refuse', code: 'X', reason: 'no' }), []);
  assert.equal(bench.on({ type: 'peer-lost', reason: 'silence' }), ['timer retry 1000']);
  for (const sign of ['absent', 'refused', 'silent'] as const) {
    assert.equal(bench.on({ type: 'peer-unreached', sign, reason: 'r' }), ['timer retry 1000']);
  }
  assert.equal(bench.on({ type: 'timer', name: 'retry' }), ['dial']);
  assert.is(bench.state.phase, 'fenced');
});

test('an operator can end the fencing, in a generation of its own', () => {
  const bench = fenced();
  assert.equal(bench.on({ type: 'command', command: 'start-alone' }), [
    'discard', 'start-vm', 'gate pass', 'announce', 'timer retry 1000', 'send greeting', 'hang-up', 'persist primary 5 true',
  ], 'whether it can be remembered or not');
  assert.is(bench.state.phase, 'active-alone');
  const other = primaryAt('protected');
  assert.equal(other.on({ type: 'command', command: 'start-alone' }), [], 'nothing to decide');
});

test('both greet as soon as they are connected', () => {
  assert.equal(primaryAt('alone').on({ type: 'peer-up' }), ['send greeting']);
  assert.equal(secondaryAt('alone').on({ type: 'peer-up' }), ['send greeting']);
});

test('a primary offers its VM to an idle peer', () => {
  const bench = primaryAt('alone');
  assert.equal(bench.hear(hello()), ['send offer', 'timer sync-timeout 60000']);
  assert.equal(bench.sent('offer'), { type: 'offer', generation: 0, vmDigest: 'digest', vmSummary: 'a VM' });
  assert.equal(bench.hear(hello()), [], 'once');
});

test('a secondary prepares an empty VM, says so, and the primary starts copying', () => {
  const secondary = secondaryAt('alone');
  assert.equal(secondary.hear({ type: 'offer', generation: 7, vmDigest: 'digest', vmSummary: '' }), ['gate closed', 'start-incoming-vm']);
  assert.is(secondary.state.generation, 7);
  assert.equal(secondary.on({ type: 'vm-listening' }), ['send ready']);
  assert.is(secondary.state.phase, 'syncing');
  assert.equal(primaryAt('pairing').hear({ type: 'ready' }), ['migrate']);
});

test('a different VM is refused, with both descriptions', () => {
  const bench = secondaryAt('alone');
  assert.equal(bench.hear({ type: 'offer', generation: 0, vmDigest: 'other', vmSummary: 'another VM' }), ['send refuse']);
  const { code, reason } = bench.sent('refuse');
  assert.is(code, 'VM_DIFFERS');
  assert.match(reason, /another VM.*a VM/);
  assert.is(bench.state.phase, 'alone');
});

test('a busy host refuses', () => {
  for (const phase of ['pairing', 'syncing', 'protected', 'taking-over'] as const) {
    const bench = secondaryAt(phase);
    assert.equal(bench.hear({ type: 'offer', generation: 0, vmDigest: 'digest', vmSummary: '' }), ['send refuse'], phase);
    assert.is(bench.sent('refuse').code, 'NOT_IDLE');
    assert.is(bench.state.phase, phase);
  }
  assert.equal(primaryAt('alone').hear({ type: 'offer', generation: 0, vmDigest: 'digest', vmSummary: '' }), ['send refuse']);
});

test('a refused primary goes on as before and tries again later', () => {
  const bench = primaryAt('pairing');
  const effects = bench.hear({ type: 'refuse', code: 'VM_DIFFERS', reason: 'another VM' });
  assert.equal(effects.filter((w) => !w.startsWith('cancel')), ['gate pass', 'hang-up', 'timer retry 1000', 'persist primary 0 true']);
  assert.is(bench.state.phase, 'alone');
  assert.equal(bench.notes, ['VM_DIFFERS']);
  assert.equal(bench.on({ type: 'timer', name: 'retry' }), ['dial']);
});

test('an unreachable peer is tried again', () => {
  const bench = primaryAt('alone');
  assert.equal(bench.on({ type: 'peer-unreached', sign: 'silent', reason: 'r' }), ['timer retry 1000']);
  assert.is(bench.state.phase, 'alone');
});

test('a secondary never dials', () => {
  const bench = secondaryAt('alone');
  assert.equal(bench.on({ type: 'peer-lost', reason: 'r' }), []);
  assert.equal(bench.on({ type: 'timer', name: 'retry' }), []);
});

test('two primaries of one generation are a mistake that is named, and looked at again until it is mended', () => {
  const bench = primaryAt('alone');
  bench.on({ type: 'peer-up' });
  assert.equal(bench.hear(hello({ role: 'primary', active: true })), ['hang-up', 'timer retry 1000']);
  assert.equal(bench.notes, ['TWO_PRIMARIES']);
  assert.equal(bench.on({ type: 'timer', name: 'retry' }), ['dial']);
  bench.on({ type: 'peer-up' });
  assert.ok(bench.hear(hello()).includes('send offer'));
});

test('of two active hosts the lower generation gives way, the higher one waits for it', () => {
  const low = primaryAt('alone');
  assert.ok(low.hear(hello({ role: 'primary', active: true, generation: 1 })).includes('destroy-vm'));
  const high = primaryAt('alone');
  high.state = { ...high.state, generation: 2 };
  assert.equal(high.hear(hello({ role: 'primary', active: true, generation: 1 })), []);
  assert.equal(high.hear(hello({ generation: 2 })), ['send offer', 'timer sync-timeout 60000'], 'it has stepped down');
});

test('a secondary is not moved by its primary\'s generation', () => {
  const bench = secondaryAt('alone');
  assert.equal(bench.hear(hello({ role: 'primary', active: true, generation: 9 })), []);
});

test('words out of turn change nothing', () => {
  const secondary = secondaryAt('alone');
  for (const message of [{ type: 'ready' }, { type: 'protected', generation: 0, term: 2 }, { type: 'unprotected' }] as const) {
    assert.equal(secondary.hear(message), []);
    assert.is(secondary.state.phase, 'alone');
  }
  for (const phase of ['alone', 'pairing', 'syncing', 'protected'] as const) {
    const bench = primaryAt(phase);
    for (const message of [{ type: 'unprotect', reason: '' }, { type: 'unprotected' }, { type: 'protected', generation: 9, term: 2 }, { type: 'take-over', reason: '' }] as const) {
      assert.equal(bench.hear(message), [], `${message.type} in ${phase}`);
      assert.is(bench.state.phase, phase);
    }
  }
  assert.equal(primaryAt('protected').hear({ type: 'ready' }), []);
  assert.equal(primaryAt('protected').on({ type: 'colo-entered' }), []);
  assert.equal(primaryAt('alone').on({ type: 'vm-listening' }), []);
});

test('a second protection starts from nothing: its commits count anew', () => {
  const bench = primaryAt('protected');
  assert.is(bench.state.commits, 1);
  bench.on({ type: 'colo-exit', reason: 'error' });
  bench.hear({ type: 'unprotected' });
  bench.hear(hello());
  bench.hear({ type: 'ready' });
  bench.on({ type: 'colo-entered' });
  assert.is(bench.state.commits, 0);
  assert.ok(commit(bench).includes('send protected'));
});

test.run();
