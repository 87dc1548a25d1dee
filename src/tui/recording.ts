/** Recordings: what a monitor observed, as JSON lines, to be looked at elsewhere. */

import { createReadStream, createWriteStream, statSync, type WriteStream } from 'node:fs';
import { once } from 'node:events';
import { z } from 'zod';
import { leastStaleMs, pause, type Feed, type Sink } from './feed.js';
import { ObservationError, parseObservation, type Observation } from './observation.js';
import { clean } from './text.js';

const version = 1;
const longestLineBytes = 64 * 1024;
const largestFileBytes = 2 ** 32;
const mostStaleMs = 600_000;

const headerSchema = z.object({
  recording: z.literal('colopp monitor'),
  version: z.literal(version),
  startedMs: z.number(),
  sources: z.array(z.string().transform((text) => clean(text, 40))).min(1).max(8),
  /** What it was to its monitor; earlier versions do not say. */
  staleMs: z.number().positive().max(mostStaleMs).default(leastStaleMs),
});

/** A recording that cannot be written or read. */
export class RecordingError extends Error {
  readonly code = 'RECORDING';

  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'RecordingError';
  }
}

/** Writes a recording. A disk that fails ends it, and is told of once. */
export class Recorder {
  readonly #stream: WriteStream;

  private constructor(stream: WriteStream) {
    this.#stream = stream;
  }

  /** @throws RecordingError if the file exists or cannot be made */
  static async create(path: string, { sources, staleMs }: Pick<Feed, 'sources' | 'staleMs'>, onFailed: (reason: string) => void): Promise<Recorder> {
    const stream = createWriteStream(path, { flags: 'wx', mode: 0o600 });
    try {
      await once(stream, 'open');
    } catch (cause) {
      const why = (cause as NodeJS.ErrnoException).code === 'EEXIST' ? 'it exists already; name another file' : (cause as Error).message;
      throw new RecordingError(`The recording ${path} cannot be written: ${why}.`, { cause });
    }
    stream.on('error', ({ message }) => onFailed(`The recording ${path} ends here: ${message}`));
    const recorder = new Recorder(stream);
    recorder.#write({ recording: 'colopp monitor', version, startedMs: Date.now(), sources, staleMs });
    return recorder;
  }

  write(observation: Observation): void {
    this.#write(observation);
  }

  async close(): Promise<void> {
    if (this.#stream.destroyed) return;
    await new Promise<void>((resolve) => this.#stream.once('close', resolve).end());
  }

  #write(value: unknown): void {
    if (!this.#stream.destroyed) this.#stream.write(`${JSON.stringify(value)}\n`);
  }
}

export interface Recording {
  sources: string[];
  staleMs: number;
  observations: AsyncGenerator<Observation>;
}

/**
 * Opens a recording and checks its header; the observations are read as they are asked for.
 * @throws RecordingError here or later, naming the line that is wrong
 */
export async function openRecording(path: string): Promise<Recording> {
  let stats;
  try {
    stats = statSync(path);
  } catch (cause) {
    throw new RecordingError(`The recording ${path} cannot be read: ${(cause as Error).message}.`, { cause });
  }
  if (!stats.isFile() || stats.size > largestFileBytes) {
    throw new RecordingError(`${path} is not a recording: it is ${stats.isFile() ? `${stats.size} bytes long` : 'not a file'}.`);
  }
  const lines = numberedLines(path);
  const { value: first } = await lines.next();
  const header = headerSchema.safeParse(first && parseJson(first.text));
  if (!header.success) {
    await lines.return(undefined);
    throw new RecordingError(`${path} is not a recording of this version of colopp monitor: its first line is something else.`);
  }
  const { sources, staleMs } = header.data;
  return { sources, staleMs, observations: observationsOf(path, lines) };
}

async function* observationsOf(path: string, lines: AsyncGenerator<Line>): AsyncGenerator<Observation> {
  const latestMs = new Map<string, number>();
  for await (const { number, text, complete } of lines) {
    // The monitor that wrote it may have been killed in the middle of its last line.
    if (!complete) return;
    try {
      const observation = parseObservation(parseJson(text));
      const { kind, atMs } = observation;
      const source = kind === 'said' ? kind : observation.source;
      if (atMs < (latestMs.get(source) ?? 0)) throw new ObservationError('it lies before an earlier line of the same source');
      latestMs.set(source, atMs);
      yield observation;
    } catch (cause) {
      if (!(cause instanceof ObservationError)) throw cause;
      throw new RecordingError(`${path}, line ${number}: not an observation: ${cause.message}.`, { cause });
    }
  }
}

interface Line { number: number; text: string; complete: boolean }

async function* numberedLines(path: string): AsyncGenerator<Line> {
  const stream = createReadStream(path, { highWaterMark: longestLineBytes });
  let rest = Buffer.alloc(0);
  let number = 0;
  for await (const chunk of stream as AsyncIterable<Buffer>) {
    rest = Buffer.concat([rest, chunk]);
    for (let end = rest.indexOf(10); end >= 0; end = rest.indexOf(10)) {
      yield { number: ++number, text: rest.toString('utf8', 0, end), complete: true };
      rest = rest.subarray(end + 1);
    }
    if (rest.length > longestLineBytes) throw new RecordingError(`${path}, line ${number + 1}: it is longer than ${longestLineBytes} bytes.`);
  }
  if (rest.length > 0) yield { number: ++number, text: rest.toString('utf8'), complete: false };
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** Shows a recording at the speed it was made, or another. */
export class ReplayFeed implements Feed {
  readonly sources: readonly string[];
  readonly staleMs: number;
  readonly #path: string;
  readonly #speed: number;
  readonly #intervalMs: number;
  /** The first recorded moment, and when it was shown. */
  #origin: { recordedMs: number; shownMs: number } | undefined;
  #endMs = Infinity;

  private constructor(path: string, { sources, staleMs }: Recording, speed: number, intervalMs: number) {
    this.#path = path;
    this.sources = sources;
    this.staleMs = staleMs * speed;
    this.#speed = speed;
    this.#intervalMs = intervalMs;
  }

  /** Reads the whole recording once, so that a bad line is known before anything is shown. @throws RecordingError */
  static async open(path: string, speed: number, intervalMs: number): Promise<ReplayFeed> {
    const recording = await openRecording(path);
    let count = 0;
    for await (const observation of recording.observations) count += observation.atMs > 0 ? 1 : 0;
    if (count === 0) throw new RecordingError(`The recording ${path} is empty.`);
    return new ReplayFeed(path, recording, speed, intervalMs);
  }

  nowMs(): number {
    if (!this.#origin) return 0;
    const { recordedMs, shownMs } = this.#origin;
    return Math.min(this.#endMs, recordedMs + (performance.now() - shownMs) * this.#speed);
  }

  async run(sink: Sink, signal: AbortSignal): Promise<void> {
    const draw = setInterval(() => sink.drawn(), this.#intervalMs);
    try {
      for await (const observation of (await openRecording(this.#path)).observations) {
        this.#origin ??= { recordedMs: observation.atMs, shownMs: performance.now() };
        const waitMs = (observation.atMs - this.nowMs()) / this.#speed;
        if (waitMs >= 1) await pause(waitMs, signal);
        if (signal.aborted) return;
        sink.observe(observation);
      }
      this.#endMs = this.nowMs();
      sink.observe({ kind: 'said', atMs: this.#endMs, source: 'replay', level: 'info', text: 'The recording ends here.' });
      if (!signal.aborted) await once(signal, 'abort');
    } finally {
      clearInterval(draw);
    }
  }
}
