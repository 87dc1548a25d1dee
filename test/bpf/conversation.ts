/** One TCP connection between a client and the guest, packet by packet, for test runs of the gate. */

export interface SegmentOptions {
  flags?: number;
  /** Instead of the next one. */
  seq?: number;
  ack?: number;
}

export const Tcp = { fin: 1, syn: 2, rst: 4, psh: 8, ack: 16, urg: 32 } as const;

const client4 = Buffer.from([192, 0, 2, 2]);
const guest4 = Buffer.from([192, 0, 2, 1]);
const client6 = Buffer.from('20010db8000000000000000000000002', 'hex');
const guest6 = Buffer.from('20010db8000000000000000000000001', 'hex');

export class Conversation {
  readonly clientPort: number;
  readonly guestPort: number;
  readonly #version: 4 | 6;
  /** Next sequence number of either side. */
  clientSeq = 1000;
  guestSeq = 5000;

  constructor(clientPort: number, guestPort: number, version: 4 | 6 = 4) {
    this.clientPort = clientPort;
    this.guestPort = guestPort;
    this.#version = version;
  }

  /** A frame from the client, which acknowledges all that the guest has said. */
  fromClient(payload: string | Uint8Array, { flags = Tcp.psh | Tcp.ack, seq = this.clientSeq, ack = this.guestSeq }: SegmentOptions = {}): Buffer {
    const body = Buffer.from(payload);
    if (seq === this.clientSeq) this.clientSeq = next(seq, body, flags);
    return this.#frame(body, { flags, seq, ack, fromGuest: false });
  }

  /** A frame from the guest, which acknowledges all that the client has said. */
  fromGuest(payload: string | Uint8Array, { flags = Tcp.psh | Tcp.ack, seq = this.guestSeq, ack = this.clientSeq }: SegmentOptions = {}): Buffer {
    const body = Buffer.from(payload);
    if (seq === this.guestSeq) this.guestSeq = next(seq, body, flags);
    return this.#frame(body, { flags, seq, ack, fromGuest: true });
  }

  #frame(body: Buffer, { flags, seq, ack, fromGuest }: { flags: number; seq: number; ack: number; fromGuest: boolean }): Buffer {
    const tcp = Buffer.alloc(20);
    const ports = [this.clientPort, this.guestPort] as const;
    tcp.writeUInt16BE(ports[fromGuest ? 1 : 0], 0);
    tcp.writeUInt16BE(ports[fromGuest ? 0 : 1], 2);
    tcp.writeUInt32BE(seq >>> 0, 4);
    tcp.writeUInt32BE(ack >>> 0, 8);
    tcp.writeUInt8(5 << 4, 12);
    tcp.writeUInt8(flags, 13);
    const segment = Buffer.concat([tcp, body]);
    return Buffer.concat([Buffer.alloc(12, 2), this.#version === 4 ? ip4(segment, fromGuest) : ip6(segment, fromGuest)]);
  }
}

function next(seq: number, body: Buffer, flags: number): number {
  return (seq + body.length + (flags & (Tcp.syn | Tcp.fin) ? 1 : 0)) >>> 0;
}

function ip4(segment: Buffer, fromGuest: boolean): Buffer {
  const header = Buffer.alloc(22);
  header.writeUInt16BE(0x0800, 0);
  header.writeUInt8(0x45, 2);
  header.writeUInt16BE(20 + segment.length, 4);
  header.writeUInt8(64, 10);
  header.writeUInt8(6, 11);
  (fromGuest ? guest4 : client4).copy(header, 14);
  (fromGuest ? client4 : guest4).copy(header, 18);
  return Buffer.concat([header, segment]);
}

function ip6(segment: Buffer, fromGuest: boolean): Buffer {
  const header = Buffer.alloc(42);
  header.writeUInt16BE(0x86dd, 0);
  header.writeUInt8(0x60, 2);
  header.writeUInt16BE(segment.length, 6);
  header.writeUInt8(6, 8);
  header.writeUInt8(64, 9);
  (fromGuest ? guest6 : client6).copy(header, 10);
  (fromGuest ? client6 : guest6).copy(header, 26);
  return Buffer.concat([header, segment]);
}
