import { constants } from 'node:os';
import { bounded, checkIfname, makeNative, native, TapHoldError, transmitDrops } from './tap.js';

/**
 * Why the log thread calls.
 * - `gap`: an input is missing and will not come; nothing after it is acknowledged until a
 *   checkpoint makes up for it. With its number.
 * - `limit`: the log holds more, or older input, than the limits allow. With the time of the oldest.
 * - `lost`: somebody deleted the log tap. Nothing is logged any more, and what is can be given to nobody.
 */
export type LogNotice = 'gap' | 'limit' | 'lost';

export interface InputLogOptions {
  /** Name of the log tap to create, at most 15 bytes. It must not exist yet. */
  ifname: string;
  /** Packets the kernel may queue towards the log thread (the device's txqueuelen); fewer where it allows only fewer. */
  queuePackets?: number;
  /** Most memory that the log may take; used only as it fills it. */
  ringBytes?: number;
  /** More logged packets, or bytes, or a longer time since the oldest came, cause a `limit` notice. */
  limitPackets?: number;
  limitBytes?: number;
  limitAgeMs?: number;
  /** How long a missing input may be late before it is a gap, and how many later ones may come first. */
  gapMs?: number;
  gapPackets?: number;
  /** Called at most once per notice until the next {@link InputLog.forget} or {@link InputLog.reset}; `lost` once. */
  onNotice: (notice: LogNotice, value: bigint) => void;
}

/** What the log thread has done. Times are nanoseconds; the counters never go back. */
export interface LogStats {
  /** In the log now. */
  loggedPackets: number;
  loggedBytes: number;
  /** CLOCK_MONOTONIC time when the oldest one came, 0n if there is none. */
  oldestNs: bigint;
  /** This input and all before it are here, or not needed any more. */
  ackedIseq: bigint;
  /** The highest number that was seen. */
  newestIseq: bigint;
  epoch: bigint;
  receivedPackets: number;
  receivedBytes: number;
  /** Covered by a commit. */
  forgottenPackets: number;
  /** Given to an active secondary; some twice. */
  deliveredPackets: number;
  duplicatePackets: number;
  /** So far ahead that the log could not keep track of them; thrown away. */
  beyondPackets: number;
  /** Came while nothing was to be logged; thrown away. */
  unexpectedPackets: number;
  /** Frames on the log tap that did not come from the shadow programs; thrown away. */
  malformedPackets: number;
  /** Packets the kernel refused when they were written back. */
  failedPackets: number;
  /** Packets that the kernel dropped because the device's queue was full. */
  droppedPackets: number;
  /** Times the ring was full and reading stopped. */
  fullEvents: number;
  /** Times a gap was noticed. */
  gaps: number;
  /** Acknowledgements sent. */
  acks: number;
  /** Somebody else deleted the device. */
  deviceLost: boolean;
  replay: ReplayStats;
}

export interface ReplayStats {
  /** Frames that were in the log, and had not been delivered. */
  loggedFrames: number;
  /** Frames that clients sent meanwhile. */
  liveFrames: number;
  /** TCP connections among those in the log. */
  flows: number;
  /** Times a frame went in again because the guest did not acknowledge it. */
  repeatedFrames: number;
  /** Frames that the guest had already. */
  knownFrames: number;
  /** Frames of flows that the guest did not answer. */
  abandonedFrames: number;
  /** Frames that went in unpaced because the time was over. */
  flushedFrames: number;
  durationNs: number;
}

export interface DeliveryOptions {
  /** Descriptor of the map of flows that the shadow programs keep. */
  flowsFd: number;
  /** Only flows of this generation count. */
  generation: number;
  /** Without progress, a flow's segments go in again after this. Default 200. */
  retryMs?: number;
}

