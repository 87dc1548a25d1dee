/** What is tried in the outer VM, in this order: what is close to the kernel first. */
import { spawn } from 'node:child_process';
import { readFileSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { AgentStatus } from '../../src/agent/agent.js';
import { callAgent } from '../../src/agent/control.js';
import type { Finding } from '../../src/agent/doctor/doctor.js';
import type { DemoSummary } from '../../src/drill/demo.js';
import { shippedDrills } from '../../src/drill/shipped.js';
import { Lab } from '../../src/lab/lab.js';
import { existingLabs, hostNames } from '../../src/lab/topology.js';
import { judge } from '../outcome.js';

/** What a step may use. */
export interface StepContext {
  /** Runs Node.js on a script of the project, to its end; what it prints goes into the report. */
  node(script: string, ...args: string[]): Promise<Ended>;
  /** Text for the report. */
  say(text: string): void;
  /** A figure or fact for the report's head. */
  fact(name: string, value: string): void;
}

export interface Ended {
  status: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  /** Both streams. */
  output: string;
}

export interface Step {
  name: string;
  limitMs: number;
  /** Done only if a word names it. */
  onDemand: boolean;
  /** Runs a whole lab, which a crowded CPU can hold up. */
  realTime?: boolean;
  /** @throws why it failed */
  run(context: StepContext): Promise<void>;
}

const root = fileURLToPath(new URL('../../../', import.meta.url));
const cli = 'dist/src/cli/main.js';
const minuteMs = 60_000;
const tracedMs = 3000;

/** Of the tests in test/bpf that need no compiler, since the image has none, those of what differs between kernels. */
const bpfTests = ['gate', 'compare', 'shadow-rewrite', 'libbpf-probe'];

/** As `colopp drill run --quick` has them. */
const quickDrills = shippedDrills().filter(({ script }) => script.quick).map(({ script }) => script.drill);
/** Asks more of the kernel than the others: that it silences a host by itself when its lease has run out. And the pair comes together again. */
const firstDrill = 'back-from-the-dead';

export const steps: readonly Step[] = [
  { name: 'doctor', limitMs: 5 * minuteMs, onDemand: false, run: doctor },
  ...bpfTests.map((name): Step => ({ name: `bpf/${name}`, limitMs: 5 * minuteMs, onDemand: false, run: (context) => testFile(context, `bpf/${name}`) })),
  { name: 'lab', limitMs: 15 * minuteMs, onDemand: false, realTime: true, run: leavingNoLab(lab) },
  { name: 'failover', limitMs: 15 * minuteMs, onDemand: false, realTime: true, run: leavingNoLab(failover) },
  ...quickDrills.map((name): Step => ({ name: `drill/${name}`, limitMs: 15 * minuteMs, onDemand: name !== firstDrill, realTime: true, run: leavingNoLab((context) => drill(context, name)) })),
];

async function doctor({ node, fact }: StepContext): Promise<void> {
  const { status, stdout, output } = await node(cli, 'doctor', '--json');
  const findings = parse<Finding[]>(stdout, output);
  const kvm = findings.find(({ name }) => name === 'KVM');
  fact('doctor', findings.map(({ name, verdict }) => `${name} ${verdict}`).join(', '));
  if (kvm?.verdict !== 'ok') throw new Error(`The doctor did not find KVM: ${kvm?.detail ?? 'it says nothing of it'}`);
  const failures = findings.filter(({ verdict }) => verdict === 'fail');
  if (status !== 0 || failures.length > 0) throw new Error(`The doctor is not content:\n${failures.map(({ name, detail }) => `${name}: ${detail}`).join('\n')}`);
}

async function testFile({ node }: StepContext, name: string): Promise<void> {
  const { status, signal, output } = await node(`dist/test/${name}.test.js`);
  const { failed, passed, trouble } = judge(output, { status, signal, timedOut: false });
  if (failed > 0) throw new Error(`${failed} of ${passed + failed} failed${trouble === undefined ? '' : `: it ${trouble}`}`);
}

/** Takes a lab that is left for a failure: says what it wrote, and takes it down, so that it does not disturb the next step. */
function leavingNoLab(run: Step['run']): Step['run'] {
  return async (context) => {
    try {
      await run(context);
      const left = await existingLabs();
      if (left.length > 0) throw new Error(`Labs are left behind: ${left.join(', ')}`);
    } catch (error) {
      for (const lab of (await existingLabs()).map((name) => new Lab(name))) {
        for (const host of hostNames) for (const log of ['console', 'qemu', 'agent'] as const) sayLog(context, lab.log(host, log));
        await lab.down();
      }
      throw error;
    }
  };
}

/** A lab by hand: up, protected, a checkpoint, down again, nothing left. */
async function lab(context: StepContext): Promise<void> {
  const colopp = async (...args: string[]): Promise<Ended> => {
    const ended = await context.node(cli, ...args);
    if (ended.status !== 0) throw new Error(`\`colopp ${args.join(' ')}\` ended with ${ended.signal ?? `exit code ${ended.status}`}: ${lastWords(ended.output)}`);
    return ended;
  };
  await colopp('lab', 'up', '--name', 'nested');
  const status = await colopp('status', '--lab', 'nested', '--json');
  const { vm, protected: isProtected } = parse<AgentStatus>(status.stdout, status.output);
  context.fact('guests', vm.accel === 'kvm' ? 'KVM' : `TCG: ${vm.accelReason}`);
  if (vm.accel !== 'kvm') throw new Error(`The guest does not run on KVM: ${vm.accelReason}`);
  if (!isProtected) throw new Error('The guest is not protected.');
  await colopp('checkpoint', '--lab', 'nested');
  // Each command is a start of Node.js, which takes long in an emulated machine: the others are asked for directly.
  const socket = new Lab('nested').socket('a');
  for (let i = 0; i < 2; i++) await callAgent(socket, { command: 'checkpoint' }, { timeoutMs: minuteMs });
  await kvmExits(context, vm.pid ?? 0);
  const after = await callAgent(socket, { command: 'status' }, { timeoutMs: minuteMs }) as AgentStatus;
  context.fact('checkpoints by hand', `${after.checkpoints.commits} committed`);
  if (after.checkpoints.commits < 3) throw new Error(`Three checkpoints were asked for, ${after.checkpoints.commits} have been committed.`);
  await colopp('lab', 'down', '--name', 'nested');
}

/** Why the guest's vCPU leaves guest mode: only KVM knows. */
async function kvmExits({ say, fact }: StepContext, pid: number): Promise<void> {
  // Not before it is needed: without the native add-ons everything else is still worth trying.
  const { VcpuTracer } = await import('../../src/dataplane/vcpu-tracer.js');
  const threads = readdirSync(`/proc/${pid}/task`).map(Number)
    .filter((tid) => /^CPU 0\/KVM/.test(readFileSync(`/proc/${pid}/task/${tid}/comm`, 'utf8')))
    .map((tid) => ({ vcpu: 0, tid }));
  const tracer = VcpuTracer.open(1);
  try {
    tracer.follow(pid, threads);
    await sleep(tracedMs);
    const exits = tracer.read().vcpus[0]?.exits;
    say(`exits of the vCPU thread ${threads[0]?.tid} of QEMU ${pid} in ${tracedMs} ms: ${JSON.stringify(exits)}\n`);
    if (!exits || Object.values(exits).every((count) => count === 0)) throw new Error('The vCPU tracer saw no exits from guest mode, though the guest runs on KVM.');
    fact('KVM exits', `${Object.entries(exits).map(([reason, count]) => `${reason} ${count}`).join(', ')} in ${tracedMs / 1000} s`);
  } finally {
    tracer.close();
  }
}

/** A drill that comes with colopp. */
async function drill(context: StepContext, name: string): Promise<void> {
  const { status, output } = await context.node(cli, 'drill', 'run', name, '--seed', '1', '--logs', '/tmp/drill-logs');
  if (status !== 0) throw new Error(`The drill ended with exit code ${status}: ${lastWords(output)}`);
}

/** The demo: a host is killed under load. With services declared, the gate has all of its code verified. */
async function failover(context: StepContext): Promise<void> {
  const file = '/tmp/demo.json';
  rmSync(file, { force: true });
  // Kept, so that a failure's logs are there to be reported.
  const { status, output } = await context.node(cli, 'demo', '--keep', '--seed', '1', '--json', file);
  if (status !== 0) throw new Error(`The demo ended with exit code ${status}: ${lastWords(output)}`);
  const summary = parse<DemoSummary>(readFileSync(file, 'utf8'), output);
  const { checkpoints, failover: takeover, connections, writes } = summary;
  context.fact('failover', `${connections.survived} of ${connections.open} connections survived, ${writes.lost} of ${writes.acknowledged} writes lost, `
    + `${checkpoints.count} checkpoints (pause ${checkpoints.pauseMsP50.toFixed(0)} ms), first reply after ${takeover.firstReplyMs.toFixed(0)} ms`);
  if (summary.accel !== 'kvm') throw new Error('The guests did not run on KVM.');
  if (checkpoints.count === 0) throw new Error('No checkpoint was committed.');
  await context.node(cli, 'lab', 'down', '--name', 'demo');
}

/** Why a command of colopp failed, in its own words: its verdict, else the last line that is none of a stack. */
function lastWords(output: string): string {
  const lines = output.trim().split('\n');
  return lines.findLast((line) => /^(FAILED|colopp \[)/.test(line)) ?? lines.findLast((line) => !/^\s+at /.test(line)) ?? '';
}

function sayLog({ say }: StepContext, path: string): void {
  try {
    say(`\n---- ${path}, the end ----\n${readFileSync(path, 'utf8').slice(-8192)}\n`);
  } catch {
    // It was never written.
  }
}

function parse<T>(json: string, output: string): T {
  try {
    return JSON.parse(json) as T;
  } catch {
    throw new Error(`It printed no JSON, but: ${output.trim().slice(-500)}`);
  }
}

/** Runs Node.js in a process group of its own, which ends with `signal`. */
export async function runNode(script: string, args: readonly string[], signal: AbortSignal, say: (text: string) => void): Promise<Ended> {
  signal.throwIfAborted();
  say(`$ ${[script, ...args].join(' ')}\n`);
  const child = spawn(process.execPath, ['--enable-source-maps', join(root, script), ...args], { cwd: root, detached: true, stdio: ['ignore', 'pipe', 'pipe'] });
  const kill = (): void => {
    try {
      process.kill(-child.pid!, 'SIGKILL');
    } catch {
      // ESRCH: the whole group has ended already.
    }
  };
  signal.addEventListener('abort', kill, { once: true });
  let stdout = '';
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
    output += text;
    say(text);
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    output += text;
    say(text);
  });
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (status, killer) => {
      // What it leaves behind, such as a lab's agents, may hold its output open: wait for the rest only so long.
      setTimeout(() => {
        signal.removeEventListener('abort', kill);
        resolve({ status, signal: killer, stdout, output });
      }, 200);
    });
  });
}
