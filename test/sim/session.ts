/**
 * The session of src/agent/session.ts on the simulated network: the same rules
 * of who calls whom, who is refused, and when a peer counts as lost. The
 * heartbeat is the real one.
 */

import type { PeerMessage } from '../../src/protocol/messages.js';
import { heartbeatWakeNs, startHeartbeat, stepHeartbeat, type HeartbeatEvent, type HeartbeatState } from '../../src/peer/heartbeat-state.js';
import { connectTimeoutUs, type End, type HostName, type Network } from './network.js';
import type { Process } from './process.js';
import { cancel, second, type Task, type World } from './world.js';

export interface SessionEvents {
  onUp: () => void;
  onMessage: (message: PeerMessage) => void;
  onLost: (reason: string) => void;
  onUnreached: (sign: 'absent' | 'refused' | 'silent', reason: string) => void;
  onAck: (sentNs: bigint) => void;
  onCheckpoint: (end: End) => void;
}

export interface SessionRules {
  intervalMs: number;
  missed: number;
  /** Broken on purpose: a broken connection counts as silence. */
  lostWithoutSilence?: boolean;
}

type Kind = 'control' | 'heartbeat' | 'checkpoint';
interface Hello { kind: Kind; incarnation: string }

export class Session {
  readonly #world: World;
  readonly #network: Network;
  readonly #host: HostName;
  readonly #process: Process;
  readonly #rules: SessionRules;
  readonly #events: SessionEvents;
  #dialling: { given: boolean } | undefined;
  #peer: string | undefined;
  #control: End | undefined;
  #heartbeat: Heartbeat | undefined;
  #losing: Task | undefined;

  constructor(world: World, network: Network, host: HostName, process: Process, rules: SessionRules, events: SessionEvents) {
    this.#world = world;
    this.#network = network;
    this.#host = host;
    this.#process = process;
    this.#rules = rules;
    this.#events = events;
    network.listen(host, process, (end) => this.#greet(end));
  }

  dial(): void {
    if (this.#peer !== undefined || this.#dialling || this.#losing) return;
    const dialling = { given: false };
    this.#dialling = dialling;
    const unreached = (sign: 'absent' | 'refused' | 'silent', why: string): void => {
      if (this.#dialling !== dialling) return;
      this.#dialling = undefined;
      this.#events.onUnreached(sign, why);
    };
    this.#call('control', (control, peer) => {
      if (typeof control === 'string') return unreached(control, 'no control connection');
      if (this.#dialling !== dialling) return control.close();
      this.#call('heartbeat', (heartbeat) => {
        if (typeof heartbeat === 'string') {
          control.close();
          return unreached(heartbeat, 'no heartbeat connection');
        }
        if (this.#dialling !== dialling) {
          heartbeat.close();
          return control.close();
        }
        this.#dialling = undefined;
        this.#peer = peer;
        this.#useControl(control);
        this.#useHeartbeat(heartbeat);
      });
    });
  }

  openCheckpoint(done: (end: End | string) => void): void {
    this.#call('checkpoint', done);
  }

  send(message: PeerMessage): void {
    this.#control?.send(message);
  }

