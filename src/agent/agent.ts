/**
 * One host's half of a pair: carries out what the state machine decides, and
 * tells it what happens. Decides nothing itself.
 */

import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Logger } from 'pino';
import { Gate, type GateStats } from '../dataplane/gate.js';
import type { ShadowStats } from '../dataplane/shadow.js';
import { createTunnel, removeTunnel } from '../dataplane/tunnel.js';
import { CheckpointStream, type PeerConnection } from '../peer/index.js';
import {
  initialState, isActive, isProtected, secondaryIsActive, step,
  type Effect, type PairConfig, type PairEvent, type PairState, type Phase, type Role, type TimerName,
} from '../protocol/pair.js';
import { isLogMessage, isLogMessageTo, isVcpuMessage, type PeerMessage } from '../protocol/messages.js';
import { ensurePrivateFolder, locateQemu, probeQemu, type QemuProbe, type QemuRuntime } from '../qemu/index.js';
import { activeVcpusOf, ConfigError, describeVm, preReleases, replicatesInputs, secondaryMayRun, type AgentConfig } from './config.js';
import { requireRetranslation } from './requirements.js';
import { ControlError, ControlServer, isListening, type ControlRequest } from './control.js';
import { Session } from './session.js';
import { readSecret } from './secret.js';
import { StateFile } from './state-file.js';
import { CompareControl, type CompareStatus } from './compare-control.js';
import { InputReplication } from './input-replication.js';
import { AgentMetrics } from './metrics.js';
import { MetricsServer } from './metrics-server.js';
import { WitnessClient } from './witness/client.js';
import { PauseHistory } from './pause-history.js';
import { Vcpus, type VcpusHost, type VcpusStatus } from './vcpus.js';
import { Vm, type VmEvent } from './vm.js';

/** What `status` answers. */
export interface AgentStatus {
  host: string;
  pid: number;
  role: Role;
  phase: Phase;
  protected: boolean;
  active: boolean;
  generation: number;
  /** Why the VM is not protected; empty while it is. */
  reason: string;
  /** An operator wants no protection for now. */
  paused: boolean;
  /** So long a silent primary may still speak: the least that an unplanned takeover takes. */
  leaseMs: number;
  peer: { host: string; rttUs: number | null; silentMs: number } | null;
  /** Who decides between the hosts, and whether it could be reached when last tried; null if there is none. */
  witness: { address: string; reachable: boolean | null } | null;
  refusedConnections: number;
  vm: { name: string; pid: number | null; accel: 'kvm' | 'tcg'; accelReason: string; qemu: string };
  checkpoints: {
    commits: number; lastMsAgo: number | null; pauseMsP50: number | null; pauseMsP99: number | null;
    /** From asking QEMU for one until the VM stood still. */
    askMsP50: number | null; askMsP99: number | null;
    /** Over all connections since the agent's start, the first copy of the VM included. */
    sentBytes: number; receivedBytes: number;
  };
  output: GateStats;
  vcpus: VcpusStatus;
  /** What this host has of the other's inputs; null unless inputs are replicated, whichever host has the VM. */
  inputLog: ShadowStats | null;
  compare: CompareStatus;
}

/** Something worth telling a person; times are CLOCK_MONOTONIC nanoseconds. */
export type AgentNews =
  | { event: 'note'; level: 'info' | 'warn' | 'error'; code: string; text: string; atNs: bigint }
  | { event: 'phase'; role: Role; phase: Phase; atNs: bigint }
  | { event: 'commit'; commits: number; pauseMs: number; atNs: bigint };

/** How long a stopping primary waits for the secondary to take over, and, if it does not, to give up its VM. */
const handOverMs = 10_000;
const partingMs = 1000;
/** How long a primary asks a silent secondary before it goes on alone, at least. */
const leastAskMs = 1000;
const nsPerMs = 1e6;
/**
 * A checkpoint begins when the VM has said nothing for a twelfth of what the last one took, or after half of that:
 * clients that were answered together ask again together, and one checkpoint then serves all of them.
 */
const quietShare = 1 / 12;
const gatherShare = 1 / 2;
const longestQuietMs = 0.3;
const longestGatherMs = 5;

/** What was found out of this host before anything was made on it. */
interface HostFacts {
  runtime: QemuRuntime;
  probe: QemuProbe;
  accel: 'kvm' | 'tcg';
  /** What the peer must have alike. */
  vm: { digest: string; summary: string };
  secret: Buffer | undefined;
  witnessSecret: Buffer | undefined;
}

