/**
 * What the tests of request classifiers share: the harness program, and the rules that hold for
 * every stream, however it is cut into packets.
 */
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'bpf-ts-loader';
import { BpfObject, type BpfProgram } from 'libbpf-napi';
import * as assert from 'uvu/assert';
import type { Reading } from './services/stream-reader.js';

const root = fileURLToPath(new URL('../../../', import.meta.url));

/** `enum service_protocol` of bpf/services/request.h. */
export const PROTOCOL = { never: 0, readOnly: 1, resp: 2, http: 3, memcached: 4, dns: 5 } as const;
export type Protocol = keyof typeof PROTOCOL;

/** `enum request_flags`. */
const READ = 1;
const WRITE = 2;
const LOST = 4;
const PARTIAL = 8;

/** Flags in words, for tables of cases: `read`, `read write lost`, `partial`, `` (nothing). */
export function words(flags: number): string {
  const names = [[READ, 'read'], [WRITE, 'write'], [LOST, 'lost'], [PARTIAL, 'partial']] as const;
  return names.flatMap(([bit, name]) => (flags & bit ? [name] : [])).join(' ');
}

/** Latin-1: one character, one byte. */
export const bytesOf = (text: string): Uint8Array => Buffer.from(text, 'latin1');

/** The longest payload of one test frame: the kernel's test runs take about a page. */
export const FRAME_PAYLOAD_MAX_BYTES = 3000;

const ETHERNET_BYTES = 14;
const IP_BYTES = 20;
const HEADER_BYTES = { tcp: 32, udp: 8 } as const; // TCP with a timestamp option

/** An Ethernet frame with an IPv4 segment or datagram. */
export function frame(payload: Uint8Array, transport: 'tcp' | 'udp' = 'tcp'): Uint8Array {
  const headerBytes = HEADER_BYTES[transport];
  const bytes = new Uint8Array(ETHERNET_BYTES + IP_BYTES + headerBytes + payload.byteLength);
  const view = new DataView(bytes.buffer);
  bytes.set([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00]);
  view.setUint8(14, 0x45);
  view.setUint16(16, IP_BYTES + headerBytes + payload.byteLength);
  view.setUint8(22, 64);
  view.setUint8(23, transport === 'tcp' ? 6 : 17);
  bytes.set([10, 0, 0, 1, 10, 0, 0, 2], 26);
  const at = ETHERNET_BYTES + IP_BYTES;
  view.setUint16(at, 40000);
  view.setUint16(at + 2, 7);
  if (transport === 'tcp') {
    view.setUint8(at + 12, (headerBytes / 4) << 4);
    view.setUint8(at + 13, 0x18);
    bytes.set([1, 1, 8, 10], at + 20);
  } else {
    view.setUint16(at + 4, headerBytes + payload.byteLength);
  }
  bytes.set(payload, at + headerBytes);
  return bytes;
}

/** `struct feed` of services/harness.bpf.c. */
const FEED = { protocol: 0, firstBytes: 4, pieceBytes: 8, flags: 12, port: 16, longestBytes: 24, ended: 28, state: 32, trace: 88, bytes: 88 + 4096 } as const;
/** `struct __sk_buff`. */
const SK_BUFF_BYTES = 192;
const WHOLE = 0xffff_ffff;

/** The classifiers, loaded into the kernel. */
export class Classifier implements Disposable {
  readonly #object: BpfObject;
  readonly #feed: Uint8Array;
  readonly #view: DataView;

