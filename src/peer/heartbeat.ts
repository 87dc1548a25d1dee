import { PeerError } from './errors.js';
import { FrameType, type FrameLimits } from './frame.js';
import { FramedSocket } from './framed-socket.js';
import {
  heartbeatWakeNs,
  startHeartbeat,
  stepHeartbeat,
  type HeartbeatEffect,
  type HeartbeatEvent,
  type HeartbeatSettings,
  type HeartbeatState,
} from './heartbeat-state.js';
import type { PeerConnection } from './link.js';

export interface HeartbeatOptions {
  /** A connection of kind `heartbeat`. */
  connection: PeerConnection;
  intervalMs: number;
  /** The peer is silent after this many intervals without any frame of it. */
  missed: number;
  /**
   * How long, after sending a beat that the peer acknowledged, either side relies on it: see
   * `lastAckedSentNs`. Must not exceed `missed` intervals.
   */
  leaseMs?: number | undefined;
  /** The peer has acknowledged the beat we sent at `sentNs` (CLOCK_MONOTONIC). */
  onAck?: ((sentNs: bigint) => void) | undefined;
  /** Called once per silence; frames that arrive later end it, and it may come again. */
  onSilence: (silentNs: bigint) => void;
  onClose: (reason: PeerError) => void;
}

const BEAT_BYTES = 4;
const LIMITS: FrameLimits = new Map([
  [FrameType.beat, BEAT_BYTES],
  [FrameType.beatAck, BEAT_BYTES],
]);
const MAX_UNSENT_BYTES = 64 * 1024;

/** By how much the rates of two hosts' clocks might differ; real ones do by 0.0001 or less. */
const CLOCK_RATE_MARGIN = 0.01;

/**
 * Beats on a connection of their own, so that checkpoints cannot delay them. Each side sends a
 * beat every interval and acknowledges the other's at once.
 *
 * What a lease may be built on: a side that acknowledged a beat does not declare silence for at
 * least `leaseMs` after that. The sender of the beat sent it earlier still, so by its own clock it
 * may rely on the peer until `lastAckedSentNs + leaseMs`, with no clock shared between the hosts.
 * Only their rates must agree, and not exactly: the silence outlasts the lease by a hundredth.
 */
export class Heartbeat {
  readonly #options: HeartbeatOptions;
  readonly #settings: HeartbeatSettings;
  readonly #frames: FramedSocket;
  #state: HeartbeatState;
  #timer: NodeJS.Timeout | undefined;
  #drain: NodeJS.Immediate | undefined;

  constructor(options: HeartbeatOptions) {
    const { connection, intervalMs, missed, leaseMs = 0 } = options;
    if (!(intervalMs > 0 && missed >= 1 && leaseMs <= intervalMs * missed)) {
      throw new RangeError(
        `a lease of ${leaseMs} ms needs at least as long a silence; ${missed} beats of ${intervalMs} ms are not`,
      );
    }
    this.#options = options;
    const silenceMs = Math.max(intervalMs * missed, leaseMs * (1 + CLOCK_RATE_MARGIN));
    this.#settings = {
      intervalNs: BigInt(Math.round(intervalMs * 1e6)),
      silenceNs: BigInt(Math.round(silenceMs * 1e6)),
    };
    this.#state = startHeartbeat(process.hrtime.bigint());
    this.#frames = new FramedSocket(connection, {
      limits: LIMITS,
      maxUnsentBytes: MAX_UNSENT_BYTES,
      onFrame: ({ type, payload }) => {
        if (payload.length !== BEAT_BYTES) {
          const text = `it sent a heartbeat of ${payload.length} bytes`;
          this.#frames.close(new PeerError('PEER_GARBAGE', text));
          return;
        }
        const seq = payload.readUInt32BE(0);
        this.#step({ type: type === FrameType.beat ? 'beat' : 'ack', seq });
      },
      onClose: (reason) => {
        clearTimeout(this.#timer);
        clearImmediate(this.#drain);
        options.onClose(reason);
      },
    });
    this.#step({ type: 'tick' });
  }

  /** How long the peer must have been unheard, since `lastHeardNs`, to count as silent. */
  get silenceNs(): bigint {
    return this.#settings.silenceNs;
  }

  /** When a frame of the peer was last read: CLOCK_MONOTONIC, nanoseconds. */
  get lastHeardNs(): bigint {
    return this.#state.lastHeardNs;
  }

  /** When the newest own beat that the peer acknowledged was sent; undefined before the first. */
  get lastAckedSentNs(): bigint | undefined {
    return this.#state.lastAckedSentNs;
  }

  /** The last round trip in microseconds, the peer's event loop included. */
  get rttUs(): number | undefined {
    const { rttNs } = this.#state;
    return rttNs === undefined ? undefined : Number(rttNs / 1000n);
  }

  get closed(): boolean {
    return this.#frames.closed;
  }

  close(why = 'we closed it'): void {
    this.#frames.close(new PeerError('PEER_CLOSED', why));
  }

  #step(event: HeartbeatEvent): void {
    if (this.#frames.closed) return;
    const { state, effects } = stepHeartbeat(
      this.#state,
      this.#settings,
      event,
      process.hrtime.bigint(),
    );
    this.#state = state;
    for (const effect of effects) this.#execute(effect);
    if (event.type === 'tick' && !this.#frames.closed) this.#schedule();
  }

  #schedule(): void {
    const leftNs = heartbeatWakeNs(this.#state, this.#settings) - process.hrtime.bigint();
    const leftMs = Math.max(1, Math.ceil(Number(leftNs) / 1e6));
    this.#timer = setTimeout(() => this.#step({ type: 'tick' }), leftMs);
  }

  #execute(effect: HeartbeatEffect): void {
    switch (effect.type) {
      case 'sendBeat':
        this.#send(FrameType.beat, effect.seq);
        break;
      case 'sendAck':
        this.#send(FrameType.beatAck, effect.seq);
        break;
      case 'acked':
        this.#options.onAck?.(effect.sentNs);
        break;
      case 'drain':
        // Between a timer and an immediate, the event loop reads every socket that has data.
        clearImmediate(this.#drain);
        this.#drain = setImmediate(() => this.#step({ type: 'drained' }));
        break;
      case 'silence':
        this.#options.onSilence(effect.silentNs);
        break;
    }
  }

  #send(type: number, seq: number): void {
    const payload = Buffer.allocUnsafe(BEAT_BYTES);
    payload.writeUInt32BE(seq, 0);
    this.#frames.send(type, payload);
  }
}
