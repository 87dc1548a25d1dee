/** What the tests with real labs share: a lab that always goes, clients, the command line, and a look at what is left. */
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import * as assert from 'uvu/assert';
import { BpfProgram } from 'libbpf-napi';
import type { AgentStatus } from '../../src/agent/agent.js';
import { ClientProcess, type ClientNews } from '../../src/drill/client-process.js';
import { demoGuest, Lab } from '../../src/lab/lab.js';
import { addresses, existingNamespaces, namespaces, type HostName } from '../../src/lab/topology.js';

const run = promisify(execFile);

export const protectTimeoutMs = 20_000;
export const other = (host: HostName): HostName => host === 'a' ? 'b' : 'a';

// ---- the lab -----------------------------------------------------------------

/** A lab for one test file: taken down before, after, and when the test run is interrupted. */
export function ownLab(name: string): Lab {
  const lab = new Lab(name);
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.once(signal, () => void lab.down().finally(() => process.exit(1)));
  }
  return lab;
}

/** Waits until `host` runs the VM and is protected, and the other one knows it. */
export async function untilProtected(lab: Lab, host: HostName, timeoutMs = protectTimeoutMs): Promise<AgentStatus> {
  const status = await lab.waitFor(host, 'the protected primary', (s) => s.protected && s.active, timeoutMs);
  await lab.waitFor(other(host), 'the protected secondary', (s) => s.protected && !s.active, timeoutMs);
  return status;
}

/** The pid of a host's VM. */
export function vmPid(status: AgentStatus): number {
  if (status.vm.pid === null) throw new Error(`Host ${status.host} has no VM.`);
  return status.vm.pid;
}

export function isAlive(pid: number): boolean {
  try {
    return !readFileSync(`/proc/${pid}/stat`, 'utf8').includes(') Z ');
  } catch {
    return false;
  }
}

export async function until(what: string, condition: () => boolean | Promise<boolean>, timeoutMs = 10_000): Promise<void> {
  const deadlineMs = performance.now() + timeoutMs;
  while (!await condition()) {
    if (performance.now() > deadlineMs) throw new Error(`Not within ${timeoutMs / 1000} s: ${what}`);
    await sleep(20);
  }
}

// ---- clients -----------------------------------------------------------------

export type Outcome = Extract<ClientNews, { type: 'stopped' }>;

/** Connects some clients: writers to Redis, a reader of the small page, a download of the large one. */
export async function startClients(lab: Lab, { guest = addresses.guest as string, writers = 2, readers = 1 } = {}): Promise<ClientProcess> {
  const clients = new ClientProcess(lab.topology.client);
  const { ports } = demoGuest();
  await clients.start({ guest, redisPort: ports.redis, httpPort: ports.http, writers, readers });
  return clients;
}

/** Ends the clients: each connection must have had a reply since `sinceNs`, and no acknowledged write may be gone. */
export async function assertUnharmed(clients: ClientProcess, sinceNs: bigint): Promise<Outcome> {
  const outcome = await clients.stop(sinceNs);
  assert.equal(outcome.reports.filter(({ broken }) => broken !== undefined), [], 'every connection survives');
  assert.is(outcome.lost, 0, 'no acknowledged write is lost');
  assert.ok(outcome.acknowledged > 0, 'writes were acknowledged at all');
  return outcome;
}

/** When the first client had a reply after `sinceNs`, in milliseconds since then. */
export function firstReplyMs(outcome: Outcome, sinceNs: bigint): number {
  return Math.min(...outcome.reports.map(({ firstReplyNs }) => Number(BigInt(firstReplyNs) - sinceNs) / 1e6));
}

/** What an HTTP client in the lab gets, as it is. */
export async function fetchInLab(lab: Lab, url: string): Promise<Buffer> {
  const script = 'fetch(process.argv[1]).then((r) => r.arrayBuffer()).then((b) => process.stdout.write(Buffer.from(b)))';
  const { stdout } = await run('ip', ['netns', 'exec', lab.topology.client, process.execPath, '-e', script, url], {
    encoding: 'buffer', maxBuffer: 16 * 1024 * 1024, timeout: 30_000,
  });
  return stdout;
}

// ---- the command line --------------------------------------------------------

export const cli = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url));

export interface CommandEnd { code: number | null; signal: NodeJS.Signals | null; stdout: string; stderr: string }

/** Runs `colopp` to its end. */
export async function colopp(...args: string[]): Promise<CommandEnd> {
  return ended(startColopp(...args));
}

