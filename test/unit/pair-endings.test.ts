/** How protection ends, and who may speak then. */

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { greeting, isActive, isProtected } from '../../src/protocol/pair.js';
import { Bench, hello, ns, primaryAt, secondaryAt } from './pair-bench.js';

const lost = { type: 'peer-lost', reason: 'silence' } as const;
const withoutTimers = (words: string[]): string[] => words.filter((word) => !word.startsWith('cancel'));

const unwritten = { type: 'failed', what: 'persist', reason: 'ENOSPC' } as const;
const writeAgain = { type: 'timer', name: 'persist' } as const;

/** A primary whose secondary has just gone silent. */
function asking(): Bench {
  const bench = primaryAt('protected');
  bench.sleep(310).on(lost);
  return bench;
}

// ---- the primary loses its secondary ----------------------------------------

test('a primary that loses its secondary lets the VM run on unheard, and asks', () => {
  const bench = primaryAt('checkpointing');
  assert.equal(withoutTimers(bench.sleep(310).on(lost)), ['drop-secondary', 'timer ask 100', 'dial']);
  assert.is(bench.state.phase, 'parting');
  assert.not(isActive(bench.state));
  assert.not(isProtected(bench.state));
});

test('it goes on at once if no agent is there', () => {
  const bench = asking();
  const effects = withoutTimers(bench.on({ type: 'peer-unreached', sign: 'absent', reason: 'refused' }));
  assert.equal(effects, ['gate pass', 'release-all', 'hang-up', 'timer retry 1000', 'persist primary 0 true'], 'heard before it is released');
  assert.is(bench.state.phase, 'active-alone');
});

test('it goes on when no answer of any kind came in time', () => {
  const bench = asking();
  assert.equal(bench.on({ type: 'peer-unreached', sign: 'silent', reason: 'r' }), []);
  for (let round = 1; round < 10; round++) assert.equal(bench.sleep(100).on({ type: 'timer', name: 'ask' }), ['timer ask 100', 'dial']);
  assert.is(bench.state.phase, 'parting');
  assert.ok(bench.sleep(100).on({ type: 'timer', name: 'ask' }).includes('gate pass'));
});

test('time in which it slept does not count as time in which it asked', () => {
  const bench = asking();
  for (let round = 1; round < 10; round++) bench.sleep(100).on({ type: 'timer', name: 'ask' });
  assert.equal(bench.sleep(250).on({ type: 'timer', name: 'ask' }), ['timer ask 100', 'dial'], 'it asks anew');
  for (let round = 1; round < 4; round++) bench.sleep(100).on({ type: 'timer', name: 'ask' });
  assert.is(bench.state.phase, 'parting');
  bench.sleep(200).on({ type: 'timer', name: 'ask' });
  assert.is(bench.state.phase, 'fenced', 'too much has been missed');
});

test('a secondary that refuses lives, and decides', () => {
  const bench = asking();
  assert.ok(bench.on({ type: 'peer-unreached', sign: 'refused', reason: 'not now' }).includes('gate closed'));
  assert.is(bench.state.phase, 'fenced');
  assert.equal(bench.on({ type: 'timer', name: 'ask' }), []);
  bench.on({ type: 'peer-up' });
  bench.hear(hello({ role: 'primary', phase: 'active-alone', active: true, generation: 1 }));
  assert.is(bench.state.role, 'secondary');
});

test('one that answers is waited for', () => {
  const bench = asking();
  assert.equal(bench.on({ type: 'peer-up' }), ['cancel ask', 'send greeting']);
  assert.equal(bench.hear(hello({ phase: 'alone' })), ['send unprotect']);
  assert.is(bench.state.phase, 'parting');
  assert.ok(bench.hear({ type: 'unprotected' }).includes('gate pass'));
});

test('the pulse of one that was lost renews no lease, its word does', () => {
  const bench = asking();
  bench.on({ type: 'peer-up' });
  assert.equal(bench.on({ type: 'heartbeat-acked', sentNs: ns(bench.nowMs) }), []);
  bench.hear(hello());
  bench.hear({ type: 'unprotected' });
  assert.equal(bench.on({ type: 'heartbeat-acked', sentNs: ns(bench.nowMs) }), [`lease ${ns(bench.nowMs + 300)}`]);
});

