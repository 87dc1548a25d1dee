/** The monitor as a program of its own, without a keyboard: it shows what there is, and fails where it cannot. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { pause, type Feed } from '../../src/tui/feed.js';
import { runMonitor } from '../../src/tui/monitor.js';
import type { Glyphs } from '../../src/tui/text.js';
import { healthyPair, setting, t0 } from './tui-support.js';

/** What the child watches: a pair that is seen once. */
const feed: Feed = {
  sources: ['a', 'b'],
  staleMs: 2000,
  nowMs: () => t0 + 1000,
  async run(sink, signal) {
    for (const observation of healthyPair()) sink.observe(observation);
    while (!signal.aborted) {
      sink.drawn();
      await pause(50, signal);
    }
  },
};

if (process.argv[2] !== undefined) {
  // Without glyphs nothing can be drawn.
  const glyphs = process.argv[2] === 'torn' ? undefined as unknown as Glyphs : setting.glyphs;
  await runMonitor({ feed, ascii: false, setting: { ...setting, glyphs } });
  process.exit();
}

/** Runs the monitor until it ends, or until it has shown `enough`. */
async function watch(how: 'whole' | 'torn', enough: readonly RegExp[]): Promise<{ code: number | null; out: string; err: string }> {
  const child = spawn(process.execPath, [fileURLToPath(import.meta.url), how], { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, NODE_ENV: 'production' } });
  let [out, err] = ['', ''];
  child.stderr.setEncoding('utf8').on('data', (text: string) => { err += text; });
  let told = enough.length === 0;
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    out += text;
    if (told || !enough.every((each) => each.test(out))) return;
    told = true; // a second signal may find it past its handlers
    child.kill('SIGTERM');
  });
  const [code] = await once(child, 'close') as [number | null];
  return { code, out, err };
}

test('without a keyboard it shows the pair, and says that there are no keys', async () => {
  const { code, out, err } = await watch('whole', [/PROTECTED/, /There is no terminal to read keys from/]);
  assert.match(out, 'PROTECTED');
  assert.match(out, 'There is no terminal to read keys from');
  assert.is(code, 0, err);
  assert.is(err, '');
});

test('a picture that cannot be drawn ends it with the error, once the terminal is as it was', async () => {
  const { code, out, err } = await watch('torn', []);
  assert.ok(out.endsWith('\x1b[?1049l'), 'the terminal is given back');
  assert.match(err, /TypeError/);
  assert.is(code, 1);
});

test.run();
