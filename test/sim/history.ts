/**
 * Whether what clients saw could have come from one counter that never forgot:
 * linearizability, which for a counter whose every rise is answered with its new
 * value needs no search. The value says where in the order an operation stands.
 */

import type { Operation } from './client.js';

/** @returns the first contradiction, in words */
export function contradiction(history: readonly Operation[]): string | undefined {
  const raised = new Map<number, Operation>();
  for (const operation of history) {
    if (operation.op !== 'raise') continue;
    const twin = raised.get(operation.value);
    if (twin) return `${name(twin)} and ${name(operation)} both raised the counter to ${operation.value}`;
    raised.set(operation.value, operation);
  }
  // What was answered before another was called stands before it.
  const byCall = [...history].sort((a, b) => a.calledUs - b.calledUs);
  const byAnswer = [...history].sort((a, b) => a.answeredUs - b.answeredUs);
  let highest: Operation | undefined;
  let next = 0;
  for (const operation of byCall) {
    for (let done = byAnswer[next]; done && done.answeredUs < operation.calledUs; done = byAnswer[++next]) {
      if (!highest || done.value > highest.value) highest = done;
    }
    if (!highest) continue;
    const least = operation.op === 'raise' ? highest.value + 1 : highest.value;
    if (operation.value < least) return `${name(operation)} answered ${operation.value} after ${name(highest)} had answered ${highest.value}`;
  }
  return undefined;
}

function name({ client, seq, op }: Operation): string {
  return `${op} ${seq} of client ${client}`;
}