test('one that is taking over is left to it', () => {
  const bench = asking();
  bench.on({ type: 'peer-up' });
  assert.ok(bench.hear(hello({ phase: 'taking-over', active: true })).includes('gate closed'));
  assert.is(bench.state.phase, 'fenced');
  assert.ok(bench.state.holding, 'what is held may still be needed');
  bench.hear(hello({ phase: 'alone' }));
  assert.ok(bench.hear({ type: 'unprotected' }).includes('release-all'), 'the takeover failed: this host goes on');
});

test('a primary that slept through its lease and more does not decide by itself', () => {
  const bench = primaryAt('protected');
  const effects = bench.sleep(900).on(lost);
  assert.equal(withoutTimers(effects), ['gate closed', 'dial']);
  assert.is(bench.state.phase, 'fenced');
  for (const sign of ['absent', 'silent', 'refused'] as const) bench.on({ type: 'peer-unreached', sign, reason: 'r' });
  assert.is(bench.state.phase, 'fenced');
});

test('before the first commit nobody can take over: the primary just goes on', () => {
  for (const phase of ['pairing', 'syncing'] as const) {
    const bench = primaryAt(phase);
    const effects = withoutTimers(bench.sleep(5000).on(lost));
    assert.equal(effects, [...phase === 'syncing' ? ['drop-secondary'] : [], 'gate pass', 'hang-up', 'timer retry 1000', 'persist primary 0 true']);
  }
  const holding = primaryAt('syncing');
  holding.on({ type: 'colo-entered' });
  assert.ok(holding.on(lost).includes('release-all'));
});

test('a secondary that gave up its VM frees the primary at once', () => {
  const bench = primaryAt('checkpointing');
  assert.equal(withoutTimers(bench.hear({ type: 'refuse', code: 'VM_EXITED', reason: 'its QEMU died' })),
    ['drop-secondary', 'gate pass', 'release-all', 'hang-up', 'timer retry 1000', 'persist primary 0 true']);
  assert.is(bench.state.phase, 'active-alone');
});

// ---- something between the two breaks ---------------------------------------

const breakages = {
  'COLO_EXIT': { type: 'colo-exit', reason: 'error' },
  'CHECKPOINT_TIMEOUT': { type: 'timer', name: 'checkpoint-timeout' },
  'FAILED': { type: 'failed', what: 'The checkpoint relay', reason: 'it broke' },
} as const;

for (const [code, event] of Object.entries(breakages)) {
  test(`${code}: nothing is released before the secondary has given up`, () => {
    const bench = primaryAt('checkpointing');
    assert.equal(withoutTimers(bench.on(event)), ['drop-secondary']);
    assert.ok(bench.notes.includes(code));
    assert.is(bench.state.phase, 'parting');
    assert.equal(bench.on({ type: 'secondary-dropped' }), ['send unprotect'], 'its copy is needed until ours is seen to run');
    assert.equal(bench.on({ type: 'vm-resumed', receivedNs: ns(bench.nowMs) }), [], 'no commit any more');
    assert.equal(bench.on({ type: 'colo-exit', reason: 'error' }), [], 'once');
    const effects = withoutTimers(bench.hear({ type: 'unprotected' }));
    assert.equal(effects, ['gate pass', 'release-all', 'hang-up', 'timer retry 1000', 'persist primary 0 true']);
  });
}

test('copying that takes too long ends the pairing', () => {
  const early = primaryAt('pairing');
  assert.equal(withoutTimers(early.on({ type: 'timer', name: 'sync-timeout' })), ['send unprotect']);
  assert.equal(early.notes, ['SYNC_TIMEOUT']);
  const late = primaryAt('syncing');
  assert.equal(withoutTimers(late.on({ type: 'timer', name: 'sync-timeout' })), ['drop-secondary']);
  assert.equal(late.on({ type: 'drop-failed', reason: 'no answer' }), ['send unprotect'], 'the secondary has nothing to take over');
});

test('what broke may have been the death of our own VM: then the secondary takes over', () => {
  for (const event of [{ type: 'drop-failed', reason: 'no QEMU' }, { type: 'vm-exited', clean: false, reason: 'killed' }] as const) {
    const bench = primaryAt('checkpointing');
    bench.on(breakages.FAILED);
    assert.equal(withoutTimers(bench.on(event)), ['gate closed', 'send take-over'], event.type);
    assert.is(bench.state.phase, 'fenced');
  }
});

test('a secondary that vanishes while it is asked to give up is asked about like any other', () => {
  const bench = primaryAt('parting');
  assert.equal(withoutTimers(bench.sleep(310).on(lost)), ['timer ask 100', 'dial']);
  assert.is(bench.state.phase, 'parting');
});

