/** The pair with a witness: nobody goes on without the peer's word or the witness's. */

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { greeting, isActive } from '../../src/protocol/pair.js';
import { commit, hello, primaryAt, secondaryAt, type Bench } from './pair-bench.js';

const witness = { witness: true };
const lost = { type: 'peer-lost', reason: 'silence' } as const;
const verdict = (bench: Bench, granted: boolean) => ({ type: 'verdict', term: bench.state.term, granted, holder: granted ? 'self' : 'peer' }) as const;
const withoutTimers = (words: string[]): string[] => words.filter((word) => !/^(cancel|timer) /.test(word));

test('each time that protection begins is a term of its own, remembered and told before the first release', () => {
  const bench = primaryAt('syncing', witness);
  bench.live(100).on({ type: 'colo-entered' });
  const words = commit(bench).filter((word) => /^(persist|send protected|release)/.test(word));
  assert.match(words.join(), /^persist .*,send protected,release /);
  assert.is(bench.sent('protected').term, 1);
  assert.is((bench.effects.find(({ type }) => type === 'persist') as { term?: number }).term, 1);
  bench.hear({ type: 'refuse', code: 'X', reason: 'r' });
  bench.on({ type: 'peer-up' });
  bench.hear(hello());
  bench.hear({ type: 'ready' });
  bench.live(100).on({ type: 'colo-entered' });
  commit(bench);
  assert.is(bench.sent('protected').term, 2);
});

test('a secondary that loses its primary waits, silent, for the verdict', () => {
  const bench = secondaryAt('protected', witness);
  assert.equal(bench.sleep(310).on(lost), ['timer ask 100', 'claim']);
  assert.equal(bench.effects.find(({ type }) => type === 'claim'), { type: 'claim', term: 5 });
  assert.is(bench.state.phase, 'fenced');
  assert.not(greeting(bench.state, bench.config).active);
  assert.equal(bench.sleep(100).on({ type: 'timer', name: 'ask' }), ['timer ask 100', 'claim'], 'the witness may have been out of reach');
  assert.equal(withoutTimers(bench.on(verdict(bench, true))), ['take-over-vm']);
  assert.is(bench.state.phase, 'taking-over');
});

test('refused, it keeps its copy silent until the primary speaks', () => {
  const bench = secondaryAt('protected', witness);
  bench.sleep(310).on(lost);
  bench.on(verdict(bench, false));
  assert.is(bench.state.phase, 'fenced');
  assert.match(bench.state.reason, /the witness has let peer go on/);
  assert.equal(bench.on({ type: 'timer', name: 'ask' }), [], 'the verdict is final');
  assert.equal(bench.on(verdict(bench, true)), [], 'and another one would be a late one');
  bench.on({ type: 'peer-up' });
  assert.ok(bench.hear(hello({ role: 'primary', phase: 'active-alone', active: true })).includes('destroy-vm'));
});

test('a primary that loses its secondary is heard again only after the verdict', () => {
  const bench = primaryAt('protected', witness);
  assert.equal(withoutTimers(bench.sleep(310).on(lost)), ['drop-secondary', 'claim', 'dial']);
  assert.not(isActive(bench.state));
  for (let round = 0; round < 50; round++) {
    assert.equal(bench.sleep(100).on({ type: 'timer', name: 'ask' }), ['timer ask 100', 'claim', 'dial'], 'no time is long enough');
  }
  assert.equal(bench.on({ type: 'peer-unreached', sign: 'absent', reason: 'r' }), [], 'nor is a restarted agent a proof');
  assert.equal(bench.on({ type: 'peer-unreached', sign: 'refused', reason: 'r' }), []);
  assert.ok(bench.on(verdict(bench, true)).includes('gate pass'));
  assert.is(bench.state.phase, 'active-alone');
});

test('a primary that is refused stays silent, and gives its copy up when the other speaks', () => {
  const bench = primaryAt('protected', witness);
  bench.sleep(310).on(lost);
  assert.equal(withoutTimers(bench.on(verdict(bench, false))), ['gate closed', 'dial']);
  assert.is(bench.state.phase, 'fenced');
  bench.on({ type: 'peer-up' });
  bench.hear(hello({ role: 'primary', phase: 'active-alone', active: true, generation: 1 }));
  assert.is(bench.state.role, 'secondary');
});

test('a host that slept may ask as well: the witness knows no time', () => {
  const primary = primaryAt('protected', witness);
  primary.sleep(60_000).on(lost);
  assert.is(primary.state.phase, 'parting');
  const secondary = secondaryAt('protected', witness);
  assert.ok(secondary.sleep(60_000).on(lost).includes('claim'));
});

test('the word of the other comes before the verdict', () => {
  const secondary = secondaryAt('protected', witness);
  secondary.sleep(310).on(lost);
  const late = verdict(secondary, true);
  secondary.on({ type: 'peer-up' });
  assert.ok(secondary.hear({ type: 'unprotect', reason: 'the primary goes on alone' }).includes('send unprotected'));
  assert.equal(secondary.on(late), []);
  assert.equal(secondary.on({ type: 'timer', name: 'ask' }), []);
  assert.is(secondary.state.phase, 'alone');

  const primary = primaryAt('protected', witness);
  primary.sleep(310).on(lost);
  const its = verdict(primary, false);
  primary.on({ type: 'peer-up' });
  primary.hear(hello({ phase: 'fenced' }));
  primary.hear({ type: 'unprotected' });
  assert.is(primary.state.phase, 'active-alone');
  assert.equal(primary.on(its), []);
});

test('a verdict about another term is none', () => {
  const bench = secondaryAt('protected', witness);
  bench.sleep(310).on(lost);
  assert.equal(bench.on({ type: 'verdict', term: 4, granted: true, holder: 'self' }), []);
  assert.is(bench.state.phase, 'fenced');
});

test('without a secondary that may take over there is nothing to ask', () => {
  const bench = primaryAt('syncing', witness);
  assert.ok(bench.on(lost).includes('gate pass'));
});

test.run();
