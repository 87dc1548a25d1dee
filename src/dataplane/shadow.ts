/**
 * The secondary's half of input replication: the input log behind the tunnel, and
 * the programs on the VM's tap that give the log to the VM, at once if it is
 * active, else after a takeover, and translate between it and the clients of the
 * primary. What an active secondary's VM says goes to the primary.
 *
 * The programs stay attached to the VM's tap when this process dies, as the
 * gate's do: connections that are being translated must not break by that.
 */

import { ifIndex } from 'libbpf-napi';
import { InputLog, type LogNotice, type LogStats, type ReplayStats } from 'tap-hold';
import type { Forwarding } from '../protocol/compare-policy.js';
import type { Translations } from '../protocol/messages.js';
import { attachInPlace, order } from './attach-in-place.js';
import { newMark } from './mark.js';
import { silenceIpv6 } from './silence-ipv6.js';
import { openShadow, ShadowCounter, ShadowForward, ShadowMode, type ShadowObjects } from './skel/shadow.skel.js';
import { mostTranslatedFlows, noTranslations, readTranslations, writeTranslations } from './translations.js';
import { tunnelAddress } from './tunnel.js';

export interface ShadowOptions {
  /** The VM's tap; it must be there. On it the gate's programs must come first. */
  tap: string;
  /** The tunnel's device (see createTunnel); it must be there. */
  tunnel: string;
  /** The tap where mirrored input is logged: made, and gone with this process. */
  logTap: string;
  /** The primary's address on the replication network: input from elsewhere is dropped. */
  peerAddress: string;
  /** Memory for the log. */
  logMemoryBytes?: number;
  /** More logged packets, bytes, or older ones cause a `limit` notice. */
  limitPackets?: number;
  limitBytes?: number;
  limitAgeMs?: number;
  /** On what the log gives to the VM. The gate must know it, too. Not 0. */
  logMark?: number;
  /** See LogNotice: all but `lost` ask for a checkpoint. */
  onNotice: (notice: LogNotice, value: bigint) => void;
}

export interface TakeOverOptions {
  /**
   * At least how far the VM's clock is behind the primary's when it begins to run: the time since the
   * STOP of the last committed checkpoint. Of no interest if the VM was active. Too much does no harm; too little makes clients drop what
   * the VM says, until its clock has caught up.
   */
  clockBehindMs: number;
  /** How long the replay may take; then what is left goes in at once. See ReplayOptions. */
  limitMs?: number;
}

/** What has become of the packets since the shadow was opened. */
export interface ShadowStats {
  mode: keyof typeof modes;
  log: LogStats;
  /** From the tunnel: logged; not from the peer; without a size; without room for the tag. */
  loggedPackets: number;
  foreignPackets: number;
  malformedPackets: number;
  untaggablePackets: number;
  acknowledgements: number;
  /** From the log to the VM; from clients to the log's end. */
  injectedPackets: number;
  liveLoggedPackets: number;
  /** While standing by. */
  droppedInputPackets: number;
  droppedOutputPackets: number;
  /** From an active secondary's VM to the primary. */
  forwardedPackets: number;
  inputPackets: number;
  outputPackets: number;
  /** Of these, changed on the way. */
  rewrittenInputPackets: number;
  rewrittenOutputPackets: number;
  /** Acknowledgements that were ahead of what the VM had sent. */
  clampedPackets: number;
  probes: number;
  /** Connections whose clients know another initial sequence number than the VM. */
  learnedFlows: number;
  /** IP, but not TCP that could be translated. */
  opaquePackets: number;
  /** The table was full. */
  untrackedPackets: number;
  /** Connections that were followed when those that had ended were last forgotten. */
  flows: number;
}

const modes = {
  standby: ShadowMode.SHADOW_STANDBY, replay: ShadowMode.SHADOW_REPLAY, live: ShadowMode.SHADOW_LIVE, off: ShadowMode.SHADOW_OFF,
  active: ShadowMode.SHADOW_ACTIVE,
} as const;
const forwards: Record<Forwarding, ShadowForward> = {
  none: ShadowForward.FORWARD_NONE, dirty: ShadowForward.FORWARD_DIRTY, all: ShadowForward.FORWARD_ALL,
};

