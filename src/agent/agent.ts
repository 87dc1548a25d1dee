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
import { CheckpointRelay, type PeerConnection } from '../peer/index.js';
import {
  initialState, isActive, isProtected, secondaryIsActive, step,
  type Effect, type PairConfig, type PairEvent, type PairState, type Phase, type Role, type TimerName,
} from '../protocol/pair.js';
import { isLogMessage, isVcpuMessage, type PeerMessage } from '../protocol/messages.js';
import { ensurePrivateFolder, locateQemu, probeQemu, type QemuProbe, type QemuRuntime } from '../qemu/index.js';
import { activeVcpusOf, ConfigError, describeVm, replicatesInputs, type AgentConfig } from './config.js';
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
    /** Over all connections since the agent's start, the first copy of the VM included. */
    sentBytes: number; receivedBytes: number;
  };
  output: GateStats;
  vcpus: VcpusStatus;
  /** What this host has of the other's inputs; null unless they are replicated. */
  inputLog: ShadowStats | null;
  compare: CompareStatus;
}

/** Something worth telling a person; times are CLOCK_MONOTONIC nanoseconds. */
export type AgentNews =
  | { event: 'note'; level: 'info' | 'warn' | 'error'; code: string; text: string; atNs: bigint }
  | { event: 'phase'; role: Role; phase: Phase; atNs: bigint }
  | { event: 'commit'; commits: number; pauseMs: number; atNs: bigint };