test('the secondary gives up when told so, whatever it is doing, and says it', () => {
  for (const phase of ['alone', 'pairing', 'syncing', 'protected', 'fenced'] as const) {
    const bench = secondaryAt(phase);
    assert.equal(bench.hear({ type: 'unprotect', reason: 'r' }), ['gate closed', 'destroy-vm', 'send unprotected'], phase);
    assert.is(bench.state.phase, 'alone');
  }
  assert.equal(secondaryAt('taking-over').hear({ type: 'unprotect', reason: 'r' }), [], 'too late');
});

test('a secondary whose preparations fail says so', () => {
  for (const phase of ['pairing', 'syncing'] as const) {
    const bench = secondaryAt(phase);
    assert.equal(bench.on({ type: 'failed', what: 'Preparing', reason: 'no memory' }), ['gate closed', 'destroy-vm', 'send refuse']);
    assert.match(bench.sent('refuse').reason, 'no memory');
  }
  const ready = secondaryAt('protected');
  assert.equal(ready.on({ type: 'failed', what: 'The checkpoint relay', reason: 'r' }), [], 'its last commit is as good as ever');
  assert.equal(ready.on({ type: 'colo-exit', reason: 'error' }), []);
  assert.is(ready.state.phase, 'protected');
});

test('reasons are cut to what a message may hold', () => {
  const bench = primaryAt('protected');
  bench.on({ type: 'colo-exit', reason: 'x'.repeat(100_000) });
  bench.on({ type: 'secondary-dropped' });
  assert.ok(bench.sent('unprotect').reason.length <= 500);
});

test('what cannot be remembered is not promised', () => {
  const bench = primaryAt('protected'); // the agent leaves out what follows a failed effect
  assert.equal(withoutTimers(bench.on(unwritten)), ['timer persist 1000', 'drop-secondary']);
  bench.hear({ type: 'unprotected' });
  assert.equal(bench.on({ type: 'failed', what: 'Announcing', reason: 'r' }), []);
  assert.equal(bench.notes, ['FAILED']);
});

// ---- takeover ---------------------------------------------------------------

test('a protected secondary takes over when its primary is lost', () => {
  const bench = secondaryAt('protected');
  assert.equal(bench.sleep(400).on(lost), ['take-over-vm']);
  assert.is(bench.state.phase, 'taking-over');
  assert.ok(greeting(bench.state, bench.config).active);
  assert.equal(bench.on({ type: 'took-over' }), ['persist primary 4 true', 'gate pass', 'announce', 'timer retry 1000', 'send greeting']);
  assert.is(bench.state.role, 'primary');
  assert.is(bench.sent('greeting').generation, 4);
  assert.equal(bench.on({ type: 'took-over' }), [], 'once');
});

test('it is heard even if that cannot be remembered', () => {
  const bench = secondaryAt('taking-over');
  bench.on({ type: 'took-over' });
  assert.ok(bench.on(unwritten).includes('gate pass'));
});

test('what could not be remembered is written again and again until it is, while the VM speaks', () => {
  const bench = secondaryAt('taking-over');
  bench.on({ type: 'took-over' });
  assert.ok(bench.on(unwritten).includes('timer persist 1000'));
  assert.equal(bench.notes, ['NOT_REMEMBERED']);
  for (let round = 1; round < 3; round++) {
    assert.equal(bench.on(writeAgain), ['persist primary 4 true']);
    assert.equal(bench.on(unwritten), ['timer persist 1000'], 'it speaks already, and goes on looking for its peer');
    assert.equal(bench.notes, ['NOT_REMEMBERED']);
  }
  bench.on(writeAgain);
  assert.equal(bench.notes, ['REMEMBERED'], 'left out if what precedes it fails');
});

test('a host that steps down does not forget it either', () => {
  const bench = primaryAt('alone');
  bench.hear(hello({ role: 'primary', phase: 'active-alone', active: true, generation: 5 }));
  assert.equal(bench.on(unwritten), ['timer persist 1000']);
  bench.hear({ type: 'offer', generation: 5, vmDigest: 'digest', vmSummary: 'a VM' });
  assert.equal(bench.on(writeAgain), ['persist secondary 5 false']);
  assert.equal(bench.on(unwritten), ['timer persist 1000']);
  assert.is(bench.state.phase, 'pairing', 'that it failed before does not concern the new protection');
});

test('what is remembered since is not written again', () => {
  const bench = secondaryAt('taking-over');
  bench.on({ type: 'took-over' });
  bench.on(unwritten);
  bench.hear(hello({ role: 'primary', phase: 'active-alone', active: true, generation: 5 })); // writes that it has stepped down
  assert.equal(bench.on(writeAgain), []);
});