export interface ReplayOptions {
  /** As in {@link DeliveryOptions}. */
  flowsFd: number;
  generation: number;
  /**
   * Without any progress for so long, or after ten times that, what is left goes in at once.
   * Default 3000: a guest may have to find its clients first, and asks once a second.
   */
  limitMs?: number;
  /** Without progress, a flow's segments go in again after this (default 20), so often (default: until the time is nearly over). */
  retryMs?: number;
  tries?: number;
  /**
   * How long the first write waits for a reply to an earlier request that may never come. Default 50; five times that
   * if none has come on its connection, or if clients are known to have it; ten times that without any progress of its service.
   */
  barrierMs?: number;
}

interface NativeInputLog {
  readonly ifIndex: number;
  reset(epoch: bigint, nextIseq: bigint): void;
  forget(iseq: bigint, margin: bigint): void;
  deliver(flowsFd: number, generation: number, totalNs: bigint, retryNs: bigint, barrierNs: bigint, tries: number): void;
  suspend(): void;
  replay(flowsFd: number, generation: number, totalNs: bigint, retryNs: bigint, barrierNs: bigint, tries: number): void;
  stats(): Omit<LogStats, 'droppedPackets'>;
  close(): void;
}

type NativeConstructor = new (
  ifname: string,
  queuePackets: number,
  ringBytes: number,
  limitPackets: number,
  limitBytes: number,
  limitAgeNs: bigint,
  gapNs: bigint,
  gapPackets: number,
  notify: (notice: number, value: bigint) => void,
) => NativeInputLog;

const notices: readonly LogNotice[] = ['gap', 'limit', 'lost'];
const mib = 1024 * 1024;
/** How long a write waits for a reply to an earlier request that may never come. */
const barrierMs = 50;
const forever = 1e9;
/** Share of a replay's time after which a flow that the guest does not answer is given up: until then it may be asking for the way. */
const givenUpAfter = 0.9;
const ns = (ms: number): bigint => BigInt(Math.round(ms * 1e6));

/**
 * A tap of our own and the thread behind it, which keeps the input that the primary mirrors, in
 * order, acknowledges it, and gives it to the guest after a takeover.
 *
 * JavaScript never touches a packet. The device lives in the network namespace of the creating
 * thread and vanishes with {@link close} or with the process, and the log with it.
 */
export class InputLog {
  readonly ifname: string;
  /** Until it is closed. */
  #native: NativeInputLog | undefined;
  #lost = false;
  #replay: { resolve: (stats: ReplayStats) => void; reject: (error: Error) => void } | undefined;

