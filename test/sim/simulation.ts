/** One run: a pair, its clients and its faults, all from a seed. */

import { step, type PairConfig } from '../../src/protocol/pair.js';
import { Checks } from './checks.js';
import { Client } from './client.js';
import { mendedAtMs, planFaults, scenarios, scheduleFaults, type Fault, type Scenario } from './faults.js';
import { Host, type Rules } from './host.js';
import { planLoad, type Load } from './load.js';
import { hostNames, Network, otherHost, type HostName } from './network.js';
import { clientOf, describeSegment } from './packet.js';
import { Random } from './random.js';
import { Witness } from './witness.js';
import { ms, second, World } from './world.js';

export interface Outcome {
  seed: number;
  scenario: Scenario;
  faults: Fault[];
  /** What went wrong, undefined if nothing did. */
  failure: string | undefined;
  split: boolean;
  vmLost: boolean;
  takeovers: number;
  commits: number;
  answers: number;
  /** Whose history was looked at, and of them those with too much of it at once to be judged. */
  registers: number;
  unjudged: number;
  trace: string[];
}

export interface Options {
  rules?: Partial<Rules>;
  scenario?: Scenario;
  tracing?: boolean;
  /** What of the load is not left to chance. */
  load?: Partial<Load>;
  /** Whether the pair has a witness; by default chance decides. */
  witness?: boolean;
}

const intervalMs = 100;
const missed = 3;
const config: Omit<PairConfig, 'host'> = {
  vmDigest: 'same', vmSummary: 'the VM', holdMs: 5, periodMs: 700, checkpointTimeoutMs: 1500, syncTimeoutMs: 3000,
  leaseMs: intervalMs * missed, askMs: 1000, retryMs: 400, witness: false, pauseSecondary: true,
};
/** Long enough for any two agents to find each other again and to copy the VM. */
const endMs = mendedAtMs + 9000;
/** A single loss must be over by then. */
const longestSilenceMs = 3000;

