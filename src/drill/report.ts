/** What drills found, for people and for programs. */

import type { DrillResult } from './run.js';

/** The findings of one drill, below its steps. */
export function resultText(result: DrillResult): string {
  const lines = result.findings.map(({ met, expectation, text }) => `  ${met ? 'ok    ' : 'FAILED'}  ${expectation}: ${text}`);
  if (result.reason !== '') lines.push(`  ${result.outcome === 'failed' ? 'FAILED' : 'not run'}  ${result.reason}`);
  if (result.outcome === 'failed') {
    for (const [host, log] of Object.entries(result.logs)) lines.push(`  the agent of ${host} said last:`, ...log.split('\n').map((line) => `    ${line}`));
  }
  lines.push(`${result.drill}: ${result.outcome}, in ${result.seconds.toFixed(1)} s (seed ${result.seed})`);
  return `${lines.join('\n')}\n`;
}

/** All drills of a run in a table, and their sum. */
export function summaryText(results: readonly DrillResult[]): string {
  const width = Math.max(...results.map(({ drill }) => drill.length));
  const rows = results.map(({ drill, outcome, seconds, proves }) => `  ${outcome.padEnd(7)}  ${drill.padEnd(width)}  ${seconds.toFixed(1).padStart(5)} s  ${proves}`);
  const count = (outcome: DrillResult['outcome']): number => results.filter((result) => result.outcome === outcome).length;
  const seconds = results.reduce((sum, result) => sum + result.seconds, 0);
  return `\n${rows.join('\n')}\n\n${results.length} drills in ${seconds.toFixed(0)} s: ${count('passed')} passed, ${count('failed')} failed, ${count('not run')} not run\n`;
}

/** JUnit XML as the usual tools read it; a drill that could not run is an error. */
export function junitXml(results: readonly DrillResult[]): string {
  const count = (outcome: DrillResult['outcome']): number => results.filter((result) => result.outcome === outcome).length;
  const seconds = results.reduce((sum, result) => sum + result.seconds, 0);
  const totals = `tests="${results.length}" failures="${count('failed')}" errors="${count('not run')}" skipped="0" time="${seconds.toFixed(3)}"`;
  return `<?xml version="1.0" encoding="UTF-8"?>
<testsuites ${totals}>
  <testsuite name="colopp drill" ${totals}>
${results.map(testCase).join('\n')}
  </testsuite>
</testsuites>
`;
}

function testCase(result: DrillResult): string {
  const unmet = result.findings.filter(({ met }) => !met).map(({ expectation, text }) => `${expectation}: ${text}`);
  const troubles = [...(result.reason === '' ? [] : [result.reason]), ...unmet];
  const tag = result.outcome === 'not run' ? 'error' : 'failure';
  const trouble = result.outcome === 'passed' ? '' : `\n      <${tag} message="${escape(troubles[0] ?? '')}">${escape(troubles.join('\n'))}</${tag}>`;
  const said = [
    result.proves,
    ...result.steps.map(({ text, result: came, seconds }) => `${seconds.toFixed(1)} s  ${text}${came === '' ? '' : `: ${came}`}`),
    ...result.findings.map(({ met, expectation, text }) => `${met ? 'ok' : 'FAILED'}  ${expectation}: ${text}`),
    ...Object.entries(result.logs).flatMap(([host, log]) => [`agent of ${host}:`, log]),
  ].join('\n');
  return `    <testcase classname="drill" name="${escape(`${result.drill} (seed ${result.seed})`)}" time="${result.seconds.toFixed(3)}">${trouble}
      <system-out>${escape(said)}</system-out>
    </testcase>`;
}

/** Also without the characters that XML 1.0 cannot hold at all. */
function escape(text: string): string {
  const names: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&apos;' };
  return text.replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/g, '?').replace(/[&<>"']/g, (letter) => names[letter]!);
}
