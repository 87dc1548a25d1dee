import { constants } from 'node:os';
import { compareEvents, nativeLimits, type CompareEvent, type CompareLimits, type CompareStats, type NativeCompareEvent } from './compare.js';
import { bounded, checkIfname, makeNative, native, TapHoldError, transmitDrops } from './tap.js';

export type { CompareEvent, CompareFlow, CompareLimits, CompareStats, Difference, Finding, Fingerprint } from './compare.js';
export { InputLog, type DeliveryOptions, type InputLogOptions, type LogNotice, type LogStats, type ReplayOptions, type ReplayStats } from './input-log.js';
export { TapHoldError } from './tap.js';

/** Why the hold thread calls: something waits, more waits than the limits allow, or somebody deleted the hold tap, or the one for shadow outputs. */
export type HoldNotice = 'held' | 'limit' | 'lost' | 'shadowLost';

export interface TapHoldOptions {
  /** Name of the hold tap to create, at most 15 bytes. It must not exist yet. */
  ifname: string;
  /** Packets the kernel may queue towards the hold thread (the device's txqueuelen); fewer where it allows only fewer. */
  queuePackets?: number;
  /** Most memory that held packets may take; used only as they fill it. */
  ringBytes?: number;
  /** More held packets than this cause a `limit` notice. */
  limitPackets?: number;
  /** More held bytes than this cause a `limit` notice. */
  limitBytes?: number;
  /**
   * Called at most once per notice between two watermarks, with the time
   * (CLOCK_MONOTONIC nanoseconds) of the oldest packet that waits. `lost` and `shadowLost` come once.
   */
  onNotice: (notice: HoldNotice, oldestNs: bigint) => void;
  /** To compare with what the secondary's guest says: see {@link TapHold.setCompare}. */
  compare?: CompareOptions;
}

export interface CompareOptions {
  /** Name of the tap to create where shadow outputs come in, behind a `struct shadow_tag` of bpf/wire.h. */
  ifname: string;
  /** Most flows that are followed at a time. */
  maxFlows?: number;
  /** Most memory for shadow outputs that nothing could be compared with yet; used only as they fill it. */
  ringBytes?: number;
  /** Called with what was found, at most 64 events between two commits; all are counted. */
  onFound: (events: CompareEvent[]) => void;
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
  /** Of those that a commit released: of services whose output is not to be compared. */
  uncomparedPackets: number;
  uncomparedNs: number;
  /** Somebody else deleted the hold tap: what the gate holds from then on is lost, and nothing is released. */
  deviceLost: boolean;
  /** Likewise the tap for shadow outputs: nothing is compared any more, whatever {@link TapHold.setCompare} says. */
  shadowLost: boolean;
  /** All zero if nothing is compared. */
  compare: CompareStats;
}

interface NativeTapHold {
  readonly ifIndex: number;
  readonly shadowIfIndex: number;
  setWatermark(timeNs: bigint): void;
  commit(timeNs: bigint, epoch: number): void;
  suspendCompare(): void;
  setCompare(...limits: number[]): void;
  setGathering(quietNs: number, mostNs: number): void;
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
  shadowIfname: string,
  maxFlows: number,
  shadowRingBytes: number,
  found: (events: NativeCompareEvent[]) => void,
) => NativeTapHold;

