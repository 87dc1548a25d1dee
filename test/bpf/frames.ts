/**
 * Real frames, byte by byte: what a guest sends and what a tap adds in front of it.
 *
 * Every checksum is right, or is left to the receiver in the way virtio does it, so that the
 * kernel treats these frames as it treats a guest's.
 */

export const guestMac = Buffer.from('525400000001', 'hex');
export const clientMac = Buffer.from('525400000002', 'hex');
const guestIp = Buffer.from([192, 0, 2, 1]);
const clientIp = Buffer.from([192, 0, 2, 2]);
const guestIp6 = Buffer.from('20010db8000000000000000000000001', 'hex');
const clientIp6 = Buffer.from('20010db8000000000000000000000002', 'hex');

export const EtherType = { ipv4: 0x0800, arp: 0x0806, rarp: 0x8035, vlan: 0x8100, ipv6: 0x86dd, qinq: 0x88a8 } as const;
export const IpProtocol = { hopByHop: 0, icmp: 1, tcp: 6, udp: 17, fragment: 44, icmpv6: 58 } as const;

/** Bytes in front of a frame's payload. */
export const ETHERNET_BYTES = 14;
export const IPV4_BYTES = 20;
export const IPV6_BYTES = 40;
export const TCP_BYTES = 20;
export const UDP_BYTES = 8;

export interface VlanTag {
  /** 0x8100, or 0x88a8 for the outer tag of two. */
  ethertype: number;
  /** Priority and VLAN number. */
  tci: number;
}

const u16 = (value: number): Buffer => Buffer.from([value >> 8 & 0xff, value & 0xff]);
const u32 = (value: number): Buffer => Buffer.concat([u16(value >>> 16), u16(value)]);

/** An Ethernet frame from the guest to the client. */
export function ethernet(ethertype: number, payload: Uint8Array, tags: readonly VlanTag[] = []): Buffer {
  const inserted = tags.flatMap((tag) => [u16(tag.ethertype), u16(tag.tci)]);
  return Buffer.concat([clientMac, guestMac, ...inserted, u16(ethertype), payload]);
}

/** `bytes` bytes that differ from their neighbours, so that none can be lost, doubled or swapped unseen. */
export function pattern(bytes: number, seed = 0): Buffer {
  return Buffer.from(Uint8Array.from({ length: bytes }, (_, i) => (i * 31 + (i >> 8) * 7 + seed) & 0xff));
}

/** An ARP or RARP packet (RFC 826): request 1, reply 2; RARP request 3. */
export function arp(operation = 1): Buffer {
  return Buffer.concat([u16(1), u16(EtherType.ipv4), Buffer.from([6, 4]), u16(operation), guestMac, guestIp, Buffer.alloc(6), clientIp]);
}

export interface Ipv4Options {
  identification?: number;
  /** Flags and offset, as on the wire: 0x4000 do not fragment, 0x2000 more fragments, the rest is the offset / 8. */
  fragment?: number;
}

export function ipv4(protocol: number, payload: Uint8Array, { identification = 7, fragment = 0x4000 }: Ipv4Options = {}): Buffer {
  const header = Buffer.concat([
    Buffer.from([0x45, 0]), u16(IPV4_BYTES + payload.length), u16(identification), u16(fragment),
    Buffer.from([64, protocol, 0, 0]), guestIp, clientIp,
  ]);
  header.writeUInt16BE(~sum(header) & 0xffff, 10);
  return Buffer.concat([header, payload]);
}

export function ipv6(nextHeader: number, payload: Uint8Array): Buffer {
  return Buffer.concat([
    u32(0x6000_0000), u16(payload.length), Buffer.from([nextHeader, 255]), guestIp6, clientIp6, payload,
  ]);
}

export interface TransportOptions {
  version?: 4 | 6;
  /** The checksum covers the addresses only; whoever sends the packet on completes it. */
  partialChecksum?: boolean;
}

export function tcp(payload: Uint8Array, options: TransportOptions = {}): Buffer {
  const header = Buffer.concat([u16(80), u16(40_000), u32(1000), u32(2000), u16(0x5018), u16(0xffff), u16(0), u16(0)]);
  return withChecksum(Buffer.concat([header, payload]), IpProtocol.tcp, 16, options);
}

export function udp(payload: Uint8Array, options: TransportOptions = {}): Buffer {
  const header = Buffer.concat([u16(53), u16(40_000), u16(UDP_BYTES + payload.length), u16(0)]);
  return withChecksum(Buffer.concat([header, payload]), IpProtocol.udp, 6, options);
}

export function icmpv6(type: number, body: Uint8Array = Buffer.alloc(20)): Buffer {
  const message = Buffer.concat([Buffer.from([type, 0, 0, 0]), body]);
  return withChecksum(message, IpProtocol.icmpv6, 2, { version: 6 });
}

/** `struct virtio_net_hdr` as a tap reads and writes it: native byte order, without the buffer count. */
export interface VnetHeader {
  flags: number;
  gsoType: number;
  hdrLen: number;
  gsoSize: number;
  csumStart: number;
  csumOffset: number;
}

