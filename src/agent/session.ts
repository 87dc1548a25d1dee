/**
 * The connections to the other agent: control, heartbeat and checkpoints, seen
 * as one session that is up or lost.
 *
 * "Lost" is a promise to the state machine: the peer has been silent for the
 * whole silence period, so by its own clock its lease is over. A connection
 * that breaks is not enough; it only means waiting for that period to pass.
 */

import { randomUUID } from 'node:crypto';
import {
  ControlChannel, Heartbeat, PeerClient, PeerError, PeerServer,
  type PeerClientOptions, type PeerConnection, type PeerIdentity, type PeerKind,
} from '../peer/index.js';
import type { PeerMessage } from '../protocol/messages.js';
import type { AgentConfig } from './config.js';
import { parseMessage } from './message-schema.js';

export interface SessionEvents {
  onUp: () => void;
  onMessage: (message: PeerMessage) => void;
  onLost: (reason: string) => void;
  /** A dial has come to nothing; see `peer-unreached` in protocol/pair-types. */
  onUnreached: (sign: 'absent' | 'refused' | 'silent', reason: string) => void;
  /** The peer acknowledged the heartbeat sent at this CLOCK_MONOTONIC time. */
  onAck: (sentNs: bigint) => void;
  /** The primary wants to send checkpoints. */
  onCheckpointConnection: (connection: PeerConnection) => void;
  onRefused: (reason: string) => void;
}

/**
 * How long greeting the peer may take, and how soon after its control connection a caller must bring its heartbeat.
 * Where heartbeats are given more time than usual, host or network is slow, and greetings need more, too.
 */
const greetingMs = ({ intervalMs }: AgentConfig['heartbeat']): number => Math.max(3000, 30 * intervalMs);

export class Session {
  readonly #config: AgentConfig;
  readonly #identity: PeerIdentity;
  readonly #events: SessionEvents;
  readonly #greetingMs: number;
  #server: PeerServer | undefined;
  #dialling: AbortController | undefined;
  #control: ControlChannel<PeerMessage, PeerMessage> | undefined;
  #heartbeat: Heartbeat | undefined;
  #peer: { hostName: string; incarnation: string } | undefined;
  /** Connections broke; the peer counts as lost when this timer fires. */
  #losing: NodeJS.Timeout | undefined;

  /** @param secret what only the two hosts know, undefined: connections are not authenticated */
  constructor(config: AgentConfig, pairId: string, secret: Buffer | undefined, events: SessionEvents) {
    this.#config = config;
    this.#events = events;
    this.#greetingMs = greetingMs(config.heartbeat);
    this.#identity = { pairId, hostName: config.host, incarnation: randomUUID(), secret };
  }

