/**
 * Generated codecs against hand-written DataView code: one operation decodes a 64-byte event and a
 * map value of 64 bytes, each into a new object.
 */
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { build } from 'bpf-ts-loader';
import type { Codec } from 'bpf-ts-loader/runtime';
import ts from 'typescript';

/** Many short turns: most fit between two interruptions, and the median is of those. */
const ROUNDS = 1501;
const OPERATIONS = 4096;
const WARM_UP_ROUNDS = 50;
const RECORDS = 256;
const EVENT_BYTES = 64;
const COUNTERS_BYTES = 64;

interface Event {
  time_ns: bigint;
  wait_ns: bigint;
  pid: number;
  tid: number;
  priority: number;
  cpu: number;
  state: number;
  preempted: boolean;
  comm: string;
  cookie: bigint;
  flags: number;
}

interface Counters {
  packets: bigint;
  bytes: bigint;
  range: { low: number; high: number };
  buckets: Uint32Array;
  last_error: bigint;
}

type Decoder<T> = (view: DataView, offset: number) => T;

function eventByHand(view: DataView, offset: number): Event {
  let comm = '';
  for (let i = 0; i < 16; i++) {
    const byte = view.getUint8(offset + 32 + i);
    if (byte === 0) break;
    comm += String.fromCharCode(byte);
  }
  return {
    time_ns: view.getBigUint64(offset, true),
    wait_ns: view.getBigUint64(offset + 8, true),
    pid: view.getUint32(offset + 16, true),
    tid: view.getUint32(offset + 20, true),
    priority: view.getInt32(offset + 24, true),
    cpu: view.getUint16(offset + 28, true),
    state: view.getUint8(offset + 30),
    preempted: view.getUint8(offset + 31) !== 0,
    comm,
    cookie: view.getBigUint64(offset + 48, true),
    flags: view.getUint32(offset + 56, true),
  };
}

function countersByHand(view: DataView, offset: number): Counters {
  const buckets = new Uint32Array(8);
  for (let i = 0; i < 8; i++) buckets[i] = view.getUint32(offset + 24 + i * 4, true);
  return {
    packets: view.getBigUint64(offset, true),
    bytes: view.getBigUint64(offset + 8, true),
    range: { low: view.getUint32(offset + 16, true), high: view.getUint32(offset + 20, true) },
    buckets,
    last_error: view.getBigInt64(offset + 56, true),
  };
}

/** Compiles the C beside this file and returns the codecs generated for it. */
async function generatedCodecs(): Promise<{ Event: Codec<Event>; Counters: Codec<Counters> }> {
  const root = fileURLToPath(new URL('../../../', import.meta.url));
  const out = join(root, 'build/bench/codec');
  rmSync(out, { recursive: true, force: true });
  mkdirSync(out, { recursive: true });
  await build({ dir: join(root, 'test/bench/codec'), outObj: out, outTs: out });
  const source = readFileSync(join(out, 'codec.skel.ts'), 'utf8');
  const { outputText } = ts.transpileModule(source, {
    compilerOptions: { target: ts.ScriptTarget.ES2023, module: ts.ModuleKind.ESNext },
  });
  writeFileSync(join(out, 'codec.skel.mjs'), outputText);
  return import(pathToFileURL(join(out, 'codec.skel.mjs')).href);
}

/** Nanoseconds per operation of decoding records all over the buffers. */
function time(
  decodeEvent: Decoder<Event>,
  decodeCounters: Decoder<Counters>,
  events: DataView,
  values: DataView,
): number {
  let sum = 0;
  const started = process.hrtime.bigint();
  for (let i = 0; i < OPERATIONS; i++) {
    const event = decodeEvent(events, (i % RECORDS) * EVENT_BYTES);
    const counters = decodeCounters(values, (i % RECORDS) * COUNTERS_BYTES);
    // Something must depend on what was decoded.
    sum += event.pid + event.comm.length + (counters.buckets[i & 7] ?? 0) + counters.range.high;
  }
  const elapsedNs = Number(process.hrtime.bigint() - started);
  if (Number.isNaN(sum)) throw new Error('the benchmark decoded nonsense');
  return elapsedNs / OPERATIONS;
}

function median(values: number[]): number {
  return values.sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;
}

export async function run(jsonPath?: string): Promise<void> {
  const generated = await generatedCodecs();
  if (generated.Event.size !== EVENT_BYTES)
    throw new Error(`the event has ${generated.Event.size} bytes, not ${EVENT_BYTES}`);
  const events = new DataView(new ArrayBuffer(RECORDS * EVENT_BYTES));
  const values = new DataView(new ArrayBuffer(RECORDS * COUNTERS_BYTES));
  for (let i = 0; i < RECORDS; i++) {
    generated.Event.write(events, i * EVENT_BYTES, {
      ...eventByHand(events, i * EVENT_BYTES),
      time_ns: 1_700_000_000_000_000_000n + BigInt(i) * 12345n,
      wait_ns: BigInt(i) * 1000n,
      pid: 1000 + i,
      tid: 3_000_000_000 + i,
      priority: -i,
      preempted: i % 2 === 0,
      comm: `worker/${i}`,
      cookie: BigInt(i) << 40n,
    });
    generated.Counters.write(
      values,
      i * COUNTERS_BYTES,
      generated.Counters.create({
        packets: BigInt(i),
        range: { low: i, high: 2 * i },
        buckets: Uint32Array.of(i, 1, 2, 3, 4, 5, 6, 7),
        last_error: -1n,
      }),
    );
  }

  assert.deepEqual(generated.Event.read(events, EVENT_BYTES), eventByHand(events, EVENT_BYTES));
  assert.deepEqual(generated.Counters.read(values, COUNTERS_BYTES), countersByHand(values, COUNTERS_BYTES));

  const byGenerated: number[] = [];
  const byHand: number[] = [];
  const measureGenerated = (): void => {
    byGenerated.push(
      time(
        (view, offset) => generated.Event.read(view, offset),
        (view, offset) => generated.Counters.read(view, offset),
        events,
        values,
      ),
    );
  };
  const measureByHand = (): void => {
    byHand.push(time(eventByHand, countersByHand, events, values));
  };
  for (let round = 0; round < ROUNDS; round++) {
    // Each goes first in turn, so that neither always runs on the other's garbage.
    for (const measure of round % 2 === 0 ? [measureGenerated, measureByHand] : [measureByHand, measureGenerated])
      measure();
  }
  byGenerated.splice(0, WARM_UP_ROUNDS);
  byHand.splice(0, WARM_UP_ROUNDS);
  const generatedNsPerOp = median(byGenerated);
  const handWrittenNsPerOp = median(byHand);
  const ratio = generatedNsPerOp / handWrittenNsPerOp;
  process.stdout.write(
    `codec: generated ${generatedNsPerOp.toFixed(1)} ns, by hand ${handWrittenNsPerOp.toFixed(1)} ns per operation, ratio ${ratio.toFixed(3)}\n`,
  );
  if (jsonPath !== undefined)
    writeFileSync(jsonPath, `${JSON.stringify({ generatedNsPerOp, handWrittenNsPerOp, ratio })}\n`);
}
