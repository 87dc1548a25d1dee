/** What an agent tells Prometheus, how it is asked, and that the dashboard and the alert rules ask for nothing else. */
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { request } from 'node:http';
import { createConnection } from 'node:net';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { parse } from 'yaml';
import { holdBoundsNs, type HoldTimes } from 'tap-hold';
import type { AgentStatus } from '../../src/agent/agent.js';
import { MetricsServer } from '../../src/agent/metrics-server.js';
import { AgentMetrics } from '../../src/agent/metrics.js';
import { status as tuiStatus } from './tui-support.js';

const none: HoldTimes = { packets: [...holdBoundsNs, 0].map(() => 0), totalNs: 0 };

function agentStatus(parts: Record<string, unknown> = {}): AgentStatus {
  const whole = tuiStatus({
    leaseMs: 300, paused: false, compare: { comparing: true, divergences: 4, late: 5, auditMismatches: 3, caught: [6379] }, witness: { address: '10.0.0.9:7751', reachable: true }, vcpus: { mode: 'auto', of: 2, active: [1], reason: '', load: [{ vcpu: 0, run: 0.5, wait: 0.25 }] },
    checkpoints: { sentBytes: 5000, receivedBytes: 40 },
    output: {
      earlyPackets: 70, inputSeq: 100, loggedSeq: 97, releasedBy: { commit: 3, logged: 2, match: 1, end: 0 },
      services: [{ port: 6379, protocol: 'resp', preRelease: true, prereleasedPackets: 60, controlPackets: 10, heldPackets: { order: 1, unlogged: 2, doubt: 3, standing: 4, off: 5 }, untrackedFlows: 6, openWrites: 7 }],
    },
    inputLog: { log: { loggedPackets: 11, loggedBytes: 1100, gaps: 2, droppedPackets: 3 } },
    ...parts,
  });
  return whole as unknown as AgentStatus;
}

function metricsOf(parts: Record<string, unknown> = {}, holdTimes: Partial<Record<string, HoldTimes>> = {}): AgentMetrics {
  return new AgentMetrics({
    status: () => agentStatus(parts),
    holdTimes: () => ({ commit: none, logged: none, match: none, end: none, ...holdTimes }),
  }, { vm: 'shop', host: 'a' });
}