/** Starts `colopp` in a process group of its own, as a shell does. */
export function startColopp(...args: string[]): ChildProcess {
  return spawn(process.execPath, [cli, ...args], { stdio: ['ignore', 'pipe', 'pipe'], detached: true });
}

/** What Ctrl-C does: the whole group is interrupted, whatever it runs at the moment. */
export function pressCtrlC(child: ChildProcess): void {
  process.kill(-child.pid!, 'SIGINT');
}

export async function ended(child: ChildProcess): Promise<CommandEnd> {
  let stdout = '';
  let stderr = '';
  child.stdout?.setEncoding('utf8').on('data', (text: string) => { stdout += text; });
  child.stderr?.setEncoding('utf8').on('data', (text: string) => { stderr += text; });
  const [code, signal] = await once(child, 'close') as [number | null, NodeJS.Signals | null];
  return { code, signal, stdout, stderr };
}

/** Wrong usage or environment: exit code 2 and one sentence. */
export function assertRefused(end: CommandEnd, sentence: RegExp, code = 2): void {
  assert.match(end.stderr, sentence);
  assert.is(end.stderr.trimEnd().split('\n').length, 1, `one line, not: ${end.stderr}`);
  assert.not.match(end.stderr, /\n\s+at /, 'no stack');
  assert.is(end.code, code);
}

/** Ctrl-C: it says so and cleans up, unless it was still starting and had made nothing. */
export function assertInterrupted({ code, signal, stdout, stderr }: CommandEnd): void {
  if (signal === 'SIGINT' && stdout === '') return;
  assert.is(code, 130, stdout + stderr);
  assert.match(stdout, /Interrupted; everything is cleaned up\.\n$/);
}

// ---- what is left ------------------------------------------------------------

/** What a lab consists of, noted while it stands, to look for afterwards. */
export class LabTrace {
  readonly #lab: Lab;
  #netnsInodes = new Set<number>();
  #programIds = new Set<number>();

  constructor(lab: Lab) {
    this.#lab = lab;
  }

  /** Adds what there is now. @returns how many BPF programs are attached in the lab */
  async note(): Promise<number> {
    const ids = await Promise.all(namespaces(this.#lab.topology).map(async (ns) => {
      const inode = statSync(`/run/netns/${ns}`, { throwIfNoEntry: false })?.ino;
      if (inode === undefined) return [];
      this.#netnsInodes.add(inode);
      const script = fileURLToPath(new URL('attached-programs.js', import.meta.url));
      try {
        const { stdout } = await run('ip', ['netns', 'exec', ns, process.execPath, script]);
        return JSON.parse(stdout) as number[];
      } catch (error) {
        if ((error as { signal?: string }).signal) return []; // the lab was just going down, and this look with it
        throw error;
      }
    }));
    for (const id of ids.flat()) this.#programIds.add(id);
    return this.#programIds.size;
  }

  /** What is still there of it, in words. */
  async leftovers(): Promise<string[]> {
    const present = await existingNamespaces();
    const links = JSON.parse((await run('ip', ['-json', 'link', 'show'])).stdout) as { ifname: string }[];
    return [
      ...namespaces(this.#lab.topology).filter((ns) => present.includes(ns)).map((ns) => `namespace ${ns}`),
      ...links.filter(({ ifname }) => /^clp-/.test(ifname)).map(({ ifname }) => `interface ${ifname}`),
      ...processes().filter((pid) => this.#belongs(pid)).map((pid) => `process ${pid}`),
      ...[...this.#programIds].filter(programExists).map((id) => `BPF program ${id}`),
      ...statSync(this.#lab.dir, { throwIfNoEntry: false }) ? [`folder ${this.#lab.dir}`] : [],
    ];
  }

  /** Nothing of the lab is left. The kernel frees programs and namespaces a moment after their last user. */
  async assertGone(): Promise<void> {
    let left: string[] = [];
    await until('nothing is left', async () => (left = await this.leftovers()).length === 0, 5000).catch(() => {});
    assert.equal(left, []);
  }

  #belongs(pid: number): boolean {
    try {
      const inode = Number(/\d+/.exec(readlinkSync(`/proc/${pid}/ns/net`))?.[0]);
      return this.#netnsInodes.has(inode) || readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(this.#lab.dir);
    } catch {
      return false; // it has ended meanwhile
    }
  }
}

function processes(): number[] {
  return readdirSync('/proc').filter((name) => /^\d+$/.test(name)).map(Number);
}

function programExists(id: number): boolean {
  try {
    BpfProgram.fromId(id).close();
    return true;
  } catch (error) {
    if ((error as { code?: string }).code === 'ENOENT') return false;
    throw error;
  }
}
