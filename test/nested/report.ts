/** The result of one outer VM, as it grows, and as people and CI services read it. */
import type { News, Verdict } from './messages.js';

/** How much of a step's output the report keeps: its end. */
const OUTPUT_LIMIT = 256 * 1024;

export interface StepResult {
  name: string;
  verdict: Verdict | 'running';
  tookMs: number;
  /** Why it failed. */
  detail: string;
  output: string;
}

export class Report {
  readonly steps: StepResult[] = [];
  readonly facts: [name: string, value: string][] = [];
  #announced: readonly string[] = [];
  #ended = false;

  /** @param suite what the kernel is called */
  constructor(readonly suite: string, readonly startedAt = new Date()) {}

  /** The step that is being done. */
  get running(): StepResult | undefined {
    const last = this.steps.at(-1);
    return last?.verdict === 'running' ? last : undefined;
  }

  get ended(): boolean {
    return this.#ended;
  }

  get failed(): number {
    return this.steps.filter(({ verdict }) => verdict !== 'passed').length;
  }

  get passed(): number {
    return this.steps.length - this.failed;
  }

  take(news: News): void {
    switch (news.type) {
      case 'begin':
        this.#announced = news.steps;
        this.facts.push(['kernel', news.kernel], ['node', news.node]);
        return;
      case 'step':
        this.steps.push({ name: news.name, verdict: 'running', tookMs: 0, detail: '', output: '' });
        return;
      case 'output':
        if (this.running) this.running.output = (this.running.output + news.text).slice(-OUTPUT_LIMIT);
        return;
      case 'fact':
        this.facts.push([news.name, news.value]);
        return;
      case 'verdict': {
        const { verdict, tookMs, detail } = news;
        if (this.running) Object.assign(this.running, { verdict, tookMs, detail });
        return;
      }
      case 'end':
        this.#ended = true;
    }
  }

  /** The outer VM is gone, or must go: what ran, or was next, has failed for that reason, and what was still to come, too. */
  cutOff(reason: string, console: string, tookMs: number): void {
    const detail = `${reason}\nThe console's last lines:\n${console}`;
    const met = new Set(this.steps.map(({ name }) => name));
    const unmet = this.#announced.filter((name) => !met.has(name));
    if (this.running) Object.assign(this.running, { verdict: 'failed', detail, tookMs });
    else this.steps.push({ name: unmet.shift() ?? 'the outer VM', verdict: 'failed', tookMs, detail, output: '' });
    for (const name of unmet) this.steps.push({ name, verdict: 'failed', tookMs: 0, detail: 'It was not reached.', output: '' });
    this.#ended = true;
  }

  toText(): string {
    const width = Math.max(...this.facts.map(([name]) => name.length), 6);
    const failures = this.steps.filter(({ verdict }) => verdict !== 'passed');
    const rest = this.steps.filter(({ verdict }) => verdict === 'passed');
    return [
      `Nested tests on Debian ${this.suite}, ${this.startedAt.toISOString()}`,
      '',
      ...this.facts.map(([name, value]) => `  ${name.padEnd(width)}  ${value}`),
      '',
      ...this.steps.map(({ name, verdict, tookMs }) => `  ${verdict === 'passed' ? 'ok  ' : 'FAIL'}  ${seconds(tookMs)}  ${name}`),
      '',
      ...[...failures, ...rest].map(({ name, detail, output }) => {
        const body = [detail, output].map((text) => text.trimEnd()).filter((text) => text !== '').join('\n\n');
        return `---- ${name} ----\n${body}\n`;
      }),
      `${this.passed} passed, ${this.failed} failed`,
      '',
    ].join('\n');
  }

  /** The form that CI services read (JUnit's, as of Ant). */
  toJUnit(): string {
    const cases = this.steps.map(({ name, verdict, tookMs, detail, output }) => {
      const failure = verdict === 'passed' ? '' : `\n    <failure message="${escapeXml(detail.split('\n')[0] ?? '')}">${escapeXml(detail)}</failure>`;
      return `  <testcase classname="nested.${escapeXml(this.suite)}" name="${escapeXml(name)}" time="${(tookMs / 1000).toFixed(3)}">${failure}\n    <system-out>${escapeXml(output)}</system-out>\n  </testcase>\n`;
    });
    const properties = this.facts.map(([name, value]) => `    <property name="${escapeXml(name)}" value="${escapeXml(value)}"/>\n`);
    const totalMs = this.steps.reduce((sum, { tookMs }) => sum + tookMs, 0);
    return `<?xml version="1.0" encoding="UTF-8"?>\n`
      + `<testsuite name="nested.${escapeXml(this.suite)}" tests="${this.steps.length}" failures="${this.failed}" time="${(totalMs / 1000).toFixed(3)}" timestamp="${this.startedAt.toISOString().slice(0, 19)}">\n`
      + `  <properties>\n${properties.join('')}  </properties>\n${cases.join('')}</testsuite>\n`;
  }
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(1).padStart(6)} s`;
}

/** XML 1.0 has no way at all to write most control characters, which consoles are full of. */
function escapeXml(text: string): string {
  return text.replace(/\x1b\[[0-9;]*[A-Za-z]/g, '').replace(/[^\t\n\x20-\uD7FF\uE000-\uFFFD\u{10000}-\u{10FFFF}]/gu, '?')
    .replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;');
}