/** The samples of a name: value by labels, those that every sample has left out. */
async function samples(metrics: AgentMetrics, name: string): Promise<Record<string, number>> {
  const lines = (await metrics.text()).split('\n').filter((line) => line.startsWith(`${name}{`));
  return Object.fromEntries(lines.map((line) => {
    const [, labels = '', value] = /^[^{]+\{(.*)\} (\S+)$/.exec(line) ?? [];
    return [labels.split(',').filter((label) => label !== 'vm="shop"' && label !== 'host="a"').join(','), Number(value)];
  }));
}

test('the state of the pair', async () => {
  const metrics = metricsOf();
  assert.equal(await samples(metrics, 'colopp_protected'), { '': 1 });
  assert.equal(await samples(metrics, 'colopp_info'), { 'accel="tcg",qemu="11.1.2"': 1 });
  const phases = await samples(metrics, 'colopp_phase');
  assert.is(phases['phase="protected"'], 1);
  assert.is(Object.values(phases).reduce((sum, value) => sum + value, 0), 1);
  assert.equal(await samples(metrics, 'colopp_commit_age_seconds'), { '': 0.023 });
  assert.equal(await samples(metrics, 'colopp_peer_silence_seconds'), { '': 0.034 });
  assert.equal(await samples(metrics, 'colopp_checkpoint_bytes_total'), { 'direction="sent"': 5000, 'direction="received"': 40 });
});

test('what is not known is left out, not told as zero', async () => {
  const metrics = metricsOf({ peer: null, inputLog: null, role: 'secondary', active: false });
  for (const name of ['colopp_peer_silence_seconds', 'colopp_peer_round_trip_seconds', 'colopp_input_log_packets', 'colopp_commit_age_seconds', 'colopp_unlogged_inputs']) {
    assert.equal(await samples(metrics, name), {}, name);
  }
  assert.equal(await samples(metrics, 'colopp_peer_connected'), { '': 0 });
});

test('input that is not logged yet is told wherever input is replicated, for services or not', async () => {
  const unlogged = (parts: Record<string, unknown>): Promise<Record<string, number>> => samples(metricsOf({ output: { inputSeq: 100, loggedSeq: 97, services: [], releasedBy: {} }, ...parts }), 'colopp_unlogged_inputs');
  assert.equal(await unlogged({}), { '': 3 });
  assert.equal(await unlogged({ inputLog: null }), {});
});

test('counters follow the status up, and down when an agent is new', async () => {
  const parts = { refusedConnections: 5 };
  const metrics = metricsOf(parts);
  const refused = (): Promise<Record<string, number>> => samples(metrics, 'colopp_peer_refused_connections_total');
  assert.equal(await refused(), { '': 5 });
  assert.equal(await refused(), { '': 5 }, 'reading adds nothing');
  parts.refusedConnections = 2;
  assert.equal(await refused(), { '': 2 });
});

test('services: what left early, and which rule held the rest', async () => {
  const metrics = metricsOf();
  const of = 'port="6379",protocol="resp"';
  assert.equal(await samples(metrics, 'colopp_service_early_packets_total'), { [`${of},kind="reply"`]: 60, [`${of},kind="control"`]: 10 });
  assert.is((await samples(metrics, 'colopp_service_held_packets_total'))[`${of},rule="doubt"`], 3);
  assert.equal(await samples(metrics, 'colopp_unlogged_inputs'), { '': 3 });
});

test('comparing, and a service that was caught', async () => {
  const metrics = metricsOf();
  assert.equal(await samples(metrics, 'colopp_comparing'), { '': 1 });
  assert.equal(await samples(metrics, 'colopp_divergences_total'), { '': 4 });
  assert.equal(await samples(metrics, 'colopp_audit_mismatches_total'), { '': 3 });
  assert.equal(await samples(metrics, 'colopp_service_caught'), { 'port="6379",protocol="resp"': 1 });
});

test('active vCPUs, and what each does', async () => {
  const metrics = metricsOf();
  assert.equal(await samples(metrics, 'colopp_active_vcpus'), { '': 1 });
  assert.equal(await samples(metrics, 'colopp_vcpu_run_ratio'), { 'vcpu="0"': 0.5 });
  assert.equal(await samples(metrics, 'colopp_vcpu_wait_ratio'), { 'vcpu="0"': 0.25 });
});

test('histograms: pauses, takeovers, and what the hold thread has counted', async () => {
  const packets = none.packets.map((_, i) => i === 0 ? 4 : i === holdBoundsNs.length ? 1 : 0);
  const metrics = metricsOf({}, { commit: { packets, totalNs: 7e9 } });
  metrics.onNews({ event: 'commit', commits: 1, pauseMs: 12, atNs: 1n });
  metrics.onNews({ event: 'phase', role: 'secondary', phase: 'taking-over', atNs: 1_000_000_000n });
  metrics.onNews({ event: 'phase', role: 'primary', phase: 'active-alone', atNs: 1_030_000_000n });
  metrics.onNews({ event: 'phase', role: 'primary', phase: 'active-alone', atNs: 9_030_000_000n });
  metrics.onNews({ event: 'note', level: 'warn', code: 'SECONDARY_LOST', text: '', atNs: 1n });
  const pause = await samples(metrics, 'colopp_checkpoint_pause_seconds_bucket');
  assert.equal([pause['le="0.01"'], pause['le="0.02"'], pause['le="+Inf"']], [0, 1, 1]);
  assert.equal(await samples(metrics, 'colopp_takeover_seconds_count'), { '': 1 });
  assert.ok(Math.abs((await samples(metrics, 'colopp_takeover_seconds_sum'))['']! - 0.03) < 1e-9);
  assert.equal(await samples(metrics, 'colopp_events_total'), { 'level="warn",code="SECONDARY_LOST"': 1 });

  const hold = await samples(metrics, 'colopp_hold_seconds_bucket');
  assert.equal([hold['cause="commit",le="0.0001"'], hold['cause="commit",le="5"'], hold['cause="commit",le="+Inf"'], hold['cause="match",le="+Inf"']], [4, 4, 5, 0]);
  assert.is((await samples(metrics, 'colopp_hold_seconds_sum'))['cause="commit"'], 7);
  assert.is((await samples(metrics, 'colopp_hold_seconds_count'))['cause="commit"'], 5);
});

// ---- over HTTP ---------------------------------------------------------------

const ask = (port: number, path = '/metrics', method = 'GET'): Promise<{ status: number; type: string | undefined; text: string }> => new Promise((resolve, reject) => {
  request({ host: '127.0.0.1', port, path, method }, (response) => {
    let text = '';
    response.setEncoding('utf8').on('data', (part: string) => { text += part; }).on('end', () => resolve({ status: response.statusCode ?? 0, type: response.headers['content-type'], text }));
  }).on('error', reject).end();
});

test('the endpoint: one path, one method, few connections, and one reading for many askers', async () => {
  let readings = 0;
  const server = await MetricsServer.listen({ contentType: 'text/plain; version=0.0.4', text: async () => `reading ${++readings}` }, { host: '127.0.0.1', port: 0 });
  try {
    const { port } = server;
    assert.equal(await ask(port), { status: 200, type: 'text/plain; version=0.0.4', text: 'reading 1' });
    await Promise.all(Array.from({ length: 8 }, () => ask(port)));
    assert.ok(readings <= 3, `${readings} readings for 9 requests`);
    assert.is((await ask(port, '/')).status, 404);
    assert.is((await ask(port, '/metrics', 'POST')).status, 405);
    assert.is((await ask(port, '/metrics', 'HEAD')).text, '');
    const idle = Array.from({ length: 40 }, () => createConnection(port, '127.0.0.1'));
    await Promise.any(idle.map((socket) => once(socket, 'close')));
    for (const socket of idle) socket.destroy();
    await assertRejects(() => MetricsServer.listen({ contentType: '', text: async () => '' }, { host: '127.0.0.1', port }), /cannot offer its metrics at 127\.0\.0\.1 port \d+ \(metrics\.listen\): .*EADDRINUSE/);
  } finally {
    server.close();
  }
});

test('a reading that fails is an answer, too', async () => {
  const server = await MetricsServer.listen({ contentType: '', text: () => Promise.reject(new Error('the tap is gone')) }, { host: '127.0.0.1', port: 0 });
  const { status, text } = await ask(server.port);
  server.close();
  assert.is(status, 500);
  assert.match(text, 'the tap is gone');
});

async function assertRejects(run: () => Promise<unknown>, message: RegExp): Promise<void> {
  const outcome = await run().then(() => 'it was not refused', (error: Error) => error.message);
  assert.match(outcome, message);
}

// ---- dashboard and alert rules -----------------------------------------------

const shipped = (name: string): string => readFileSync(new URL(`../../../src/agent/prometheus/${name}`, import.meta.url), 'utf8');

/** Every expression of a parsed file, wherever it stands. */
function expressions(value: unknown): string[] {
  if (typeof value !== 'object' || value === null) return [];
  return Object.entries(value).flatMap(([key, inner]) => key === 'expr' && typeof inner === 'string' ? [inner] : expressions(inner));
}

/** Names of metrics, and the label names and values of each, as a reading shows them. */
async function offered(): Promise<Map<string, Map<string, Set<string>>>> {
  const metrics = metricsOf();
  for (const level of ['info', 'warn', 'error'] as const) metrics.onNews({ event: 'note', level, code: 'HOLD_TAP_LOST', text: '', atNs: 1n });
  const names = new Map<string, Map<string, Set<string>>>();
  for (const line of (await metrics.text()).split('\n')) {
    const [, name, labels] = /^(\w+)\{(.*)\} /.exec(line) ?? [];
    if (name === undefined) continue;
    const known = names.get(name) ?? new Map<string, Set<string>>();
    names.set(name, known);
    for (const [, label, value] of labels!.matchAll(/(\w+)="([^"]*)"/g)) known.set(label!, (known.get(label!) ?? new Set()).add(value!));
  }
  return names;
}

for (const [file, least] of [['grafana-dashboard.json', 20], ['alerts.yaml', 10]] as const) {
  test(`${file} asks for metrics, labels and values that there are`, async () => {
    const names = await offered();
    const found = expressions(parse(shipped(file))); // JSON is YAML, too
    assert.ok(found.length >= least, `${found.length} expressions`);
    for (const expression of found) {
      if (expression.startsWith('up{')) { // Prometheus's own; README names the job
        assert.match(expression, /^up\{job="colopp"\} /);
        continue;
      }
      const selectors = [...expression.matchAll(/\b((?:colopp|nodejs|process)_\w+)(?:\{([^}]*)\})?/g)];
      assert.ok(selectors.length > 0, expression);
      for (const [, name, matchers = ''] of selectors) {
        const labels = names.get(name!);
        assert.ok(labels, `${name} is not offered; in: ${expression}`);
        for (const [, label, , value] of matchers.matchAll(/(\w+)(=~|!=|=)"([^"]*)"/g)) {
          assert.ok(labels!.has(label!), `${name} has no label ${label}; in: ${expression}`);
          if (label === 'vm') continue;
          for (const each of value!.split('|')) assert.ok(labels!.get(label!)!.has(each), `${name} is never offered with ${label}="${each}"; in: ${expression}`);
        }
      }
      for (const [, by] of expression.matchAll(/\b(?:by|on) \(([^)]*)\)/g)) {
        for (const label of by!.split(',').map((part) => part.trim())) {
          assert.ok(label === 'le' || selectors.every(([, name]) => names.get(name!)!.has(label)), `not all metrics have the label ${label}; in: ${expression}`);
        }
      }
    }
  });
}

