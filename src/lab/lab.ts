/** A pair of agents and a protected guest in a topology of namespaces. */

import { spawn, type ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { stringify } from 'yaml';
import { z } from 'zod';
import { callAgent, ControlError } from '../agent/control.js';
import type { AgentStatus } from '../agent/agent.js';
import { mountDisk, unmountDisks } from './disk.js';
import { LabError } from './errors.js';
import { slowdown } from './slowdown.js';
import {
  addresses, createNetwork, existingNamespaces, hostNames, namespaces, processesIn, removeNetwork, topology,
  type HostName, type Topology,
} from './topology.js';

const projectRoot = fileURLToPath(new URL('../../../', import.meta.url));
const labsDir = '/run/colopp/labs';
const agentPort = 7749;
const witnessPort = 7750;
/** As the agent has it by itself. */
const heartbeatMs = 100;
const checkpointTimeoutMs = 10_000;
const syncTimeoutMs = 120_000;
const startLimitMs = 30_000;
/** On each host's loopback. */
const metricsPort = 9749;

const guestSchema = z.object({
  kernel: z.string(), initrd: z.string(), append: z.string(), mac: z.string(), memoryMiB: z.number(),
  ports: z.object({ redis: z.number(), http: z.number() }),
  /** More of QEMU's arguments. */
  extraArgs: z.array(z.string()).default([]),
});

/** The demo guest, as its builder left it. */
export type Guest = z.infer<typeof guestSchema>;

/** @throws LabError if set-up has not built the guest */
export function demoGuest(): Guest {
  const path = join(projectRoot, 'build/guest/guest.json');
  try {
    return guestSchema.parse(JSON.parse(readFileSync(path, 'utf8')));
  } catch (cause) {
    throw new LabError(`The demo guest is not built (${path} cannot be used). Run: npm run setup`, { cause });
  }
}

/** Parts of an agent's configuration; its times are those of a machine that is not slow. */
export interface AgentOverrides {
  heartbeat?: { intervalMs?: number | undefined; missed?: number | undefined } | undefined;
  checkpoint?: { timeoutMs?: number | undefined; syncTimeoutMs?: number | undefined; [key: string]: unknown } | undefined;
  [key: string]: unknown;
}

export interface LabOptions {
  /** Only namespaces, switches and cables: no agents, no VM. */
  networkOnly?: boolean;
  /** Hosts whose agents to start. Default: both. */
  agents?: readonly HostName[];
  vcpus?: number;
  /** Declare the guest's services, so that replies to reads leave before a checkpoint. */
  preRelease?: boolean;
  /** A witness decides which host goes on when the two lose each other. */
  witness?: boolean;
  /** Each agent's folders lie on a disk of their own, of this size, that can be filled. */
  diskMiB?: number | undefined;
  /** The secondary's VM runs, too, and output leaves as soon as both have said it. */
  secondary?: 'paused' | 'active';
  /** Parts of the agents' configuration to change, by host. */
  overrides?: Partial<Record<HostName, AgentOverrides>>;
  /** Gives the making up; what is made of the lab is taken down again. */
  signal?: AbortSignal;
}

export class Lab {
  readonly topology: Topology;
  readonly dir: string;

  /** @throws RangeError for a name that cannot be one */
  constructor(name: string) {
    this.topology = topology(name);
    this.dir = join(labsDir, name);
  }

  get name(): string {
    return this.topology.name;
  }

  socket(host: HostName): string {
    return join(this.dir, host, 'agent.sock');
  }

  /** Where a host's agent, QEMU and guest console write. */
  log(host: HostName, which: 'agent' | 'qemu' | 'console'): string {
    return join(this.dir, host, `${which}.log`);
  }

  async exists(): Promise<boolean> {
    const present = await existingNamespaces();
    return namespaces(this.topology).some((ns) => present.includes(ns)) || existsSync(this.dir);
  }

  /** Makes the network and starts the agents, the secondary first. Half a lab is taken down again. */
  async up(options: LabOptions = {}): Promise<void> {
    requireRoot();
    if (await this.exists()) {
      throw new LabError(`The lab "${this.name}" exists already. Take it down first: colopp lab down --name ${this.name}`);
    }
    const guest = options.networkOnly ? undefined : demoGuest();
    try {
      await createNetwork(this.topology);
      options.signal?.throwIfAborted();
      mkdirSync(this.dir, { recursive: true, mode: 0o700 });
      if (!guest) return;
      writeFileSync(join(this.dir, 'secret'), randomBytes(32).toString('hex'), { mode: 0o600 });
      if (options.witness) this.#startWitness();
      for (const host of hostNames) await this.#prepareHost(host, guest, options);
      for (const host of [...options.agents ?? hostNames].reverse()) await this.startAgent(host, options.signal);
    } catch (error) {
      await this.down();
      throw error;
    }
  }

  configPath(host: HostName): string {
    return join(this.dir, host, 'agent.yaml');
  }

  /** Starts the agent of a host and waits until it answers. @returns its process id */
  async startAgent(host: HostName, signal?: AbortSignal): Promise<number> {
    const child = this.#spawn(this.topology.hosts[host], this.log(host, 'agent'), ['agent', '--config', this.configPath(host)]);
    let ended: string | undefined;
    child.once('error', (error) => { ended = error.message; });
    child.once('exit', (code, signal) => { ended = `it ended with ${signal ?? `exit code ${code}`}`; });
    const deadlineMs = performance.now() + startLimitMs * slowdown();
    for (;;) {
      signal?.throwIfAborted();
      try {
        await this.status(host);
        return child.pid!;
      } catch (error) {
        if (!(error instanceof ControlError)) throw error;
        if (ended === undefined && performance.now() < deadlineMs) await sleep(25);
        else throw new LabError(`The agent of host ${host} did not start: ${ended ?? `no answer for ${startLimitMs * slowdown() / 1000} s`}.\n${tail(this.log(host, 'agent'))}`, { cause: error });
      }
    }
  }

  async status(host: HostName): Promise<AgentStatus> {
    return await callAgent(this.socket(host), { command: 'status', brief: true }, { timeoutMs: 5000 * slowdown() }) as AgentStatus;
  }

  /**
   * Waits until a host's status is as wanted.
   * @param what the condition in words, for the error
   * @throws LabError after `timeoutMs`, times {@link slowdown}, with the last status
   */
  async waitFor(host: HostName, what: string, wanted: (status: AgentStatus) => boolean, timeoutMs: number, signal?: AbortSignal): Promise<AgentStatus> {
    const limitMs = timeoutMs * slowdown();
    const deadlineMs = performance.now() + limitMs;
    for (;;) {
      const status = await this.status(host);
      if (wanted(status)) return status;
      if (performance.now() > deadlineMs) {
        throw new LabError(`Host ${host} was not ${what} within ${limitMs / 1000} s: it is ${status.role}, ${status.phase} (${status.reason}).\n${tail(this.log(host, 'agent'))}`);
      }
      await sleep(20, undefined, { signal });
    }
  }

  /**
   * Waits until the guest says that its services answer, on whichever host it has come to run. What a secondary
   * says is not asked: its VM may be ahead of the one that speaks, which stands still for every checkpoint.
   * @throws LabError after `timeoutMs`, times {@link slowdown}, with the end of its console
   */
  async waitForGuest(timeoutMs: number, signal?: AbortSignal): Promise<void> {
    const limitMs = timeoutMs * slowdown();
    const deadlineMs = performance.now() + limitMs;
    for (;;) {
      const console = (await Promise.all(hostNames.map((host) => this.#consoleUnlessSecondary(host)))).join('\n');
      if (console.includes('COLOPP-GUEST-READY')) return;
      if (performance.now() > deadlineMs) throw new LabError(`The guest was not ready within ${limitMs / 1000} s. Its console ended with:\n${console.slice(-1000)}`);
      await sleep(50, undefined, { signal });
    }
  }

  async #consoleUnlessSecondary(host: HostName): Promise<string> {
    try {
      if ((await this.status(host)).role === 'secondary') return '';
    } catch (error) {
      if (!(error instanceof ControlError)) throw error; // a lost host has said what it said
    }
    return readFile(this.log(host, 'console'), 'utf8').catch(() => '');
  }

  /** Ends every process in the lab and removes all of it. @returns what was removed */
  async down(): Promise<{ processes: number; namespaces: string[] }> {
    requireRoot();
    const present = (await existingNamespaces()).filter((ns) => namespaces(this.topology).includes(ns));
    const pids = async (): Promise<number[]> => (await Promise.all(present.map(processesIn))).flat().filter((pid) => pid !== process.pid);
    const found = await pids();
    for (const [signal, graceMs] of [['SIGTERM', 5000], ['SIGKILL', 5000]] as const) {
      const deadlineMs = performance.now() + graceMs;
      for (const pid of await pids()) signalIfAlive(pid, signal);
      while ((await pids()).length > 0 && performance.now() < deadlineMs) await sleep(30);
    }
    await removeNetwork(this.topology);
    await unmountDisks(this.dir);
    rmSync(this.dir, { recursive: true, force: true });
    return { processes: found.length, namespaces: present };
  }

  /** Where everything of a host is. */
  hostDir(host: HostName): string {
    return join(this.dir, host);
  }

  /** The third machine, where the switches are: hosts that cannot reach each other reach it. */
  #startWitness(): void {
    this.#spawn(this.topology.net, join(this.dir, 'witness.log'), [
      'witness', '--listen', `${addresses.witness}:${witnessPort}`, '--state-dir', join(this.dir, 'witness'), '--secret-file', join(this.dir, 'secret'),
    ]).once('error', () => {}); // the agents will say that it does not answer
  }

  /** Starts `colopp` in a namespace, to outlive this process. */
  #spawn(ns: string, logPath: string, args: readonly string[]): ChildProcess {
    const log = openSync(logPath, 'a', 0o600);
    const main = join(projectRoot, 'dist/src/cli/main.js');
    const child = spawn('ip', ['netns', 'exec', ns, process.execPath, main, ...args], { detached: true, stdio: ['ignore', log, log] });
    closeSync(log);
    child.unref();
    return child;
  }

  async #prepareHost(host: HostName, guest: Guest, options: LabOptions): Promise<void> {
    const other = host === 'a' ? 'b' : 'a';
    const dir = this.hostDir(host);
    mkdirSync(dir, { recursive: true, mode: 0o700 });
    if (options.diskMiB !== undefined) await mountDisk(dir, options.diskMiB);
    const config = {
      host,
      role: host === 'a' ? 'primary' : 'secondary',
      runDir: dir,
      stateDir: join(dir, 'state'),
      vm: {
        name: 'guest', memoryMiB: guest.memoryMiB, vcpus: options.vcpus ?? 1,
        kernel: guest.kernel, initrd: guest.initrd, mac: guest.mac,
        append: `${guest.append} colopp.ip=${addresses.guest}/24 colopp.ip6=${addresses.guest6}/64`,
        extraArgs: guest.extraArgs,
      },
      network: { bridge: 'br0', tap: 'clp-tap0', holdTap: 'clp-hold0' },
      peer: {
        listen: `${addresses.replication[host]}:${agentPort}`,
        address: `${addresses.replication[other]}:${agentPort}`,
        secretFile: join(this.dir, 'secret'),
      },
      ...(options.witness ? { witness: { address: `${addresses.witness}:${witnessPort}`, secretFile: join(this.dir, 'secret') } } : {}),
      metrics: { listen: `127.0.0.1:${metricsPort}` },
      ...(options.preRelease ? { services: [{ port: guest.ports.redis, protocol: 'resp' }, { port: guest.ports.http, protocol: 'http' }] } : {}),
      ...(options.secondary === 'active' ? { secondary: 'active', mode: 'compare' } : {}),
      ...slowedDown(options.overrides?.[host] ?? {}),
    };
    writeFileSync(this.configPath(host), stringify(config), { mode: 0o600 });
  }
}

/** With the lab's heartbeats and time limits where `overrides` have none, and all of these times `factor`, as slow as this machine. */
export function slowedDown(overrides: AgentOverrides, factor = slowdown()): AgentOverrides {
  const { heartbeat, checkpoint } = overrides;
  const slow = (ms: number): number => Math.round(ms * factor);
  return {
    ...overrides,
    heartbeat: { ...heartbeat, intervalMs: slow(heartbeat?.intervalMs ?? heartbeatMs) },
    checkpoint: { ...checkpoint, timeoutMs: slow(checkpoint?.timeoutMs ?? checkpointTimeoutMs), syncTimeoutMs: slow(checkpoint?.syncTimeoutMs ?? syncTimeoutMs) },
  };
}

function requireRoot(): void {
  if (process.geteuid?.() !== 0) {
    throw new LabError('A lab needs root: it makes network namespaces, taps and BPF programs. Run the command with sudo.');
  }
}

function signalIfAlive(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

/** The last lines of a log, for an error message. */
function tail(path: string): string {
  try {
    return readFileSync(path, 'utf8').trimEnd().split('\n').slice(-12).map((line) => `  ${line}`).join('\n');
  } catch {
    return '';
  }
}
