/** TCP segments with any options, byte by byte, with their checksums: what the translation is held against. */

export const Tcp = { fin: 1, syn: 2, rst: 4, psh: 8, ack: 16, urg: 32 } as const;

export type TcpOption =
  | { kind: 'nop' } | { kind: 'end' }
  | { kind: 'timestamps'; value: number; echo: number }
  | { kind: 'sack'; blocks: readonly (readonly [left: number, right: number])[] }
  /** Anything else, as on the wire. */
  | { kind: 'raw'; bytes: readonly number[] };

export interface Segment {
  version?: 4 | 6;
  fromGuest?: boolean;
  clientPort?: number;
  flags?: number;
  seq?: number;
  ack?: number;
  options?: readonly TcpOption[];
  payload?: Uint8Array;
  urgent?: number;
}

const client4 = Buffer.from([192, 0, 2, 2]);
const guest4 = Buffer.from([192, 0, 2, 1]);
const client6 = Buffer.from('20010db8000000000000000000000002', 'hex');
const guest6 = Buffer.from('20010db8000000000000000000000001', 'hex');
const macs = Buffer.from('020000000001020000000002', 'hex');
export const guestPort = 80;

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value >>> 0);
  return bytes;
}

function encode(option: TcpOption): Buffer {
  switch (option.kind) {
    case 'end': return Buffer.from([0]);
    case 'nop': return Buffer.from([1]);
    case 'timestamps': return Buffer.concat([Buffer.from([8, 10]), u32(option.value), u32(option.echo)]);
    case 'sack': return Buffer.concat([Buffer.from([5, 2 + 8 * option.blocks.length]), ...option.blocks.flat().map(u32)]);
    case 'raw': return Buffer.from(option.bytes);
  }
}

/** Bytes that the options take, before they are padded. */
export const optionBytes = (options: readonly TcpOption[]): number => options.reduce((sum, option) => sum + encode(option).length, 0);

function sum(bytes: Uint8Array): number {
  let total = 0;
  for (let i = 0; i < bytes.length; i += 2) total += (bytes[i]! << 8) + (bytes[i + 1] ?? 0);
  while (total > 0xffff) total = (total & 0xffff) + (total >>> 16);
  return total;
}

/** The whole frame. Options are padded with zeros to a multiple of four bytes. */
export function frameOf({ version = 4, fromGuest = false, clientPort = 40_000, flags = Tcp.ack, seq = 0, ack = 0, options = [], payload = new Uint8Array(0), urgent = 0 }: Segment): Buffer {
  const encoded = Buffer.concat(options.map(encode));
  const padded = Buffer.concat([encoded, Buffer.alloc((4 - encoded.length % 4) % 4)]);
  const tcp = Buffer.alloc(20);
  tcp.writeUInt16BE(fromGuest ? guestPort : clientPort, 0);
  tcp.writeUInt16BE(fromGuest ? clientPort : guestPort, 2);
  tcp.writeUInt32BE(seq >>> 0, 4);
  tcp.writeUInt32BE(ack >>> 0, 8);
  tcp.writeUInt8((20 + padded.length) / 4 << 4, 12);
  tcp.writeUInt8(flags, 13);
  tcp.writeUInt16BE(0xfeed, 14);
  tcp.writeUInt16BE(urgent, 18);
  const segment = Buffer.concat([tcp, padded, payload]);
  const [client, guest] = version === 4 ? [client4, guest4] : [client6, guest6];
  const [from, to] = fromGuest ? [guest, client] : [client, guest];
  segment.writeUInt16BE(~sum(Buffer.concat([from, to, u32(segment.length), u32(6), segment])) & 0xffff, 16);
  return Buffer.concat([macs, version === 4 ? ipv4(from, to, segment) : ipv6(from, to, segment), segment]);
}

function ipv4(from: Buffer, to: Buffer, segment: Buffer): Buffer {
  const header = Buffer.from([8, 0, 0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 6, 0, 0, ...from, ...to]);
  header.writeUInt16BE(20 + segment.length, 4);
  header.writeUInt16BE(~sum(header.subarray(2)) & 0xffff, 12);
  return header;
}

function ipv6(from: Buffer, to: Buffer, segment: Buffer): Buffer {
  const header = Buffer.from([0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, 6, 64, ...from, ...to]);
  header.writeUInt16BE(segment.length, 6);
  return header;
}
