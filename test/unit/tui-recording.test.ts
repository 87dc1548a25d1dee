/** Recordings: what is written can be shown again, and nothing else can. */
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { Observation } from '../../src/tui/observation.js';
import { openRecording, Recorder, ReplayFeed } from '../../src/tui/recording.js';
import { healthyPair, saw } from './tui-support.js';

const dir = mkdtempSync(join(tmpdir(), 'colopp-recording-'));
let files = 0;
const fresh = (): string => join(dir, `${++files}.jsonl`);
test.after(() => rmSync(dir, { recursive: true }));

const observations = [...healthyPair(), saw.note('a', 2000, 'warn', 'odd \x1b[31m words'), saw.gone('b', 2100), saw.said('a', 2200, 'info', 'done')];

async function recorded(path = fresh()): Promise<string> {
  const recorder = await Recorder.create(path, { sources: ['a', 'b'], staleMs: 15_000 }, (reason) => assert.unreachable(reason));
  for (const observation of observations) recorder.write(observation);
  await recorder.close();
  return path;
}

async function readAll(path: string): Promise<Observation[]> {
  const all: Observation[] = [];
  for await (const observation of (await openRecording(path)).observations) all.push(observation);
  return all;
}

async function refusal(path: string): Promise<string> {
  try {
    await ReplayFeed.open(path, 1, 500);
  } catch (error) {
    assert.is((error as { code?: string }).code, 'RECORDING', String(error));
    return (error as Error).message;
  }
  return 'it is not refused';
}

test('what was recorded is read again as it was, and only its owner may', async () => {
  const path = await recorded();
  assert.equal(await readAll(path), observations);
  assert.equal((await openRecording(path)).sources, ['a', 'b']);
  assert.is(statSync(path).mode & 0o777, 0o600);
});

test('what was fresh to its monitor is fresh when it is shown again; a recording of an earlier version does not say what that was', async () => {
  const path = await recorded();
  assert.is((await ReplayFeed.open(path, 1, 500)).staleMs, 15_000);
  assert.is((await ReplayFeed.open(path, 10, 500)).staleMs, 150_000, 'time runs faster');
  writeFileSync(path, readFileSync(path, 'utf8').replace(',"staleMs":15000', ''));
  assert.is((await ReplayFeed.open(path, 1, 500)).staleMs, 2000);
});

test('a file that exists is not written over', async () => {
  const path = await recorded();
  await Recorder.create(path, { sources: ['a'], staleMs: 2000 }, () => {}).then(() => assert.unreachable(), ({ message }: Error) => assert.match(message, /exists already/));
  assert.equal(await readAll(path), observations);
});

test('a recording that ends in the middle of a line is shown up to there', async () => {
  const path = await recorded();
  writeFileSync(path, readFileSync(path).subarray(0, -5));
  assert.equal(await readAll(path), observations.slice(0, -1));
});

test('anything else is refused, with the line that is wrong', async () => {
  const [header, ...lines] = readFileSync(await recorded(), 'utf8').trimEnd().split('\n') as [string, ...string[]];
  const file = (...content: string[]): string => {
    const path = fresh();
    writeFileSync(path, content.map((line) => `${line}\n`).join(''));
    return path;
  };
  assert.match(await refusal(join(dir, 'none')), /cannot be read/);
  assert.match(await refusal(dir), /it is not a file/);
  assert.match(await refusal('/dev/zero'), /it is not a file/);
  assert.match(await refusal(file()), /its first line is something else/);
  assert.match(await refusal(file('{"a":1}', ...lines)), /its first line is something else/);
  assert.match(await refusal(file(header.replace('"version":1', '"version":2'), ...lines)), /of this version/);
  assert.match(await refusal(file(header)), /is empty/);
  assert.match(await refusal(file(header, lines[0]!, 'not JSON')), /line 3: not an observation/);
  assert.match(await refusal(file(header, lines[0]!.replace('"generation":3', '"generation":null'))), /line 2: not an observation: status.generation/);
  assert.match(await refusal(file(header, lines[4]!, lines[0]!)), /line 3: .*lies before an earlier line/);
  assert.match(await refusal(file(header, `"${'x'.repeat(200_000)}"`)), /line 2: it is longer than 65536 bytes/);
});

test('a replay keeps the times, divided by its speed, and says when it is over', async () => {
  const feed = await ReplayFeed.open(await recorded(), 10, 50);
  assert.equal(feed.sources, ['a', 'b']);
  const seen: { observation: Observation; atMs: number }[] = [];
  const end = new AbortController();
  const startMs = performance.now();
  let drawn = 0;
  await feed.run({
    observe: (observation) => {
      seen.push({ observation, atMs: performance.now() - startMs });
      if (seen.length > observations.length) end.abort();
    },
    drawn: () => { drawn++; },
  }, end.signal);
  assert.equal(seen.slice(0, -1).map(({ observation }) => observation), observations);
  assert.is((seen.at(-1)?.observation as { text: string }).text, 'The recording ends here.');
  assert.ok(seen.at(-1)!.atMs >= 200, `2.2 s at ten times the speed: ${seen.at(-1)?.atMs} ms`);
  assert.ok(drawn >= 2, 'it is drawn meanwhile');
});

test.run();
