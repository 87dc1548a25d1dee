/**
 * A simulated host: its agent is src/agent/agent.ts without the work. What the
 * state machine decides is carried out on the simulated gate, QEMU and network.
 */

import { isLogMessage, isLogMessageTo, isVcpuMessage, type PeerMessage } from '../../src/protocol/messages.js';
import { initialState, isProtected, step, type Effect, type PairConfig, type PairEvent, type PairState, type Role, type TimerName } from '../../src/protocol/pair.js';
import { Gate, type GateRules } from './gate.js';
import { Guest } from './guest.js';
import { InputReplication, type ReplicationRules } from './input-replication.js';
import type { End, HostName, Network } from './network.js';
import type { Segment } from './packet.js';
import { Process } from './process.js';
import { Session, type SessionRules } from './session.js';
import { Shadow, type ShadowRules } from './shadow.js';
import { Qemu, Tap, type QemuEvent, type Stream } from './vm.js';
import { cancel, ms, type Task, type World } from './world.js';

/** The protocol's own step, or one that was broken on purpose, and so with all the other rules. */
export type Rules = SessionRules & GateRules & ShadowRules & ReplicationRules & { step: typeof step };

export interface Remembered { role: Role; generation: number; term: number; mayRunAlone: boolean }

export interface HostEvents {
  /** Asks the witness, which may not answer. */
  ask: (term: number, answer: (granted: boolean, holder: string) => void) => void;
  /** A packet of the VM, said by this QEMU, on its way to clients. */
  deliver: (s: Segment, speaker: string) => void;
  /**
   * An agent has died, and with it what it had to translate in these connections, and what it had still
   * to give to the VM, if there was something.
   */
  onForget: (conns: readonly number[], logged: boolean) => void;
  /** A VM is started from nothing. */
  onColdBoot: (host: Host, qemu: Qemu) => void;
}

/** Of a tap. */
const longestQueue = 500;

export class Host {
  readonly name: HostName;
  readonly world: World;
  readonly network: Network;
  readonly config: PairConfig;
  readonly rules: Rules;
  readonly tap = new Tap();
  readonly gate: Gate;
  readonly shadow: Shadow;
  peer!: Host;
  /** Everything that ever ran here, the last one possibly still. */
  readonly qemus: Qemu[] = [];
  agent: Agent | undefined;
  powered = true;
  remembered: Remembered | undefined;
  /** Until then its disk takes nothing. */
  diskFullUntilUs = 0;
  /** Wall clock minus monotonic clock. */
  wallOffsetUs: number;
  /** Agents, VMs and effects so far: names, and places for faults. */
  agents = 0;
  effects = 0;
  /** Called before and after each effect with its number. */
  onEffect: (count: number, moment: 'before' | 'after') => void = () => {};
  onStop: () => void = () => {};
  readonly events: HostEvents;

  constructor(world: World, network: Network, name: HostName, config: PairConfig, rules: Rules, declared: readonly boolean[], events: HostEvents) {
    this.world = world;
    this.network = network;
    this.name = name;
    this.config = config;
    this.rules = rules;
    this.events = events;
    this.wallOffsetUs = world.random.int(1, 1e9);
    this.shadow = new Shadow(rules);
    this.gate = new Gate(world, this.tap, declared, rules, {
      out: (s, speaker) => {
        const seen = this.shadow.out(s);
        if (seen) events.deliver(seen, speaker);
      },
      mirror: (entry) => network.datagram(name, () => this.peer.agent?.inputs.log.arrive(entry)),
    });
  }

  get qemu(): Qemu | undefined {
    const last = this.qemus.at(-1);
    return last?.alive ? last : undefined;
  }

  startAgent(role: Role): void {
    if (!this.powered || this.agent?.process.alive) return;
    this.agent = new Agent(this, role);
  }

  launch(guest: Qemu['guest']): Qemu {
    const name = `vm-${this.name}${this.qemus.length + 1}`;
    const qemu = new Qemu(this.world, name, this.tap, (s, speaker) => this.gate.out(s, speaker), () => this.world.nowUs + this.wallOffsetUs, guest);
    this.qemus.push(qemu);
    return qemu;
  }

  /** A client's packet on this host's bridge. */
  receive(s: Segment): void {
    this.#in(s, false);
  }

  /** From the input log. */
  inject(s: Segment): void {
    this.#in(s, true);
  }