test('without `protected` nobody takes over', () => {
  for (const phase of ['pairing', 'syncing'] as const) {
    const bench = secondaryAt(phase);
    assert.equal(bench.on(lost), ['gate closed', 'destroy-vm']);
    assert.is(bench.state.phase, 'alone');
  }
  assert.equal(secondaryAt('alone').on(lost), []);
});

test('a secondary that slept does not decide by itself, and keeps its VM', () => {
  const bench = secondaryAt('protected');
  assert.equal(withoutTimers(bench.sleep(810).on(lost)), ['gate closed']);
  assert.is(bench.state.phase, 'fenced');
  const told = secondaryAt('fenced');
  assert.equal(told.hear(hello({ role: 'primary', phase: 'active-alone', active: true, generation: 3 })), ['gate closed', 'destroy-vm']);
  assert.equal(secondaryAt('fenced').hear(hello({ role: 'primary', phase: 'fenced' })), [], 'neither knows');
  assert.equal(secondaryAt('fenced').hear({ type: 'offer', generation: 3, vmDigest: 'digest', vmSummary: '' }),
    ['gate closed', 'destroy-vm', 'gate closed', 'start-incoming-vm']);
  assert.equal(secondaryAt('fenced').on({ type: 'command', command: 'start-alone' }), ['take-over-vm']);
});

test('a failed takeover gives the VM up and tells the peer', () => {
  const bench = secondaryAt('taking-over');
  assert.equal(bench.on({ type: 'takeover-failed', reason: 'no answer' }), ['gate closed', 'destroy-vm', 'send greeting']);
  assert.not(bench.sent('greeting').active);
  const died = secondaryAt('taking-over');
  assert.equal(died.on({ type: 'vm-exited', clean: false, reason: 'killed' }), ['gate closed', 'destroy-vm', 'send greeting']);
  assert.equal(died.on({ type: 'took-over' }), []);
});

test('takeovers by word: only a protected secondary obeys, another one says what it is', () => {
  assert.equal(secondaryAt('protected').hear({ type: 'take-over', reason: 'r' }), ['take-over-vm']);
  for (const phase of ['alone', 'syncing'] as const) {
    assert.equal(secondaryAt(phase).hear({ type: 'take-over', reason: 'r' }), ['send greeting'], phase);
  }
});

test('two that are fenced: the one with a VM goes on, the newer before the copy', () => {
  for (const vmAlive of [true, false]) {
    const primary = new Bench();
    primary.on({ type: 'start', role: 'primary', generation: 3, term: 2, vmAlive, mayRunAlone: false });
    const secondary = secondaryAt('fenced');
    primary.on({ type: 'peer-up' });
    const words = withoutTimers(primary.hear(greeting(secondary.state, secondary.config)));
    if (vmAlive) {
      assert.equal(words, ['send unprotect']);
    } else {
      assert.equal(words, ['gate closed', 'send take-over']);
      assert.equal(secondary.hear(primary.sent('take-over')), ['take-over-vm']);
    }
  }
});

// ---- planned handover -------------------------------------------------------

test('a handover silences this host before the other is told', () => {
  const bench = primaryAt('checkpointing');
  assert.equal(withoutTimers(bench.on({ type: 'command', command: 'failover' })), ['gate closed', 'send take-over']);
  assert.is(bench.state.phase, 'fenced');
  assert.equal(bench.on({ type: 'vm-resumed', receivedNs: ns(bench.nowMs) }), [], 'no commit any more');
  const effects = bench.hear(hello({ role: 'primary', phase: 'active-alone', active: true, generation: 1 }));
  assert.ok(effects.includes('destroy-vm'));
  assert.is(bench.state.phase, 'alone');
});

test('a handover that fails is taken back', () => {
  const bench = primaryAt('protected');
  bench.on({ type: 'command', command: 'failover' });
  assert.equal(bench.hear(hello()), ['send unprotect']);
  assert.equal(withoutTimers(bench.hear({ type: 'unprotected' })).slice(0, 3), ['start-vm', 'gate pass', 'release-all']);
});

test('an operator at the secondary can ask for it', () => {
  assert.equal(secondaryAt('protected').on({ type: 'command', command: 'failover' }), ['send request-failover']);
  assert.ok(primaryAt('protected').hear({ type: 'request-failover' }).includes('send take-over'));
});

