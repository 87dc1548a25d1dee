/**
 * What an agent tells Prometheus: everything its status holds, as gauges and counters, and how long
 * checkpoints, holding and takeovers took, as histograms. Names end in their unit, times are seconds.
 */

import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry, type Metric } from 'prom-client';
import { holdBoundsNs, releaseCauses, type HoldTimes, type ReleaseCause } from 'tap-hold';
import type { Phase } from '../protocol/pair.js';
import type { AgentNews, AgentStatus } from './agent.js';

export interface MetricsSource {
  status(): AgentStatus;
  /** How long held packets waited, by what released them. */
  holdTimes(): Record<ReleaseCause, HoldTimes>;
}

interface Sample { value: number; labels?: Record<string, string | number> }

const nsPerSecond = 1e9;
const pauseBoundsSeconds = [0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1, 2, 5];
const takeoverBoundsSeconds = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10];

const phases = Object.keys({
  alone: true, pairing: true, syncing: true, protected: true, checkpointing: true, parting: true,
  'taking-over': true, 'active-alone': true, fenced: true, ended: true,
} satisfies Record<Phase, true>);

export class AgentMetrics {
  readonly #registry = new Registry();
  readonly #source: MetricsSource;
  readonly #pause: Histogram;
  readonly #takeover: Histogram;
  readonly #events: Counter;
  /** What all samples of one reading are taken from. */
  #status!: AgentStatus;
  #takingOverSinceNs: bigint | undefined;