const nsPerMs = 1_000_000n;
/** Ended connections may still repeat their last segments. */
const lingerNs = 60_000n * nsPerMs;
/** As long as Linux remembers an idle connection (nf_conntrack). */
const idleNs = 5n * 24n * 3_600_000n * nsPerMs;
const sweepMs = 10_000;
/** A test run of the sweep needs one; an Ethernet header is enough. */
const nobodysFrame = new Uint8Array(14);
const endOfTime = (1n << 64n) - 1n;
/** What the clock of an active secondary's VM may be behind the primary's: they load and run at almost the same time. */
const activeBehindMs = 200;

export class Shadow {
  readonly #log: InputLog;
  readonly #objects: ShadowObjects;
  readonly #sweeper: NodeJS.Timeout;
  #mode: ShadowStats['mode'] = 'standby';
  #closed = false;
  /** Of the flows that the VM has, while it is active; a checkpoint on its way has begun the next. */
  #generation = 0;
  #flows = 0;
  /** What the primary translates, since a takeover before. */
  #handed: Translations = noTranslations;

  /**
   * Makes the log tap and attaches the programs, standing by: nothing passes the VM's tap.
   * @throws TapHoldError, BpfError; nothing is left behind
   */
  static open(options: ShadowOptions): Shadow {
    const { logTap, logMemoryBytes, limitPackets, limitBytes, limitAgeMs, onNotice } = options;
    const log = new InputLog({
      ifname: logTap,
      onNotice,
      ...(logMemoryBytes === undefined ? {} : { ringBytes: logMemoryBytes }),
      ...(limitPackets === undefined ? {} : { limitPackets }),
      ...(limitBytes === undefined ? {} : { limitBytes }),
      ...(limitAgeMs === undefined ? {} : { limitAgeMs }),
    });
    try {
      silenceIpv6(logTap);
      return new Shadow(log, attach(options, log));
    } catch (error) {
      log.close();
      throw error;
    }
  }

  private constructor(log: InputLog, objects: ShadowObjects) {
    this.#log = log;
    this.#objects = objects;
    this.#sweeper = setInterval(() => this.#sweep(process.hrtime.bigint()), sweepMs).unref();
  }

  /**
   * Protection begins: the log is empty, expects input `nextIseq`, and tells the primary so with the
   * epoch in each acknowledgement. Call it before the primary mirrors. The VM's tap closes, and what
   * was known of connections is forgotten, because a checkpoint brings the primary's.
   */
  reset(epoch: bigint, nextIseq: bigint): void {
    this.#setMode('standby');
    this.#objects.globals.bss.ts_offset.set(0);
    this.#handed = noTranslations;
    this.#forgetFlows();
    this.#log.reset(epoch, nextIseq);
  }

