/** Does what one step of a drill says. */

import { setTimeout as sleep } from 'node:timers/promises';
import { networkNames } from '../lab/cables.js';
import { slowdown } from '../lab/slowdown.js';
import type { HostName } from '../lab/topology.js';
import type { ClientProcess } from './client-process.js';
import { boundsText, isWithin, type LoadOutcome, type Observations } from './judge.js';
import { timeText, type Span } from './quantities.js';
import { stepName, type Step } from './script.js';
import { StepError, type Stage } from './stage.js';

const goOnTimeoutMs = 20_000;
const reprotectTimeoutMs = 60_000;

type StepOf<K extends string> = Extract<Step, Partial<Record<K, unknown>>>;
type Wait = StepOf<'waitUntil'> extends { waitUntil: infer W } ? W : never;

export class Performer {
  readonly #stage: Stage;
  readonly #random: () => number;
  readonly #signal: AbortSignal;
  #load: { clients: ClientProcess; connections: number } | undefined;
  readonly loads: LoadOutcome[] = [];
  readonly disturbances: Observations['disturbances'] = [];

  /** @param random numbers from 0 to 1, for times that chance chooses */
  constructor(stage: Stage, random: () => number, signal: AbortSignal) {
    this.#stage = stage;
    this.#random = random;
    this.#signal = signal;
  }

  /** @returns what came of it, for people; may be empty. @throws if it could not be done */
  async perform(step: Step): Promise<string> {
    if (typeof step === 'string') return this.#plain(step);
    if ('sleep' in step) return this.#sleep(step.sleep);
    if ('waitUntil' in step) return this.#waitUntil(step.waitUntil);
    const [what] = Object.values(step) as [{ host?: HostName; askedAt?: HostName }];
    const host = await this.#stage.hostOf(what.host ?? what.askedAt!);
    if ('failover' in step) return this.#failover(host);
    const { faults } = this.#stage.lab ? this.#stage : { faults: undefined };
    if ('startAlone' in step) {
      this.#disturb(`start-alone on ${host}`);
      await this.#stage.call(host, 'start-alone');
      return `host ${host}`;
    }
    if (!faults) throw new StepError(`"${stepName(step)}" can be done in a lab only.`);
    if ('kill' in step) {
      this.#disturb(`${step.kill.what} of ${host} was killed`);
      await faults.kill(host, step.kill.what);
    } else if ('freeze' in step) {
      this.#disturb(`${step.freeze.what} of ${host} was frozen`);
      await faults.freeze(host, step.freeze.what);
    } else if ('stop' in step) {
      this.#disturb(`the agent of ${host} was stopped`);
      await faults.stop(host);
    } else if ('upgrade' in step) {
      this.#disturb(`the agent of ${host} was upgraded`);
      await faults.stop(host);
      await faults.bringBack(this.#signal, host);
    } else if ('bringBack' in step) {
      const [back] = await faults.bringBack(this.#signal, host);
      if (back === undefined) throw new StepError(`Nothing of host ${host} was killed or stopped: it cannot be brought back.`);
    } else if ('partition' in step) {
      const { network, direction } = step.partition;
      this.#disturb(`${host} was cut off`);
      await faults.impair(host, network === 'all' ? networkNames : [network], direction, { of: 'all', drop: 1, delay: 0, delayMs: 0 });
    } else if ('impair' in step) {
      const { traffic, direction, drop, delay, delayed } = step.impair;
      this.#disturb(`the cable of ${host} went bad`);
      await faults.impair(host, [traffic === 'client' ? 'client' : 'replication'], direction, {
        of: traffic === 'mirror' ? 'mirror' : 'all', drop, delay: delay === undefined ? 0 : delayed, delayMs: delay ?? 0,
      });
    } else if ('fillDisk' in step) {
      this.#disturb(`the disk of ${host} was full`);
      faults.fillDisk(host);
    } else {
      this.#disturb(`a frame of ${host} was corrupted`);
      await faults.corrupt(host, step.corrupt.frame);
    }
    return `host ${host}`;
  }

  get isLoading(): boolean {
    return this.#load !== undefined;
  }

  /** Ends a load that still runs; what it found is of no interest. */
  abandon(): void {
    this.#load?.clients.kill();
    this.#load = undefined;
  }

  async #plain(name: Extract<Step, string>): Promise<string> {
    switch (name) {
      case 'startLoad': {
        this.#load = await this.#stage.startClients();
        return `${this.#load.connections} connections`;
      }
      case 'stopLoad': return this.#stopLoad();
      case 'checkpoint': {
        const { pauseMs } = await this.#stage.call(await this.#stage.hostOf('primary'), 'checkpoint') as { pauseMs: number };
        return `the VM was paused for ${timeText(pauseMs)}`;
      }
      case 'failover': return this.#failover(await this.#stage.hostOf('primary'));
      case 'thaw':
        this.#stage.faults.thaw();
        return '';
      case 'heal':
        await this.#stage.faults.heal();
        return '';
      case 'freeDisk':
        this.#stage.faults.freeDisk();
        return '';
      case 'bringBack': {
        const hosts = await this.#stage.faults.bringBack(this.#signal);
        if (hosts.length === 0) throw new StepError('No host was killed or stopped: none can be brought back.');
        return hosts.map((host) => `host ${host}`).join(', ');
      }
      case 'reprotect': {
        const host = await this.#stage.hostOf('primary');
        await this.#stage.call(host, 'reprotect');
        await this.#stage.until('The pair was not protected again', reprotectTimeoutMs, () => this.#stage.isProtected());
        return `host ${host} has a secondary`;
      }
    }
  }

  async #sleep({ lowMs, highMs }: Span): Promise<string> {
    const ms = (lowMs + this.#random() * (highMs - lowMs)) * slowdown();
    await sleep(ms, undefined, { signal: this.#signal });
    return lowMs === highMs ? '' : timeText(ms);
  }

  async #failover(host: HostName): Promise<string> {
    this.#disturb('an operator asked for it');
    await this.#stage.call(host, 'failover');
    return `asked at ${host}`;
  }

  async #waitUntil(wait: Wait): Promise<string> {
    if ('metric' in wait) {
      const host = await this.#stage.hostOf(wait.host);
      let value: number | undefined;
      await this.#stage.until(`${wait.metric} of ${host} was not ${boundsText(wait)}`, wait.within, async () => isWithin(value = await this.#stage.metric(host, wait.metric), wait))
        .catch((error: unknown) => { throw error instanceof StepError ? new StepError(`${error.message} It is ${value ?? 'not known'}.`) : error; });
      return `${value}`;
    }
    const { state, within, host } = wait;
    if (host === undefined) {
      await this.#stage.until('The pair was not protected', within, () => this.#stage.isProtected());
      return '';
    }
    let found: HostName | undefined;
    await this.#stage.until(`Host ${host} was not ${state}`, within, async () => {
      found = await this.#stage.hostOf(host).catch(() => undefined); // its part may not be decided yet
      const status = found && await this.#stage.status(found);
      if (!status) return false;
      switch (state) {
        case 'protected': return status.protected;
        case 'active': return status.active;
        case 'alone': return status.active && !status.protected;
        case 'silent': return !status.active;
        case 'fenced': return status.phase === 'fenced';
      }
    });
    return found === host ? '' : `host ${found}`;
  }

  async #stopLoad(): Promise<string> {
    const load = this.#load;
    if (!load) throw new StepError('No load runs.');
    const { clients, connections } = load;
    // Not over before every connection has been heard once more, if it ever is.
    const sinceNs = process.hrtime.bigint();
    const deadlineMs = performance.now() + goOnTimeoutMs * slowdown();
    while ((await clients.progress(sinceNs)).waiting > 0 && performance.now() < deadlineMs) await sleep(100, undefined, { signal: this.#signal });
    const { reports, acknowledged, lost, longestSilenceMs } = await clients.stop(sinceNs);
    this.abandon();
    const broken = reports.flatMap(({ name, broken: why }) => (why === undefined ? [] : [{ name, why }]));
    const replies = reports.reduce((sum, report) => sum + report.replies, 0);
    this.loads.push({ connections, broken, replies, acknowledged, lost, longestSilenceMs });
    return `${connections - broken.length} of ${connections} connections go on, ${lost} of ${acknowledged} writes lost`;
  }

  #disturb(what: string): void {
    this.disturbances.push({ atNs: process.hrtime.bigint(), what });
  }
}