  hangUp(): void {
    cancel(this.#losing);
    this.#losing = this.#dialling = undefined;
    this.#drop();
  }

  /** The caller's half of the greeting. */
  #call(kind: Kind, done: (result: End | 'absent' | 'refused' | 'silent', peer: string) => void): void {
    this.#network.connect(this.#process, this.#host, connectTimeoutUs, (end) => {
      if (typeof end === 'string') return done(end, '');
      const timer = this.#process.later(connectTimeoutUs, () => {
        end.pause();
        end.close();
        done('silent', '');
      });
      const answered = (result: End | 'refused' | 'silent', peer = ''): void => {
        cancel(timer);
        end.pause();
        if (typeof result === 'string') end.close();
        done(result, peer);
      };
      end.read((message) => {
        const { welcome } = message as { welcome: string | undefined };
        answered(welcome === undefined ? 'refused' : end, welcome);
      }, () => answered('silent'));
      end.send({ kind, incarnation: this.#process.name } satisfies Hello);
    });
  }

  /** The other half. */
  #greet(end: End): void {
    const timer = this.#process.later(3 * second, () => end.close());
    end.read((message) => {
      cancel(timer);
      end.pause();
      const hello = message as Hello;
      const admitted = this.#admits(hello);
      this.#world.log(this.#process.name, () => `${admitted ? 'welcomes' : 'refuses'} ${hello.incarnation}'s ${hello.kind} connection`);
      end.send({ welcome: admitted ? this.#process.name : undefined });
      if (!admitted) return end.close();
      this.#accept(hello, end);
    }, () => cancel(timer));
  }

  #admits({ kind, incarnation }: Hello): boolean {
    if (kind !== 'control') return this.#peer === incarnation;
    if (this.#peer !== undefined || this.#losing) return false;
    return !(this.#dialling && this.#host === 'a'); // the call of the host whose name sorts first counts
  }

  #accept({ kind, incarnation }: Hello, end: End): void {
    switch (kind) {
      case 'control':
        this.#dialling = undefined;
        this.#peer = incarnation;
        this.#useControl(end);
        this.#losing = this.#process.later(3 * second, () => {
          this.#losing = undefined;
          this.#lost('no heartbeat connection came');
        });
        return;
      case 'heartbeat':
        if (this.#heartbeat) return end.close();
        cancel(this.#losing);
        this.#losing = undefined;
        return this.#useHeartbeat(end);
      case 'checkpoint':
        return this.#events.onCheckpoint(end);
    }
  }

  #useControl(end: End): void {
    this.#control = end;
    end.read((message) => this.#events.onMessage(message as PeerMessage), () => {
      if (this.#control === end) this.#broken('the control connection broke');
    });
  }

  #useHeartbeat(end: End): void {
    const heartbeat = new Heartbeat(this.#world, this.#process, end, this.#rules, {
      onAck: (sentNs) => this.#events.onAck(sentNs),
      onSilence: () => {
        if (this.#heartbeat === heartbeat) this.#lost('no heartbeat');
      },
      onClose: () => {
        if (this.#heartbeat === heartbeat) this.#broken('the heartbeat connection broke');
      },
    });
    this.#heartbeat = heartbeat;
    this.#world.log(this.#process.name, () => 'has a session');
    this.#events.onUp();
    heartbeat.start();
  }

  #broken(reason: string): void {
    const heardNs = this.#heartbeat?.lastHeardNs;
    const wasUp = this.#control !== undefined && this.#heartbeat !== undefined;
    cancel(this.#losing);
    this.#losing = undefined;
    this.#drop();
    if (!wasUp || heardNs === undefined || this.#rules.lostWithoutSilence) return this.#events.onLost(reason);
    const { intervalMs, missed } = this.#rules;
    const leftUs = intervalMs * missed * 1000 - Number(this.#world.nowNs - heardNs) / 1000;
    this.#losing = this.#process.later(Math.max(0, leftUs) + 1000, () => {
      this.#losing = undefined;
      this.#events.onLost(reason);
    });
  }

  #lost(reason: string): void {
    this.#drop();
    this.#events.onLost(reason);
  }

  #drop(): void {
    const [control, heartbeat] = [this.#control, this.#heartbeat];
    this.#control = this.#heartbeat = this.#peer = undefined;
    control?.close();
    heartbeat?.close();
  }
}

interface HeartbeatEvents {
  onAck: (sentNs: bigint) => void;
  onSilence: () => void;
  onClose: () => void;
}

/** src/peer/heartbeat.ts around the same pure function. */
class Heartbeat {
  readonly #world: World;
  readonly #process: Process;
  readonly #end: End;
  readonly #settings: { intervalNs: bigint; silenceNs: bigint };
  readonly #events: HeartbeatEvents;
  #state: HeartbeatState;

  constructor(world: World, process: Process, end: End, { intervalMs, missed }: SessionRules, events: HeartbeatEvents) {
    this.#world = world;
    this.#process = process;
    this.#end = end;
    this.#settings = { intervalNs: BigInt(intervalMs) * 1_000_000n, silenceNs: BigInt(intervalMs * missed) * 1_000_000n };
    this.#events = events;
    this.#state = startHeartbeat(world.nowNs);
    end.read((message) => this.#step(message as HeartbeatEvent), events.onClose);
  }

  start(): void {
    this.#step({ type: 'tick' });
  }

  get lastHeardNs(): bigint {
    return this.#state.lastHeardNs;
  }

  close(): void {
    this.#end.close();
  }

  #step(event: HeartbeatEvent): void {
    if (this.#end.closed) return;
    const { state, effects } = stepHeartbeat(this.#state, this.#settings, event, this.#world.nowNs);
    this.#state = state;
    for (const effect of effects) {
      switch (effect.type) {
        case 'sendBeat': this.#end.send({ type: 'beat', seq: effect.seq }); break;
        case 'sendAck': this.#end.send({ type: 'ack', seq: effect.seq }); break;
        case 'acked': this.#events.onAck(effect.sentNs); break;
        case 'drain': this.#process.afterInputs(() => this.#step({ type: 'drained' })); break;
        case 'silence': this.#events.onSilence(); break;
      }
    }
    if (event.type === 'tick' && !this.#end.closed) {
      const leftUs = Number(heartbeatWakeNs(this.#state, this.#settings) - this.#world.nowNs) / 1000;
      this.#process.later(Math.max(1000, leftUs), () => this.#step({ type: 'tick' }));
    }
  }
}