  private constructor(object: BpfObject) {
    this.#object = object;
    this.#feed = object.map('feeds').mmap();
    this.#view = new DataView(this.#feed.buffer, this.#feed.byteOffset, this.#feed.byteLength);
    assert.ok(this.#feed.byteLength >= FEED.bytes);
  }

  /** Compiles and loads the harness. */
  static async load(): Promise<Classifier> {
    const out = join(root, 'build/test/services');
    const { objects } = await build({ dir: join(root, 'test/bpf/services'), outObj: out, outTs: out, cflags: ['-Wall', '-Wextra', '-Wno-unused-parameter'] });
    const harness = objects.find(({ name }) => name === 'harness');
    assert.ok(harness, 'test/bpf/services/harness.bpf.c is there');
    assert.is(harness.warnings, '');
    const object = BpfObject.open(harness.object);
    object.load();
    return new Classifier(object);
  }

  program(name: 'feed_pieces' | 'feed_frame' | 'feed_nothing' | 'feed_datagram' | 'feed_live'): BpfProgram {
    return this.#object.program(name);
  }

  /** Forgets the stream; the next one is read as `protocol`. */
  begin(protocol: Protocol): void {
    this.#feed.fill(0, FEED.state, FEED.trace);
    this.#view.setUint32(FEED.protocol, PROTOCOL[protocol], true);
  }

  /** Classifies a whole frame as the stream's next one. */
  next(payload: Uint8Array, given?: Uint8Array): number {
    return this.program('feed_frame').testRun({ data: given ?? frame(payload) }).retval;
  }

  /** Classifies one datagram. */
  datagram(protocol: Protocol, payload: Uint8Array, ctx: Uint8Array = new Uint8Array(SK_BUFF_BYTES)): string {
    this.begin(protocol);
    return words(this.program('feed_datagram').testRun({ data: frame(payload, 'udp'), ctx }).retval);
  }

  /** Classifies one frame as a stream of pieces; returns the flags of all, PARTIAL only of the last. */
  pieces(protocol: Protocol, packet: Uint8Array, firstBytes: number, pieceBytes: number): number {
    this.begin(protocol);
    this.#view.setUint32(FEED.firstBytes, firstBytes, true);
    this.#view.setUint32(FEED.pieceBytes, pieceBytes, true);
    this.#view.setUint32(FEED.flags, 0, true);
    this.#view.setUint32(FEED.ended, 0, true);
    assert.is(this.program('feed_pieces').testRun({ data: packet }).retval, 0);
    return this.#view.getUint32(FEED.flags, true);
  }

  /** Begins a stream of `feed_live`: what is sent to a port. */
  beginLive(protocol: Protocol, port: number): void {
    this.begin(protocol);
    this.#view.setUint32(FEED.flags, 0, true);
    this.#view.setUint32(FEED.port, port, true);
    this.#view.setUint32(FEED.longestBytes, 0, true);
  }

  /** What `feed_live` has seen so far. */
  get live(): { flags: string; longestBytes: number } {
    return { flags: words(this.#view.getUint32(FEED.flags, true)), longestBytes: this.#view.getUint32(FEED.longestBytes, true) };
  }

  /** How many requests ended in the last run of `pieces`. */
  get ended(): number {
    return this.#view.getUint32(FEED.ended, true);
  }

  /** The flags of each byte, had each come in a packet of its own. */
  trace(protocol: Protocol, payload: Uint8Array): Uint8Array {
    this.pieces(protocol, frame(payload), 1, 1);
    return this.#feed.slice(FEED.trace, FEED.trace + payload.byteLength);
  }

  /**
   * What a stream is, in words. It is read whole, in all pairs of pieces and byte by byte, which
   * must all be the same.
   */
  stream(protocol: Protocol, payload: Uint8Array): string {
    const packet = frame(payload);
    const whole = words(this.pieces(protocol, packet, WHOLE, WHOLE));
    const { ended } = this;
    for (let cut = 1; cut < payload.byteLength; cut++) {
      const cutInTwo = words(this.pieces(protocol, packet, cut, WHOLE));
      if (cutInTwo !== whole) throw new Error(`cut at ${cut}: "${cutInTwo}"; whole: "${whole}"`);
      assert.is(this.ended, ended, `requests that ended, cut at ${cut}`);
    }
    assert.is(words(this.pieces(protocol, packet, 1, 1)), whole, 'byte by byte');
    return whole;
  }

  /** One stream against the reference's reading of it, byte by byte and in pieces of random size. */
  compare(protocol: Protocol, payload: Uint8Array, reading: Reading, random: () => number): void {
    const trace = this.trace(protocol, payload);
    const flags = this.#view.getUint32(FEED.flags, true);
    const reads = [...trace.keys()].filter((i) => trace[i]! & READ).map((i) => i + 1);
    const fail = (what: string): never => {
      throw new Error(`${what}\n  stream: ${JSON.stringify(Buffer.from(payload).toString('latin1'))}\n  kernel: reads end at [${reads}], ${words(flags)}\n  reference: ${JSON.stringify(reading)}`);
    };
    // The one rule that stands above all: never a read where the reference has none.
    for (const end of reads) if (!reading.reads.includes(end)) fail(`the kernel sees a read that ends at ${end}`);
    for (const end of reading.writes) if (!(trace[end - 1]! & WRITE)) fail(`the kernel sees no write that ends at ${end}`);
    // What only the whole token shows may be noticed later than the reference does, but then it is PARTIAL until it is.
    if (reading.lost && !(flags & (LOST | PARTIAL))) fail('the kernel goes on behind what nobody can follow');
    if (!reading.lost && flags & LOST) fail('the kernel gives up what can be followed');
    if (reads.length !== reading.reads.length) fail('the kernel misses a read');
    const endedByByte = this.ended;
    if (endedByByte !== reading.reads.length + reading.writes.length) fail(`the kernel counts ${endedByByte} requests`);
    if (!reading.lost && Boolean(flags & PARTIAL) !== reading.partial) fail('they disagree on whether something is unfinished');

    const packet = frame(payload);
    for (const piece of [1 + Math.floor(random() * 40), WHOLE]) {
      const first = 1 + Math.floor(random() * payload.byteLength);
      const inPieces = this.pieces(protocol, packet, first, piece);
      if (inPieces !== flags) fail(`cut after ${first}, then every ${piece}: ${words(inPieces)}`);
      if (this.ended !== endedByByte) fail(`cut after ${first}, then every ${piece}: ${this.ended} requests`);
    }
  }

  [Symbol.dispose](): void {
    this.#object.close();
  }
}

/** The classifiers for a test file; closed when it ends. */
export async function loadClassifier(): Promise<Classifier> {
  const classifier = await Classifier.load();
  process.on('exit', () => classifier[Symbol.dispose]());
  return classifier;
}

/** A generator of numbers in 0 (inclusive) to 1; the same ones for the same seed (mulberry32). */
export function randomNumbers(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Something a careless or hostile client could have made of `text`: a few small changes. */
export function mutate(text: string, alphabet: string, random: () => number): string {
  const below = (n: number): number => Math.floor(random() * n);
  let now = text;
  for (let changes = 1 + below(3); changes > 0; changes--) {
    const at = below(now.length + 1);
    const length = below(6);
    const letter = random() < 0.1 ? String.fromCharCode(below(256)) : alphabet[below(alphabet.length)]!;
    switch (below(7)) {
      case 0: // replace
        now = now.slice(0, at) + letter + now.slice(at + 1);
        break;
      case 1: // insert
        now = now.slice(0, at) + letter + now.slice(at);
        break;
      case 2: // remove
        now = now.slice(0, at) + now.slice(at + length);
        break;
      case 3: // repeat
        now = now.slice(0, at) + now.slice(at, at + length) + now.slice(at);
        break;
      case 4: // cut off
        now = now.slice(0, at);
        break;
      case 5: // flip a bit
        now = now.slice(0, at) + String.fromCharCode((now.charCodeAt(at) || 0) ^ (1 << below(8))) + now.slice(at + 1);
        break;
      default: { // move elsewhere
        const part = now.slice(at, at + length * 3);
        const rest = now.slice(0, at) + now.slice(at + length * 3);
        const to = below(rest.length + 1);
        now = rest.slice(0, to) + part + rest.slice(to);
      }
    }
  }
  return now.slice(0, FRAME_PAYLOAD_MAX_BYTES);
}