/** A step in words. */
export function stepText(step: Step): string {
  if (typeof step === 'string') return spoken[step];
  if ('sleep' in step) {
    const { lowMs, highMs } = step.sleep;
    return `let ${timeText(lowMs)}${highMs === lowMs ? '' : ` to ${timeText(highMs)}`} pass`;
  }
  if ('waitUntil' in step) {
    const wait = step.waitUntil;
    return 'metric' in wait ? `wait until ${wait.metric} of ${wait.host} is ${boundsText(wait)}` : `wait until ${wait.host === undefined ? 'the pair' : `${wait.host}`} is ${wait.state}`;
  }
  if ('failover' in step) return `fail over, asked at ${step.failover.askedAt}`;
  if ('kill' in step) return `kill ${part(step.kill)}`;
  if ('freeze' in step) return `freeze ${part(step.freeze)}`;
  if ('stop' in step) return `stop the agent of ${step.stop.host}`;
  if ('upgrade' in step) return `upgrade the agent of ${step.upgrade.host}`;
  if ('partition' in step) {
    const { network, host, direction } = step.partition;
    return `cut ${network === 'all' ? 'all cables' : `the ${network} cable`} of ${host}${direction === 'both' ? '' : `, only what goes ${direction} it`}`;
  }
  if ('impair' in step) {
    const { traffic, host, drop, delay, delayed } = step.impair;
    const harms = [...(drop > 0 ? [`lose ${drop * 100} %`] : []), ...(delay === undefined ? [] : [`delay ${delayed * 100} % by ${timeText(delay)}`])];
    return `${harms.join(' and ')} of the ${traffic} traffic of ${host}`;
  }
  if ('fillDisk' in step) return `fill the disk of ${step.fillDisk.host}`;
  if ('bringBack' in step) return `bring back what was lost of ${step.bringBack.host}`;
  if ('corrupt' in step) return `corrupt a ${step.corrupt.frame} frame of ${step.corrupt.host}`;
  return `let ${step.startAlone.host} start alone`;
}

const part = ({ host, what }: { host: string; what: string }): string => (what === 'host' ? `the whole ${host === 'a' || host === 'b' ? `host ${host}` : host}` : `the ${what} of ${host}`);

const spoken: Record<Extract<Step, string>, string> = {
  startLoad: 'connect clients', stopLoad: 'end the load and read everything back', checkpoint: 'make a checkpoint', failover: 'fail over',
  thaw: 'thaw what is frozen', heal: 'heal all cables', freeDisk: 'free the disk', bringBack: 'bring back what was lost', reprotect: 'protect it again',
};
