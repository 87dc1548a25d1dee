/** What the monitor knows after what it has observed, and what it says of it. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { parseNews, parseStatus } from '../../src/tui/observation.js';
import { eventLines, eventsFrom, viewOf, type View } from '../../src/tui/view.js';
import type { Model } from '../../src/tui/model.js';
import { after, healthyPair, saw, secondaryStatus, status, t0 } from './tui-support.js';

const at = (model: Model, ms: number, selected?: string): View => viewOf(model, t0 + ms, 2000, selected);
const texts = (model: Model): string[] => model.events.map(({ source, text }) => `${source}: ${text}`);
const figure = (view: View, panel: 'checkpoints' | 'output', label: string): string | undefined =>
  view.subject?.[panel].find(([name]) => name === label)?.[1];

test('before any answer: it waits, and says why', () => {
  assert.equal(at(after(), 0).verdict, { word: 'WAITING', tone: 'warn', text: 'no agent has answered yet' });
  const view = at(after(saw.gone('a', 0, 'none listens there')), 10);
  assert.is(view.verdict.text, 'none listens there');
  assert.is(view.subject, undefined);
  assert.is(view.target, undefined);
  assert.equal(view.remarks, []);
});

test('a protected pair: who can take over, how far behind, what a loss would cost', () => {
  const view = at(after(...healthyPair()), 1007);
  assert.equal(view.verdict, { word: 'PROTECTED', tone: 'good', text: 'b can take over from a, 30 ms behind.' });
  assert.equal(view.remarks, [{ label: 'If a is lost:', tone: 'plain', texts: [
    'b goes on from 30 ms ago; nothing clients were told is lost.',
    '12 packets (4.3 KiB) would go; TCP sends again.',
  ] }]);
  assert.equal(view.hosts.map(({ host, isActive, role, peer, roundTrip, vm }) => [host, isActive, role, peer, roundTrip, vm]), [
    ['a', true, 'primary', 'b 34 ms ago', '0.3 ms', 'guest tcg'],
    ['b', false, 'secondary', 'a 12 ms ago', '0.4 ms', 'guest tcg, silent'],
  ]);
  assert.is(figure(view, 'checkpoints', 'pause'), 'p50 9.8 ms, p99 14.2 ms');
  assert.is(figure(view, 'checkpoints', 'rate'), '2.0/s');
  assert.is(figure(view, 'output', 'held now'), '12, 4.3 KiB, for 12.1 ms');
  assert.is(figure(view, 'output', 'released'), '1000, 100/s');
  assert.is(figure(view, 'output', 'dropped'), '0');
  assert.equal(view.subject?.pausesMs.slice(-3), [undefined, 30, undefined], 'the longest pause of each second');
});

test('the lease: of the pair, or of a witness, and who cannot reach it', () => {
  assert.is(at(after(...healthyPair()), 1007).lease, 'lease 300 ms, of the pair itself');
  const witness = { address: '10.0.0.9:7751', reachable: true };
  const deaf = { ...witness, reachable: false };
  assert.is(at(after(saw.status('a', 0, status({ witness }))), 0).lease, 'lease 300 ms, of the witness at 10.0.0.9:7751');
  assert.is(at(after(saw.status('a', 0, status({ witness })), saw.status('b', 0, secondaryStatus({ witness: deaf }))), 0).lease,
    'lease 300 ms, of the witness at 10.0.0.9:7751, which b cannot reach');
});

test('the view of one agent only: its secondary, or its primary, is named by the other', () => {
  assert.is(at(after(saw.status('a', 0)), 0).verdict.text, 'b can take over from a, 23 ms behind.');
  const view = at(after(saw.status('b', 0, secondaryStatus())), 0);
  assert.is(view.verdict.text, 'b can take over from a.');
  assert.equal(view.remarks, [], 'what waits at a is not known');
  assert.equal(view.target, { source: 'b', host: 'b', from: 'a', to: 'b', protection: 'on' });
});

test('unprotected, fenced, taking over: none of them is called protected', () => {
  const alone = status({ phase: 'active-alone', protected: false, reason: 'b is lost', peer: null });
  const view = at(after(saw.status('a', 0, alone)), 0);
  assert.equal(view.verdict, { word: 'NOT PROTECTED', tone: 'warn', text: 'a runs the VM, active-alone.' });
  assert.equal(view.remarks, [
    { label: 'Why:', texts: ['b is lost'], tone: 'warn' },
    { label: 'If a is lost:', texts: ['the VM and its connections are lost with it.'], tone: 'bad' },
  ]);
  const fenced = status({ phase: 'fenced', protected: false, active: false, reason: 'it slept' });
  const silent = at(after(saw.status('a', 0, fenced)), 0);
  assert.equal(silent.verdict, { word: 'NOT PROTECTED', tone: 'bad', text: 'No host is known to run the VM; a is primary, fenced.' });
  assert.equal(silent.remarks, [{ label: 'Why:', texts: ['it slept'], tone: 'warn' }]);
  const taking = secondaryStatus({ phase: 'taking-over', protected: false });
  assert.is(at(after(saw.status('b', 0, taking)), 0).verdict.word, 'TAKING OVER');
});

test('a phase from a newer agent is shown as it is', () => {
  const view = at(after(saw.status('a', 0, status({ phase: 'dreaming', protected: false, reason: 'of sheep' }))), 0);
  assert.is(view.hosts[0]?.phase, 'dreaming');
  assert.is(view.verdict.text, 'a runs the VM, dreaming.');
});

test('two speakers: only when both have said so after the later one began', () => {
  const speaking = (host: string): Record<string, unknown> => status({ host, phase: 'active-alone', protected: false });
  const moved = [saw.status('a', 0, speaking('a')), saw.status('b', 500, speaking('b'))];
  assert.is(at(after(...moved), 500).verdict.word, 'NOT PROTECTED', 'what a said is older than the takeover may be');
  const both = [...moved, saw.status('a', 1000, speaking('a')), saw.status('b', 1000, speaking('b'))];
  assert.is(at(after(...both), 1000).verdict.word, 'TWO SPEAK');
});

test('dozens of checkpoints are no changes of phase; one that hangs is', () => {
  const flicker = Array.from({ length: 20 }, (_, i) => saw.phase('a', 10 * i, 'primary', i % 2 === 0 ? 'checkpointing' : 'protected'));
  assert.equal(after(saw.status('a', 0), ...flicker).events, []);
  const hanging = after(saw.status('a', 0), saw.phase('a', 10, 'primary', 'checkpointing'));
  assert.is(at(hanging, 500).hosts[0]?.phase, 'protected');
  assert.is(at(hanging, 1500).hosts[0]?.phase, 'checkpointing');
});

test('a takeover: events, and how long it took by the clock of the host', () => {
  const model = after(
    saw.status('b', 0, secondaryStatus()), saw.phase('b', 500, 'secondary', 'taking-over', 7000.5), saw.phase('b', 500, 'primary', 'active-alone', 7012.8),
    saw.status('b', 1000, status({ host: 'b', pid: 101, peer: { host: 'a', rttUs: null, silentMs: 1 } })),
  );
  assert.equal(texts(model), ['b: Now secondary, taking-over.', 'b: Now primary, active-alone.', 'b: Now primary, protected.']);
  assert.match(at(model, 1000).remarks[0]?.texts[1] ?? '', /Taking over took b 12 ms last time/);
});

test('an agent that goes and comes back: told once each, however often it is tried', () => {
  const gone = after(...healthyPair(), saw.gone('a', 1500), saw.gone('a', 2000), saw.gone('a', 3000));
  assert.equal(texts(gone), ['a: The agent does not answer any more: it has ended.']);
  const both = [...healthyPair(), saw.gone('a', 1500), saw.gone('b', 1500)];
  const view = at(after(...both), 13_000);
  assert.equal(view.verdict, { word: 'NO ANSWER', tone: 'bad', text: 'What is shown was true 12 s ago.' });
  assert.is(view.hosts[0]?.stale, '12 s old');
  assert.is(view.subject?.stale, '12 s old');
  assert.equal(view.remarks, [], 'nobody knows what a loss would cost now');
  assert.is(view.target, undefined);
  const back = after(...both, saw.status('a', 14_000, status({ pid: 999, output: { releasedPackets: 3 } })));
  assert.is(texts(back).at(-1), 'a: The agent answers again, as process 999.');
  assert.is(at(back, 14_000).hosts[0]?.stale, undefined);
  assert.is(figure(at(back, 14_000), 'output', 'released'), '3', 'counters of another process give no rate');
});

test('an agent that hangs: its status grows old without any word', () => {
  const view = at(after(saw.status('a', 0)), 2100);
  assert.is(view.verdict.word, 'NO ANSWER');
  assert.is(at(after(saw.status('a', 0)), 1900).verdict.word, 'PROTECTED');
});

test('events that repeat are counted, are bounded, and can be filtered', () => {
  const repeated = after(saw.note('a', 0, 'warn', 'x'), saw.note('b', 1, 'warn', 'y'), saw.note('a', 2, 'warn', 'x'), saw.note('b', 3, 'info', 'z'));
  assert.equal(repeated.events.map(({ text, count }) => [text, count]), [['y', 1], ['x', 2], ['z', 1]]);
  assert.equal(eventsFrom(repeated.events, 'warn').map(({ text }) => text), ['y', 'x']);
  assert.equal(eventsFrom(repeated.events, 'error'), []);
  const many = after(...Array.from({ length: 700 }, (_, i) => saw.note('a', i, 'info', `event ${i}`)));
  assert.is(many.events.length, 500);
  assert.is(many.events.at(-1)?.text, 'event 699');
});

test('lines of events: the newest that fit, wrapped between words, scrolled', () => {
  const { events } = after(saw.note('a', 0, 'info', 'first'), saw.note('a', 1, 'error', 'one two three four five six'), saw.note('a', 2, 'info', 'last'));
  const lines = (height: number, back: number): string[] => eventLines(events, 37, height, back).map(({ text }) => text);
  assert.equal(lines(10, 0), ['first', 'one two three four', 'five six', 'last']);
  assert.equal(lines(2, 0), ['one two three four', 'last']);
  assert.equal(lines(10, 2), ['first']);
});

test('Tab looks at the other host, also while its VM is silent', () => {
  const view = at(after(...healthyPair()), 1007, 'b');
  assert.is(view.subject?.host, 'b');
  assert.is(figure(view, 'output', 'gate'), 'closed, nothing leaves');
  assert.is(view.target?.source, 'a', 'commands still go to the active one');
});

test('what an agent says is checked and made harmless', () => {
  assert.throws(() => parseStatus({ ...status(), generation: 'three' }), /^generation is not what it should be/);
  assert.throws(() => parseStatus(null), /^it is not what it should be/);
  assert.throws(() => parseStatus({ ...status(), output: {} }), /^output\.mode is not/);
  assert.is(parseStatus({ ...status(), host: '\x1b]0;owned\x07\x1b[2Ja\u202eb\u0000c\u{1f600}' }).host, '?]0;owned??[2Ja?b?c?');
  assert.is(parseStatus({ ...status(), reason: 'x'.repeat(1e6) }).reason.length, 600);
  assert.is(parseNews({ event: 'something new' }), undefined);
});

test.run();