const notices: readonly HoldNotice[] = ['held', 'limit', 'lost', 'shadowLost'];
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
  readonly #shadowIfname: string;
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
    const { compare } = options;
    const shadowIfname = compare === undefined ? '' : checkIfname(compare.ifname);
    const maxFlows = bounded('maxFlows', compare?.maxFlows ?? 65_536, 1, 16_777_216);
    const shadowRingBytes = bounded('compare.ringBytes', compare?.ringBytes ?? 64 * mib, mib, 64 * 1024 * mib);
    this.ifname = ifname;
    this.#shadowIfname = shadowIfname;
    this.#native = makeNative(
      compare === undefined ? `The hold tap ${ifname}` : `The hold tap ${ifname} with ${shadowIfname}`, native['TapHold'] as NativeConstructor,
      ifname, queuePackets, ringBytes, limitPackets, limitBytes, notify,
      shadowIfname, maxFlows, shadowRingBytes, (events) => compare?.onFound(compareEvents(events)),
    );
  }

  /** Interface index of the hold tap. */
  get ifIndex(): number {
    return this.#open('tell its index').ifIndex;
  }

  /** Interface index of the tap for shadow outputs. @throws TapHoldError if there is none */
  get shadowIfIndex(): number {
    return this.#comparing('tell its index').shadowIfIndex;
  }

  /**
   * Releases all packets sent at or before `timeNs` (CLOCK_MONOTONIC), those that wait and those still to come.
   * An earlier time than before holds again, and nothing is compared until the next {@link commit}.
   */
  releaseUpTo(timeNs: bigint): void {
    this.#open('release packets').setWatermark(checkTime(timeNs));
  }

  /**
   * A commit while the secondary is active: releases as {@link releaseUpTo} does. What was and will be
   * sent after `stopNs` is released as soon as shadow outputs of `epoch` say the same; those of any other
   * epoch, before or after, say nothing about it.
   * @param stopNs when the VM was stopped for this checkpoint
   * @param epoch what shadow outputs carry once the secondary's VM has loaded it; not that of the commit before
   */
  commit(stopNs: bigint, epoch: number): void {
    this.#comparing('commit').commit(checkTime(stopNs), bounded('epoch', epoch, 0, 2 ** 32 - 1));
  }

  /**
   * To be called **before** each request for a checkpoint: what the VM sends from now on is not compared
   * until {@link commit}, because a byte that the secondary has said before it loads the checkpoint is no
   * evidence for what the primary says after its STOP.
   */
  suspendCompare(): void {
    this.#comparing('suspend the comparison').suspendCompare();
  }

  /**
   * Switches the comparison on, with the next {@link commit}, or changes its limits; off with `undefined`.
   * Also packets that have left early and come here to be audited (HOLD_AUDIT) are compared only while it is on.
   * While it is on, only packets that are not compared (HOLD_UNCOMPARED, or without room to follow them)
   * cause `held` notices: what waits too long for a match is reported as `late`.
   */
  setCompare(limits: CompareLimits | undefined): void {
    this.#comparing('compare').setCompare(...(limits === undefined ? [] : nativeLimits(limits)));
  }

  /** Releases everything, until {@link releaseUpTo} or {@link commit} says otherwise. */
  releaseAll(): void {
    this.releaseUpTo(endOfTime);
  }

  /**
   * How long a packet that waits for a commit is kept secret, so that others may share its checkpoint: `held`
   * comes when nothing was sent for `quietMs`, but no later than after `mostMs`; at once where that gathered
   * nothing lately. At first both are 0.
   */
  setGathering(quietMs: number, mostMs: number): void {
    const ns = (name: string, ms: number): number => bounded(name, Math.round(ms * 1e6), 0, 1e10);
    this.#open('gather packets').setGathering(ns('quietMs in ns', quietMs), ns('mostMs in ns', mostMs));
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

  #comparing(wish: string): NativeTapHold {
    if (this.#shadowIfname === '') {
      throw new TapHoldError(`The hold tap ${this.ifname} cannot ${wish}: it was made without a tap for shadow outputs.`, wish, constants.errno.EINVAL);
    }
    return this.#open(wish);
  }

  #open(wish: string): NativeTapHold {
    if (this.#native === undefined) {
      throw new TapHoldError(`The hold tap ${this.ifname} cannot ${wish}: it is closed.`, wish, constants.errno.EBADF);
    }
    return this.#native;
  }
}

function checkTime(timeNs: bigint): bigint {
  if (typeof timeNs !== 'bigint' || timeNs < 0n || timeNs > endOfTime) {
    throw new RangeError(`The watermark ${timeNs} is not a time in nanoseconds.`);
  }
  return timeNs;
}