  /**
   * Opens the peer port.
   * @param ready until then a peer that calls has to wait
   */
  async listen(ready?: Promise<void>): Promise<void> {
    const { host: address, port } = this.#config.peer.listen;
    this.#server = await PeerServer.listen({
      ...this.#identity, address, port, helloTimeoutMs: this.#greetingMs, ready,
      admit: (hello) => this.#admit(hello.kind, hello.hostName, hello.incarnation),
      onConnection: (connection) => this.#accept(connection),
      onRefused: (error, _remote, suppressed) => this.#events.onRefused(suppressed > 0 ? `${error.message} (and ${suppressed} more)` : error.message),
    });
  }

  get up(): boolean {
    return this.#control !== undefined && this.#heartbeat !== undefined;
  }

  /** How the peer was last heard: round trip in microseconds, silence in milliseconds. */
  get pulse(): { rttUs: number | undefined; silentMs: number } | undefined {
    if (!this.#heartbeat) return undefined;
    const silentMs = Number(process.hrtime.bigint() - this.#heartbeat.lastHeardNs) / 1e6;
    return { rttUs: this.#heartbeat.rttUs, silentMs };
  }

  /** Connections refused since the start. */
  get refusals(): number {
    return [...this.#server?.refusals.values() ?? []].reduce((sum, count) => sum + count, 0);
  }

  /** Tries once to reach the peer; ends in `onUp` or `onUnreached`. */
  dial(): void {
    if (this.#peer || this.#dialling || this.#losing) return;
    const dialling = new AbortController();
    this.#dialling = dialling;
    void this.#dial(dialling.signal).catch((error: unknown) => {
      if (this.#dialling !== dialling) return; // the peer reached us first
      this.#dialling = undefined;
      this.#events.onUnreached(signOf(error), (error as Error).message);
    });
  }

  /** A further connection to the peer, for one stream of checkpoints. */
  async openCheckpointConnection(signal?: AbortSignal): Promise<PeerConnection> {
    return PeerClient.connect({ ...this.#clientOptions('checkpoint'), signal });
  }

  /** Sends, or does nothing if the peer is gone: its loss is or will be reported. */
  send(message: PeerMessage): void {
    this.#control?.send(message);
  }

  /** Ends the session deliberately: no loss will be reported. */
  hangUp(reason: string): void {
    clearTimeout(this.#losing);
    this.#losing = undefined;
    this.#dialling?.abort();
    this.#dialling = undefined;
    this.#drop(reason);
  }

  async close(): Promise<void> {
    this.hangUp('the agent ends');
    await this.#server?.close();
  }

  async #dial(signal: AbortSignal): Promise<void> {
    const control = await PeerClient.connect({ ...this.#clientOptions('control'), signal });
    const heartbeat = await PeerClient.connect({ ...this.#clientOptions('heartbeat'), signal }).catch((error: unknown) => {
      control.socket.destroy();
      throw error;
    });
    if (signal.aborted) { // the peer reached us in the last moment
      for (const { socket } of [control, heartbeat]) socket.destroy();
      throw signal.reason;
    }
    this.#dialling = undefined;
    this.#peer = control;
    this.#useControl(control);
    this.#useHeartbeat(heartbeat);
  }

  #clientOptions(kind: PeerKind): PeerClientOptions {
    const { host: address, port } = this.#config.peer.address;
    return { ...this.#identity, address, port, kind, timeoutMs: this.#greetingMs };
  }

  /** @throws PeerError to refuse */
  #admit(kind: PeerKind, hostName: string, incarnation: string): void {
    if (hostName === this.#config.host) {
      throw new PeerError('PEER_PAIR', `both hosts are named ${hostName}; give them different names`);
    }
    if (kind !== 'control') {
      if (this.#peer?.incarnation !== incarnation) throw new PeerError('PEER_LIMIT', 'there is no session it could belong to');
      return;
    }
    if (this.#peer) throw new PeerError('PEER_LIMIT', `a session with ${this.#peer.hostName} is open already`);
    if (this.#losing) throw new PeerError('PEER_LIMIT', 'an earlier session has not ended yet');
    // Both dial at once: the call of the host whose name sorts first counts.
    if (this.#dialling && this.#config.host < hostName) throw new PeerError('PEER_LIMIT', 'we are calling you');
  }

  #accept(connection: PeerConnection): void {
    switch (connection.kind) {
      case 'control':
        this.#dialling?.abort();
        this.#dialling = undefined;
        this.#peer = connection;
        this.#useControl(connection);
        // A caller that never brings its heartbeat must not block the real peer.
        this.#losing = setTimeout(() => {
          this.#losing = undefined;
          this.#lost('no heartbeat connection came');
        }, this.#greetingMs);
        return;
      case 'heartbeat':
        if (this.#heartbeat || this.#peer?.incarnation !== connection.incarnation) return void connection.socket.destroy();
        clearTimeout(this.#losing);
        this.#losing = undefined;
        return this.#useHeartbeat(connection);
      case 'checkpoint':
        return this.#events.onCheckpointConnection(connection);
    }
  }

  #useControl(connection: PeerConnection): void {
    const control: ControlChannel<PeerMessage, PeerMessage> = new ControlChannel({
      connection,
      parse: parseMessage,
      onMessage: (message) => this.#events.onMessage(message),
      onClose: (reason) => {
        if (this.#control === control) this.#broken(reason.message);
      },
    });
    this.#control = control;
  }

  #useHeartbeat(connection: PeerConnection): void {
    const { intervalMs, missed } = this.#config.heartbeat;
    const heartbeat: Heartbeat = new Heartbeat({
      connection, intervalMs, missed, leaseMs: intervalMs * missed,
      onAck: (sentNs) => this.#events.onAck(sentNs),
      onSilence: (silentNs) => {
        if (this.#heartbeat === heartbeat) this.#lost(`no heartbeat for ${Math.round(Number(silentNs) / 1e6)} ms`);
      },
      onClose: (reason) => {
        if (this.#heartbeat === heartbeat) this.#broken(reason.message);
      },
    });
    this.#heartbeat = heartbeat;
    this.#events.onUp();
  }

  #broken(reason: string): void {
    const { intervalMs, missed } = this.#config.heartbeat;
    const heardNs = this.#heartbeat?.lastHeardNs;
    const wasUp = this.up;
    clearTimeout(this.#losing);
    this.#losing = undefined;
    this.#drop(reason);
    if (!wasUp || heardNs === undefined) return this.#events.onLost(reason);
    const silentMs = Number(process.hrtime.bigint() - heardNs) / 1e6;
    this.#losing = setTimeout(() => {
      this.#losing = undefined;
      this.#events.onLost(reason);
    }, Math.max(0, Math.ceil(intervalMs * missed - silentMs) + 1));
  }

  #lost(reason: string): void {
    this.#drop(reason);
    this.#events.onLost(reason);
  }

  #drop(reason?: string): void {
    const [control, heartbeat] = [this.#control, this.#heartbeat];
    this.#control = this.#heartbeat = this.#peer = undefined;
    control?.close(reason);
    heartbeat?.close(reason);
  }
}

/** What a failed dial says of the peer's agent: that it is not there, that it lives, or nothing. */
function signOf(error: unknown): 'absent' | 'refused' | 'silent' {
  if (!(error instanceof PeerError)) return 'silent';
  if ((error.cause as NodeJS.ErrnoException | undefined)?.code === 'ECONNREFUSED') return 'absent';
  return error.code === 'PEER_CONNECT' || error.code === 'PEER_TIMEOUT' || error.code === 'PEER_CLOSED' ? 'silent' : 'refused';
}
