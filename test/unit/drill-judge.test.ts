/** What drills conclude from what was seen, and how they report it. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { judge, takeovers, type Finding, type LoadOutcome, type Observations } from '../../src/drill/judge.js';
import { parseShare, parseSpan, parseTime, timeText } from '../../src/drill/quantities.js';
import { parseDrill } from '../../src/drill/read.js';
import { junitXml, resultText, summaryText } from '../../src/drill/report.js';
import type { DrillResult } from '../../src/drill/run.js';
import type { Script } from '../../src/drill/script.js';
import { editDistance, nearest } from '../../src/drill/suggest.js';
import type { HostName } from '../../src/lab/topology.js';

const expecting = (text: string): Script['expect'] => parseDrill(`drill: x\nproves: That drills judge.\nsteps: [startLoad, failover]\nexpect: ${text}`, 'x').expect;

/** Reigns that begin at these milliseconds; each lasts until the next. */
function speech(...begins: [HostName, number][]): NonNullable<Observations['speech']> {
  const reigns = begins.map(([host, fromMs], i) => ({
    host, frames: 3, firstNs: BigInt(fromMs) * 1_000_000n, lastNs: BigInt((begins[i + 1]?.[1] ?? fromMs + 5000) - 1) * 1_000_000n,
  }));
  return { first: 'a', reigns, count: reigns.length };
}

const fine: LoadOutcome = { connections: 4, broken: [], replies: 100, acknowledged: 50, lost: 0, longestSilenceMs: 300 };
const seen = (some: Partial<Observations>): Observations => ({ disturbances: [], speech: speech(['a', 0]), loads: [fine], protectedAtEnd: true, metrics: [], ...some });
const unmet = (findings: Finding[]): string[] => findings.filter(({ met }) => !met).map(({ expectation }) => expectation);

test('nothing happened: all that is expected always is met', () => {
  const findings = judge(expecting('{}'), seen({}));
  assert.equal(findings.map(({ expectation }) => expectation), ['oneActive', 'connectionsSurvive', 'writesKept']);
  assert.equal(unmet(findings), []);
});

test('one voice after the other is one active host', () => {
  assert.equal(unmet(judge(expecting('{ takeovers: 1 }'), seen({ speech: speech(['a', 0], ['b', 900]) }))), []);
  assert.equal(unmet(judge(expecting('{ takeovers: 2 }'), seen({ speech: speech(['a', 0], ['b', 900], ['a', 3000]) }))), []);
});

test('two voices at once, however briefly, are two active hosts', () => {
  assert.equal(unmet(judge(expecting('{}'), seen({ speech: speech(['a', 0], ['b', 900], ['a', 901]) }))), ['oneActive']);
  assert.equal(unmet(judge(expecting('{}'), seen({ speech: speech(['a', 0], ['b', 900], ['a', 901], ['b', 902]) }))), ['oneActive']);
  assert.equal(unmet(judge(expecting('{}'), seen({ speech: speech(['a', 0], ['b', 900], ['a', 9000], ['b', 9010]) }))), ['oneActive'], 'a single word from the dead');
  const [finding] = judge(expecting('{}'), seen({ speech: speech(['a', 0], ['b', 900], ['a', 9000], ['b', 9010]) }));
  assert.match(finding!.text, /both hosts were heard: 4 times the voice changed; a for 10 ms between frames of b/);
});

test('more changes of the voice than can be remembered are too many', () => {
  assert.equal(unmet(judge(expecting('{}'), seen({ speech: { ...speech(['a', 0]), count: 100 } }))), ['oneActive']);
});

test('a takeover is timed from what came last before it', () => {
  const observations = seen({
    speech: speech(['a', 0], ['b', 1500], ['a', 5000]),
    disturbances: [{ atNs: 100_000_000n, what: 'one' }, { atNs: 1_200_000_000n, what: 'two' }, { atNs: 4_000_000_000n, what: 'three' }],
  });
  assert.equal(takeovers(observations).map(({ cause, afterMs }) => [cause!.what, afterMs]), [['two', 300], ['three', 1000]]);
  assert.equal(unmet(judge(expecting('{ takeoverWithin: 1s }'), observations)), []);
  assert.equal(unmet(judge(expecting('{ takeoverWithin: 999ms }'), observations)), ['takeoverWithin']);
});

test('a takeover that nobody caused, or that did not come, is not within any time', () => {
  assert.equal(unmet(judge(expecting('{ takeoverWithin: 1s }'), seen({ speech: speech(['b', 10]) }))), ['takeoverWithin']);
  assert.equal(unmet(judge(expecting('{ takeoverWithin: 1s, takeovers: 1 }'), seen({}))), ['takeovers', 'takeoverWithin']);
});

test('the first voice counts as a takeover if it is not that of the primary', () => {
  assert.is(takeovers(seen({ speech: speech(['b', 10]) })).length, 1);
});

