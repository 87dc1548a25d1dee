/** Where a drill takes place: a lab of its own, or a pair that runs already. */

import { setTimeout as sleep } from 'node:timers/promises';
import { callAgent, ControlError, type ControlCommand } from '../agent/control.js';
import type { AgentStatus } from '../agent/agent.js';
import { Cables } from '../lab/cables.js';
import { demoGuest, Lab } from '../lab/lab.js';
import { LabError } from '../lab/errors.js';
import { slowdown } from '../lab/slowdown.js';
import { addresses, hostNames, type HostName } from '../lab/topology.js';
import { ClientProcess } from './client-process.js';
import { Faults } from './faults.js';
import type { HostWord, MetricName, Script } from './script.js';

const setUpTimeoutMs = 120_000;
const statusTimeoutMs = 2000;
const pollMs = 25;
/** Labs in which something went wrong before the drill began, at most. */
const mostAttempts = 3;

/** A step could not be done, or what it waits for did not happen. */
export class StepError extends Error {
  readonly code = 'DRILL_STEP';

  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'StepError';
  }
}

export class Stage {
  readonly #sockets: ReadonlyMap<HostName, string>;
  readonly #script: Script;
  readonly #signal: AbortSignal;
  readonly #lab: Lab | undefined;
  /** Undefined without a lab. */
  readonly cables: Cables | undefined;
  readonly #faults: Faults | undefined;

  /**
   * Makes the lab, or finds the pair, and waits until it is protected. What was made is taken down
   * again if that fails.
   */
  static async open(script: Script, labName: string, signal: AbortSignal): Promise<Stage> {
    if (!script.pair) return Stage.#openLab(script, labName, signal);
    const { a, b } = script.pair.agents;
    const stage = new Stage(script, signal, new Map([['a' as const, a], ...(b === undefined ? [] : [['b', b] as const])]));
    await stage.#untilReady();
    return stage;
  }

