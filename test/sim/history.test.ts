/** Histories that a server could have had, and such that none could. */

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { Operation } from './client.js';
import { judgeHistory } from './history.js';

let ids = 0;

function operation(op: Operation['op'], result: number | undefined, calledUs: number, answeredUs: number, key = 'a'): Operation {
  return { id: ++ids, client: 0, op, key, value: op === 'write' ? result ?? 7 : 0, units: 1, slowUs: 0, mostUnits: 3, calledUs, answeredUs, result };
}

const accepted = (...history: Operation[]): void => assert.equal({ ...judgeHistory(history), registers: 0 }, { contradiction: undefined, registers: 0, unjudged: 0 });
const refused = (...history: Operation[]): void => assert.match(String(judgeHistory(history).contradiction), /can only be/);

test('what one server says one after the other is accepted', () => {
  accepted();
  accepted(operation('read', 0, 0, 10), operation('raise', 1, 11, 20), operation('write', 500, 21, 30), operation('raise', 501, 31, 40), operation('read', 501, 41, 50));
  accepted(operation('write', 500, 0, 10, 'a'), operation('read', 0, 11, 20, 'b'));
});

test('overlapping operations may have happened in any order', () => {
  accepted(operation('raise', 2, 0, 10), operation('raise', 1, 5, 20), operation('read', 0, 0, 20));
  accepted(operation('write', 500, 0, 30), operation('read', 500, 5, 10), operation('read', 500, 11, 20));
  accepted(operation('write', 500, 0, 30), operation('write', 600, 0, 30), operation('read', 600, 0, 30), operation('read', 500, 31, 40));
});

test('what was never answered may have happened, once, or not', () => {
  accepted(operation('raise', undefined, 0, Infinity), operation('read', 0, 5, 10), operation('read', 1, 11, 20));
  accepted(operation('write', undefined, 0, Infinity), operation('read', 0, 5, 10));
  refused(operation('raise', undefined, 0, Infinity), operation('read', 2, 5, 10));
  refused(operation('raise', undefined, 0, Infinity), operation('read', 1, 5, 10), operation('read', 0, 11, 20));
});

test('forgetting, inventing and repeating is found', () => {
  refused(operation('raise', 1, 0, 10), operation('raise', 1, 20, 30));
  refused(operation('write', 500, 0, 10), operation('read', 0, 11, 20));
  refused(operation('read', 500, 0, 10));
  refused(operation('raise', 1, 0, 10), operation('raise', 3, 11, 20));
  // Two that overlap with a write must agree on its order.
  refused(operation('write', 500, 0, 100), operation('read', 500, 5, 10), operation('read', 0, 11, 20));
});

test('many overlapping operations are judged in no time', () => {
  const writes = (length: number): Operation[] => Array.from({ length }, (_, i) => operation('write', 1000 + i, 0, 1000));
  const startMs = performance.now();
  accepted(...writes(8), operation('read', 1003, 500, 1001));
  refused(...writes(8), operation('read', 1008, 500, 1001));
  assert.is(judgeHistory([...writes(20), operation('read', 1003, 500, 1001)]).unjudged, 1);
  assert.ok(performance.now() - startMs < 5000);
});

test('a register of which too much is open at once is not judged, and counted; the others are', () => {
  const tooMany = Array.from({ length: 31 }, (_, i) => operation('write', undefined, i, Infinity));
  const wrong = operation('read', 1, 50, 60);
  assert.equal(judgeHistory([...tooMany, wrong]), { contradiction: undefined, registers: 1, unjudged: 1 });
  refused(...tooMany.slice(0, 5), wrong);
  const { contradiction, registers, unjudged } = judgeHistory([...tooMany, wrong, operation('read', 1, 50, 60, 'b')]);
  assert.match(String(contradiction), /b can only be/);
  assert.equal([registers, unjudged], [2, 1]);
});

test.run();
