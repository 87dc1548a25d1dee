/** The native parts of the input log by themselves, under the compiler's sanitizers. */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { scratch } from './libbpf-support.js';
import { sources } from './tap.js';

const run = promisify(execFile);
const addon = join(sources, '../../addon/tap-hold/src');

async function passes(driver: string, parts: readonly string[], sanitizers = 'address,undefined'): Promise<void> {
  const program = join(scratch, `${driver}-${sanitizers.replaceAll(',', '-')}`);
  await run('g++', [
    '-std=c++17', '-O1', '-g', '-Wall', '-Wextra', `-fsanitize=${sanitizers}`, '-fno-sanitize-recover=all', '-pthread',
    '-I', addon, '-I', join(sources, '../../bpf'), '-o', program,
    join(sources, 'native', `${driver}.cc`), ...parts.map((part) => join(addon, part)),
  ]);
  const { stdout, stderr } = await run(program, [], { timeout: 60_000 });
  assert.is(stderr, '');
  assert.is(stdout, 'ok\n');
}

const thread = ['log_thread.cc', 'log_replay.cc', 'log_tracker.cc', 'log_frame.cc', 'held_packet.cc', 'queue.cc'];

test('numbers: split, merged, lost, doubled and disordered input against a model', () => passes('log-tracker', ['log_tracker.cc']));
test('frames: good ones and noise', () => passes('log-frame', ['log_frame.cc']));
test('the replay: simulated guests, slow, deaf and forgetful', () => passes('log-replay', ['log_replay.cc', 'log_frame.cc']));
test('the thread: no data race', () => passes('log-thread', thread, 'thread'));
test('the thread: no memory error, no leak', () => passes('log-thread', thread));

test.run();