export class Agent {
  readonly #config: AgentConfig;
  readonly #pairConfig: PairConfig;
  readonly #log: Logger;
  readonly #probe: QemuProbe;
  readonly #stateFile: StateFile;
  /** Like all that needs it, there once the agent has begun. */
  #gate!: Gate;
  /** Only where something needs them; see replicatesInputs. */
  #inputs: InputReplication | undefined;
  #compare!: CompareControl;
  readonly #vm: Vm;
  readonly #vcpus: Vcpus;
  readonly #session: Session;
  readonly #witness: WitnessClient | undefined;
  readonly #timers = new Map<TimerName, NodeJS.Timeout>();
  readonly #watchers = new Set<(news: AgentNews) => void>();
  readonly #pauses = new PauseHistory();
  readonly #metrics: AgentMetrics;
  #metricsServer: MetricsServer | undefined;
  readonly #pending: PairEvent[] = [];
  #control: ControlServer | undefined;
  #stream: CheckpointStream | undefined;
  /** The newest copy of the VM; aborted when it is given up. */
  #copying = new AbortController();
  /** What earlier ones have carried. */
  readonly #carried = { sentBytes: 0, receivedBytes: 0 };
  #state: PairState;
  #dispatching = false;
  /** What went before, `start` tells. */
  #begun = false;
  /** Starts and ends of QEMU, one after the other. */
  #lifecycle: Promise<void> = Promise.resolve();
  /** Rises when the VM is destroyed: what an older VM failed at is no news. */
  #vmEpoch = 0;
  #lastNote = '';
  #holdTapLost = false;
  #ended: () => void = () => {};
  /** Resolves when the agent has stopped. */
  readonly ended = new Promise<void>((resolve) => { this.#ended = resolve; });

  /**
   * Starts an agent; returns once its control socket answers.
   * @throws ConfigError, QemuError, PeerError, BpfError... with nothing left behind
   */
  static async start(config: AgentConfig, log: Logger): Promise<Agent> {
    await ensurePrivateFolder(config.runDir);
    if (await isListening(controlSocket(config))) {
      throw new ConfigError(`An agent is running already with the folder ${config.runDir}. Stop it first, or give this one a runDir of its own.`);
    }
    mkdirSync(config.stateDir, { recursive: true, mode: 0o700 });
    const runtime = await locateQemu(config.vm.qemu === undefined ? {} : { explicitPath: config.vm.qemu });
    const probe = await probeQemu(runtime);
    const accel = chooseAccel(config, probe);
    if (secondaryMayRun(config)) requireRetranslation(accel);
    const vm = describeVm(config, accel, probe.version);
    const secret = readSecret('peer.secretFile', config.peer.secretFile);
    const witnessSecret = readSecret('witness.secretFile', config.witness?.secretFile);
    const agent = new Agent(config, log, { runtime, probe, accel, vm, secret, witnessSecret });
    try {
      await agent.#begin();
    } catch (error) {
      await agent.#end({ leaveVm: true });
      throw error;
    }
    return agent;
  }

  private constructor(config: AgentConfig, log: Logger, host: HostFacts) {
    const { runtime, probe, accel, vm: { digest, summary }, secret, witnessSecret } = host;
    const { heartbeat, checkpoint } = config;
    const leaseMs = heartbeat.intervalMs * heartbeat.missed;
    this.#config = config;
    this.#log = log;
    this.#probe = probe;
    this.#stateFile = new StateFile(config.stateDir);
    this.#state = initialState(config.role);
    this.#pairConfig = {
      host: config.host, vmDigest: digest, vmSummary: summary,
      holdMs: checkpoint.holdMs, periodMs: checkpoint.periodMs,
      checkpointTimeoutMs: checkpoint.timeoutMs, syncTimeoutMs: checkpoint.syncTimeoutMs,
      leaseMs, askMs: Math.max(leastAskMs, 2 * leaseMs), retryMs: config.peer.retryMs,
      witness: config.witness !== undefined,
      pauseSecondary: config.secondary === 'paused',
    };
    this.#metrics = new AgentMetrics({ status: () => this.status(), holdTimes: () => this.#gate.holdTimes() }, { vm: config.vm.name, host: config.host });
    this.#watchers.add(this.#metrics.onNews);
    this.#vm = new Vm(config, runtime, accel, (event) => this.#onVmEvent(event));
    this.#vcpus = new Vcpus(config.vm.vcpus, activeVcpusOf(config), this.#vcpusHost());
    this.#session = new Session(config, config.vm.name, secret, {
      onUp: () => this.#dispatch({ type: 'peer-up' }),
      onMessage: (message) => this.#onMessage(message),
      onLost: (reason) => this.#dispatch({ type: 'peer-lost', reason }),
      onUnreached: (sign, reason) => this.#dispatch({ type: 'peer-unreached', sign, reason }),
      onAck: (sentNs) => this.#dispatch({ type: 'heartbeat-acked', sentNs }),
      onCheckpointConnection: (connection) => this.#receiveCheckpoints(connection),
      onRefused: (reason) => this.#say('warn', 'PEER_REFUSED', reason),
    });
    if (config.witness) {
      this.#witness = new WitnessClient({
        ...config.witness.address, hostName: config.host, vm: config.vm.name, secret: witnessSecret,
        onVerdict: (term, { granted, holder }) => this.#dispatch({ type: 'verdict', term, granted, holder }),
        onReach: (reachable, reason) => {
          if (reachable) this.#note('info', 'WITNESS_REACHED', 'The witness answers.');
          else this.#note('warn', 'WITNESS_SILENT', `The witness cannot be reached, so no host can go on without the other: ${reason}`);
        },
      });
    }
  }

  /** Hands a protected VM over to the peer, and else ends it; then ends everything else that this agent made. */
  async stop(): Promise<void> {
    const handsOver = isProtected(this.#state) && this.#state.role === 'primary';
    this.#dispatch({ type: 'command', command: 'stop' });
    if (handsOver) {
      await this.#connectedUntil(() => this.#state.phase !== 'fenced', handOverMs);
      this.#dispatch({ type: 'command', command: 'stop' });
      if (this.#state.role === 'primary') await this.#connectedUntil(() => this.#stateFile.read()?.mayRunAlone ?? true, partingMs);
    }
    await this.#end();
  }

  /** Waits until `done`, while the peer is there. */
  async #connectedUntil(done: () => boolean, timeoutMs: number): Promise<void> {
    const deadlineMs = performance.now() + timeoutMs;
    while (!done() && this.#session.up && performance.now() < deadlineMs) await new Promise((resolve) => setTimeout(resolve, 10));
  }

  /** Tells `watcher` of all that happens from now on. @returns what ends it */
  follow(watcher: (news: AgentNews) => void): () => void {
    this.#watchers.add(watcher);
    return () => void this.#watchers.delete(watcher);
  }

  status(): AgentStatus {
    const { role, phase, generation, reason, paused, peer, commits } = this.#state;
    const pulse = this.#session.pulse;
    return {
      host: this.#config.host, pid: process.pid, role, phase, generation, reason, paused,
      leaseMs: this.#pairConfig.leaseMs,
      protected: isProtected(this.#state), active: isActive(this.#state),
      peer: peer && pulse ? { host: peer.host, rttUs: pulse.rttUs ?? null, silentMs: pulse.silentMs } : null,
      witness: this.#witness ? { address: this.#witness.address, reachable: this.#witness.reachable ?? null } : null,
      refusedConnections: this.#session.refusals,
      vm: {
        name: this.#config.vm.name, pid: this.#vm.pid ?? null, accel: this.#vm.accel,
        accelReason: this.#probe.kvm.reason, qemu: this.#probe.version,
      },
      checkpoints: {
        commits, ...this.#pauses.summary(),
        sentBytes: this.#carried.sentBytes + (this.#stream?.sentBytes ?? 0),
        receivedBytes: this.#carried.receivedBytes + (this.#stream?.receivedBytes ?? 0),
      },
      output: this.#gate.stats(),
      vcpus: this.#vcpus.status(),
      inputLog: this.#inputs?.stats() ?? null,
      compare: this.#compare.status(),
    };
  }

  /**
   * What can fail does so before an earlier agent's gate is replaced, as far as possible:
   * the VM that it left is heard or silent as before, until an agent has started.
   */
  async #begin(): Promise<void> {
    const { host, metrics, network, role } = this.#config;
    const remembered = this.#stateFile.read();
    let begin = (): void => {};
    const beginning = new Promise<void>((resolve) => { begin = resolve; });
    await this.#session.listen(beginning);
    if (metrics.listen) {
      const { contentType } = this.#metrics;
      this.#metricsServer = await MetricsServer.listen({ contentType, text: () => beginning.then(() => this.#metrics.text()) }, metrics.listen);
    }
    this.#control = await ControlServer.listen(controlSocket(this.#config), (request, push, ended) => beginning.then(() => this.#answer(request, push, ended)));
    await this.#vm.adopt();
    if (replicatesInputs(this.#config)) await createTunnel(network.tunnel);
    this.#gate = await this.#openGate();
    this.#compare = new CompareControl(this.#config, this.#gate, {
      onWish: (wish) => {
        this.#session.send({ type: 'secondary-wish', ...wish });
        this.#vcpus.look();
      },
      onCheckpoint: () => this.#dispatch({ type: 'hold-limit' }),
      onNote: (level, code, text) => this.#note(level, code, text),
    });
    if (replicatesInputs(this.#config)) {
      this.#inputs = new InputReplication(
        this.#config, this.#gate, (message) => this.#session.send(message), () => this.#dispatch({ type: 'log-lags' }), () => this.#onLogTapLost(),
      );
    }
    this.#witness?.start();
    this.#log.info({ host, qemu: this.#probe.version, accel: this.#vm.accel }, `The agent of ${host} has started.`);
    this.#begun = true;
    this.#dispatch({
      type: 'start', vmAlive: this.#vm.pid !== undefined, role: remembered?.role ?? role,
      generation: remembered?.generation ?? 0, term: remembered?.term ?? 0, mayRunAlone: remembered?.mayRunAlone ?? true,
    });
    begin();
  }

  #openGate(): Promise<Gate> {
    const { network, checkpoint, peer, mode, services } = this.#config;
    return Gate.open({
      ...network,
      holdMemoryBytes: checkpoint.holdMemoryBytes,
      limitPackets: checkpoint.maxHeldPackets,
      limitBytes: checkpoint.maxHeldBytes,
      ...(replicatesInputs(this.#config) ? { mirror: { tunnel: network.tunnel, peerAddress: peer.address.host } } : {}),
      ...(mode === 'commit' ? {} : { compare: { shadowTap: network.shadowTap, onFound: (events) => this.#compare.onFound(events) } }),
      services: services.map((service) => ({ ...service, preRelease: preReleases(service) })),
      onNotice: (notice, oldestNs) => {
        if (notice === 'lost') this.#onHoldTapLost();
        else if (notice === 'shadowLost') this.#onShadowTapLost();
        else this.#dispatch(notice === 'held' ? { type: 'held', oldestNs } : { type: 'hold-limit' });
      },
    });
  }

  /** @param options `leaveVm`: a VM that was adopted runs on, on its tap */
  async #end({ leaveVm = false } = {}): Promise<void> {
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#timers.clear();
    if (this.#begun) this.#compare.end();
    this.#closeStream();
    await this.#session.close();
    this.#witness?.close();
    this.#control?.close();
    this.#metricsServer?.close();
    this.#vcpus.close();
    await this.#lifecycle;
    const left = leaveVm && this.#vm.detach();
    await this.#vm.destroy();
    this.#inputs?.close();
    await (this.#gate as Gate | undefined)?.close({ keepTap: left });
    if (replicatesInputs(this.#config)) await removeTunnel(this.#config.network.tunnel);
    this.#log.info('The agent has ended.');
    this.#ended();
  }

  // ---- events in -----------------------------------------------------------

  #dispatch(event: PairEvent): void {
    this.#pending.push(event);
    if (this.#dispatching) return; // an effect's own news waits for the other effects
    this.#dispatching = true;
    try {
      for (let next = this.#pending.shift(); next; next = this.#pending.shift()) this.#step(next);
    } finally {
      this.#dispatching = false;
    }
  }

  #step(event: PairEvent): void {
    const before = this.#state;
    const { state, effects } = step(before, event, process.hrtime.bigint(), this.#pairConfig);
    this.#state = state;
    for (const effect of effects) {
      try {
        this.#execute(effect);
      } catch (error) {
        // What follows may rely on this one having happened.
        this.#pending.push({ type: 'failed', what: effect.type, reason: (error as Error).message });
        break;
      }
    }
    if (isProtected(before) !== isProtected(state) || before.role !== state.role) {
      if (isProtected(state) && state.role === 'primary') this.#compare.begin();
      else this.#compare.end();
    }
    if (before.phase !== state.phase || before.role !== state.role) {
      this.#tell({ event: 'phase', role: state.role, phase: state.phase, atNs: process.hrtime.bigint() });
    }
  }

  /** Without it a protected VM is mute. */
  #onHoldTapLost(): void {
    const { host, network: { holdTap } } = this.#config;
    this.#holdTapLost = true;
    this.#note('error', 'HOLD_TAP_LOST', `The hold tap ${holdTap} was deleted: ${host} can hold no output until its agent is restarted.`);
    this.#dispatch({ type: 'hold-lost' });
  }

  /** Without it a takeover would lose what the primary's replies rely on. */
  #onLogTapLost(): void {
    const { host, network: { logTap } } = this.#config;
    this.#note('error', 'LOG_TAP_LOST', `The log tap ${logTap} was deleted: ${host} can be no secondary until its agent is restarted.`);
    this.#dispatch({ type: 'log-lost' });
  }

  #onShadowTapLost(): void {
    const { host, network: { shadowTap } } = this.#config;
    this.#note('error', 'SHADOW_TAP_LOST', `The tap ${shadowTap} was deleted: ${host} compares no output until its agent is restarted.`);
  }

  #onMessage(message: PeerMessage): void {
    if (isVcpuMessage(message)) return this.#vcpus.onMessage(message);
    if (!isLogMessage(message)) return this.#dispatch({ type: 'message', message });
    if (!isLogMessageTo(this.#state.role, message)) return;
    if (message.type !== 'secondary-wish') {
      if (this.#inputs) this.#inputs.onMessage(message);
      // A host that keeps no log has none that could begin elsewhere.
      else if (message.type === 'log-mark') this.#session.send({ type: 'log-marked', checkpoint: message.checkpoint, active: false });
      return;
    }
    this.#inputs?.forward(message.forward);
    this.#compare.adopt(message.caught);
    this.#vcpus.onWish(message.active);
  }

  #vcpusHost(): VcpusHost {
    return {
      part: () => isProtected(this.#state) ? this.#state.role : 'neither',
      pid: () => this.#vm.pid,
      threads: () => this.#vm.vcpuThreads(),
      output: () => {
        const { earlyPackets, releasedBy } = this.#gate.stats();
        return { early: earlyPackets, released: releasedBy };
      },
      comparing: () => this.#compare.comparing,
      send: (load) => this.#session.send(load),
      setActive: (on) => {
        this.#dispatch({ type: 'secondary-active', on });
        this.#vm.hold(!on);
        this.#session.send({ type: 'request-checkpoint' }); // it counts from the next commit on
      },
      onDecision: ({ to, active, reason, inputs }) => {
        this.#log.debug({ code: 'ACTIVE_VCPUS', ...inputs }, 'What the active vCPUs are decided by.');
        this.#note('info', 'ACTIVE_VCPUS', `${to} of ${this.#config.vm.vcpus} vCPUs of the secondary are active${to > 0 ? ` (${active.join(', ')})` : ''}: ${reason}.`);
      },
      warn: (code, text) => this.#note('warn', code, text),
    };
  }

  #onVmEvent(event: VmEvent): void {
    if (!this.#begun) return;
    switch (event.type) {
      case 'stopped':
        if (this.#state.role === 'secondary') this.#inputs?.suspended();
        if (this.#state.checkpoint && this.#state.checkpoint.stopNs === undefined) this.#inputs?.stopped(event.stampNs);
        return this.#dispatch({ type: 'vm-stopped', stampNs: event.stampNs, receivedNs: event.receivedNs });
      case 'resumed': {
        this.#vcpus.loaded();
        const resumed = (): void => this.#dispatch({ type: 'vm-resumed', receivedNs: event.receivedNs });
        if (!this.#inputs) return resumed();
        if (this.#state.role === 'primary') return this.#inputs.whenMarked(resumed);
        // Not when the takeover sets it running: that loads nothing.
        if (this.#state.phase !== 'taking-over') this.#inputs.loaded(secondaryIsActive(this.#state, this.#pairConfig));
        return resumed();
      }
      case 'colo-entered': return this.#dispatch({ type: 'colo-entered' });
      case 'migration-failed': return this.#dispatch({ type: 'failed', what: 'Copying the VM', reason: 'QEMU says no more; see qemu.log' });
      case 'colo-exit': return this.#dispatch({ type: 'colo-exit', reason: event.reason });
      case 'exited':
        this.#closeStream();
        return this.#dispatch({ type: 'vm-exited', clean: event.clean, reason: event.reason });
    }
  }

  // ---- effects out ---------------------------------------------------------

  #execute(effect: Effect): void {
    switch (effect.type) {
      case 'dial': return this.#session.dial();
      case 'hang-up': return this.#session.hangUp(effect.reason);
      case 'claim': return this.#witness?.claim(effect.term);
      case 'send': return this.#session.send(effect.message);
      case 'start-vm':
        this.#inputs?.turnOff();
        return this.#inTurn('Starting the VM', async () => {
          if (this.#vm.pid === undefined) this.#inputs?.vmBegins();
          try {
            await this.#vm.start();
          } catch (error) {
            this.#dispatch({ type: 'vm-exited', clean: false, reason: `it could not be started: ${(error as Error).message}` });
          }
        });
      case 'start-incoming-vm':
        this.#inputs?.expectCopy();
        this.#vm.hold(!secondaryIsActive(this.#state, this.#pairConfig));
        return this.#inTurn('Preparing the secondary VM', async () => {
          this.#inputs?.vmBegins();
          await this.#vm.startIncoming();
          this.#dispatch({ type: 'vm-listening' });
        });
      case 'destroy-vm':
        this.#vmEpoch++;
        this.#copying.abort();
        this.#closeStream();
        return this.#inTurn('Ending the VM', () => this.#vm.destroy());
      case 'migrate':
        this.#inputs?.begin();
        return this.#copy();
      case 'trigger-checkpoint':
        this.#gate.checkpointAsked();
        this.#inputs?.checkpointAsked();
        this.#session.send({ type: 'checkpoint-asked' });
        return this.#now('Starting a checkpoint', () => this.#vm.triggerCheckpoint(this.#inputs?.round !== undefined));
      case 'drop-secondary':
        this.#copying.abort();
        this.#closeStream();
        return void this.#dropSecondary();
      case 'take-over-vm': return void this.#takeOver();
      case 'pause-vm': return this.#now('Pausing the secondary VM', () => this.#vm.pause());
      case 'gate': return this.#gate.setMode(effect.mode);
      case 'lease': return this.#gate.setLease(effect.untilNs);
      case 'release': {
        this.#gate.commit(effect.upToNs, this.#inputs?.round);
        const pauseMs = Number(effect.pauseNs) / nsPerMs;
        this.#pauses.add(pauseMs, Number(effect.askNs) / nsPerMs);
        this.#gate.setGathering(Math.min(longestQuietMs, pauseMs * quietShare), Math.min(longestGatherMs, pauseMs * gatherShare));
        this.#log.debug({ pauseMs, commits: this.#state.commits }, 'commit');
        return this.#tell({ event: 'commit', commits: this.#state.commits, pauseMs, atNs: process.hrtime.bigint() });
      }
      case 'release-all': return this.#gate.releaseAll();
      case 'discard': return this.#gate.discard();
      case 'announce': return this.#now('Announcing the VM', () => this.#vm.announce());
      case 'persist': {
        const { role, generation, term, mayRunAlone } = effect;
        return this.#stateFile.write({ role, generation, term, mayRunAlone });
      }
      case 'timer': return this.#setTimer(effect.name, effect.ms);
      case 'cancel-timer': return this.#cancelTimer(effect.name);
      case 'note': return this.#note(effect.level, effect.code, effect.text);
    }
  }

  /** Runs an operation on the VM at once. */
  #now(what: string, operation: () => Promise<void>): void {
    const epoch = this.#vmEpoch;
    void operation().catch((error: unknown) => this.#failed(what, (error as Error).message, epoch));
  }

  /** Runs an operation on the VM after those that were asked for before. */
  #inTurn(what: string, operation: () => Promise<void>): void {
    const epoch = this.#vmEpoch;
    this.#lifecycle = this.#lifecycle.then(operation).catch((error: unknown) => {
      this.#log.error({ err: error }, `${what} failed.`);
      void this.#failed(what, (error as Error).message, epoch);
    });
  }

  /** Tells of a failure, unless QEMU is ending: then that is the news, and calls for another answer. */
  async #failed(what: string, reason: string, epoch = this.#vmEpoch): Promise<void> {
    if (!await this.#vm.isEnding() && epoch === this.#vmEpoch) this.#dispatch({ type: 'failed', what, reason });
  }

  async #dropSecondary(): Promise<void> {
    const epoch = this.#vmEpoch;
    const news = await this.#vm.dropSecondary().then<PairEvent, PairEvent>(
      () => ({ type: 'secondary-dropped' }),
      (error: unknown) => ({ type: 'drop-failed', reason: (error as Error).message }),
    );
    if (epoch === this.#vmEpoch) this.#dispatch(news);
  }

  async #takeOver(): Promise<void> {
    this.#closeStream();
    this.#vcpus.restore();
    try {
      await this.#vm.takeOver();
      this.#dispatch({ type: 'took-over' });
      // Only now the gate is open, for the log too. Until it has begun nothing
      // else passes, and what clients send from then on waits behind it.
      this.#inputs?.takeOver().then(
        (replayed) => this.#log.info(replayed, 'The input log was replayed.'),
        (error: Error) => this.#note('error', 'REPLAY_FAILED', `The input log could not be replayed, so the VM lacks what clients sent last: ${error.message}`),
      );
    } catch (error) {
      this.#dispatch({ type: 'takeover-failed', reason: (error as Error).message });
    }
  }

  /** If it is given up, it is for who gave it up to undo what has been begun. */
  #copy(): void {
    this.#copying.abort();
    const { signal } = this.#copying = new AbortController();
    this.#inTurn('Copying the VM', () => this.#migrate(signal).catch((error: unknown) => {
      if (!signal.aborted) throw error;
    }));
  }

  async #migrate(wanted: AbortSignal): Promise<void> {
    wanted.throwIfAborted();
    const { socket } = await this.#session.openCheckpointConnection(wanted);
    wanted.addEventListener('abort', () => socket.destroy(), { once: true });
    const stream = await CheckpointStream.outgoing(socket);
    this.#useStream(stream);
    await this.#vm.migrate(stream, wanted);
  }

  /** Secondary: the primary's checkpoints come in. */
  #receiveCheckpoints(connection: PeerConnection): void {
    this.#now('Receiving checkpoints', async () => {
      const stream = CheckpointStream.incoming(connection.socket);
      this.#useStream(stream);
      await this.#vm.receive(stream.fd);
      stream.taken();
    });
  }

  /** Whether it lives, QEMU tells. */
  #useStream(stream: CheckpointStream): void {
    this.#closeStream();
    this.#stream = stream;
  }

  #closeStream(): void {
    const stream = this.#stream;
    this.#stream = undefined;
    if (!stream) return;
    stream.close();
    this.#carried.sentBytes += stream.sentBytes;
    this.#carried.receivedBytes += stream.receivedBytes;
  }

  #setTimer(name: TimerName, ms: number): void {
    this.#cancelTimer(name);
    this.#timers.set(name, setTimeout(() => {
      this.#timers.delete(name);
      this.#dispatch({ type: 'timer', name });
    }, ms));
  }

  #cancelTimer(name: TimerName): void {
    clearTimeout(this.#timers.get(name));
    this.#timers.delete(name);
  }

  #note(level: 'info' | 'warn' | 'error', code: string, text: string): void {
    this.#say(level, code, text, text !== this.#lastNote);
    this.#lastNote = text;
  }

  /** @param isNew what repeats with every attempt to pair is logged once */
  #say(level: 'info' | 'warn' | 'error', code: string, text: string, isNew = true): void {
    if (isNew) this.#log[level]({ code }, text);
    this.#tell({ event: 'note', level, code, text, atNs: process.hrtime.bigint() });
  }

  #tell(news: AgentNews): void {
    for (const watcher of this.#watchers) watcher(news);
  }

  // ---- control socket ------------------------------------------------------

  async #answer(request: ControlRequest, push: (value: unknown) => void, ended: AbortSignal): Promise<unknown> {
    switch (request.command) {
      case 'status': return this.status();
      case 'checkpoint': return this.#checkpoint();
      case 'failover': return this.#failover();
      case 'pause': return this.#pause();
      case 'pre-release': return this.#setPreRelease(request.port, request.on);
      case 'reprotect': return this.#reprotect();
      case 'start-alone':
        if (this.#state.phase !== 'fenced' && this.#state.phase !== 'ended') {
          throw new ControlError('NOT_FENCED', `${this.#config.host} is ${this.#state.phase}, neither fenced nor ended: there is nothing to decide.`);
        }
        this.#dispatch({ type: 'command', command: 'start-alone' });
        return this.status();
      case 'vcpus': return this.#vcpus.report();
      case 'active-vcpus':
        if (request.activeVcpus === undefined) throw new ControlError('CONTROL_REQUEST', 'How many vCPUs are to be active is missing: "auto" or a number.');
        this.#vcpus.mode = request.activeVcpus;
        return this.#vcpus.report();
      case 'watch':
        this.#watchers.add(push);
        ended.addEventListener('abort', () => this.#watchers.delete(push));
        return this.status();
      case 'stop':
        setImmediate(() => void this.stop());
        return {};
    }
  }

  /** Asks for a checkpoint and waits for its commit; one that is under way already is another. */
  async #checkpoint(): Promise<{ pauseMs: number }> {
    this.#requireProtected('checkpoint');
    if (this.#state.role === 'secondary') throw new ControlError('NOT_PRIMARY', 'Checkpoints are asked for at the primary.');
    const { commits, phase } = this.#state;
    const checkpoints = phase === 'checkpointing' ? 2 : 1;
    const commit = this.#await(
      (news) => news.event === 'commit' && news.commits >= commits + checkpoints ? { pauseMs: news.pauseMs } : undefined,
      checkpoints * this.#config.checkpoint.timeoutMs, 'The checkpoint did not commit',
    );
    this.#dispatch({ type: 'command', command: 'checkpoint' });
    return commit;
  }

  /** Moves the VM to the other host and waits until this host has changed its part. */
  async #failover(): Promise<AgentStatus> {
    this.#requireProtected('failover');
    const { role } = this.#state;
    const changed = this.#await((news) => news.event === 'phase' && news.role !== role ? true : undefined, 15_000, 'The failover did not happen');
    this.#dispatch({ type: 'command', command: 'failover' });
    await changed;
    return this.status();
  }

  /** Until this agent is restarted: then the configuration counts again. */
  #setPreRelease(port: number | undefined, on: boolean | undefined): AgentStatus {
    const service = this.#config.services.find((each) => each.port === port);
    if (port === undefined || on === undefined) throw new ControlError('CONTROL_REQUEST', 'Which service, or whether on or off, is missing.');
    if (!service) throw new ControlError('NO_SERVICE', `No service is declared at port ${port} (services, in the agent's configuration).`);
    if (on && service.protocol === 'never') throw new ControlError('NO_SERVICE', `The service at port ${port} is declared as "never": its requests are not followed, so nothing of it can leave early.`);
    this.#gate.setPreRelease(port, on);
    if (on) this.#compare.forgive(port);
    this.#note(on ? 'info' : 'warn', 'PRE_RELEASE', `An operator has switched the pre-release of port ${port} ${on ? 'on' : 'off'}.`);
    return this.status();
  }

  /** Ends the protection until {@link #reprotect}, and waits until the other host cannot take over any more. */
  async #pause(): Promise<AgentStatus> {
    const { role, phase, reason } = this.#state;
    if (role === 'secondary') throw new ControlError('NOT_PRIMARY', `Protection ends at the host that runs the VM, and ${this.#config.host} does not. Ask the other one.`);
    if (!isActive(this.#state)) throw new ControlError('NOT_ACTIVE', `${this.#config.host} is ${phase} (${reason}): there is no protection to pause.`);
    this.#dispatch({ type: 'command', command: 'pause' });
    const alone = (phase: Phase): boolean => phase === 'alone' || phase === 'active-alone';
    if (!alone(this.#state.phase)) await this.#await((news) => news.event === 'phase' && alone(news.phase) ? true : undefined, 15_000, 'The other host did not give its copy up');
    return this.status();
  }

  /** Looks for a secondary at once; what comes of it, the status tells. */
  #reprotect(): AgentStatus {
    const { role, phase, reason } = this.#state;
    if (role === 'secondary') throw new ControlError('NOT_PRIMARY', `Protection begins at the host that runs the VM, and ${this.#config.host} does not. Ask the other one.`);
    if (!isActive(this.#state)) throw new ControlError('NOT_ACTIVE', `${this.#config.host} is ${phase} (${reason}) and has no VM to protect.`);
    if (this.#holdTapLost) throw new ControlError('HOLD_TAP_LOST', `${this.#config.host} can hold no output: its hold tap was deleted. Restart its agent.`);
    this.#dispatch({ type: 'command', command: 'reprotect' });
    return this.status();
  }

  #requireProtected(what: string): void {
    if (isProtected(this.#state)) return;
    throw new ControlError('NOT_PROTECTED', `No ${what}: the VM is not protected (${this.#state.role}, ${this.#state.phase}: ${this.#state.reason}).`);
  }

  #await<T>(pick: (news: AgentNews) => T | undefined, timeoutMs: number, otherwise: string): Promise<T> {
    return new Promise((resolve, reject) => {
      const done = (): void => {
        clearTimeout(timer);
        this.#watchers.delete(watcher);
      };
      const watcher = (news: AgentNews): void => {
        const picked = pick(news);
        if (picked === undefined) return;
        done();
        resolve(picked);
      };
      const timer = setTimeout(() => {
        done();
        reject(new ControlError('TIMEOUT', `${otherwise} within ${timeoutMs} ms.`));
      }, timeoutMs);
      this.#watchers.add(watcher);
    });
  }
}

function controlSocket(config: AgentConfig): string {
  return join(config.runDir, 'agent.sock');
}

function chooseAccel(config: AgentConfig, probe: QemuProbe): 'kvm' | 'tcg' {
  const { accel } = config.vm;
  if (accel === 'kvm' && !probe.kvm.usable) {
    throw new ConfigError(`vm.accel is "kvm", but KVM cannot be used on this host: ${probe.kvm.reason}. Set it to "auto" or "tcg".`);
  }
  return accel === 'auto' ? (probe.kvm.usable ? 'kvm' : 'tcg') : accel;
}
