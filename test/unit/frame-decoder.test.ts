import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { PeerError } from '../../src/peer/errors.js';
import {
  decodePreamble,
  encodeFrame,
  encodePreamble,
  FrameDecoder,
  type Frame,
} from '../../src/peer/frame.js';

const LIMITS = new Map([
  [16, 64 * 1024],
  [17, 4],
]);

function decode(chunks: Buffer[], decoder = new FrameDecoder(LIMITS)): Frame[] {
  const frames: Frame[] = [];
  for (const chunk of chunks) {
    decoder.push(chunk, ({ type, payload }) => frames.push({ type, payload: Buffer.from(payload) }));
  }
  return frames;
}

function codeOf(run: () => unknown): string | undefined {
  try {
    run();
  } catch (error) {
    return error instanceof PeerError ? error.code : String(error);
  }
  return undefined;
}

/** A small deterministic generator, so that a failure can be repeated. */
function random(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

const sample: Frame[] = [
  { type: 16, payload: Buffer.from('{"a":1}') },
  { type: 17, payload: Buffer.from([1, 2, 3, 4]) },
  { type: 16, payload: Buffer.alloc(0) },
  { type: 16, payload: Buffer.alloc(64 * 1024, 7) },
  { type: 17, payload: Buffer.alloc(0) },
];
const stream = Buffer.concat(sample.map(({ type, payload }) => encodeFrame(type, payload)));

test('frames come back as they were sent, all in one chunk', () => {
  assert.equal(decode([stream]), sample);
});

test('frames come back when every byte arrives alone', () => {
  assert.equal(decode([...stream].map((byte) => Buffer.from([byte]))), sample);
});

test('frames come back however the stream is cut', () => {
  for (let seed = 1; seed <= 200; seed++) {
    const below = random(seed);
    const chunks: Buffer[] = [];
    for (let at = 0; at < stream.length; ) {
      const bytes = below(2) ? below(12) : below(40_000);
      chunks.push(stream.subarray(at, at + bytes));
      at += bytes;
    }
    assert.equal(decode(chunks), sample, `seed ${seed}`);
  }
});

test('a payload at its limit passes, one byte more is refused before it arrives', () => {
  const header = Buffer.from(encodeFrame(16, Buffer.alloc(0)));
  header.writeUInt32BE(64 * 1024 + 1, 0);
  assert.is(
    codeOf(() => decode([header])),
    'PEER_LIMIT',
  );
  header.writeUInt32BE(64 * 1024, 0);
  assert.equal(decode([header]), []);
});

test('an announced gigabyte is refused and takes no memory', () => {
  const header = Buffer.from(encodeFrame(16, Buffer.alloc(0)));
  header.writeUInt32BE(2 ** 30, 0);
  const before = process.memoryUsage().arrayBuffers;
  assert.is(
    codeOf(() => decode([header])),
    'PEER_LIMIT',
  );
  assert.ok(process.memoryUsage().arrayBuffers - before < 1024 * 1024);
});

test('each type has its own limit, and an unknown type is refused', () => {
  assert.is(
    codeOf(() => decode([encodeFrame(17, Buffer.alloc(5))])),
    'PEER_LIMIT',
  );
  assert.is(
    codeOf(() => decode([encodeFrame(99, Buffer.alloc(0))])),
    'PEER_GARBAGE',
  );
});

test('a frame before a bad one is still delivered', () => {
  const frames: Frame[] = [];
  const decoder = new FrameDecoder(LIMITS);
  const bytes = Buffer.concat([encodeFrame(17, Buffer.from([9, 9, 9, 9])), Buffer.alloc(5, 0xff)]);
  assert.is(
    codeOf(() => decoder.push(bytes, (frame) => frames.push(frame))),
    'PEER_GARBAGE',
  );
  assert.is(frames.length, 1);
});

test('a whole frame is handed over without copying', () => {
  const chunk = encodeFrame(16, Buffer.from('abc'));
  new FrameDecoder(LIMITS).push(chunk, ({ payload }) => {
    assert.is(payload.buffer, chunk.buffer);
  });
});

test('work is linear in the bytes: a payload in single bytes takes no time', () => {
  const payload = Buffer.alloc(64 * 1024, 1);
  const bytes = encodeFrame(16, payload);
  const decoder = new FrameDecoder(LIMITS);
  const start = performance.now();
  let count = 0;
  for (let round = 0; round < 20; round++) {
    for (let at = 0; at < bytes.length; at++) {
      decoder.push(bytes.subarray(at, at + 1), () => count++);
    }
  }
  assert.is(count, 20);
  // Quadratic copying would move 20 * 64Ki * 32Ki bytes: 40 GB.
  assert.ok(performance.now() - start < 4000);
});

test('the preamble tells the version, and garbage from it', () => {
  assert.is(decodePreamble(encodePreamble(1)), 1);
  assert.is(decodePreamble(encodePreamble(200)), 200);
  assert.is(
    codeOf(() => decodePreamble(Buffer.from('GET '))),
    'PEER_GARBAGE',
  );
});

test.run();