export const VNET_BYTES = 10;
export const NEEDS_CSUM = 1;
export const GsoType = { none: 0, tcpv4: 1, udp: 3, tcpv6: 4, udpL4: 5, ecn: 0x80 } as const;
export const plain: VnetHeader = { flags: 0, gsoType: GsoType.none, hdrLen: 0, gsoSize: 0, csumStart: 0, csumOffset: 0 };

export function encodeVnet(header: VnetHeader): Buffer {
  const bytes = Buffer.alloc(VNET_BYTES);
  bytes.writeUInt8(header.flags, 0);
  bytes.writeUInt8(header.gsoType, 1);
  [header.hdrLen, header.gsoSize, header.csumStart, header.csumOffset].forEach((value, i) => bytes.writeUInt16LE(value, 2 + 2 * i));
  return bytes;
}

export function decodeVnet(bytes: Buffer): VnetHeader {
  return {
    flags: bytes.readUInt8(0), gsoType: bytes.readUInt8(1), hdrLen: bytes.readUInt16LE(2),
    gsoSize: bytes.readUInt16LE(4), csumStart: bytes.readUInt16LE(6), csumOffset: bytes.readUInt16LE(8),
  };
}

/** A packet as it is written to or read from a tap. */
export interface Packet {
  vnet: VnetHeader;
  frame: Buffer;
}

export interface SegmentedOptions {
  version?: 4 | 6;
  protocol?: 'tcp' | 'udp';
  tags?: readonly VlanTag[];
  /** Payload of each segment; without it the packet only leaves its checksum to others. */
  gsoSize?: number;
  /** Added to the type of segmentation. */
  gsoFlags?: number;
}

/** A packet whose checksum, and with `gsoSize` its segmentation, is left to whoever sends it on. */
export function offloaded(payload: Uint8Array, { version = 4, protocol = 'tcp', tags = [], gsoSize = 0, gsoFlags = 0 }: SegmentedOptions = {}): Packet {
  const isTcp = protocol === 'tcp';
  const segment = (isTcp ? tcp : udp)(payload, { version, partialChecksum: true });
  const packet = (version === 4 ? ipv4 : ipv6)(IpProtocol[protocol], segment);
  const csumStart = ETHERNET_BYTES + 4 * tags.length + (version === 4 ? IPV4_BYTES : IPV6_BYTES);
  const gsoType = isTcp ? (version === 4 ? GsoType.tcpv4 : GsoType.tcpv6) : GsoType.udpL4;
  return {
    vnet: {
      flags: NEEDS_CSUM, gsoType: gsoSize > 0 ? gsoType | gsoFlags : GsoType.none,
      hdrLen: csumStart + (isTcp ? TCP_BYTES : UDP_BYTES), gsoSize, csumStart, csumOffset: isTcp ? 16 : 6,
    },
    frame: ethernet(version === 4 ? EtherType.ipv4 : EtherType.ipv6, packet, tags),
  };
}

/** Sum of 16-bit words with end-around carry (RFC 1071). */
function sum(bytes: Uint8Array, start = 0): number {
  let total = start;
  for (let i = 0; i < bytes.length; i += 2) total += (bytes[i]! << 8) + (bytes[i + 1] ?? 0);
  while (total > 0xffff) total = (total & 0xffff) + Math.floor(total / 0x10000);
  return total;
}

function withChecksum(message: Buffer, protocol: number, at: number, { version = 4, partialChecksum = false }: TransportOptions): Buffer {
  const addresses = version === 4 ? [guestIp, clientIp] : [guestIp6, clientIp6];
  const pseudo = sum(Buffer.concat([...addresses, u32(message.length), u32(protocol)]));
  message.writeUInt16BE(partialChecksum ? pseudo : ~sum(message, pseudo) & 0xffff, at);
  return message;
}

/** What the gate puts in front of a frame that it holds. */
export function holdTag({ timeNs = 1n, magic = 0x636f6c70, ethertype = 0x88b5, frameBytes = 0, gsoSize = 0, needsInput = 0n }): Buffer {
  const bytes = Buffer.alloc(40);
  bytes.writeUInt16BE(ethertype, 12);
  bytes.writeUInt16LE(gsoSize, 14);
  bytes.writeBigUInt64LE(timeNs, 16);
  bytes.writeUInt32LE(magic, 24);
  bytes.writeUInt32LE(frameBytes, 28);
  bytes.writeBigUInt64LE(needsInput, 32);
  return bytes;
}

/** The frame by which the secondary says that it has inputs up to this one. */
export function inputAck({ iseq, epoch = 0n, magic = 0x636f6c41 }: { iseq: bigint; epoch?: bigint; magic?: number }): Buffer {
  const ack = Buffer.alloc(46);
  ack.writeUInt32LE(magic, 0);
  ack.writeBigUInt64LE(iseq, 8);
  ack.writeBigUInt64LE(epoch, 16);
  return ethernet(0x88b6, ack);
}
