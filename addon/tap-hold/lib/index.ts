import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { constants } from 'node:os';

/** Why the hold thread calls: something waits, or more waits than the limits allow. */
export type HoldNotice = 'held' | 'limit';

export interface TapHoldOptions {
  /** Name of the hold tap to create, at most 15 bytes. It must not exist yet. */
  ifname: string;
  /** Packets the kernel may queue towards the hold thread (the device's txqueuelen). */
  queuePackets?: number;
  /** Most memory that held packets may take; used only as they fill it. */
  ringBytes?: number;
  /** More held packets than this cause a `limit` notice. */
  limitPackets?: number;
  /** More held bytes than this cause a `limit` notice. */
  limitBytes?: number;
  /**
   * Called at most once per notice between two watermarks, with the time
   * (CLOCK_MONOTONIC nanoseconds) of the oldest packet that waits.
   */
  onNotice: (notice: HoldNotice, oldestNs: bigint) => void;
}

/** What the hold thread has done. Times are nanoseconds; the counters never go back. */
export interface HoldStats {
  heldPackets: number;
  heldBytes: number;
  /** CLOCK_MONOTONIC time of the oldest packet that waits, 0n if none does. */
  oldestNs: bigint;
  receivedPackets: number;
  receivedBytes: number;
  releasedPackets: number;
  releasedBytes: number;
  discardedPackets: number;
  /** Frames on the hold tap that did not come from the gate; they are thrown away. */
  malformedPackets: number;
  /** Packets the kernel refused when they were written back. */
  failedPackets: number;
  /** Times the ring was full and reading stopped until a release. */
  fullEvents: number;
  /** Packets that the kernel dropped before they got here: the ring was full, and then the device's queue. */
  droppedPackets: number;
  /** Summed over the released packets. */
  holdNsTotal: number;
  holdNsMax: number;
  /** Somebody else deleted the hold tap: what the gate holds from then on is lost, and nothing is released. */
  deviceLost: boolean;
}

interface NativeTapHold {
  readonly ifIndex: number;
  setWatermark(timeNs: bigint): void;
  discard(): void;
  reportDrained(memory: Uint8Array): void;
  stats(): Omit<HoldStats, 'droppedPackets'>;
  close(): void;
}

interface Native {
  TapHold: new (
    ifname: string,
    queuePackets: number,
    ringBytes: number,
    limitPackets: number,
    limitBytes: number,
    notify: (notice: number, oldestNs: bigint) => void,
  ) => NativeTapHold;
}

const native = createRequire(import.meta.url)('../build/Release/tap_hold.node') as Native;

const notices: readonly HoldNotice[] = ['held', 'limit'];
const mib = 1024 * 1024;
/** Later than any packet. */
const endOfTime = (1n << 64n) - 1n;

/** A hold tap that could not be made or used. */
export class TapHoldError extends Error {
  readonly code: string;
  readonly operation: string;
  readonly errno: number;

  constructor(message: string, operation: string, errno: number, options?: ErrorOptions) {
    super(message, options);
    this.name = 'TapHoldError';
    this.code = 'TAP_HOLD';
    this.operation = operation;
    this.errno = errno;
  }
}

/**
 * A tap of our own and the thread behind it, which keeps the packets that the
 * gate sends there, in order, and writes them back once they may be seen.
 *
 * JavaScript never touches a packet: it only moves the watermark. The device
 * lives in the network namespace of the creating thread and vanishes with
 * {@link close} or with the process; what is held then is lost.
 */
export class TapHold {
  readonly ifname: string;
  /** Until it is closed. */
  #native: NativeTapHold | undefined;

  constructor(options: TapHoldOptions) {
    const { ifname } = options;
    if (!/^[A-Za-z0-9_.-]{1,15}$/.test(ifname)) {
      throw new RangeError(`A hold tap cannot be named ${JSON.stringify(ifname)}: use 1 to 15 letters, digits, "_", "." or "-".`);
    }
    const queuePackets = bounded('queuePackets', options.queuePackets ?? 65_536, 1, 1_000_000);
    const ringBytes = bounded('ringBytes', options.ringBytes ?? 256 * mib, mib, 64 * 1024 * mib);
    const limitPackets = bounded('limitPackets', options.limitPackets ?? 16_384, 1, 1e9);
    const limitBytes = bounded('limitBytes', options.limitBytes ?? 64 * mib, 1, 1e12);
    const notify = (notice: number, oldestNs: bigint): void => {
      options.onNotice(notices[notice]!, oldestNs);
    };
    this.ifname = ifname;
    try {
      this.#native = new native.TapHold(ifname, queuePackets, ringBytes, limitPackets, limitBytes, notify);
    } catch (cause) {
      const { message, operation, errno } = cause as Error & { operation?: string; errno?: number };
      throw new TapHoldError(
        `The hold tap ${ifname} could not be made: ${message}.`,
        operation ?? 'open', errno ?? 0, { cause },
      );
    }
  }

  /** Interface index of the hold tap. */
  get ifIndex(): number {
    return this.#open('tell its index').ifIndex;
  }

  /** Releases all packets sent at or before `timeNs` (CLOCK_MONOTONIC), those that wait and those still to come. */
  releaseUpTo(timeNs: bigint): void {
    if (typeof timeNs !== 'bigint' || timeNs < 0n || timeNs > endOfTime) {
      throw new RangeError(`The watermark ${timeNs} is not a time in nanoseconds.`);
    }
    this.#open('release packets').setWatermark(timeNs);
  }

  /** Releases everything, until {@link releaseUpTo} says otherwise. */
  releaseAll(): void {
    this.releaseUpTo(endOfTime);
  }

  /** Forgets everything that was sent until now; also what the thread has not read yet. */
  discard(): void {
    this.#open('discard packets').discard();
  }

  /**
   * Has the thread keep up to date, in `memory`, the time up to which everything
   * has been given back or discarded: nothing older is on its way any more.
   * @param memory 8 aligned bytes that programs in the kernel may share; a native u64
   */
  reportDrained(memory: Uint8Array): void {
    if (memory.byteLength !== 8 || memory.byteOffset % 8 !== 0) {
      throw new RangeError(`reportDrained needs 8 aligned bytes, not ${memory.byteLength} at ${memory.byteOffset}.`);
    }
    this.#open('report what is drained').reportDrained(memory);
  }

  stats(): HoldStats {
    return { ...this.#open('tell its statistics').stats(), droppedPackets: transmitDrops(this.ifname) };
  }

  /** Ends the thread and removes the device. Safe to call twice. */
  close(): void {
    this.#native?.close();
    this.#native = undefined;
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #open(wish: string): NativeTapHold {
    if (this.#native === undefined) {
      throw new TapHoldError(`The hold tap ${this.ifname} cannot ${wish}: it is closed.`, wish, constants.errno.EBADF);
    }
    return this.#native;
  }
}

/** Packets for the device that its queue had no room for; 0 for a device that is gone. */
function transmitDrops(ifname: string): number {
  const line = readFileSync('/proc/net/dev', 'utf8').split('\n').find((text) => text.trimStart().startsWith(`${ifname}:`));
  // Eight figures of what was received, then: bytes, packets, errors, drops.
  return Number(line?.slice(line.indexOf(':') + 1).trim().split(/\s+/)[11] ?? 0);
}

function bounded(name: string, value: number, low: number, high: number): number {
  if (!Number.isSafeInteger(value) || value < low || value > high) {
    throw new RangeError(`${name} must be a whole number from ${low} to ${high}, not ${value}.`);
  }
  return value;
}
