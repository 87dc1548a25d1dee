/** What can happen to the hosts and cables of a lab, and how it is undone. */

import { setTimeout as sleep } from 'node:timers/promises';
import { fillDisk, freeDisk } from '../lab/disk.js';
import type { Cables, NetworkName } from '../lab/cables.js';
import type { Lab } from '../lab/lab.js';
import { slowdown } from '../lab/slowdown.js';
import { setCables, type HostName } from '../lab/topology.js';
import { FrameType } from '../peer/frame.js';

export type Part = 'agent' | 'qemu' | 'host';

interface Pids { agent: number; qemu: number | null }

const stopTimeoutMs = 20_000;
const frameTimeoutMs = 5000;

export class Faults {
  readonly #lab: Lab;
  readonly #cables: Cables;
  /** Hosts whose agent stands still, with all that does; and QEMUs that stand still by themselves. */
  readonly #frozen = new Map<HostName, number[]>();
  readonly #frozenVms: number[] = [];
  /** Hosts without an agent, and whether their cables are out too. */
  readonly #down = new Map<HostName, { cables: boolean }>();
  readonly #known = new Map<HostName, Pids>();
  readonly #fullDisks = new Set<HostName>();

  constructor(lab: Lab, cables: Cables) {
    this.#lab = lab;
    this.#cables = cables;
  }

  /** True if nobody is there to answer: killed, stopped or frozen. */
  isDown(host: HostName): boolean {
    return this.#down.has(host) || this.#frozen.has(host);
  }

  /** @param what `host`: agent, QEMU and cables in the same moment, as when its power fails */
  async kill(host: HostName, what: Part): Promise<void> {
    const pids = await this.#pids(host);
    const cables = what === 'host' ? setCables(this.#lab.topology, host, 'down') : undefined;
    for (const pid of chosen(pids, what)) signalIfThere(pid, 'SIGKILL');
    await cables;
    if (what === 'qemu') return;
    this.#frozen.delete(host);
    this.#down.set(host, { cables: what === 'host' });
  }

  /** They stand still: a host that is frozen does not know that time passes. */
  async freeze(host: HostName, what: Part): Promise<void> {
    const pids = chosen(await this.#pids(host), what);
    for (const pid of pids) signalIfThere(pid, 'SIGSTOP');
    if (what !== 'qemu') this.#frozen.set(host, pids);
    else this.#frozenVms.push(...pids);
  }

  thaw(): void {
    for (const pid of [...this.#frozen.values(), this.#frozenVms.splice(0)].flat()) signalIfThere(pid, 'SIGCONT');
    this.#frozen.clear();
  }

  /** Ends an agent in order: it hands a protected VM over, and ends any other. */
  async stop(host: HostName): Promise<void> {
    const { agent } = await this.#pids(host);
    this.#down.set(host, { cables: false });
    signalIfThere(agent, 'SIGTERM');
    const deadlineMs = performance.now() + stopTimeoutMs * slowdown();
    while (signalIfThere(agent, 0)) {
      if (performance.now() > deadlineMs) throw new Error(`The agent of host ${host} did not end within ${stopTimeoutMs * slowdown() / 1000} s of SIGTERM.`);
      await sleep(20);
    }
  }

  /**
   * Hosts that were killed or stopped get their cables and agents back.
   * @param only this one, if it is given
   * @returns which
   */
  async bringBack(signal: AbortSignal, only?: HostName): Promise<HostName[]> {
    const hosts = [...this.#down].filter(([host]) => only === undefined || host === only);
    for (const [host, { cables }] of hosts) {
      if (cables) await setCables(this.#lab.topology, host, 'up');
      await this.#lab.startAgent(host, signal);
      this.#down.delete(host);
    }
    return hosts.map(([host]) => host);
  }

  /** A cable that loses or delays frames; see CableFault. In place of what it did before. */
  async impair(host: HostName, networks: readonly NetworkName[], direction: 'both' | 'from' | 'to', fault: { of: 'all' | 'mirror'; drop: number; delay: number; delayMs: number }): Promise<void> {
    const directions = direction === 'both' ? ['from', 'to'] as const : [direction];
    for (const network of networks) {
      for (const one of directions) await this.#cables.spoil({ host, network, direction: one, ...fault });
    }
  }

  async heal(): Promise<void> {
    await this.#cables.heal();
  }

  /** Returns when such a frame has come, and arrived as garbage. */
  async corrupt(host: HostName, frame: 'heartbeat' | 'control'): Promise<void> {
    const { corruptedFrames } = await this.#cables.report();
    await this.#cables.corruptFrame(host, frame === 'heartbeat' ? FrameType.beat : FrameType.control);
    const deadlineMs = performance.now() + frameTimeoutMs * slowdown();
    while ((await this.#cables.report()).corruptedFrames === corruptedFrames) {
      if (performance.now() > deadlineMs) throw new Error(`Host ${host} sent no ${frame} frame within ${frameTimeoutMs * slowdown() / 1000} s.`);
      await sleep(20);
    }
  }

  fillDisk(host: HostName): void {
    fillDisk(this.#lab.hostDir(host));
    this.#fullDisks.add(host);
  }

  freeDisk(): void {
    for (const host of this.#fullDisks) freeDisk(this.#lab.hostDir(host));
    this.#fullDisks.clear();
  }

  /** Of a host that does not answer, what it said last. */
  async #pids(host: HostName): Promise<Pids> {
    const known = this.#known.get(host);
    if (known && this.isDown(host)) return known;
    const { pid, vm } = await this.#lab.status(host);
    const pids = { agent: pid, qemu: vm.pid };
    this.#known.set(host, pids);
    return pids;
  }
}

function chosen({ agent, qemu }: Pids, what: Part): number[] {
  return [...(what === 'qemu' ? [] : [agent]), ...(what === 'agent' || qemu === null ? [] : [qemu])];
}

/** @returns false if that process is gone */
function signalIfThere(pid: number, signal: NodeJS.Signals | 0): boolean {
  try {
    return process.kill(pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false;
    throw error;
  }
}
