/**
 * What tracing vCPUs costs a context switch: two processes on one CPU that wake
 * each other through pipes, with the tracer detached, attached for somebody
 * else, and attached for one of the two. All take turns.
 *
 * This is the dearest case there is: a switch does nothing else here, and most of
 * what is added is that the kernel calls a program at all.
 */

import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { VcpuTracer } from '../../src/dataplane/vcpu-tracer.js';
import { quantile } from '../../src/agent/pause-history.js';

const turns = 100;
const measuresPerTurn = 5;
/** Some 3 ms: short enough for many to be undisturbed. */
const rounds = 1500;
const SOURCE = fileURLToPath(new URL('../../../test/bench/ping-pong.c', import.meta.url));

/** Microseconds there and back, which is two context switches. */
interface TraceBench {
  offUs: number;
  /** While somebody else's vCPUs are traced. */
  onUs: number;
  /** Of the two in one turn: the median. */
  ratio: number;
  /** While one of the two is taken for a vCPU. */
  tracedUs: number;
}

export async function run(jsonPath: string | undefined): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'colopp-bench-'));
  const program = join(folder, 'ping-pong');
  let child: ChildProcess | undefined;
  try {
    execFileSync('gcc', ['-O2', '-Wall', '-Wextra', '-o', program, SOURCE], { stdio: 'inherit' });
    const pair = child = spawn(program, [String(rounds)], { stdio: ['pipe', 'pipe', 'inherit'] });
    const lines = createInterface(pair.stdout)[Symbol.asyncIterator]();
    const next = async (): Promise<number> => {
      const { value, done } = await lines.next();
      if (done) throw new Error('The ping-pong has ended.');
      return Number(value);
    };
    const pid = await next();
    const times = { off: [] as number[], on: [] as number[], traced: [] as number[] };
    const measure = async (as: keyof typeof times): Promise<void> => {
      let least = Infinity; // whoever else uses the machine only ever makes a round longer
      for (let i = 0; i < measuresPerTurn; i++) {
        pair.stdin.write('\n');
        least = Math.min(least, await next());
      }
      times[as].push(least);
    };
    for (let turn = 0; turn < turns; turn++) {
      await measure('off');
      using tracer = VcpuTracer.open(1);
      tracer.follow(process.pid, [{ vcpu: 0, tid: process.pid }]);
      await measure('on');
      tracer.follow(pid, [{ vcpu: 0, tid: pid }]);
      await measure('traced');
    }
    const typical = (values: number[]): number => rounded(quantile(values, 0.25)!);
    // A turn's own, as the machine may be another's for many turns.
    const ratio = rounded(quantile(times.on.map((on, turn) => on / times.off[turn]!), 0.5)!);
    const [offUs, onUs, tracedUs] = [typical(times.off), typical(times.on), typical(times.traced)];
    const figures: TraceBench = { offUs, onUs, ratio, tracedUs };
    console.log(`microseconds there and back (two context switches), first quartile of ${turns} turns:`);
    console.log(`  untraced                   ${offUs}`);
    console.log(`  other threads are traced   ${onUs}, ${((figures.ratio - 1) * 100).toFixed(1)} % more (goal: at most 5)`);
    console.log(`  one of the two is traced   ${tracedUs}`);
    if (jsonPath !== undefined) await writeFile(jsonPath, `${JSON.stringify(figures, undefined, 2)}\n`);
  } finally {
    child?.kill('SIGKILL');
    await rm(folder, { recursive: true, force: true });
  }
}

function rounded(value: number): number {
  return Number(value.toFixed(3));
}
