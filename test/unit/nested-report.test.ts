/** What becomes of the news from an outer VM: the stream, the report, and its two forms. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { NewsReader, type News } from '../nested/messages.js';
import { Report } from '../nested/report.js';

const test = suite('nested report');

function read(...chunks: string[]): { news: News[]; noise: string[] } {
  const news: News[] = [];
  const noise: string[] = [];
  const reader = new NewsReader((one) => news.push(one), (line) => noise.push(line));
  for (const chunk of chunks) reader.feed(chunk);
  return { news, noise };
}

function reportOf(...news: News[]): Report {
  const report = new Report('forky', new Date('2026-11-23T05:00:00Z'));
  for (const one of news) report.take(one);
  return report;
}

const begin: News = { type: 'begin', kernel: 'Linux 7.2', node: 'v24.0.0', steps: ['doctor', 'lab', 'failover'] };

test('messages arrive whole however the stream is cut; anything else is noise', () => {
  const line = `${JSON.stringify(begin)}\n`;
  const { news, noise } = read(line.slice(0, 7), `${line.slice(7)}half of\n{"type":"dance"}\nnull\n{"type":`, '"end"}\n');
  assert.equal(news, [begin, { type: 'end' }]);
  assert.equal(noise, ['half of', '{"type":"dance"}', 'null']);
});

test('a line without an end does not fill the memory', () => {
  const { news, noise } = read('x'.repeat(5 * 1024 * 1024), `\n${JSON.stringify({ type: 'end' })}\n`);
  assert.is(noise[0]?.length, 200);
  assert.equal(news, [{ type: 'end' }]);
});

test('steps that ended are counted, with what they printed', () => {
  const report = reportOf(
    begin,
    { type: 'step', name: 'doctor', limitMs: 1000 }, { type: 'output', text: 'KVM works\n' }, { type: 'verdict', verdict: 'passed', tookMs: 1500, detail: '' },
    { type: 'step', name: 'lab', limitMs: 1000 }, { type: 'fact', name: 'guests', value: 'KVM' }, { type: 'verdict', verdict: 'failed', tookMs: 2500, detail: 'No lab.' },
    { type: 'end' },
  );
  assert.is(report.passed, 1);
  assert.is(report.failed, 1);
  const text = report.toText();
  assert.match(text, /guests +KVM/);
  assert.match(text, /ok +1\.5 s {2}doctor/);
  assert.match(text, /FAIL +2\.5 s {2}lab/);
  assert.match(text, /---- lab ----\nNo lab\./);
  assert.match(text, /---- doctor ----\nKVM works/);
  assert.match(text, /1 passed, 1 failed\n$/);
});

test('a VM that is cut off fails what ran, and what was still to come, with the console\'s last lines', () => {
  const report = reportOf(begin, { type: 'step', name: 'doctor', limitMs: 1000 });
  report.cutOff('The step "doctor" hung.', 'Kernel panic - not syncing', 61_000);
  assert.equal(report.steps.map(({ name, verdict }) => [name, verdict]), [['doctor', 'failed'], ['lab', 'failed'], ['failover', 'failed']]);
  assert.match(report.toText(), /The step "doctor" hung\.\nThe console's last lines:\nKernel panic/);
  assert.match(report.toText(), /---- lab ----\nIt was not reached\./);
});

test('a VM that is cut off between two steps fails the next one for that reason', () => {
  const report = reportOf(begin);
  report.cutOff('The outer VM ended before the tests did.', 'Kernel panic - not syncing', 500);
  assert.equal(report.steps.map(({ name, verdict }) => [name, verdict]), [['doctor', 'failed'], ['lab', 'failed'], ['failover', 'failed']]);
  assert.match(report.toText(), /---- doctor ----\nThe outer VM ended before the tests did\./);
});

test('a VM that never spoke is a failure of its own', () => {
  const report = reportOf();
  report.cutOff('The outer VM did not come up within 180 s.', '(none: it never spoke)', 180_000);
  assert.is(report.failed, 1);
  assert.is(report.steps[0]?.name, 'the outer VM');
});

test('JUnit: whatever a console holds, it is well-formed', () => {
  const report = reportOf(
    { ...begin, steps: ['a & b'] },
    { type: 'step', name: 'a & b', limitMs: 1000 }, { type: 'output', text: '\x1b[31mred\x1b[0m <tag> "quoted" \0 \ud800 \u{1f600}' },
    { type: 'verdict', verdict: 'failed', tookMs: 1234, detail: 'R0 invalid <mem> access\nline 2' }, { type: 'end' },
  );
  const xml = report.toJUnit();
  assert.match(xml, '<testsuite name="nested.forky" tests="1" failures="1" time="1.234" timestamp="2026-11-23T05:00:00">');
  assert.match(xml, 'name="a &amp; b" time="1.234"');
  assert.match(xml, '<failure message="R0 invalid &lt;mem&gt; access">R0 invalid &lt;mem&gt; access\nline 2</failure>');
  assert.match(xml, '<system-out>red &lt;tag&gt; &quot;quoted&quot; ? ? \u{1f600}</system-out>');
});

test.run();