  constructor(options: InputLogOptions) {
    const ifname = checkIfname(options.ifname);
    const notify = (notice: number, value: bigint): void => {
      const name = notices[notice];
      if (name === undefined) return this.#replay?.resolve(this.stats().replay);
      if (name === 'lost') {
        this.#lost = true;
        this.#replay?.reject(this.#lostError());
      }
      options.onNotice(name, value);
    };
    this.ifname = ifname;
    this.#native = makeNative(
      `The log tap ${ifname}`,
      native['InputLog'] as NativeConstructor,
      ifname,
      bounded('queuePackets', options.queuePackets ?? 65_536, 1, 1_000_000),
      bounded('ringBytes', options.ringBytes ?? 256 * mib, mib, 64 * 1024 * mib),
      bounded('limitPackets', options.limitPackets ?? 32_768, 1, 1e9),
      bounded('limitBytes', options.limitBytes ?? 128 * mib, 1, 1e12),
      ns(bounded('limitAgeMs', options.limitAgeMs ?? 30_000, 1, 1e9)),
      ns(bounded('gapMs', options.gapMs ?? 2, 1, 1e6)),
      bounded('gapPackets', options.gapPackets ?? 64, 1, 32_768),
      notify,
    );
  }

  /** Interface index of the log tap. */
  get ifIndex(): number {
    return this.#open('tell its index').ifIndex;
  }

  /**
   * Empties the log, expects input `nextIseq` (at least 1) and says so to the primary. What arrived
   * before this call is forgotten, too, so call it before the primary mirrors.
   * @param epoch goes into each acknowledgement
   */
  reset(epoch: bigint, nextIseq: bigint): void {
    this.#open('begin').reset(u64('epoch', epoch), u64('nextIseq', nextIseq, 1n));
  }

  /**
   * A commit: the guest has read all input up to `iseq` before the checkpoint's STOP, so the log
   * forgets it, and waits for none of it. Of the last `margin` that is not certain: what is there
   * stays, and what is missing is missed.
   */
  forget(iseq: bigint, margin = 0): void {
    this.#open('forget').forget(u64('iseq', iseq), BigInt(bounded('margin', margin, 0, 1e6)));
  }

  /**
   * The VM of an active secondary has loaded a checkpoint, which {@link forget} was told of: gives it
   * what is logged, without gaps, and what comes as it comes, paced as in a replay. Ends with the next
   * {@link forget} or {@link reset}, because what the VM has seen then is of no interest any more.
   */
  deliver({ flowsFd, generation, retryMs = 200 }: DeliveryOptions): void {
    this.#open('deliver').deliver(
      bounded('flowsFd', flowsFd, 0, 2 ** 31 - 1), bounded('generation', generation, 0, 2 ** 32 - 1),
      ns(forever), ns(bounded('retryMs', retryMs, 1, 1e6)), ns(barrierMs), 1,
    );
  }

  /** The VM has stopped for a checkpoint: nothing goes in until it is loaded, or a takeover replays the rest. */
  suspend(): void {
    this.#open('suspend the delivery').suspend();
  }

  /**
   * Gives what is logged, without gaps, to the guest, or what has not been delivered of it, and then
   * whatever live clients send. From here on nothing is logged until the next {@link reset}.
   * @returns when the log has been replayed; rejects when the log is closed before, or its tap is gone
   */
  async replay(options: ReplayOptions): Promise<ReplayStats> {
    const log = this.#open('replay');
    if (this.#replay !== undefined) throw new TapHoldError(`The log tap ${this.ifname} cannot replay: it is doing so.`, 'replay', constants.errno.EBUSY);
    if (this.#lost) throw this.#lostError();
    const { limitMs = 3000, retryMs = 20, tries = Math.max(1, Math.floor(givenUpAfter * limitMs / retryMs)) } = options;
    log.replay(
      bounded('flowsFd', options.flowsFd, 0, 2 ** 31 - 1),
      bounded('generation', options.generation, 0, 2 ** 32 - 1),
      ns(bounded('limitMs', limitMs, 0, 1e6)),
      ns(bounded('retryMs', retryMs, 1, 1e6)),
      ns(bounded('barrierMs', options.barrierMs ?? barrierMs, 0, 1e6)),
      bounded('tries', tries, 1, 1e6),
    );
    // The thread's notices do not keep the process alive; the end of a replay is waited for.
    const keepAlive = setInterval(() => {}, 60_000);
    try {
      return await new Promise<ReplayStats>((resolve, reject) => { this.#replay = { resolve, reject }; });
    } finally {
      clearInterval(keepAlive);
      this.#replay = undefined;
    }
  }

  stats(): LogStats {
    return { ...this.#open('tell its statistics').stats(), droppedPackets: transmitDrops(this.ifname) };
  }

  /** Ends the thread and removes the device. Safe to call twice. */
  close(): void {
    this.#native?.close();
    this.#native = undefined;
    this.#replay?.reject(new TapHoldError(`The log tap ${this.ifname} was closed in the middle of a replay.`, 'replay', constants.errno.ECANCELED));
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #lostError(): TapHoldError {
    return new TapHoldError(`The log tap ${this.ifname} cannot replay: somebody deleted it.`, 'replay', constants.errno.ENODEV);
  }

  #open(wish: string): NativeInputLog {
    if (this.#native === undefined) {
      throw new TapHoldError(`The log tap ${this.ifname} cannot ${wish}: it is closed.`, wish, constants.errno.EBADF);
    }
    return this.#native;
  }
}

function u64(name: string, value: bigint, low = 0n): bigint {
  if (typeof value !== 'bigint' || value < low || value >= 1n << 63n) {
    throw new RangeError(`${name} must be a bigint from ${low} to 2^63 - 1, not ${value}.`);
  }
  return value;
}