test('what happened to clients', () => {
  assert.equal(unmet(judge(expecting('{}'), seen({ loads: [fine, { ...fine, broken: [{ name: 'redis 1', why: 'reset' }] }] }))), ['connectionsSurvive']);
  assert.equal(unmet(judge(expecting('{}'), seen({ loads: [{ ...fine, replies: 0 }] }))), ['connectionsSurvive'], 'who heard nothing has not survived');
  assert.equal(unmet(judge(expecting('{}'), seen({ loads: [{ ...fine, lost: 1 }] }))), ['writesKept']);
  assert.equal(unmet(judge(expecting('{ longestSilence: 299ms }'), seen({}))), ['longestSilence']);
  assert.equal(unmet(judge(expecting('{ connectionsSurvive: false }'), seen({ loads: [{ ...fine, broken: [{ name: 'x', why: 'reset' }] }] }))), []);
});

test('the status at the end', () => {
  assert.equal(unmet(judge(expecting('{ protectedAtEnd: true }'), seen({ protectedAtEnd: false }))), ['protectedAtEnd']);
  const metric = { host: 'a', metric: 'generation' } as const;
  const value = (value: number | undefined, bounds: object) => seen({ metrics: [{ ...metric, value, bounds }] });
  assert.equal(unmet(judge(expecting('{}'), value(3, { atLeast: 1, atMost: 3 }))), []);
  for (const [number, bounds] of [[4, { atMost: 3 }], [0, { atLeast: 1 }], [undefined, { atMost: 3 }]] as const) {
    assert.equal(unmet(judge(expecting('{}'), value(number, bounds))), ['metrics']);
  }
});

test('times, spans and shares', () => {
  assert.equal(['500ms', '2s', '1.5min', '3', 's', '-1s', '1 s', '1h'].map(parseTime), [500, 2000, 90_000, undefined, undefined, undefined, undefined, undefined]);
  assert.equal(parseSpan('1s..2s'), { lowMs: 1000, highMs: 2000 });
  assert.equal(parseSpan('1s'), { lowMs: 1000, highMs: 1000 });
  assert.equal(['1s..', '..1s', '1s..x', 'x..1s', '1s..2s..3s', ''].map(parseSpan), Array(6).fill(undefined));
  assert.equal(['10%', '0.5%', '100%', '101%', '10', '-1%'].map(parseShare), [0.1, 0.005, 1, undefined, undefined, undefined]);
  assert.equal([timeText(12.3), timeText(12_345)], ['12 ms', '12.3 s']);
});

test('the word that was meant', () => {
  assert.equal([editDistance('', 'abc'), editDistance('ab', 'ba'), editDistance('kill', 'kil'), editDistance('abc', 'abc')], [3, 1, 1, 0]);
  assert.is(nearest('strtLoad', ['stopLoad', 'startLoad']), 'startLoad');
  assert.is(nearest('dance', ['stopLoad', 'startLoad']), undefined);
});

const result = (some: Partial<DrillResult>): DrillResult => ({
  drill: 'x', proves: 'That <this> & "that" holds.', seed: 7, outcome: 'passed', reason: '', seconds: 1.5,
  steps: [{ text: 'kill', result: 'host a', seconds: 0.5 }], findings: [{ expectation: 'oneActive', met: true, text: 'yes' }], loads: [], logs: {}, ...some,
});

test('JUnit XML: failures, errors, and nothing that would break it', () => {
  const xml = junitXml([
    result({}),
    result({ outcome: 'failed', findings: [{ expectation: 'writesKept', met: false, text: '1 of 2 "lost" \u0001' }], logs: { a: 'said ]]> & <that>' } }),
    result({ outcome: 'not run', reason: 'no root' }),
  ]);
  assert.match(xml, '<testsuites tests="3" failures="1" errors="1" skipped="0" time="4.500">');
  assert.match(xml, '<failure message="writesKept: 1 of 2 &quot;lost&quot; ?">');
  assert.match(xml, '<error message="no root">');
  assert.match(xml, 'said ]]&gt; &amp; &lt;that&gt;');
  assert.is(xml.match(/<testcase /g)!.length, 3);
  assert.not.match(xml, /[\u0000-\u0008]|&(?!amp;|lt;|gt;|quot;|apos;)/);
});

test('for people: what failed, why, and how to repeat it', () => {
  const text = resultText(result({ outcome: 'failed', reason: 'Host b was not active', logs: { a: 'last words' } }));
  assert.match(text, /ok {6}oneActive: yes/);
  assert.match(text, /FAILED {2}Host b was not active/);
  assert.match(text, /the agent of a said last:\n {4}last words/);
  assert.match(text, /x: failed, in 1.5 s \(seed 7\)/);
  assert.match(summaryText([result({}), result({ outcome: 'not run' })]), /2 drills in 3 s: 1 passed, 0 failed, 1 not run/);
});

test.run();
