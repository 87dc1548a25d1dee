import { constants } from 'node:os';
import { bounded, checkIfname, makeNative, native, TapHoldError, transmitDrops } from './tap.js';

export { InputLog, type DeliveryOptions, type InputLogOptions, type LogNotice, type LogStats, type ReplayOptions, type ReplayStats } from './input-log.js';
export { TapHoldError } from './tap.js';

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

/**
 * What released a packet: a commit; the inputs behind it being in the other host's log; the other
 * host's guest having said the same; the end of the protection.
 */
export const releaseCauses = ['commit', 'logged', 'match', 'end'] as const;
export type ReleaseCause = (typeof releaseCauses)[number];

/** Upper bounds of the buckets of {@link HoldTimes}, nanoseconds. */
export const holdBoundsNs = native['holdBoundsNs'] as readonly number[];

/** How long the packets were held that something released. */
export interface HoldTimes {
  /** By bucket: held up to the first bound, from there up to the second, ..., longer than the last. */
  packets: readonly number[];
  totalNs: number;
}

/** Native u64s, 8 aligned bytes each, in memory that programs in the kernel may share. */
export interface SharedWords {
  /** Read: the newest input in the other host's log. Packets that need no more are released. */
  loggedIseq: Uint8Array;
  /** Written: up to this time everything has been given back or discarded; nothing older is on its way. */
  drainedNs: Uint8Array;
  /** Written: likewise everything that only needed an input to be logged. */
  unloggedDrainedNs: Uint8Array;
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
  /** Of the released packets. */
  holdNsMax: number;
  holdTimes: Record<ReleaseCause, HoldTimes>;
  /** Somebody else deleted the hold tap: what the gate holds from then on is lost, and nothing is released. */
  deviceLost: boolean;
}

interface NativeTapHold {
  readonly ifIndex: number;
  setWatermark(timeNs: bigint): void;
  discard(): void;
  share(loggedIseq: Uint8Array, drainedNs: Uint8Array, unloggedDrainedNs: Uint8Array): void;
  stats(): Omit<HoldStats, 'droppedPackets' | 'holdTimes'> & { holdTimes: readonly HoldTimes[] };
  close(): void;
}

type NativeConstructor = new (
  ifname: string,
  queuePackets: number,
  ringBytes: number,
  limitPackets: number,
  limitBytes: number,
  notify: (notice: number, oldestNs: bigint) => void,
) => NativeTapHold;

const notices: readonly HoldNotice[] = ['held', 'limit'];
const mib = 1024 * 1024;
/** Later than any packet. */
const endOfTime = (1n << 64n) - 1n;

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
    const ifname = checkIfname(options.ifname);
    const queuePackets = bounded('queuePackets', options.queuePackets ?? 65_536, 1, 1_000_000);
    const ringBytes = bounded('ringBytes', options.ringBytes ?? 256 * mib, mib, 64 * 1024 * mib);
    const limitPackets = bounded('limitPackets', options.limitPackets ?? 16_384, 1, 1e9);
    const limitBytes = bounded('limitBytes', options.limitBytes ?? 64 * mib, 1, 1e12);
    const notify = (notice: number, oldestNs: bigint): void => {
      options.onNotice(notices[notice]!, oldestNs);
    };
    this.ifname = ifname;
    this.#native = makeNative(
      `The hold tap ${ifname}`, native['TapHold'] as NativeConstructor,
      ifname, queuePackets, ringBytes, limitPackets, limitBytes, notify,
    );
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

  /** Has the thread and programs in the kernel tell each other how far they are. Once: it lasts until {@link close}. */
  share({ loggedIseq, drainedNs, unloggedDrainedNs }: SharedWords): void {
    const words = [loggedIseq, drainedNs, unloggedDrainedNs] as const;
    for (const { byteLength, byteOffset } of words) {
      if (byteLength !== 8 || byteOffset % 8 !== 0) {
        throw new RangeError(`share needs 8 aligned bytes for each word, not ${byteLength} at ${byteOffset}.`);
      }
    }
    this.#open('share memory').share(...words);
  }

  stats(): HoldStats {
    const { holdTimes, ...stats } = this.#open('tell its statistics').stats();
    const byCause = Object.fromEntries(releaseCauses.map((cause, index) => [cause, holdTimes[index]!])) as HoldStats['holdTimes'];
    return { ...stats, holdTimes: byCause, droppedPackets: transmitDrops(this.ifname) };
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