/** How long a stopping primary waits for the secondary to give up its VM. */
const partingMs = 1000;
/** How long a primary asks a silent secondary before it goes on alone, at least. */
const leastAskMs = 1000;
const nsPerMs = 1e6;

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
  readonly #gate: Gate;
  /** Only where something needs them; see replicatesInputs. */
  #inputs: InputReplication | undefined;
  readonly #compare: CompareControl;
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
  #relay: CheckpointRelay | undefined;
  /** What earlier relays have carried. */
  readonly #carried = { sentBytes: 0, receivedBytes: 0 };
  #state: PairState;
  #dispatching = false;
  /** Starts and ends of QEMU, one after the other. */
  #lifecycle: Promise<void> = Promise.resolve();
  /** Rises when the VM is destroyed: what an older VM failed at is no news. */
  #vmEpoch = 0;
  #lastNote = '';
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
    const vm = describeVm(config, accel, probe.version);
    const secret = readSecret('peer.secretFile', config.peer.secretFile);
    const witnessSecret = readSecret('witness.secretFile', config.witness?.secretFile);
    const mirrored = replicatesInputs(config);
    // From here on there is something to leave behind.
    if (mirrored) await createTunnel(config.network.tunnel);
    const agent = new Agent(config, log, { runtime, probe, accel, vm, secret, witnessSecret }, await Gate.open({
      ...config.network,
      holdMemoryBytes: config.checkpoint.holdMemoryBytes,
      limitPackets: config.checkpoint.maxHeldPackets,
      limitBytes: config.checkpoint.maxHeldBytes,
      ...(mirrored ? { mirror: { tunnel: config.network.tunnel, peerAddress: config.peer.address.host } } : {}),
      ...(config.mode === 'commit' ? {} : { compare: { shadowTap: config.network.shadowTap, onFound: (events) => agent.#compare.onFound(events) } }),
      services: config.services.map((service) => ({ ...service, preRelease: service.preRelease ?? service.protocol !== 'never' })),
      onNotice: (notice, oldestNs) => agent.#dispatch(notice === 'held' ? { type: 'held', oldestNs } : { type: 'hold-limit' }),
    }));
    try {
      await agent.#begin();
    } catch (error) {
      await agent.#end();
      throw error;
    }
    return agent;
  }

  /** Cannot fail: the gate is open already. */
  private constructor(config: AgentConfig, log: Logger, host: HostFacts, gate: Gate) {
    const { runtime, probe, accel, vm: { digest, summary }, secret, witnessSecret } = host;
    const { heartbeat, checkpoint } = config;
    const leaseMs = heartbeat.intervalMs * heartbeat.missed;
    this.#config = config;
    this.#log = log;
    this.#probe = probe;
    this.#gate = gate;
    this.#compare = new CompareControl(config, gate, {
      onWish: (active, forward) => this.#session.send({ type: 'secondary-wish', active, forward }),
      onCheckpoint: () => this.#dispatch({ type: 'hold-limit' }),
      onNote: (level, code, text) => this.#note(level, code, text),
    });
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
    this.#metrics = new AgentMetrics({ status: () => this.status(), holdTimes: () => gate.holdTimes() }, { vm: config.vm.name, host: config.host });
    this.#watchers.add(this.#metrics.onNews);
    this.#vm = new Vm(config, runtime, accel, (event) => this.#onVmEvent(event));
    this.#vcpus = new Vcpus(config.vm.vcpus, activeVcpusOf(config), this.#vcpusHost());
    this.#session = new Session(config, config.vm.name, secret, {
      onUp: () => this.#dispatch({ type: 'peer-up' }),
      onMessage: (message) => this.#onMessage(message),
      onLost: (reason) => this.#dispatch({ type: 'peer-lost', reason }),
      onUnreached: (sign, reason) => this.#dispatch({ type: 'peer-unreached', sign, reason }),
      onAck: (sentNs) => this.#dispatch({ type: 'heartbeat-acked', sentNs }),
      onCheckpointConnection: (connection) => this.#relayToIncoming(connection),
      onRefused: (reason) => this.#log.warn({ code: 'PEER_REFUSED' }, reason),
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

  /** Ends protection, the VM, and everything this agent made. */
  async stop(): Promise<void> {
    const mustPart = isProtected(this.#state) && this.#state.role === 'primary';
    this.#dispatch({ type: 'command', command: 'stop' });
    const deadlineMs = performance.now() + partingMs;
    while (mustPart && this.#session.up && !(this.#stateFile.read()?.mayRunAlone ?? true) && performance.now() < deadlineMs) {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    await this.#end();
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
        sentBytes: this.#carried.sentBytes + (this.#relay?.toPeerBytes ?? 0),
        receivedBytes: this.#carried.receivedBytes + (this.#relay?.fromPeerBytes ?? 0),
      },
      output: this.#gate.stats(),
      vcpus: this.#vcpus.status(),
      inputLog: this.#inputs?.stats() ?? null,
      compare: this.#compare.status(),
    };
  }

  async #begin(): Promise<void> {
    const remembered = this.#stateFile.read();
    if (replicatesInputs(this.#config)) {
      this.#inputs = new InputReplication(
        this.#config, this.#gate, (message) => this.#session.send(message), () => this.#dispatch({ type: 'log-lags' }),
      );
    }
    const vmAlive = await this.#vm.adopt();
    await this.#session.listen();
    this.#witness?.start();
    if (this.#config.metrics.listen) this.#metricsServer = await MetricsServer.listen(this.#metrics, this.#config.metrics.listen);
    this.#control = await ControlServer.listen(controlSocket(this.#config), (request, push, ended) => this.#answer(request, push, ended));
    this.#log.info({ host: this.#config.host, qemu: this.#probe.version, accel: this.#vm.accel }, `The agent of ${this.#config.host} has started.`);
    this.#dispatch({
      type: 'start', vmAlive, role: remembered?.role ?? this.#config.role,
      generation: remembered?.generation ?? 0, term: remembered?.term ?? 0, mayRunAlone: remembered?.mayRunAlone ?? true,
    });
  }

  async #end(): Promise<void> {
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#timers.clear();
    this.#compare.end();
    this.#closeRelay('the agent ends');
    await this.#session.close();
    this.#witness?.close();
    this.#control?.close();
    this.#metricsServer?.close();
    this.#vcpus.close();
    await this.#lifecycle;
    await this.#vm.destroy();
    this.#inputs?.close();
    await this.#gate.close();
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

  #onMessage(message: PeerMessage): void {
    if (isVcpuMessage(message)) return this.#vcpus.onMessage(message);
    if (!isLogMessage(message)) return this.#dispatch({ type: 'message', message });
    if (message.type !== 'secondary-wish') {
      if (this.#inputs) this.#inputs.onMessage(message);
      // A host that keeps no log has none that could begin elsewhere.
      else if (message.type === 'log-mark') this.#session.send({ type: 'log-marked', checkpoint: message.checkpoint, active: false });
      return;
    }
    this.#inputs?.forward(message.forward);
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
      send: (load) => this.#session.send(load),
      setActive: (on) => {
        this.#dispatch({ type: 'secondary-active', on });
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
      case 'exited': return this.#dispatch({ type: 'vm-exited', clean: event.clean, reason: event.reason });
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
          try {
            await this.#vm.start();
          } catch (error) {
            this.#dispatch({ type: 'vm-exited', clean: false, reason: `it could not be started: ${(error as Error).message}` });
          }
        });
      case 'start-incoming-vm':
        this.#inputs?.expectCopy();
        return this.#inTurn('Preparing the secondary VM', async () => {
          await this.#vm.startIncoming();
          this.#dispatch({ type: 'vm-listening' });
        });
      case 'destroy-vm':
        this.#vmEpoch++;
        this.#closeRelay('the VM is given up');
        return this.#inTurn('Ending the VM', () => this.#vm.destroy());
      case 'migrate':
        this.#inputs?.begin();
        return this.#inTurn('Copying the VM', () => this.#migrate());
      case 'trigger-checkpoint':
        this.#gate.checkpointAsked();
        this.#inputs?.checkpointAsked();
        this.#session.send({ type: 'checkpoint-asked' });
        return this.#now('Starting a checkpoint', () => this.#vm.triggerCheckpoint());
      case 'drop-secondary':
        this.#closeRelay('protection has ended');
        return void this.#dropSecondary();
      case 'take-over-vm': return void this.#takeOver();
      case 'pause-vm': return this.#now('Pausing the secondary VM', () => this.#vm.pause());
      case 'gate': return this.#gate.setMode(effect.mode);
      case 'lease': return this.#gate.setLease(effect.untilNs);
      case 'release': {
        this.#gate.commit(effect.upToNs, this.#inputs?.round);
        const pauseMs = Number(effect.pauseNs) / nsPerMs;
        this.#pauses.add(pauseMs);
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
    this.#closeRelay('taking over');
    this.#vcpus.restore();
    try {
      await this.#vm.takeOver();
      this.#dispatch({ type: 'took-over' });
      // Only now the gate is open, for the log too. Until it has begun nothing
      // else passes, and what clients send from then on waits behind it.
      this.#inputs?.takeOver().then(
        (replayed) => this.#log.info(replayed, 'The input log was replayed.'),
        (error: unknown) => this.#log.error({ err: error }, 'The input log could not be replayed.'),
      );
    } catch (error) {
      this.#dispatch({ type: 'takeover-failed', reason: (error as Error).message });
    }
  }

  async #migrate(): Promise<void> {
    const { socket } = await this.#session.openCheckpointConnection();
    const socketPath = join(this.#config.runDir, 'migrate.sock');
    const { relay } = await CheckpointRelay.listen({ socketPath, peer: socket });
    await this.#vm.migrate(socketPath);
    this.#useRelay(await relay);
  }

  /** Secondary: the primary's checkpoints come in. */
  #relayToIncoming(connection: PeerConnection): void {
    this.#now('Receiving checkpoints', async () => {
      this.#useRelay(await CheckpointRelay.connect({ socketPath: this.#vm.incomingSocket, peer: connection.socket }));
    });
  }

  #useRelay(relay: CheckpointRelay): void {
    this.#closeRelay('a new one takes its place');
    this.#relay = relay;
    void relay.ended.then(({ reason }) => {
      if (this.#relay !== relay) return;
      this.#forgetRelay();
      void this.#failed('The checkpoint relay', reason);
    });
  }

  /** Ends the relay deliberately: that is no news. */
  #closeRelay(reason: string): void {
    const relay = this.#relay;
    this.#forgetRelay();
    relay?.close(reason);
  }

  #forgetRelay(): void {
    this.#carried.sentBytes += this.#relay?.toPeerBytes ?? 0;
    this.#carried.receivedBytes += this.#relay?.fromPeerBytes ?? 0;
    this.#relay = undefined;
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
    // What repeats with every attempt to pair is said once.
    if (text !== this.#lastNote) this.#log[level]({ code }, text);
    this.#lastNote = text;
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
          throw new ControlError('NOT_FENCED', `${this.#config.host} is ${this.#state.phase}, not fenced: there is nothing to decide.`);
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

  /** Asks for a checkpoint and waits for its commit. */
  async #checkpoint(): Promise<{ pauseMs: number }> {
    this.#requireProtected('checkpoint');
    if (this.#state.role === 'secondary') throw new ControlError('NOT_PRIMARY', 'Checkpoints are asked for at the primary.');
    const commit = this.#await((news) => news.event === 'commit' ? { pauseMs: news.pauseMs } : undefined, this.#config.checkpoint.timeoutMs, 'The checkpoint did not commit');
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

  /** Looks for a secondary at once; what comes of it, the status tells. */
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

  #reprotect(): AgentStatus {
    const { role, phase, reason } = this.#state;
    if (role === 'secondary') throw new ControlError('NOT_PRIMARY', `Protection begins at the host that runs the VM, and ${this.#config.host} does not. Ask the other one.`);
    if (!isActive(this.#state)) throw new ControlError('NOT_ACTIVE', `${this.#config.host} is ${phase} (${reason}) and has no VM to protect.`);
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
