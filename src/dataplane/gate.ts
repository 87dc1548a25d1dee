/**
 * The gate on the VM's tap, and the hold thread behind it.
 *
 * The programs stay attached to the tap when this process dies: a VM whose
 * agent is gone must not become heard by that. They go with the tap.
 */

import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { ifIndex } from 'libbpf-napi';
import {
  releaseCauses, TapHold,
  type CompareEvent, type CompareLimits, type CompareStats, type HoldNotice, type HoldTimes, type ReleaseCause,
} from 'tap-hold';
import type { CompareWindow, Released } from '../protocol/compare-policy.js';
import { attachInPlace, order } from './attach-in-place.js';
import { ip, ipBatch, linkExists, NetworkError, tc } from './ip.js';
import { newMark } from './mark.js';
import { silenceIpv6 } from './silence-ipv6.js';
import { tunnelAddress } from './tunnel.js';
import { Services, type DeclaredService, type ServiceStats } from './services.js';
import { GateCounter, GateMode, openGate, type GateObjects } from './skel/gate.skel.js';

export interface GateOptions {
  /** The bridge that leads to the clients. */
  bridge: string;
  /** The VM's tap: made if it is not there. */
  tap: string;
  /** The tap where held packets wait: made, and gone with this process. */
  holdTap: string;
  /** Memory for held packets. */
  holdMemoryBytes: number;
  /** More held packets or bytes than these cause a `limit` notice. */
  limitPackets: number;
  limitBytes: number;
  /** Services whose replies may leave before a checkpoint. */
  services?: readonly DeclaredService[];
  /** Where the VM's inputs are mirrored to while it is protected; undefined: nowhere. */
  mirror?: { tunnel: string; peerAddress: string } | undefined;
  /** Where what the secondary's VM says comes in, and who is told of what was found; undefined: nothing is compared. */
  compare?: { shadowTap: string; onFound: (events: CompareEvent[]) => void } | undefined;
  /** See TapHoldOptions.onNotice. */
  onNotice: (notice: HoldNotice, oldestNs: bigint) => void;
}

/** What has become of the VM's packets since the gate was opened. */
export interface GateStats {
  mode: keyof typeof modes;
  heldPackets: number;
  heldBytes: number;
  /** How long the oldest held packet has waited; 0 if none does. */
  oldestMs: number;
  /** All that were ever held, and those of them that were released. */
  everHeldPackets: number;
  releasedPackets: number;
  /** What released them. */
  releasedBy: Record<ReleaseCause, number>;
  meanHoldMs: number;
  maxHoldMs: number;
  /** Output that passed unheld: unprotected, or neighbour discovery. */
  passedPackets: number;
  /** Output that nobody will ever see: after a takeover, without a lease, or for lack of room. */
  droppedPackets: number;
  leaseDroppedPackets: number;
  /** Newest input, and the newest that the secondary has in its log; 0 without a mirror. */
  inputSeq: number;
  loggedSeq: number;
  /** Output of declared services that left before a checkpoint. */
  earlyPackets: number;
  /** Of these, sent to be compared after the fact, too. */
  auditedPackets: number;
  inputPackets: number;
  services: ServiceStats[];
  compare: CompareStats;
}

/** Output that has left while protected. */
export type OutputCounts = Pick<CompareWindow, 'early' | 'matched' | 'committed' | 'uncompared' | 'writes' | 'doubtPackets'>;

/** Of a line of /proc/net/dev, behind the name: eight numbers received, then bytes, packets, errors and drops transmitted. */
const txPacketsField = 9;
const txDroppedField = 11;

/** What has become of the packets for a tap: read from it, or dropped because its queue was full. */
interface Transmitted { packets: bigint; dropped: bigint }

/** Of the VM's inputs: read, as far as can be told; the newest; and all that the tap has dropped. */
interface Progress { read: bigint; newest: bigint; dropped: bigint }

const nsPerSecond = 1_000_000_000n;
/** Ended connections may still repeat their last segments; what comes later is held, as anything unknown is. */
const endedNs = 10n * nsPerSecond;
/** A guest that stands still may take that long to accept a connection. */
const quietNs = 60n * nsPerSecond;
/** As long as Linux remembers an idle connection (nf_conntrack). */
const idleNs = 5n * 24n * 3600n * nsPerSecond;
const sweepMs = 5000;
/** A test run of the sweep needs one; an Ethernet header is enough. */
const nobodysFrame = new Uint8Array(14);

