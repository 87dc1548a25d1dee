/** What a peer says is checked before anything is done with it. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { unseenInputs } from '../../src/agent/input-replication.js';
import { parseMessage } from '../../src/agent/message-schema.js';
import { isLogMessageTo } from '../../src/protocol/messages.js';

const flow = { key: '0f'.repeat(40), seqDelta: 0xffff_ffff, tsDelta: 0 };
const flows = { type: 'log-flows', first: true, tsOffset: 5, flows: [flow] };

test('translations of connections', () => {
  assert.equal(parseMessage(flows), flows);
  assert.equal(parseMessage({ ...flows, flows: [] }), { ...flows, flows: [] });
  assert.equal(parseMessage({ ...flows, flows: Array(256).fill(flow) }), { ...flows, flows: Array(256).fill(flow) });
});

const wrong: [what: string, message: unknown][] = [
  ['more than a message may hold', { ...flows, flows: Array(257).fill(flow) }],
  ['a key that is too short', { ...flows, flows: [{ ...flow, key: flow.key.slice(2) }] }],
  ['a key that is no number', { ...flows, flows: [{ ...flow, key: `${flow.key.slice(1)}g` }] }],
  ['a number of more than 32 bits', { ...flows, flows: [{ ...flow, seqDelta: 2 ** 32 }] }],
  ['a negative number', { ...flows, flows: [{ ...flow, tsDelta: -1 }] }],
  ['a fraction', { ...flows, tsOffset: 0.5 }],
  ['something unknown beside', { ...flows, more: 1 }],
  ['a part without its place', { type: 'log-flows', tsOffset: 0, flows: [] }],
  ['a log that begins before the first input', { type: 'log-begin', epoch: '1'.repeat(16), nextInput: 0 }],
  ['a wish without the ports that were caught', { type: 'secondary-wish', active: true, forward: 'all' }],
  ['a port that is none', { type: 'secondary-wish', active: true, forward: 'all', caught: [65_536] }],
  ['a message that nobody knows', { type: 'log-flowers' }],
  ['no message', null],
];
for (const [what, message] of wrong) {
  test(`refused: ${what}`, () => assert.throws(() => parseMessage(message)));
}

test('what a primary says of the log is for a secondary, and the other way round', () => {
  const mark = { type: 'log-mark', checkpoint: 1, readInput: 5, round: 0 } as const;
  const marked = { type: 'log-marked', checkpoint: 1, active: false } as const;
  assert.equal([isLogMessageTo('secondary', mark), isLogMessageTo('primary', mark)], [true, false]);
  assert.equal([isLogMessageTo('secondary', marked), isLogMessageTo('primary', marked)], [false, true]);
});

test('inputs that the guest may not have seen: those since the checkpoint before, but never many, nor less than none', () => {
  assert.equal([10n, 11n, 12n, 13n, 1000n].map((readInput) => unseenInputs(readInput, 10n)), [0, 1, 2, 2, 2]);
  assert.is(unseenInputs(7n, 10n), 0, 'what had waited in the tap when the log began is read first');
});

test.run();
