/** The native halves of the hold thread by themselves, under the compiler's sanitizers. */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { scratch } from './libbpf-support.js';
import { sources } from './tap.js';

const run = promisify(execFile);
const addon = join(sources, '../../addon/tap-hold/src');

async function passes(driver: string, parts: readonly string[], sanitizers: string, ...flags: string[]): Promise<void> {
  const program = join(scratch, `${driver}-${sanitizers.replaceAll(',', '-')}`);
  await run('g++', [
    '-std=c++17', '-O1', '-g', '-Wall', '-Wextra', `-fsanitize=${sanitizers}`, '-fno-sanitize-recover=all', '-pthread',
    ...flags, '-I', addon, '-I', join(sources, '../../bpf'), '-o', program,
    join(sources, 'native', `${driver}.cc`), ...parts.map((part) => join(addon, part)),
  ]);
  const { stdout, stderr } = await run(program, [], { timeout: 60_000 });
  assert.is(stderr, '');
  assert.is(stdout, 'ok\n');
}

test('the ring: two million random steps against a model', () => passes('hold-queue', ['queue.cc'], 'address,undefined', '-Dmmap=guarded_mmap', '-Dmunmap=guarded_munmap'));
test('untagging: good, damaged and random packets', () => passes('hold-untag', ['held_packet.cc'], 'address,undefined'));
const comparator = ['compare.cc', 'compare_flow.cc', 'compare_packet.cc'];
test('the comparator: what both machines say, and what not', () => passes('compare', [...comparator, 'queue.cc'], 'address,undefined'));
const worker = ['worker.cc', 'compare_port.cc', ...comparator, 'held_packet.cc', 'queue.cc'];
test('the thread: no data race', () => passes('hold-worker', worker, 'thread'));
test('the thread: no memory error, no leak', () => passes('hold-worker', worker, 'address,undefined'));

test.run();
