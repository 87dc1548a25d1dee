/** Comparing what both machines say: limits, findings and counts. */
import { bounded } from './tap.js';

export interface CompareLimits {
  /**
   * How long a packet of the primary waits for the secondary to say the same before it is reported as
   * late: as long as is usual in its flow and some more, but at least and at most this (default 5 and 100).
   * An audit waits for the longest.
   */
  lateMinMs?: number;
  lateMaxMs?: number;
  /** And so long while nothing is known of its flow. Default 20. */
  lateFirstMs?: number;
  /** Most that is kept of what the secondary has said in one flow and the primary has not; the oldest goes. Default 4 MiB. */
  flowBytes?: number;
  /** Likewise in packets. Default 4096; of datagrams at most 64. */
  flowPackets?: number;
}

/** One direction of a conversation: what the guest says to one client. */
export interface CompareFlow {
  /** 0x0800 IPv4, 0x86dd IPv6, else the addresses are of Ethernet, and the rest is 0. */
  ethertype: number;
  /** As IP has it: 6 TCP, 17 UDP. */
  protocol: number;
  guest: string;
  /** 0 if the protocol has none. */
  guestPort: number;
  client: string;
  clientPort: number;
}

/**
 * `divergence`: the two do not say the same. `late`: the secondary has not said it in time.
 * `auditMismatch`: the two do not say the same, and the client has the primary's word already.
 * Each asks for a checkpoint now. Until then the flow is not compared any more, but for a late one.
 */
export type Finding = 'divergence' | 'late' | 'auditMismatch';

/**
 * In what they differ: a byte or a datagram; only one ends the connection here; what a SYN offers.
 * `nothing`: the secondary is only late.
 */
export type Difference = 'nothing' | 'payload' | 'end' | 'options';

/** The payload of a packet, as far as it may be told. */
export interface Fingerprint {
  bytes: number;
  /** 64-bit FNV-1a, in hexadecimal. */
  digest: string;
}

export interface CompareEvent {
  finding: Finding;
  difference: Difference;
  flow: CompareFlow;
  /** Since the primary said it. */
  ageNs: number;
  /** Packets of the guest's port that have matched so far. */
  portMatched: number;
  /** TCP: sequence number of the first byte that differs; of the packet, if it is late. */
  seq: number;
  /** The same, counted from the start of the primary's packet. */
  offset: number;
  /** The packet of the primary, and the one of the secondary that it differs from, if there is one. */
  primary: Fingerprint;
  shadow: Fingerprint;
}

/** What the comparator has done. The counters never go back. */
export interface CompareStats {
  /** Released because the secondary has said the same. */
  matchedPackets: number;
  matchedBytes: number;
  /** Flows found to differ, or late, each at most once between two commits. */
  divergences: number;
  late: number;
  /** Of the packets to audit: found equal, found different, and those for which nothing came to compare with. */
  audited: number;
  auditMismatches: number;
  unaudited: number;
  shadowPackets: number;
  shadowBytes: number;
  /** Shadow outputs said before the checkpoint that counts. */
  shadowStale: number;
  /** Beyond the limits. */
  shadowDropped: number;
  /** Frames on the shadow tap that were no shadow outputs, or made no sense. */
  shadowMalformed: number;
  /** Packets of the primary that wait for a commit because they made no sense or the table of flows was full. */
  untracked: number;
  /** How long after the primary the secondary has said the same, in the last few thousand cases. */
  lagP50Ms: number;
  lagP99Ms: number;
}

const findings: readonly Finding[] = ['divergence', 'late', 'auditMismatch'];
const differences: readonly Difference[] = ['nothing', 'payload', 'end', 'options'];

/** As the native side has it. */
export type NativeCompareEvent = Omit<CompareEvent, 'finding' | 'difference'> & { finding: number; difference: number };

/** Gives numbers their names. */
export function compareEvents(events: readonly NativeCompareEvent[]): CompareEvent[] {
  return events.map((event) => ({ ...event, finding: findings[event.finding]!, difference: differences[event.difference]! }));
}

/** The order in which the native side takes them; times in nanoseconds. @throws RangeError */
export function nativeLimits({ lateMinMs = 5, lateMaxMs = 100, lateFirstMs = 20, flowBytes = 4 * 1024 * 1024, flowPackets = 4096 }: CompareLimits): number[] {
  const ns = (name: string, ms: number): number => bounded(name, Math.round(ms * 1e6), 1, 3600e9);
  if (lateMinMs > lateMaxMs) throw new RangeError(`lateMinMs (${lateMinMs}) must not be more than lateMaxMs (${lateMaxMs}).`);
  return [
    ns('lateMinMs', lateMinMs), ns('lateMaxMs', lateMaxMs), ns('lateFirstMs', lateFirstMs),
    bounded('flowBytes', flowBytes, 65_536, 2 ** 31), bounded('flowPackets', flowPackets, 1, 1_000_000),
  ];
}