  /** Through the tunnel: what this host has in its log. */
  acknowledge(epoch: number, iseq: number): void {
    this.network.datagram(this.name, () => this.peer.gate.acked(epoch, iseq));
  }

  #in(s: Segment, replay: boolean): void {
    const { qemu } = this;
    // Nothing is sent to a tap that nobody has opened.
    if (!this.powered || !qemu || !this.gate.in(s)) return;
    const seen = this.shadow.in(s, replay);
    if (seen === undefined) return;
    if (seen === 'log') return this.agent?.inputs.log.arriveLive(s);
    if (this.tap.queue.length >= longestQueue) return;
    this.tap.queue.push(seen);
    qemu.input(() => qemu.poll());
  }

  powerOff(): void {
    this.world.log(this.name, () => 'loses power');
    this.powered = false;
    this.network.power(this.name, false);
    this.agent?.process.kill();
    this.qemu?.kill();
    this.gate.mode = 'closed';
  }

  powerOn(): void {
    if (this.powered) return;
    this.world.log(this.name, () => 'has power again');
    this.powered = true;
    this.network.power(this.name, true);
  }
}

export class Agent {
  readonly process: Process;
  readonly inputs: InputReplication;
  state: PairState;
  readonly #host: Host;
  readonly #session: Session;
  readonly #timers = new Map<TimerName, Task>();
  readonly #pending: PairEvent[] = [];
  #dispatching = false;
  /** The newest copy of the VM. */
  #copying = { wanted: false };
  /** Whose events are news. */
  #watched: Qemu | undefined;
  #stream: Stream | undefined;
  /** Starts and ends of QEMU, one after the other: when the last one is over. */
  #busyUntilUs = 0;

  constructor(host: Host, role: Role) {
    const { world } = host;
    this.#host = host;
    this.process = new Process(world, `${host.name}${++host.agents}`);
    this.state = initialState(role);
    const adopted = host.qemu;
    if (adopted) host.events.onForget(host.shadow.unsettled, host.shadow.mode === 'replay');
    host.gate.open(this.process);
    this.inputs = new InputReplication(host, this.process, (message) => this.#session.send(message));
    host.gate.onNotice = (notice, oldestNs) => this.#input(notice === 'held' ? { type: 'held', oldestNs } : { type: 'hold-limit' });
    if (adopted) this.#watch(adopted);
    this.#session = new Session(world, host.network, host.name, this.process, host.rules, {
      onUp: () => this.dispatch({ type: 'peer-up' }),
      onMessage: (message) => this.#onMessage(message),
      onLost: (reason) => this.dispatch({ type: 'peer-lost', reason }),
      onUnreached: (sign, reason) => this.dispatch({ type: 'peer-unreached', sign, reason }),
      onAck: (sentNs) => this.dispatch({ type: 'heartbeat-acked', sentNs }),
      onCheckpoint: (end) => {
        const qemu = host.qemu;
        if (!qemu) return end.close();
        qemu.incoming(this.#useStream(end, qemu));
      },
    });
    const remembered = host.remembered;
    this.dispatch({
      type: 'start', vmAlive: adopted !== undefined, role: remembered?.role ?? role,
      generation: remembered?.generation ?? 0, term: remembered?.term ?? 0, mayRunAlone: remembered?.mayRunAlone ?? true,
    });
  }

  get protected(): boolean {
    return isProtected(this.state);
  }

  command(command: 'checkpoint' | 'failover' | 'start-alone' | 'stop'): void {
    this.#input({ type: 'command', command });
  }