  /** How this host translates, since it has taken over. */
  translations(): Translations {
    if (this.#mode !== 'live' && this.#mode !== 'replay') return noTranslations;
    const { globals: { bss }, maps } = this.#objects;
    return readTranslations(maps.shadow_flows, bss.ts_offset.get(), this.#generation);
  }

  /** Rises whenever {@link translations} changes. */
  get translationChanges(): bigint {
    return this.#objects.globals.bss.flow_changes.get();
  }

  /**
   * How the primary translates: this host must, too, once it gives input to its VM.
   * @param more in addition to what was handed before, not in its place
   */
  hand({ tsOffset, flows }: Translations, more: boolean): void {
    const before = more ? this.#handed.flows : [];
    this.#handed = { tsOffset, flows: [...before, ...flows].slice(0, mostTranslatedFlows) };
  }

  /** Which of an active secondary's outputs the primary wants. */
  forward(what: Forwarding): void {
    this.#objects.globals.bss.forward.set(forwards[what]);
  }

  /** The VM has stopped for a checkpoint: nothing goes in until {@link activate}, or a takeover. */
  suspend(): void {
    this.#log.suspend();
  }

  /**
   * The primary's VM has stopped for a checkpoint, and this one is stopped, too: what it says from here
   * on, once it has loaded that, is of `generation`, a number of 24 bits.
   */
  begin(generation: number): void {
    this.#objects.globals.bss.generation.set(generation);
  }

  /**
   * The VM has loaded the checkpoint that {@link forget} was told of and {@link begin} announced, and
   * runs: it gets what is logged, and what comes as it comes.
   * @param cleanNs only writes that came after this CLOCK_MONOTONIC time may be in doubt
   */
  activate(cleanNs: bigint): void {
    const { globals: { bss }, maps } = this.#objects;
    this.#generation = bss.generation.get();
    this.#sweep(process.hrtime.bigint()); // there must be room for those that begin now
    bss.clean_ns.set(cleanNs);
    this.#takeOn(activeBehindMs);
    this.#setMode('active');
    this.#log.deliver({ flowsFd: maps.shadow_flows.raw.fd, generation: this.#generation });
  }

  /** The VM is not active, or no more: nothing goes in, and nothing comes out. */
  standBy(): void {
    this.#setMode('standby');
    this.#log.forget(0n); // which ends the delivery, and forgets nothing
  }

  /** A commit: the primary's VM had read all input up to `iseq` before STOP, perhaps but for the last `margin` of it. */
  forget(iseq: bigint, margin = 0): void {
    this.#log.forget(iseq, margin);
  }

  /**
   * Gives the log to the VM, which runs now, and lets it speak; if it was active, what it has not had
   * of the log. What clients send meanwhile waits behind the log. Call it once nobody else speaks for
   * the VM; the gate may be opened before or after.
   * @returns once the log has been replayed, and clients reach the VM directly; rejects if the log could
   *   not be replayed, and they reach it all the same
   */
  async takeOver({ clockBehindMs, limitMs }: TakeOverOptions): Promise<ReplayStats> {
    if (!(clockBehindMs >= 0 && clockBehindMs < 2 ** 31)) throw new RangeError(`A VM's clock cannot be ${clockBehindMs} ms behind.`);
    const { globals: { bss }, maps } = this.#objects;
    if (this.#mode === 'active') {
      // It goes on from where it is, not from a checkpoint that it has not loaded.
      bss.generation.set(this.#generation);
    } else {
      this.#generation = bss.generation.get();
      this.#forgetFlows();
      this.#takeOn(Math.ceil(clockBehindMs));
    }
    this.#setMode('replay');
    try {
      return await this.#log.replay({ flowsFd: maps.shadow_flows.raw.fd, generation: this.#generation, ...(limitMs === undefined ? {} : { limitMs }) });
    } finally {
      if (!this.#closed) this.#setMode('live');
    }
  }

  /** The VM is set back, by so much, to a checkpoint of the primary's. */
  #takeOn(behindMs: number): void {
    const { globals: { bss }, maps } = this.#objects;
    bss.ts_offset.set((this.#handed.tsOffset + behindMs) >>> 0);
    writeTranslations(maps.shadow_flows, this.#handed, behindMs, this.#generation, process.hrtime.bigint());
  }

  /** `off`: a VM that has never been taken over needs no translation, and everything passes. */
  turnOff(): void {
    if (this.#mode !== 'live' && this.#mode !== 'replay') this.#setMode('off');
  }

  /** Inputs that passed the gate and did not reach the VM: dropped here, or at the log's end, from where they pass the gate again. */
  divertedInputs(): bigint {
    return this.#count(ShadowCounter.SHADOW_LIVE_LOGGED) + this.#count(ShadowCounter.SHADOW_IN_DROPPED);
  }

  stats(): ShadowStats {
    const count = (which: ShadowCounter): number => Number(this.#count(which));
    return {
      mode: this.#mode,
      log: this.#log.stats(),
      loggedPackets: count(ShadowCounter.SHADOW_LOGGED),
      foreignPackets: count(ShadowCounter.SHADOW_FOREIGN),
      malformedPackets: count(ShadowCounter.SHADOW_MALFORMED),
      untaggablePackets: count(ShadowCounter.SHADOW_UNTAGGABLE),
      acknowledgements: count(ShadowCounter.SHADOW_ACKS),
      injectedPackets: count(ShadowCounter.SHADOW_INJECTED),
      liveLoggedPackets: count(ShadowCounter.SHADOW_LIVE_LOGGED),
      droppedInputPackets: count(ShadowCounter.SHADOW_IN_DROPPED),
      droppedOutputPackets: count(ShadowCounter.SHADOW_OUT_DROPPED),
      forwardedPackets: count(ShadowCounter.SHADOW_FORWARDED),
      inputPackets: count(ShadowCounter.SHADOW_IN_PASSED),
      outputPackets: count(ShadowCounter.SHADOW_OUT_PASSED),
      rewrittenInputPackets: count(ShadowCounter.SHADOW_IN_REWRITTEN),
      rewrittenOutputPackets: count(ShadowCounter.SHADOW_OUT_REWRITTEN),
      clampedPackets: count(ShadowCounter.SHADOW_CLAMPED),
      probes: count(ShadowCounter.SHADOW_PROBES),
      learnedFlows: count(ShadowCounter.SHADOW_LEARNED),
      opaquePackets: count(ShadowCounter.SHADOW_OPAQUE),
      untrackedPackets: count(ShadowCounter.SHADOW_FLOWS_FULL),
      flows: this.#flows,
    };
  }

  #count(which: ShadowCounter): bigint {
    const perCpu = this.#objects.maps.counters.lookup(which) ?? [];
    return perCpu.reduce((sum, packets) => sum + packets, 0n);
  }

  /** Ends the log. The programs stay on the VM's tap as they are, and go with it. */
  close(): void {
    this.#closed = true;
    clearInterval(this.#sweeper);
    this.#log.close();
    this.#objects.close();
  }

  #setMode(mode: ShadowStats['mode']): void {
    this.#mode = mode;
    this.#objects.globals.bss.mode.set(modes[mode]);
  }

  #sweep(nowNs: bigint): void {
    this.#forgetFlows(before(nowNs, lingerNs), before(nowNs, idleNs));
  }

  /** Those that ended, or were last used, before these times, or that the VM has no more. */
  #forgetFlows(endedNs = endOfTime, usedNs = endOfTime): void {
    const { globals: { bss }, programs: { shadow_sweep } } = this.#objects;
    bss.sweep_ended_ns.set(endedNs);
    bss.sweep_used_ns.set(usedNs);
    bss.guest_generation.set(this.#generation);
    this.#flows = shadow_sweep.testRun({ data: nobodysFrame }).retval;
  }
}

const before = (timeNs: bigint, byNs: bigint): bigint => (timeNs > byNs ? timeNs - byNs : 0n);

/** Loads the programs and attaches them, in place of an earlier agent's. */
function attach({ tap, tunnel, peerAddress, logMark = newMark() }: ShadowOptions, log: InputLog): ShadowObjects {
  const specs = openShadow();
  const { rodata } = specs.globals;
  const peer = tunnelAddress(peerAddress);
  rodata.tap_ifindex.set(ifIndex(tap));
  rodata.log_ifindex.set(log.ifIndex);
  rodata.tunnel_ifindex.set(ifIndex(tunnel));
  rodata.tunnel_ipv6.set(peer.ipv6);
  rodata.tunnel_peer.set(Uint32Array.from(peer.words));
  rodata.replay_mark.set(logMark);
  const objects = specs.load();
  try {
    const { shadow_log, shadow_write, shadow_in, shadow_out } = objects.programs;
    for (const [program, ifname, direction] of [
      [shadow_write, log.ifname, 'ingress'], [shadow_log, tunnel, 'ingress'], [shadow_in, tap, 'egress'], [shadow_out, tap, 'ingress'],
    ] as const) {
      attachInPlace(program, ifname, direction, order.shadow);
    }
    return objects;
  } catch (error) {
    objects.close();
    throw error;
  }
}