export function simulate(seed: number, options: Options = {}): Outcome {
  const world = new World(new Random(seed), options.tracing ?? false);
  const { random } = world;
  const scenario = options.scenario ?? scenarios[seed % scenarios.length]!;
  const load = { ...planLoad(random, scenario), ...options.load };
  const rules: Rules = { intervalMs, missed, step, ...(load.doubt ? { doubt: load.doubt } : {}), ...options.rules };
  const network = new Network(world, load.mirrorLoss);
  // With a witness, nothing excuses two that speak.
  const witness = options.witness ?? random.chance(0.4) ? new Witness(world) : undefined;
  const checks = new Checks(world, witness !== undefined);
  const faults = planFaults(world, scenario);
  const unreached = new Set<HostName>();
  const pairConfig = { ...config, witness: witness !== undefined, pauseSecondary: random.chance(0.7), holdMs: random.pick(load.holdMs) };

  const { clients: count, habits, declared } = load;
  let requests = 0;
  // To and from each client packets seldom overtake each other.
  const arrivesUs: number[] = Array<number>(2 * count).fill(0);
  const travel = (way: number, arrive: () => void): void => {
    const ownUs = world.nowUs + random.delay(50, 500);
    const overtakes = random.chance(0.005);
    if (!overtakes) arrivesUs[way] = Math.max(arrivesUs[way]!, ownUs);
    world.after((overtakes ? ownUs : arrivesUs[way]!) - world.nowUs, arrive);
  };
  const clients = Array.from({ length: count }, (_, id) => new Client(world, id, id < (load.writers ?? count) ? habits : { ...habits, writes: 0 }, {
    send: (s) => {
      world.log('clients', () => describeSegment(s));
      if (random.chance(load.loss)) return;
      travel(id, () => {
        for (const host of [hosts.a, hosts.b]) if (!unreached.has(host.name)) host.receive(s);
      });
    },
    onCall: (operation) => checks.history.push(operation),
    onBroken: (text) => checks.onBroken(text),
    nextId: () => ++requests,
  }));

  const makeHost = (name: HostName): Host => new Host(world, network, name, { ...pairConfig, host: name }, rules, declared, {
    ask: (term, answer) => witness?.ask({ term, host: name }, answer),
    deliver: (s, speaker) => {
      if (unreached.has(name)) return;
      checks.onOutput(speaker, hosts[name], hosts[otherHost(name)]);
      world.log(speaker, () => describeSegment(s));
      if (random.chance(load.loss)) return;
      const client = clientOf(s.conn);
      travel(count + client, () => clients[client]?.hear(s));
    },
    onForget: (conns, logged) => {
      if (logged) checks.vmLost ??= 'the rest of a log died with its agent';
      for (const conn of conns) {
        const client = clients[clientOf(conn)];
        if (client?.conn === conn) client.abandon();
      }
    },
    onColdBoot: (host) => {
      if (clients.every(({ lastNewsUs }) => lastNewsUs === -Infinity)) return; // nobody knows it yet
      // A copy is worth something if it knows all that was answered, and its agent knows that it does.
      const generation = host.agent?.state.generation ?? 0;
      const copies = [hosts.a, hosts.b].filter(({ qemu, agent }) => qemu !== host.qemu && agent?.process.alive
        && agent.state.generation >= generation && agent.state.phase !== 'syncing'
        && clients.every(({ id, answeredWrite }) => qemu?.guest?.remembers(id, answeredWrite)));
      if (copies.length > 0) checks.fail(`${host.name} starts the VM anew, though a copy lives`);
      else if (doomed.protected === 1 && doomed.total === 1) checks.fail(`${host.name} starts the VM anew: one loss was too many`);
      else checks.vmLost ??= `started anew at ${host.name}`;
      world.log('checks', () => 'the VM is lost for good');
    },
  });
  const hosts: Record<HostName, Host> = { a: makeHost('a'), b: makeHost('b') };
  hosts.a.peer = hosts.b;
  hosts.b.peer = hosts.a;

  // How many VMs died by faults, and how many of them while the pair was protected.
  const doomed = { total: 0, protected: 0 };
  const bothProtected = (): boolean => hostNames.every((name) => hosts[name].agent?.process.alive && hosts[name].agent.protected);
  let killedUs: number | undefined;
  const onVmLoss = (): void => {
    doomed.total++;
    if (bothProtected()) doomed.protected++;
  };

  const onAgentLoss = (host: Host): void => checks.onAgentLoss(host, hosts[otherHost(host.name)]);

  hosts.b.startAgent('secondary');
  world.after(random.int(0, 50) * ms, () => hosts.a.startAgent('primary'));
  // Its own bad hour; a single loss finds it there.
  if (witness && faults.length > 1 && random.chance(0.3)) {
    world.after(random.int(1000, 4500) * ms, () => { witness.silent = true; });
    world.after(mendedAtMs * ms, () => { witness.silent = false; });
  }
  scheduleFaults({ world, network, hosts, unreached, onVmLoss, onAgentLoss }, faults);

  // A loss that finds the pair protected must be over soon, whoever is lost.
  const single = faults.length === 1 && faults[0]!.what === 'kill' ? faults[0]! : undefined;
  if (single) {
    const watch = (): void => {
      const gone = hostNames.some((name) => !hosts[name].powered || !hosts[name].agent?.process.alive);
      if (!gone) wasProtected = bothProtected();
      else if (killedUs === undefined && wasProtected) {
        killedUs = world.nowUs;
        world.after(longestSilenceMs * ms, () => {
          if (clients.every(({ lastNewsUs }) => lastNewsUs < killedUs! + 10 * ms)) checks.fail(`no answer for ${longestSilenceMs} ms after a single loss`);
        });
      }
      if (world.nowUs < mendedAtMs * ms) world.after(ms, watch);
    };
    let wasProtected = false;
    world.after(0, watch);
  }

  const watchApart = (): void => {
    const since = network.apartSinceUs;
    if (since !== undefined) checks.apart(since, world.nowUs);
    if (world.nowUs < mendedAtMs * ms) world.after(10 * ms, watchApart);
  };
  watchApart();

  world.runUntil(mendedAtMs * ms);
  world.log('world', () => 'all faults are mended');
  network.heal();
  unreached.clear();
  // From here on only that it goes on is of interest.
  for (const client of clients) client.habits = { ...client.habits, thinkMs: Math.max(habits.thinkMs, 400) };
  for (const name of hostNames) {
    const host = hosts[name];
    host.powerOn();
    host.agent?.process.thaw();
    host.qemu?.thaw();
    host.startAgent(name === 'a' ? 'primary' : 'secondary');
  }
  // Only people start a VM again that has died with nobody to go on.
  world.after(1500 * ms, () => {
    for (const name of hostNames) if (hosts[name].agent?.state.phase === 'ended') hosts[name].agent.command('start-alone');
  });
  world.runUntil(endMs * ms);
  checks.checkHistory();
  checks.checkConverged([hosts.a, hosts.b], clients, (endMs - 5000) * ms);

  const end = world.trace?.findIndex((line) => line.includes('FAILURE')) ?? -1;
  return {
    seed, scenario, faults, failure: checks.failure, split: checks.split, vmLost: checks.vmLost !== undefined,
    takeovers: Math.max(...hostNames.map((name) => hosts[name].agent?.state.generation ?? 0)),
    commits: Math.max(...hostNames.map((name) => hosts[name].agent?.state.commits ?? 0)),
    answers: clients.reduce((sum, { answered }) => sum + answered, 0), registers: checks.registers, unjudged: checks.unjudged, trace: (end < 0 ? world.trace : world.trace?.slice(0, end + 1)) ?? [],
  };
}

export const simulatedSeconds = (endMs * ms) / second;
