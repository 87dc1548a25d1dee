/**
 * The heartbeat as a pure function: state, event and time in; state and effects out. Times are
 * CLOCK_MONOTONIC nanoseconds of this host; no time of the other host is ever used.
 */
export interface HeartbeatSettings {
  intervalNs: bigint;
  /** The peer is silent after this long without a frame from it. */
  silenceNs: bigint;
}

export interface HeartbeatState {
  nextSeq: number;
  nextSendNs: bigint;
  /** When a frame of the peer was last read; at first, when the heartbeat began. */
  lastHeardNs: bigint;
  /** When the newest own beat that the peer has acknowledged was sent. */
  lastAckedSentNs: bigint | undefined;
  /** From the sending of a beat to the reading of its acknowledgement. */
  rttNs: bigint | undefined;
  /** Own beats that may still be acknowledged, oldest first. */
  unacked: readonly { seq: number; sentNs: bigint }[];
  silent: boolean;
}

export type HeartbeatEvent =
  /** Time has passed. */
  | { type: 'tick' }
  /** The silence was suspected, and by now everything that had arrived has been read. */
  | { type: 'drained' }
  | { type: 'beat'; seq: number }
  | { type: 'ack'; seq: number };

export type HeartbeatEffect =
  | { type: 'sendBeat'; seq: number }
  | { type: 'sendAck'; seq: number }
  | { type: 'acked'; sentNs: bigint }
  /** Read what has arrived, then come back with `drained`: our own timer may have been late. */
  | { type: 'drain' }
  | { type: 'silence'; silentNs: bigint };

/** More beats than this unacknowledged, and the oldest are given up: enough for a minute's lag. */
const MAX_UNACKED = 1024;

export function startHeartbeat(nowNs: bigint): HeartbeatState {
  return {
    nextSeq: 1,
    nextSendNs: nowNs,
    lastHeardNs: nowNs,
    lastAckedSentNs: undefined,
    rttNs: undefined,
    unacked: [],
    silent: false,
  };
}

/** When the next `tick` is due. */
export function heartbeatWakeNs(state: HeartbeatState, settings: HeartbeatSettings): bigint {
  const deadlineNs = state.lastHeardNs + settings.silenceNs;
  return state.silent || state.nextSendNs < deadlineNs ? state.nextSendNs : deadlineNs;
}

export function stepHeartbeat(
  state: HeartbeatState,
  settings: HeartbeatSettings,
  event: HeartbeatEvent,
  nowNs: bigint,
): { state: HeartbeatState; effects: HeartbeatEffect[] } {
  switch (event.type) {
    case 'tick':
      return tick(state, settings, nowNs);
    case 'drained': {
      const silentNs = nowNs - state.lastHeardNs;
      if (state.silent || silentNs < settings.silenceNs) return { state, effects: [] };
      return { state: { ...state, silent: true }, effects: [{ type: 'silence', silentNs }] };
    }
    case 'beat':
      return {
        state: { ...state, lastHeardNs: nowNs, silent: false },
        effects: [{ type: 'sendAck', seq: event.seq }],
      };
    case 'ack':
      return acknowledge(state, event.seq, nowNs);
  }
}

function tick(
  state: HeartbeatState,
  settings: HeartbeatSettings,
  nowNs: bigint,
): { state: HeartbeatState; effects: HeartbeatEffect[] } {
  const effects: HeartbeatEffect[] = [];
  let next = state;
  if (nowNs >= state.nextSendNs) {
    const seq = state.nextSeq;
    // After a stall of ours, one beat is enough: the missed ones would all say the same.
    const scheduledNs = state.nextSendNs + settings.intervalNs;
    next = {
      ...state,
      nextSeq: (seq + 1) >>> 0,
      nextSendNs: scheduledNs > nowNs ? scheduledNs : nowNs + settings.intervalNs,
      unacked: [...state.unacked, { seq, sentNs: nowNs }].slice(-MAX_UNACKED),
    };
    effects.push({ type: 'sendBeat', seq });
  }
  if (!state.silent && nowNs - state.lastHeardNs >= settings.silenceNs) {
    effects.push({ type: 'drain' });
  }
  return { state: next, effects };
}

/** Only beats of ours that are still open count, so a peer cannot acknowledge the future. */
function acknowledge(
  state: HeartbeatState,
  seq: number,
  nowNs: bigint,
): { state: HeartbeatState; effects: HeartbeatEffect[] } {
  const heard = { ...state, lastHeardNs: nowNs, silent: false };
  const index = state.unacked.findIndex((beat) => beat.seq === seq);
  const beat = state.unacked[index];
  if (!beat) return { state: heard, effects: [] };
  return {
    state: {
      ...heard,
      lastAckedSentNs: beat.sentNs,
      rttNs: nowNs - beat.sentNs,
      // TCP keeps order: whatever is older than an acknowledged beat was acknowledged before it.
      unacked: state.unacked.slice(index + 1),
    },
    effects: [{ type: 'acked', sentNs: beat.sentNs }],
  };
}
