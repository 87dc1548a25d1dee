/** Threads to be watched and placed: see vcpu-threads.c. */

import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { VcpuThread } from '../../src/dataplane/vcpu-tracer.js';

const scratch = mkdtempSync(join(tmpdir(), 'colopp-vcpu-'));
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }));
const program = join(scratch, 'vcpu-threads');
const source = fileURLToPath(new URL('../../../test/bpf/vcpu-threads.c', import.meta.url));
execFileSync('gcc', ['-O2', '-Wall', '-Wextra', '-pthread', '-o', program, source], { stdio: 'inherit' });

/** A process whose threads do as told; they count as vCPUs in the order of `tasks`. */
export class Threads {
  private constructor(
    readonly pid: number,
    readonly threads: VcpuThread[],
    readonly say: (line: string) => void,
    readonly end: () => Promise<void>,
  ) {}

  static async start(...tasks: string[]): Promise<Threads> {
    const child = spawn(program, tasks, { stdio: ['pipe', 'pipe', 'inherit'] });
    const unclaimed: [task: string, tid: number][] = [];
    for await (const line of createInterface(child.stdout)) {
      if (line === 'all') break;
      const [task = '', tid] = line.split(' ');
      unclaimed.push([task, Number(tid)]);
    }
    const threads = tasks.map((task, vcpu) => {
      const [found] = unclaimed.splice(unclaimed.findIndex(([name]) => name === task), 1);
      return { vcpu, tid: found![1] };
    });
    const end = async (): Promise<void> => {
      child.kill('SIGKILL');
      if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
    };
    return new Threads(child.pid!, threads, (line) => child.stdin.write(line), end);
  }

  /** What the scheduler itself has booked for each thread: nanoseconds. */
  scheduled(): { runNs: number; waitNs: number }[] {
    return this.threads.map(({ tid }) => {
      const [runNs = NaN, waitNs = NaN] = readFileSync(`/proc/${this.pid}/task/${tid}/schedstat`, 'latin1').split(' ').map(Number);
      return { runNs, waitNs };
    });
  }
}
