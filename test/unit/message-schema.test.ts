/** What a peer says is checked before anything is done with it. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { parseMessage } from '../../src/agent/message-schema.js';

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
  ['a message that nobody knows', { type: 'log-flowers' }],
  ['no message', null],
];
for (const [what, message] of wrong) {
  test(`refused: ${what}`, () => assert.throws(() => parseMessage(message)));
}

test.run();