/** The expression of a shipped alert. */
function alertExpression(name: string): string {
  const { groups } = parse(shipped('alerts.yaml')) as { groups: { rules: { alert: string; expr: string }[] }[] };
  return groups.flatMap(({ rules }) => rules).find(({ alert }) => alert === name)?.expr ?? '';
}

test('what is counted by its code begins at 1, so nothing asks how much it has risen', () => {
  assert.match(alertExpression('ColoppHoldTapLost'), /^colopp_events_total\{code="HOLD_TAP_LOST"\} > 0$/);
  for (const file of ['alerts.yaml', 'grafana-dashboard.json']) {
    for (const expression of expressions(parse(shipped(file)))) assert.not.match(expression, /(increase|rate)\(colopp_events_total/, file);
  }
});

test('an agent that is gone is noticed under the job name that README tells', () => {
  assert.is(alertExpression('ColoppDown'), 'up{job="colopp"} == 0');
  assert.match(readFileSync(new URL('../../../README.md', import.meta.url), 'utf8'), 'job_name: colopp,');
});

test('each alert says how bad it is and what it means', () => {
  const { groups } = parse(shipped('alerts.yaml')) as { groups: { rules: { alert: string; labels: { severity?: string }; annotations: { summary?: string } }[] }[] };
  const rules = groups.flatMap((group) => group.rules);
  assert.is(new Set(rules.map(({ alert }) => alert)).size, rules.length);
  for (const { alert, labels, annotations } of rules) {
    assert.match(labels.severity ?? '', /^(info|warning|critical)$/, alert);
    assert.ok((annotations.summary ?? '').length > 10, alert);
  }
});

test.run();