const modes = {
  pass: GateMode.GATE_PASS, protected: GateMode.GATE_PROTECTED, closed: GateMode.GATE_CLOSED,
  /** Of an active secondary: closed for the world, but what the input log gives goes in. */
  shadowed: GateMode.GATE_SHADOWED,
} as const;

export class Gate {
  readonly #options: GateOptions;
  readonly #objects: GateObjects;
  readonly #hold: TapHold;
  readonly #services: Services;
  readonly #sweeper: NodeJS.Timeout;
  #mode: GateStats['mode'] = 'closed';
  /** What the VM had read from the tap before this gate first opened, less the drops that count as read. */
  #readBefore = 0n;
  /** So many of what the tap has dropped count as read, or were before this gate. */
  #dropped = 0n;
  /** When more was seen to be dropped: none of that is newer than the newest input then. */
  #overflow: Progress | undefined;
  #opened = false;

  /**
   * Makes the taps, attaches the gate, closed, and puts the VM's tap on its bridge.
   * @throws NetworkError, TapHoldError, BpfError; nothing is left behind
   */
  static async open(options: GateOptions): Promise<Gate> {
    const { bridge, tap, holdTap, compare } = options;
    if (!await linkExists(bridge)) {
      throw new NetworkError(`There is no bridge ${bridge} on this host. Make it, with the interface that leads to the clients in it, or name another one (network.bridge).`);
    }
    const madeTap = !await linkExists(tap);
    if (madeTap) await ip('tuntap', 'add', 'dev', tap, 'mode', 'tap', 'vnet_hdr');
    let hold: TapHold | undefined;
    let objects: GateObjects | undefined;
    try {
      hold = new TapHold({
        ifname: holdTap, ringBytes: options.holdMemoryBytes,
        limitPackets: options.limitPackets, limitBytes: options.limitBytes, onNotice: options.onNotice,
        ...(compare ? { compare: { ifname: compare.shadowTap, onFound: compare.onFound } } : {}),
      });
      // What the kernel itself would say on these is nobody's business.
      for (const ifname of [tap, holdTap, ...(compare ? [compare.shadowTap] : [])]) silenceIpv6(ifname);
      objects = attach(tap, hold, options);
      // Newer kernels let a queue before the tap's own fill up, and what that drops the tap does not count.
      await tc('qdisc', 'replace', 'dev', tap, 'root', 'noqueue');
      await ipBatch(undefined, [`link set ${tap} txqueuelen 10000 master ${bridge} up`]);
      return new Gate(options, objects, hold);
    } catch (error) {
      hold?.close();
      objects?.close();
      if (madeTap) await ip('link', 'del', tap).catch(() => {});
      throw error;
    }
  }

  private constructor(options: GateOptions, objects: GateObjects, hold: TapHold) {
    this.#options = options;
    this.#objects = objects;
    this.#hold = hold;
    const { logged_iseq, drained_ns, unlogged_drained_ns } = objects.globals.bss;
    const memory = objects.maps.bss.mmap();
    const word = ({ offset }: { offset: number }): Uint8Array => memory.subarray(offset, offset + 8);
    hold.share({ loggedIseq: word(logged_iseq), drainedNs: word(drained_ns), unloggedDrainedNs: word(unlogged_drained_ns) });
    this.#services = new Services(objects, options.services ?? []);
    this.#sweeper = setInterval(() => sweepFlows(objects, process.hrtime.bigint()), sweepMs).unref();
  }

  /** On what the input log gives to the VM, which passes even while the gate is `shadowed`. */
  get logMark(): number {
    return this.#objects.globals.rodata.log_mark.get();
  }