  #onMessage(message: PeerMessage): void {
    if (isVcpuMessage(message)) return; // a simulated VM has no vCPUs
    if (!isLogMessage(message)) return this.dispatch({ type: 'message', message });
    if (isLogMessageTo(this.state.role, message)) this.inputs.onMessage(message);
  }

  /** An event from another thread or process. */
  #input(event: PairEvent): void {
    this.process.input(() => this.dispatch(event));
  }

  dispatch(event: PairEvent): void {
    this.#pending.push(event);
    if (this.#dispatching) return;
    this.#dispatching = true;
    for (let next = this.#pending.shift(); next && this.process.alive; next = this.#pending.shift()) this.#step(next);
    this.#dispatching = false;
  }

  #step(event: PairEvent): void {
    const { world, rules, config } = this.#host;
    const before = this.state;
    const { state, effects } = rules.step(before, event, world.nowNs, config);
    this.state = state;
    if (event.type !== 'heartbeat-acked') {
      world.log(this.process.name, () => `${describe(event)}: ${before.phase} -> ${state.phase}${effects.filter((e) => e.type !== 'note').map((e) => `, ${describe(e)}`).join('')}`);
    }
    for (const effect of effects) {
      if (effect.type === 'note' || effect.type === 'lease') {
        if (effect.type === 'lease') this.#host.gate.leaseUntilNs = effect.untilNs;
        continue;
      }
      const count = ++this.#host.effects;
      this.#host.onEffect(count, 'before');
      if (!this.process.alive) return;
      if (effect.type === 'persist' && world.nowUs < this.#host.diskFullUntilUs) {
        this.#pending.push({ type: 'failed', what: 'persist', reason: 'ENOSPC' });
        return;
      }
      this.#execute(effect);
      this.#host.onEffect(count, 'after');
      if (!this.process.alive) return;
    }
  }

  #execute(effect: Effect): void {
    const { gate, world } = this.#host;
    switch (effect.type) {
      case 'dial': return this.#session.dial();
      case 'hang-up': return this.#session.hangUp();
      case 'claim': {
        const { term } = effect;
        return this.#host.events.ask(term, (granted, holder) => this.#input({ type: 'verdict', term, granted, holder }));
      }
      case 'send': return this.#session.send(effect.message);
      case 'start-vm':
        this.inputs.turnOff();
        return this.#inTurn(20 * ms, 100 * ms, () => {
          const running = this.#host.qemu;
          if (running) return running.dropSecondary(() => {});
          this.inputs.vmBegins();
          const qemu = this.#host.launch(new Guest());
          this.#host.events.onColdBoot(this.#host, qemu);
          this.#watch(qemu);
        });
      case 'start-incoming-vm':
        this.inputs.expectCopy();
        return this.#inTurn(20 * ms, 100 * ms, () => {
          this.inputs.vmBegins();
          this.#watch(this.#host.launch(undefined));
          this.dispatch({ type: 'vm-listening' });
        });
      case 'destroy-vm':
        this.#copying.wanted = false;
        this.#closeStream();
        return this.#inTurn(1 * ms, 10 * ms, () => {
          const doomed = this.#host.qemu;
          this.#watched = undefined;
          doomed?.kill();
        });
      case 'migrate':
        this.inputs.begin();
        return this.#copy();
      case 'trigger-checkpoint':
        this.inputs.checkpointAsked();
        return this.#qemu('Starting a checkpoint', (qemu) => qemu.checkpoint((reason) => this.#failed('Starting a checkpoint', reason)));
      case 'drop-secondary':
        this.#copying.wanted = false;
        this.#closeStream();
        if (!this.#host.qemu) return this.#input({ type: 'drop-failed', reason: 'there is no QEMU' });
        return this.#host.qemu.dropSecondary(() => this.#input({ type: 'secondary-dropped' }));
      case 'take-over-vm': {
        this.#closeStream();
        const { qemu } = this.#host;
        if (!qemu) return void this.process.afterInputs(() => this.dispatch({ type: 'takeover-failed', reason: 'there is no QEMU' }));
        return qemu.takeOver((failure) => this.process.input(() => {
          if (failure !== undefined) return this.dispatch({ type: 'takeover-failed', reason: failure });
          this.dispatch({ type: 'took-over' });
          this.inputs.takeOver();
        }));
      }
      case 'pause-vm': return this.#qemu('Pausing the secondary VM', (qemu) => qemu.pause());
      case 'gate': return gate.setMode(effect.mode);
      case 'release': return gate.commit(effect.upToNs);
      case 'release-all': return gate.releaseAll();
      case 'discard': return gate.discard();
      case 'persist': {
        const { role, generation, term, mayRunAlone } = effect;
        this.#host.remembered = { role, generation, term, mayRunAlone };
        return;
      }
      case 'timer':
        cancel(this.#timers.get(effect.name));
        this.#timers.set(effect.name, this.process.later(effect.ms * ms + world.random.delay(0, 2 * ms), () => this.dispatch({ type: 'timer', name: effect.name })));
        return;
      case 'cancel-timer': return cancel(this.#timers.get(effect.name));
      case 'announce': case 'lease': case 'note': return;
    }
  }

  #failed(what: string, reason: string): void {
    this.#input({ type: 'failed', what, reason });
  }

  #qemu(what: string, act: (qemu: Qemu) => void): void {
    const { qemu } = this.#host;
    if (qemu) act(qemu);
    else this.#failed(what, 'there is no QEMU to talk to');
  }

  #inTurn(leastUs: number, mostUs: number, act: () => void): void {
    const { world } = this.#host;
    this.#busyUntilUs = Math.max(this.#busyUntilUs, world.nowUs) + world.random.delay(leastUs, mostUs);
    this.process.later(this.#busyUntilUs - world.nowUs, act);
  }

  #copy(): void {
    this.#copying.wanted = false;
    const copying = this.#copying = { wanted: true };
    this.#inTurn(0, 1 * ms, () => {
      if (copying.wanted) this.#migrate(copying);
    });
  }

  #migrate(copying: { wanted: boolean }): void {
    this.#session.openCheckpoint((end) => {
      if (typeof end === 'string') {
        if (copying.wanted) this.dispatch({ type: 'failed', what: 'Copying the VM', reason: 'no checkpoint connection' });
        return;
      }
      const { qemu } = this.#host;
      if (!qemu || !copying.wanted) return end.close();
      qemu.migrate(this.#useStream(end, qemu));
    });
  }

  /** QEMU has the connection itself: our end is not its end. */
  #useStream(end: End, qemu: Qemu): Stream {
    this.#closeStream();
    end.hand(qemu);
    const stream: Stream = { send: (message) => end.send(message), close: () => end.close() };
    this.#stream = stream;
    end.read((message) => qemu.fromStream(stream, message), () => qemu.streamClosed(stream));
    return stream;
  }

  #closeStream(): void {
    const stream = this.#stream;
    this.#stream = undefined;
    if (!stream) return;
    stream.close();
    this.#host.qemu?.streamClosed(stream);
  }

  #watch(qemu: Qemu): void {
    this.#watched = qemu;
    const { world } = this.#host;
    let lastUs = 0;
    qemu.onEvent = (event) => {
      lastUs = Math.max(lastUs, world.nowUs + world.random.delay(10, 500));
      world.after(lastUs - world.nowUs, () => this.process.input(() => this.#onQemu(qemu, event)));
      if (event.type === 'stopped') this.#host.onStop();
    };
  }

  #onQemu(qemu: Qemu, event: QemuEvent): void {
    if (this.#watched !== qemu) return;
    const { world } = this.#host;
    const { nowNs } = world;
    switch (event.type) {
      case 'stopped': {
        // Converted by what the clocks show now: a step since the stamp was made goes unseen.
        const stampNs = BigInt(event.wallUs - this.#host.wallOffsetUs) * 1000n;
        if (this.state.checkpoint && this.state.checkpoint.stopNs === undefined) this.inputs.stopped(Number(stampNs / 1000n));
        return this.dispatch({ type: 'vm-stopped', stampNs, receivedNs: nowNs });
      }
      case 'resumed':
        if (this.state.role === 'primary') return this.inputs.whenMarked(() => this.dispatch({ type: 'vm-resumed', receivedNs: nowNs }));
        if (this.state.phase !== 'taking-over') this.inputs.loaded();
        return this.dispatch({ type: 'vm-resumed', receivedNs: nowNs });
      case 'colo-entered': return this.dispatch({ type: 'colo-entered' });
      case 'colo-exit': return this.dispatch({ type: 'colo-exit', reason: 'error' });
      case 'exited': return this.dispatch({ type: 'vm-exited', clean: false, reason: 'killed' });
    }
  }
}

function describe(thing: PairEvent | Effect): string {
  switch (thing.type) {
    case 'message': case 'send': return `${thing.type === 'send' ? 'send ' : ''}"${thing.message.type}"`;
    case 'timer': return 'ms' in thing ? `set ${thing.name} ${thing.ms}` : `timer ${thing.name}`;
    case 'cancel-timer': return `cancel ${thing.name}`;
    case 'gate': return `gate ${thing.mode}`;
    case 'release': return `release ${thing.upToNs}`;
    case 'command': return thing.command;
    case 'peer-unreached': return `peer ${thing.sign}`;
    case 'persist': return `persist ${thing.role} ${thing.generation} ${thing.mayRunAlone}`;
    case 'failed': return `failed: ${thing.what}: ${thing.reason}`;
    case 'peer-lost': return `peer-lost: ${thing.reason}`;
    default: return thing.type;
  }
}