test('without protection there is no handover', () => {
  for (const phase of ['alone', 'pairing', 'syncing', 'parting'] as const) {
    const bench = primaryAt(phase);
    assert.equal(bench.on({ type: 'command', command: 'failover' }), []);
    assert.equal(bench.notes, ['NOT_PROTECTED']);
    assert.is(bench.state.phase, phase);
  }
});

// ---- QEMU ends --------------------------------------------------------------

test('the primary\'s QEMU dies: the secondary takes over', () => {
  const bench = primaryAt('checkpointing');
  assert.equal(withoutTimers(bench.on({ type: 'vm-exited', clean: false, reason: 'killed' })), ['gate closed', 'send take-over']);
});

test('the guest shuts down: both sides end it, and it is not started again by a peer that comes', () => {
  const bench = primaryAt('protected');
  assert.equal(withoutTimers(bench.on({ type: 'vm-exited', clean: true, reason: 'guest-shutdown' })), ['gate closed', 'send unprotect']);
  assert.is(bench.state.phase, 'ended');
  assert.equal(bench.hear({ type: 'unprotected' }), ['persist primary 0 true']);
  assert.equal(bench.hear(hello()), []);
  assert.equal(bench.on(lost), ['timer retry 1000']);
  assert.ok(bench.on({ type: 'command', command: 'start-alone' }).includes('start-vm'), 'an operator can');
});

test('an unprotected VM that dies is dead', () => {
  for (const phase of ['alone', 'pairing', 'syncing'] as const) {
    const bench = primaryAt(phase);
    assert.ok(bench.on({ type: 'vm-exited', clean: false, reason: 'killed' }).includes('gate closed'));
    assert.is(bench.state.phase, 'ended', phase);
  }
});

test('the secondary\'s QEMU dies: the primary is told', () => {
  for (const phase of ['pairing', 'syncing', 'protected'] as const) {
    const bench = secondaryAt(phase);
    assert.equal(bench.on({ type: 'vm-exited', clean: false, reason: 'killed' }), ['gate closed', 'destroy-vm', 'send refuse']);
  }
  assert.equal(secondaryAt('alone').on({ type: 'vm-exited', clean: false, reason: 'killed' }), []);
});

test('a secondary that loses its log gives its copy up, and takes no other', () => {
  const lostLog = { type: 'log-lost' } as const;
  for (const phase of ['pairing', 'syncing', 'protected'] as const) {
    const bench = secondaryAt(phase);
    assert.equal(bench.on(lostLog), ['gate closed', 'destroy-vm', 'send refuse']);
    assert.is(bench.sent('refuse').code, 'LOG_TAP_LOST');
    assert.equal(bench.hear({ type: 'offer', generation: 4, vmDigest: 'digest', vmSummary: 'a VM' }), ['send refuse']);
    assert.is(bench.state.phase, 'alone');
  }
  for (const bench of [secondaryAt('alone'), secondaryAt('fenced'), secondaryAt('taking-over'), primaryAt('protected')]) {
    const { phase } = bench.state;
    assert.equal(bench.on(lostLog), []);
    assert.is(bench.state.phase, phase);
  }
});

// ---- stop -------------------------------------------------------------------

const stop = { type: 'command', command: 'stop' } as const;

test('a protected primary that stops hands its VM over, and then has none to end', () => {
  const bench = primaryAt('protected');
  assert.equal(withoutTimers(bench.on(stop)), ['gate closed', 'send take-over']);
  bench.hear(hello({ role: 'primary', phase: 'active-alone', active: true, generation: 1 }));
  assert.is(bench.state.role, 'secondary');
  assert.not(bench.on(stop).includes('send unprotect'), 'the other host runs the VM: it is not told to give it up');
});

test('if nobody takes the VM it ends, and may run alone again only after the secondary gave up', () => {
  const bench = primaryAt('protected');
  bench.on(stop);
  const effects = withoutTimers(bench.on(stop));
  assert.equal(effects, ['gate closed', 'send unprotect', 'destroy-vm']);
  assert.not(effects.some((word) => word.startsWith('persist')));
  assert.equal(bench.hear({ type: 'unprotected' }), ['persist primary 0 true']);
});

test('a secondary that stops says so', () => {
  const bench = secondaryAt('protected');
  assert.equal(bench.on({ type: 'command', command: 'stop' }), ['gate closed', 'destroy-vm', 'send refuse']);
  assert.is(bench.state.phase, 'alone');
  assert.equal(bench.on(lost), []);
});

test.run();