  /** `protected`: output is held from the next packet on. Leaving it does not release what is held. */
  setMode(mode: GateStats['mode']): void {
    // A hold thread that releases everything must stop doing so before the first packet comes.
    if (mode !== 'closed' && !this.#opened) {
      this.#opened = true;
      ({ packets: this.#readBefore, dropped: this.#dropped } = transmitted(this.#options.tap));
    }
    if (mode === 'protected' && this.#mode !== 'protected') this.#hold.releaseUpTo(0n);
    this.#mode = mode;
    const { bss } = this.#objects.globals;
    if (mode !== 'protected') bss.log_epoch.set(0n);
    bss.mode.set(modes[mode]);
  }

  /** While protected, nothing leaves after this CLOCK_MONOTONIC time. */
  setLease(untilNs: bigint): void {
    this.#objects.globals.bss.lease_until_ns.set(untilNs);
  }

  /** A checkpoint is about to be asked for. */
  checkpointAsked(): void {
    if (this.#options.compare) this.#hold.suspendCompare();
  }

  /**
   * A commit: releases everything the VM sent until it stopped, at this CLOCK_MONOTONIC time.
   * @param round what outputs of the secondary's VM carry now that it has loaded that checkpoint; undefined:
   *   it says nothing, so nothing is compared before the next commit
   */
  commit(stopNs: bigint, round?: number): void {
    const { commit_ns, earlier_commit_ns } = this.#objects.globals.bss;
    earlier_commit_ns.set(commit_ns.get());
    commit_ns.set(stopNs);
    if (this.#options.compare && round !== undefined) this.#hold.commit(stopNs, round);
    else this.#hold.releaseUpTo(stopNs);
  }

  /**
   * From the next commit on output also leaves as soon as the secondary's VM has said the same.
   * @param auditShare of the packets that leave early, so many are compared after the fact: 0 to 1
   */
  compare(limits: CompareLimits, auditShare: number): void {
    const { comparing, audit_share } = this.#objects.globals.bss;
    this.#hold.setCompare(limits);
    comparing.set(true);
    audit_share.set(Math.min(2 ** 32 - 1, Math.round(auditShare * 2 ** 32)));
  }

  /** Output waits for commits only. */
  compareNothing(): void {
    const { comparing, audit_share } = this.#objects.globals.bss;
    audit_share.set(0);
    comparing.set(false);
    if (this.#options.compare) this.#hold.setCompare(undefined);
  }

  /** Whether output from this port of the VM is compared; it is, unless it is said otherwise. */
  setCompared(port: number, on: boolean): void {
    this.#services.setCompared(port, on);
  }

  /**
   * Protection is about to begin: from now on input is mirrored, and only acknowledgements of `epoch` count.
   * Any mode but `protected` ends that.
   * @returns the number that the first mirrored input will have
   */
  beginLog(epoch: bigint): bigint {
    const { log_epoch, logged_iseq, input_iseq } = this.#objects.globals.bss;
    const before = input_iseq.get();
    logged_iseq.set(before);
    log_epoch.set(epoch); // last: now the next number is given
    return before + 1n;
  }

  /** Number of the newest input, and of the newest that the secondary has in its log. */
  logProgress(): { input: bigint; logged: bigint } {
    const { input_iseq, logged_iseq } = this.#objects.globals.bss;
    return { input: input_iseq.get(), logged: logged_iseq.get() };
  }

  /**
   * Up to which number the VM has read its inputs, or a little less, never more.
   * The tap counts a packet as transmitted when QEMU reads it. What it drops, nobody will ever read.
   * The sooner it is asked after the tap has dropped something, the sooner it is exact again.
   * @param diverted inputs that passed the gate and did not reach the tap: see Shadow.divertedInputs
   */
  readInputs(diverted: bigint): bigint {
    const now = this.#progress(diverted);
    let { read } = now;
    // A tap's packets are read in order: with so many read, all up to that input are read or dropped.
    for (const { newest, dropped } of [now, this.#overflow ?? now]) {
      const lost = dropped - this.#dropped;
      if (lost <= 0n || read + lost < newest) continue;
      read += lost;
      this.#readBefore -= lost;
      this.#dropped = dropped;
      this.#overflow = undefined;
    }
    if (now.dropped > this.#dropped) this.#overflow ??= now;
    // More than there were: some waited in the tap already when this gate opened.
    if (read > now.newest) this.#readBefore += read - now.newest;
    return read < 0n ? 0n : read < now.newest ? read : now.newest;
  }

  /** There is another VM: what the one before has not read is gone, and nobody will. `diverted` as for {@link readInputs}. */
  vmBegins(diverted: bigint): void {
    const { read, newest, dropped } = this.#progress(diverted);
    this.#readBefore += read - newest;
    this.#dropped = dropped;
    this.#overflow = undefined;
  }

  /** In this order, lest more seem to be read or dropped than there were. */
  #progress(diverted: bigint): Progress {
    const { unnumbered_inputs, input_iseq } = this.#objects.globals.bss;
    const { packets, dropped } = transmitted(this.#options.tap);
    const read = packets - this.#readBefore - unnumbered_inputs.get() + diverted;
    return { read, newest: input_iseq.get(), dropped };
  }

  /** @throws RangeError if the port is not declared */
  setPreRelease(port: number, on: boolean): void {
    this.#services.setPreRelease(port, on);
  }

  releaseAll(): void {
    this.#hold.releaseAll();
  }

  /** How long after a packet was held others are waited for, before the notice: see TapHold.setGathering. */
  setGathering(quietMs: number, mostMs: number): void {
    this.#hold.setGathering(quietMs, mostMs);
  }

  /** Forgets everything that is held. */
  discard(): void {
    this.#hold.discard();
  }

  stats(): GateStats {
    const hold = this.#hold.stats();
    const count = (which: GateCounter): number => this.#count(which);
    const leaseDropped = count(GateCounter.GATE_OUT_LEASE_EXPIRED);
    return {
      mode: this.#mode,
      heldPackets: hold.heldPackets,
      heldBytes: hold.heldBytes,
      oldestMs: hold.oldestNs === 0n ? 0 : Number(process.hrtime.bigint() - hold.oldestNs) / 1e6,
      everHeldPackets: count(GateCounter.GATE_OUT_HELD),
      releasedPackets: hold.releasedPackets,
      releasedBy: mapCauses(hold.holdTimes, ({ packets }) => sumOf(packets)),
      meanHoldMs: hold.releasedPackets === 0 ? 0 : sumOf(Object.values(hold.holdTimes).map(({ totalNs }) => totalNs)) / hold.releasedPackets / 1e6,
      maxHoldMs: hold.holdNsMax / 1e6,
      passedPackets: count(GateCounter.GATE_OUT_PASSED) + count(GateCounter.GATE_OUT_NEIGHBOUR),
      droppedPackets: leaseDropped + count(GateCounter.GATE_OUT_CLOSED) + count(GateCounter.GATE_OUT_UNTAGGABLE)
        + hold.discardedPackets + hold.failedPackets + hold.droppedPackets,
      leaseDroppedPackets: leaseDropped,
      inputSeq: Number(this.#objects.globals.bss.input_iseq.get()),
      loggedSeq: Number(this.#objects.globals.bss.logged_iseq.get()),
      earlyPackets: count(GateCounter.GATE_OUT_EARLY) + count(GateCounter.GATE_OUT_AUDITED),
      auditedPackets: count(GateCounter.GATE_OUT_AUDITED),
      inputPackets: count(GateCounter.GATE_IN_PASSED),
      services: this.#services.stats(),
      compare: hold.compare,
    };
  }

  /** For how long no service was written to, ms, if reads wait all the same, for a commit to settle the last write; else undefined. */
  writtenMsAgo(): number | undefined {
    const { commit_ns, earlier_commit_ns } = this.#objects.globals.bss;
    const newestNs = this.#services.unsettledNs(commit_ns.get(), earlier_commit_ns.get());
    return newestNs ? Number(process.hrtime.bigint() - newestNs) / 1e6 : undefined;
  }

  /** Output that has left while protected, so far. */
  outputCounts(): OutputCounts {
    const { holdTimes, uncomparedPackets, uncomparedNs } = this.#hold.stats();
    const of = ({ packets, totalNs }: HoldTimes): Released => ({ packets: sumOf(packets), waitedMs: totalNs / 1e6 });
    const uncompared = { packets: uncomparedPackets, waitedMs: uncomparedNs / 1e6 };
    const commit = of(holdTimes.commit);
    const early = this.#count(GateCounter.GATE_OUT_EARLY) + this.#count(GateCounter.GATE_OUT_AUDITED);
    return {
      early: early + of(holdTimes.logged).packets, matched: of(holdTimes.match), uncompared, ...this.#services.writeCounts(),
      committed: { packets: commit.packets - uncompared.packets, waitedMs: commit.waitedMs - uncompared.waitedMs },
    };
  }

  /** How long released packets were held, by what released them. */
  holdTimes(): Record<ReleaseCause, HoldTimes> {
    return this.#hold.stats().holdTimes;
  }

  /**
   * Removes both taps, and with them the programs.
   * @param options `keepTap`: a VM is still on its tap, which stays, and stays closed
   */
  async close({ keepTap = false } = {}): Promise<void> {
    clearInterval(this.#sweeper);
    this.setMode('closed');
    this.#hold.close();
    this.#objects.close();
    if (!keepTap) await ip('link', 'del', this.#options.tap).catch(() => {});
  }

  #count(which: GateCounter): number {
    const perCpu = this.#objects.maps.counters.lookup(which) ?? [];
    return Number(perCpu.reduce((sum, { packets }) => sum + packets, 0n));
  }
}

/** Forgets the connections that are over, as of this CLOCK_MONOTONIC time. */
export function sweepFlows({ globals: { bss }, programs: { gate_sweep } }: GateObjects, nowNs: bigint): void {
  const before = (ns: bigint): bigint => nowNs > ns ? nowNs - ns : 0n;
  bss.sweep_ended_ns.set(before(endedNs));
  bss.sweep_quiet_ns.set(before(quietNs));
  bss.sweep_idle_ns.set(before(idleNs));
  gate_sweep.testRun({ data: nobodysFrame });
}

/** Loads the gate and attaches it to a tap of its own for a moment. @throws what does not work, and why */
export async function probeGate(): Promise<void> {
  const tap = `clp-probe${process.pid % 100_000}`;
  const hold = new TapHold({ ifname: tap, ringBytes: 1024 * 1024, onNotice: () => {} });
  try {
    attach(tap, hold, { services: [] }).close();
  } finally {
    hold.close();
  }
}

/** Loads the programs and attaches them to `tap` and the hold tap, closed, in place of an earlier agent's. */
function attach(tap: string, hold: TapHold, { services, mirror, compare }: Pick<GateOptions, 'services' | 'mirror' | 'compare'>): GateObjects {
  const specs = openGate();
  const { rodata, bss } = specs.globals;
  rodata.tap_ifindex.set(ifIndex(tap));
  rodata.hold_ifindex.set(hold.ifIndex);
  rodata.follow_flows.set((services ?? []).length > 0 || mirror !== undefined);
  rodata.log_mark.set(newMark());
  if (compare) rodata.shadow_ifindex.set(hold.shadowIfIndex);
  if (mirror) {
    const peer = tunnelAddress(mirror.peerAddress);
    rodata.mirror_ifindex.set(ifIndex(mirror.tunnel));
    rodata.mirror_ipv6.set(peer.ipv6);
    rodata.mirror_peer.set(Uint32Array.from(peer.words));
  }
  rodata.release_mark.set(newMark());
  rodata.hash_secret.set(randomBytes(8).readBigUInt64LE());
  bss.mode.set(GateMode.GATE_CLOSED);
  const objects = specs.load();
  try {
    const { gate_out, gate_in, gate_release, gate_ack } = objects.programs;
    for (const [program, ifname, direction] of [
      [gate_release, hold.ifname, 'ingress'], [gate_out, tap, 'ingress'], [gate_in, tap, 'egress'], ...(mirror ? [[gate_ack, mirror.tunnel, 'ingress'] as const] : []),
    ] as const) {
      attachInPlace(program, ifname, direction, order.gate);
    }
    return objects;
  } catch (error) {
    objects.close();
    throw error;
  }
}

function mapCauses<T>(values: Record<ReleaseCause, T>, of: (value: T) => number): Record<ReleaseCause, number> {
  return Object.fromEntries(releaseCauses.map((cause) => [cause, of(values[cause])])) as Record<ReleaseCause, number>;
}

function sumOf(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0);
}

/** /proc follows the network namespace, /sys its own mount. */
function transmitted(tap: string): Transmitted {
  const line = readFileSync('/proc/self/net/dev', 'utf8').split('\n').find((text) => text.trimStart().startsWith(`${tap}:`));
  const fields = line?.slice(line.indexOf(':') + 1).trim().split(/\s+/);
  if (fields === undefined) throw new NetworkError(`The tap ${tap} is gone.`);
  return { packets: BigInt(fields[txPacketsField]!), dropped: BigInt(fields[txDroppedField]!) };
}
