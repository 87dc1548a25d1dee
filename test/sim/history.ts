/**
 * Whether what clients saw could have come from one server that never forgot:
 * linearizability, for each register by itself (it is a local property).
 *
 * The algorithm is Wing and Gong's with Lowe's just-in-time order ("Testing for
 * linearizability", 2017): walk through calls and answers in order of time, and
 * keep every configuration that is still possible: the register's value, and
 * which of the open operations have taken effect already. An operation must have
 * by the time it is answered; others come before it only if it needs them to.
 */

import type { Operation } from './client.js';

/** With more open operations, or configurations, than these a register is not judged. */
const mostOpen = 30;
const mostConfigurations = 5000;
const tooMuch = Symbol('too much is open at once');

export interface Judgement {
  /** The first one found, in words. */
  contradiction: string | undefined;
  /** Registers that were used, and of them those that were not judged to the end, as too much was open at once. */
  registers: number;
  unjudged: number;
}

export function judgeHistory(history: readonly Operation[]): Judgement {
  const registers = new Map<string, Operation[]>();
  for (const operation of history) {
    // A read that was never answered has told nothing to anybody.
    if (operation.op === 'read' && operation.answeredUs === Infinity) continue;
    const operations = registers.get(operation.key);
    if (operations) operations.push(operation);
    else registers.set(operation.key, [operation]);
  }
  const found = [...registers.values()].map(judge);
  return {
    contradiction: found.find((one) => typeof one === 'string'),
    registers: found.length,
    unjudged: found.filter((one) => one === tooMuch).length,
  };
}

interface Configuration {
  value: number;
  /** Bits of the open operations that have taken effect. */
  done: number;
}

interface Moment { atUs: number; answer: boolean; operation: Operation }

/** @returns a contradiction, in words */
function judge(operations: readonly Operation[]): string | typeof tooMuch | undefined {
  const moments: Moment[] = operations.map((operation) => ({ atUs: operation.calledUs, answer: false, operation }));
  for (const operation of operations) {
    if (operation.answeredUs !== Infinity) moments.push({ atUs: operation.answeredUs, answer: true, operation });
  }
  // At the same time: called before answered, which allows more.
  moments.sort((a, b) => a.atUs - b.atUs || Number(a.answer) - Number(b.answer));
  const open: (Operation | undefined)[] = [];
  let configurations: Configuration[] = [{ value: 0, done: 0 }];
  for (const { operation, answer } of moments) {
    if (!answer) {
      let bit = open.indexOf(undefined);
      if (bit < 0) bit = open.length;
      if (bit >= mostOpen) return tooMuch;
      open[bit] = operation;
      continue;
    }
    const bit = open.indexOf(operation);
    const next = takeEffect(configurations, open, bit);
    if (next === undefined) return tooMuch;
    if (next.length === 0) {
      const { op, key, client, id, result } = operation;
      const values = [...new Set(configurations.map(({ value }) => value))].sort((a, b) => a - b);
      return `${op} #${id} of client ${client} is answered ${result}, when ${key} can only be ${values.join(' or ')}`;
    }
    open[bit] = undefined;
    configurations = next;
  }
  return undefined;
}

/** All configurations in which the operation has just been answered; undefined: too many. */
function takeEffect(from: readonly Configuration[], open: readonly (Operation | undefined)[], bit: number): Configuration[] | undefined {
  const wanted = 1 << bit;
  const seen = new Set<string>();
  const found = new Map<string, Configuration>();
  const todo = [...from];
  for (let at = todo.pop(); at; at = todo.pop()) {
    let { value, done } = at;
    // A read takes nothing away from anybody: the sooner the better.
    for (const [i, operation] of open.entries()) {
      if (operation?.op === 'read' && operation.result === value) done |= 1 << i;
    }
    const name = `${value} ${done}`;
    if (seen.has(name)) continue;
    seen.add(name);
    if (seen.size > mostConfigurations) return undefined;
    if (done & wanted) {
      const after = { value, done: done & ~wanted };
      found.set(`${after.value} ${after.done}`, after);
      continue;
    }
    for (const [i, operation] of open.entries()) {
      if (!operation || operation.op === 'read' || done & 1 << i) continue;
      const after = operation.op === 'write' ? operation.value : value + 1;
      if (operation.result !== undefined && operation.result !== after) continue;
      todo.push({ value: after, done: done | 1 << i });
    }
  }
  return [...found.values()];
}