  /** @param labels what tells this agent's metrics from others' */
  constructor(source: MetricsSource, labels: { vm: string; host: string }) {
    this.#source = source;
    this.#registry.setDefaultLabels(labels);
    const registers = [this.#registry];
    this.#pause = new Histogram({
      name: 'colopp_checkpoint_pause_seconds', help: 'How long checkpoints stopped the VM.', buckets: pauseBoundsSeconds, registers,
    });
    this.#takeover = new Histogram({
      name: 'colopp_takeover_seconds', help: 'From the decision to take over to the running VM.', buckets: takeoverBoundsSeconds, registers,
    });
    this.#events = new Counter({
      name: 'colopp_events_total', help: 'What the agent has told in its log, by its code.', labelNames: ['level', 'code'], registers,
    });
    this.#observeHolding();
    this.#observePair();
    this.#observeOutput();
    this.#observeServices();
    this.#observeInputLog();
    this.#observeVcpus();
    this.#observeCompare();
    // How late the event loop is, above all: heartbeats wait for it.
    collectDefaultMetrics({ register: this.#registry });
  }

  /** Counts what can only be seen as it happens. */
  readonly onNews = (news: AgentNews): void => {
    switch (news.event) {
      case 'commit': return this.#pause.observe(news.pauseMs / 1000);
      case 'note': return this.#events.inc({ level: news.level, code: news.code });
      case 'phase':
        if (news.phase === 'active-alone' && this.#takingOverSinceNs !== undefined) {
          this.#takeover.observe(Number(news.atNs - this.#takingOverSinceNs) / nsPerSecond);
        }
        this.#takingOverSinceNs = news.phase === 'taking-over' ? news.atNs : undefined;
    }
  };

  /** All of it in Prometheus' text format, as {@link contentType} says. */
  async text(): Promise<string> {
    this.#status = this.#source.status();
    return this.#registry.metrics();
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  // ---- what there is -------------------------------------------------------

  #observeHolding(): void {
    const name = 'colopp_hold_seconds';
    const help = 'How long output was held, by what released it: a commit, the input log, a matching shadow output, or the end of protection.';
    const get = (): unknown => {
      const times = this.#source.holdTimes();
      return { name, help, type: 'histogram', aggregator: 'sum', values: releaseCauses.flatMap((cause) => bucketSamples(name, cause, times[cause])) };
    };
    // The hold thread has counted already, and prom-client's own histogram takes single observations only.
    this.#registry.registerMetric({ name, help, get } as unknown as Metric);
  }

  #observePair(): void {
    this.#gauge('colopp_info', 'Always 1; what this agent runs is in the labels.', ({ vm }) => [{ value: 1, labels: { accel: vm.accel, qemu: vm.qemu } }], ['accel', 'qemu']);
    this.#gauge('colopp_protected', '1 while the other host could take over.', (s) => [flag(s.protected)]);
    this.#gauge('colopp_active', '1 while this host runs the VM that speaks.', (s) => [flag(s.active)]);
    this.#gauge('colopp_paused', '1 while an operator wants no protection.', (s) => [flag(s.paused)]);
    this.#gauge('colopp_vm_running', '1 while this host has a QEMU.', (s) => [flag(s.vm.pid !== null)]);
    this.#gauge('colopp_role', '1 for the role of this host.', ({ role }) => ['primary', 'secondary'].map((each) => flag(each === role, { role: each })), ['role']);
    this.#gauge('colopp_phase', '1 for the phase that the pair is in, as this host sees it.', ({ phase }) => phases.map((each) => flag(each === phase, { phase: each })), ['phase']);
    this.#gauge('colopp_generation', 'Counts the takeovers of this VM.', (s) => [{ value: s.generation }]);
    this.#gauge('colopp_lease_seconds', 'How long a primary may speak without hearing from its secondary.', (s) => [{ value: s.leaseMs / 1000 }]);
    this.#gauge('colopp_peer_connected', '1 while the other agent is connected.', (s) => [flag(s.peer !== null)]);
    this.#gauge('colopp_peer_silence_seconds', 'Since when nothing was heard of the other agent.', ({ peer }) => peer ? [{ value: peer.silentMs / 1000 }] : []);
    this.#gauge('colopp_peer_round_trip_seconds', 'Of the newest heartbeat that was answered.', ({ peer }) => peer && peer.rttUs !== null ? [{ value: peer.rttUs / 1e6 }] : []);
    this.#gauge('colopp_witness_reachable', '1 while the witness answers; absent where there is none, or it was not asked yet.', ({ witness }) => witness && witness.reachable !== null ? [flag(witness.reachable)] : []);
    this.#counter('colopp_peer_refused_connections_total', 'Connections to the peer port that were refused.', (s) => [{ value: s.refusedConnections }]);
    this.#counter('colopp_commits_total', 'Checkpoints that the other host has loaded, since protection began.', (s) => [{ value: s.checkpoints.commits }]);
    this.#gauge('colopp_commit_age_seconds', 'How far behind the other host is: the age of the last commit.', ({ active, checkpoints: { lastMsAgo } }) => active && lastMsAgo !== null ? [{ value: lastMsAgo / 1000 }] : []);
    this.#counter('colopp_checkpoint_bytes_total', 'Bytes of checkpoints, the first copy of the VM included.', ({ checkpoints }) => [
      { value: checkpoints.sentBytes, labels: { direction: 'sent' } }, { value: checkpoints.receivedBytes, labels: { direction: 'received' } },
    ], ['direction']);
  }

  #observeOutput(): void {
    this.#gauge('colopp_gate_mode', '1 for what the gate does: hold output (protected), let it pass, or keep it back (closed).', ({ output }) => ['pass', 'protected', 'closed'].map((mode) => flag(mode === output.mode, { mode })), ['mode']);
    this.#gauge('colopp_held_packets', 'Output that waits now.', (s) => [{ value: s.output.heldPackets }]);
    this.#gauge('colopp_held_bytes', 'Output that waits now.', (s) => [{ value: s.output.heldBytes }]);
    this.#gauge('colopp_held_oldest_seconds', 'How long the oldest of it has waited.', (s) => [{ value: s.output.oldestMs / 1000 }]);
    this.#counter('colopp_output_packets_total', 'Output of the VM: held; left before a checkpoint (early); unprotected or neighbour discovery (passed); nobody will see it (dropped).', ({ output }) =>
      Object.entries({ held: output.everHeldPackets, early: output.earlyPackets, passed: output.passedPackets, dropped: output.droppedPackets })
        .map(([fate, value]) => ({ value, labels: { fate } })), ['fate']);
    this.#counter('colopp_released_packets_total', 'Held output that has left, by what released it.', ({ output }) =>
      Object.entries(output.releasedBy).map(([cause, value]) => ({ value, labels: { cause } })), ['cause']);
    this.#counter('colopp_lease_dropped_packets_total', 'Output dropped because this host had no lease.', (s) => [{ value: s.output.leaseDroppedPackets }]);
    this.#counter('colopp_input_packets_total', 'Packets for the VM that passed the gate.', (s) => [{ value: s.output.inputPackets }]);
  }

  #observeServices(): void {
    const each = (of: (service: AgentStatus['output']['services'][number]) => Sample[]) => ({ output }: AgentStatus): Sample[] =>
      output.services.flatMap((service) => of(service).map(({ value, labels }) => ({ value, labels: { port: service.port, protocol: service.protocol, ...labels } })));
    const names = ['port', 'protocol'];
    this.#gauge('colopp_service_pre_release', '1 while replies of this service may leave before a checkpoint.', each((s) => [flag(s.preRelease)]), names);
    this.#counter('colopp_service_early_packets_total', 'Output of this service that left early: replies to reads, and bare TCP control packets.', each((s) => [
      { value: s.prereleasedPackets, labels: { kind: 'reply' } }, { value: s.controlPackets, labels: { kind: 'control' } },
    ]), [...names, 'kind']);
    this.#counter('colopp_service_held_packets_total', 'Output of this service that was held, by the rule that held it.', each((s) =>
      Object.entries(s.heldPackets).map(([rule, value]) => ({ value, labels: { rule } }))), [...names, 'rule']);
    this.#gauge('colopp_service_open_writes', 'Flows of this service with a write in doubt.', each((s) => [{ value: s.openWrites }]), names);
    this.#counter('colopp_service_untracked_flows_total', 'Connections to this service that could not be followed.', each((s) => [{ value: s.untrackedFlows }]), names);
  }

  #observeInputLog(): void {
    this.#gauge('colopp_unlogged_inputs', 'Mirrored input that the other host has not acknowledged yet.', ({ role, output, inputLog }) =>
      role === 'primary' && inputLog ? [{ value: output.inputSeq - output.loggedSeq }] : []);
    this.#gauge('colopp_input_log_packets', 'Input of the other host in the log of this one.', ({ inputLog }) => inputLog ? [{ value: inputLog.log.loggedPackets }] : []);
    this.#gauge('colopp_input_log_bytes', 'Input of the other host in the log of this one.', ({ inputLog }) => inputLog ? [{ value: inputLog.log.loggedBytes }] : []);
    this.#counter('colopp_input_log_gaps_total', 'Times input was lost on its way to the log, which a checkpoint made up for.', ({ inputLog }) => inputLog ? [{ value: inputLog.log.gaps }] : []);
    this.#counter('colopp_input_log_dropped_packets_total', 'Input that the kernel dropped because the log was full.', ({ inputLog }) => inputLog ? [{ value: inputLog.log.droppedPackets }] : []);
  }

  #observeVcpus(): void {
    this.#gauge('colopp_active_vcpus', 'vCPUs that are active while this host is the secondary.', ({ vcpus }) => vcpus.active === null ? [] : [{ value: vcpus.active.length }]);
    for (const [kind, what] of [['run', 'ran'], ['wait', 'waited for a CPU']] as const) {
      this.#gauge(`colopp_vcpu_${kind}_ratio`, `Share of the last second in which the thread of this vCPU ${what}.`, ({ vcpus }) =>
        vcpus.load.map((load) => ({ value: load[kind], labels: { vcpu: load.vcpu } })), ['vcpu']);
    }
  }

  #observeCompare(): void {
    this.#gauge('colopp_comparing', '1 while output is compared with what the other VM says.', ({ compare }) => [flag(compare.comparing)]);
    this.#counter('colopp_divergences_total', 'Times the two VMs said different things, which a checkpoint made up for.', ({ compare }) => [{ value: compare.divergences }]);
    this.#counter('colopp_late_comparisons_total', 'Times the other VM was later than output could wait.', ({ compare }) => [{ value: compare.late }]);
    this.#counter('colopp_audit_mismatches_total', 'Audited replies that had left early, and that the other VM would not have given.', ({ compare }) => [{ value: compare.auditMismatches }]);
    this.#gauge('colopp_service_caught', '1 for a service whose replies leave early no more, because audits failed.', ({ compare, output }) =>
      output.services.map(({ port, protocol }) => flag(compare.caught.includes(port), { port: String(port), protocol })), ['port', 'protocol']);
  }

  #gauge(name: string, help: string, read: (status: AgentStatus) => Sample[], labelNames: string[] = []): void {
    const samples = (): Sample[] => read(this.#status);
    new Gauge({
      name, help, labelNames, registers: [this.#registry],
      collect() {
        this.reset();
        // What is not known now is left out, and not told as zero.
        if (labelNames.length === 0) this.remove();
        for (const { labels = {}, value } of samples()) this.set(labels, value);
      },
    });
  }

  #counter(name: string, help: string, read: (status: AgentStatus) => Sample[], labelNames: string[] = []): void {
    const samples = (): Sample[] => read(this.#status);
    new Counter({
      name, help, labelNames, registers: [this.#registry],
      collect() {
        this.reset();
        if (labelNames.length === 0) this.remove();
        for (const { labels = {}, value } of samples()) this.inc(labels, value);
      },
    });
  }
}

function flag(on: boolean, labels: Record<string, string> = {}): Sample {
  return { value: on ? 1 : 0, labels };
}

/** The samples of one cause, as Prometheus wants them: each bucket holds those below it, too. */
function bucketSamples(name: string, cause: ReleaseCause, { packets, totalNs }: HoldTimes): unknown[] {
  let count = 0;
  const buckets = packets.map((inBucket, i) => {
    count += inBucket;
    const boundNs = holdBoundsNs[i];
    return { metricName: `${name}_bucket`, labels: { cause, le: boundNs === undefined ? '+Inf' : boundNs / nsPerSecond }, value: count };
  });
  return [
    ...buckets,
    { metricName: `${name}_sum`, labels: { cause }, value: totalNs / nsPerSecond },
    { metricName: `${name}_count`, labels: { cause }, value: count },
  ];
}