  /** Drills name hosts: at their beginning host a is the primary. */
  static async #openLab(script: Script, labName: string, signal: AbortSignal): Promise<Stage> {
    for (let attempt = 1; attempt <= mostAttempts; attempt++) {
      const stage = await Stage.#makeLab(script, new Lab(labName), signal);
      const status = await stage.status('a');
      if (status?.active && status.protected) return stage;
      await stage.close();
    }
    throw new LabError(`The hosts of ${mostAttempts} labs lost each other before anything was done to them: this machine is too busy. Give them more time: COLOPP_SLOWDOWN=4`);
  }

  static async #makeLab(script: Script, lab: Lab, signal: AbortSignal): Promise<Stage> {
    const { agent = {}, ...options } = script.lab ?? {};
    if (await lab.exists()) throw new LabError(`The lab "${lab.name}" exists already. Take it down first: colopp lab down --name ${lab.name}`);
    let cables: Cables | undefined;
    try {
      await lab.up({ ...options, overrides: { a: agent, b: agent }, signal });
      cables = await Cables.attach(lab.topology, demoGuest().mac);
      const stage = new Stage(script, signal, new Map(hostNames.map((host) => [host, lab.socket(host)])), lab, cables);
      await stage.#untilReady();
      await lab.waitForGuest(setUpTimeoutMs, signal);
      // From now on no takeover leads back to a guest that still boots.
      await stage.call(await stage.hostOf('primary'), 'checkpoint').catch(() => {});
      return stage;
    } catch (error) {
      cables?.close();
      await lab.down();
      throw error;
    }
  }

  private constructor(script: Script, signal: AbortSignal, sockets: ReadonlyMap<HostName, string>, lab?: Lab, cables?: Cables) {
    this.#script = script;
    this.#signal = signal;
    this.#sockets = sockets;
    this.#lab = lab;
    this.cables = cables;
    this.#faults = lab && cables ? new Faults(lab, cables) : undefined;
  }

  /** @throws StepError where there is none: what happens to a pair that is in use is not ours to decide */
  get faults(): Faults {
    if (!this.#faults) throw new StepError('This can be done in a lab only.');
    return this.#faults;
  }

  get lab(): Lab | undefined {
    return this.#lab;
  }

  async close(keepLab = false): Promise<void> {
    this.cables?.close();
    if (!keepLab) await this.#lab?.down();
  }

  // ---- agents ------------------------------------------------------------------

  /** What a host's agent says; undefined if it does not answer. */
  async status(host: HostName): Promise<AgentStatus | undefined> {
    const socket = this.#sockets.get(host);
    if (socket === undefined || this.#faults?.isDown(host)) return undefined;
    try {
      return await callAgent(socket, { command: 'status', brief: true }, { timeoutMs: statusTimeoutMs * slowdown() }) as AgentStatus;
    } catch (error) {
      if (error instanceof ControlError) return undefined;
      throw error;
    }
  }

  async call(host: HostName, command: ControlCommand): Promise<unknown> {
    const socket = this.#sockets.get(host);
    if (socket === undefined) throw new StepError(`The agent of host ${host} cannot be asked: the drill does not name its socket (pair.agents.${host}).`);
    return callAgent(socket, { command });
  }

  /** The host that is meant, by its part at this moment. */
  async hostOf(word: HostWord): Promise<HostName> {
    if (word === 'a' || word === 'b') return word;
    const active = (await this.#all()).filter(([, status]) => status?.active);
    if (active.length !== 1) throw new StepError(`There is no one primary at this moment: ${active.length === 0 ? 'no host says' : 'both say'} that it runs the VM. Name the host: a or b.`);
    const [[primary]] = active as [[HostName, AgentStatus]];
    return word === 'primary' ? primary : other(primary);
  }

  /** Waits until `reached` says so. `what` begins the error's sentence. @throws StepError after `withinMs`, times the lab's slowdown, with what the hosts said last */
  async until(what: string, withinMs: number, reached: () => Promise<boolean>): Promise<void> {
    const limitMs = withinMs * slowdown();
    const deadlineMs = performance.now() + limitMs;
    while (!await reached()) {
      if (performance.now() > deadlineMs) throw new StepError(`${what} within ${limitMs / 1000} s: ${await this.inWords()}.`);
      await sleep(pollMs, undefined, { signal: this.#signal });
    }
  }

  /** Whether the pair, as far as it can be asked, is protected. */
  async isProtected(): Promise<boolean> {
    return (await this.#all()).every(([, status]) => status?.protected);
  }

  async metric(host: HostName, name: MetricName): Promise<number | undefined> {
    const status: unknown = await this.status(host);
    const value = name.split('.').reduce<unknown>((inner, part) => (inner as Record<string, unknown> | null | undefined)?.[part], status);
    return Array.isArray(value) ? value.length : typeof value === 'number' ? value : undefined;
  }

  /** What every host says of itself, for people. */
  async inWords(): Promise<string> {
    return (await this.#all()).map(([host, status]) => (status
      ? `${host} is ${status.role}, ${status.phase}${status.reason === '' ? '' : ` (${status.reason})`}`
      : `${host} does not answer`)).join('; ');
  }

  async #all(): Promise<[HostName, AgentStatus | undefined][]> {
    return Promise.all([...this.#sockets.keys()].map(async (host) => [host, await this.status(host)] as [HostName, AgentStatus | undefined]));
  }

  async #untilReady(): Promise<void> {
    // An agent of ours may still be starting; one of a pair that runs already answers, or is not there.
    if (!this.#lab) for (const host of this.#sockets.keys()) await this.call(host, 'status');
    await this.until('The pair was not protected', setUpTimeoutMs, () => this.isProtected());
  }

  // ---- clients -----------------------------------------------------------------

  async startClients(): Promise<{ clients: ClientProcess; connections: number }> {
    const { load, pair } = this.#script;
    const { address: guest, redisPort, httpPort } = pair?.service ?? { address: addresses.guest, redisPort: demoGuest().ports.redis, httpPort: demoGuest().ports.http };
    const clients = new ClientProcess(this.#lab?.topology.client);
    try {
      const { connections } = await clients.start({ guest, redisPort, httpPort, ...load });
      return { clients, connections };
    } catch (error) {
      clients.kill();
      throw error;
    }
  }
}

export const other = (host: HostName): HostName => (host === 'a' ? 'b' : 'a');
