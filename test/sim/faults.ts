/** What goes wrong in a run, and when. */

import { hostNames, type HostName, type Network } from './network.js';
import type { Host } from './host.js';
import { ms, second, type World } from './world.js';

export type Place = 'agent' | 'qemu' | 'host';

/** Whole milliseconds, or a place in the code where it happens. */
export interface Fault {
  what: 'kill' | 'freeze' | 'reset' | 'cut' | 'partition' | 'slow' | 'step-clock' | 'command' | 'clients-apart' | 'full-disk';
  host: HostName;
  place: Place;
  atMs: number;
  /** Instead of at a time: before or after so many more effects of the host, or at the next STOP of its VM. */
  trigger: 'time' | 'before-effect' | 'after-effect' | 'stop';
  effects: number;
  /** How long it lasts, for what lasts. */
  forMs: number;
  /** A killed agent or host comes back after that; 0: not before all is mended. */
  backAfterMs: number;
}

export type Scenario = 'kill' | 'takeovers' | 'freeze' | 'connection' | 'partition' | 'clock' | 'meeting' | 'mixed' | 'disk';
export const scenarios: readonly Scenario[] = ['kill', 'takeovers', 'freeze', 'connection', 'partition', 'clock', 'meeting', 'mixed', 'disk'];

/** A host that stands still for longer may be taken for dead. */
const longestUnnoticedMs = 500;
/** By then the faults are over: whoever was lost comes back. */
export const mendedAtMs = 7000;

export function planFaults({ random }: World, scenario: Scenario): Fault[] {
  const plan = (what: Fault['what'], with_: Partial<Fault> = {}): Fault => ({
    what, host: random.pick(hostNames), place: random.pick(['agent', 'qemu', 'host'] as const),
    atMs: random.int(1000, 4500), trigger: random.pick(['time', 'before-effect', 'after-effect', 'stop'] as const), effects: random.int(1, 30),
    forMs: random.pick([5, 50, 200, 350, 700, 1000, 1500, 2500]) + random.int(0, 100),
    backAfterMs: random.chance(0.5) ? random.int(1, 1500) : 0, ...with_,
  });
  const some = (most: number, whats: readonly Fault['what'][], with_?: () => Partial<Fault>): Fault[] =>
    Array.from({ length: random.int(1, most) }, () => plan(random.pick(whats), with_?.()));
  switch (scenario) {
    case 'kill': return [plan('kill')];
    case 'takeovers': // from one host to the other and back, while clients are busy
      return (['a', 'b', 'a'] as const).map((host, i) => plan('kill', {
        host, place: 'host', atMs: 900 + 1900 * i + random.int(0, 500), effects: random.int(1, 8), backAfterMs: random.int(50, 300),
      }));
    case 'freeze': return some(2, ['freeze']);
    case 'connection': return some(2, ['reset', 'cut', 'cut', 'slow', 'command'], () => ({ trigger: 'time' }));
    case 'partition': return some(2, ['partition', 'partition', 'clients-apart'], () => ({ trigger: 'time' }));
    case 'clock': {
      // Only who dies soon after can show that a step has let too much out.
      const step = plan('step-clock', { host: 'a', trigger: 'stop' });
      return [step, plan('kill', { host: 'a', atMs: step.atMs + random.int(1, 400), trigger: 'time', place: 'host' })];
    }
    case 'meeting': // while the two begin
      return some(2, ['kill', 'kill', 'freeze', 'reset', 'cut', 'command'], () => ({ atMs: random.int(0, 100), trigger: random.pick(['before-effect', 'after-effect'] as const) }));
    case 'disk': { // one host cannot remember what it becomes; its agent dies once it could have
      const [host, other] = random.chance(0.7) ? ['b', 'a'] as const : ['a', 'b'] as const;
      const full = plan('full-disk', { host, atMs: random.int(800, 2000), trigger: 'time', forMs: random.int(200, 2000) });
      const lost = plan('kill', { host: other, atMs: full.atMs + random.int(0, full.forMs), trigger: 'time' });
      return [full, lost, plan('kill', { host, place: 'agent', atMs: full.atMs + full.forMs + random.int(500, 1500), trigger: 'time', backAfterMs: random.int(1, 300) })];
    }
    case 'mixed':
      return some(4, ['kill', 'kill', 'freeze', 'freeze', 'reset', 'cut', 'slow', 'step-clock', 'command'],
        () => random.chance(0.15) ? { atMs: random.int(0, 1000) } : {});
  }
}

/** What faults happen to. */
export interface Victims {
  world: World;
  network: Network;
  hosts: Record<HostName, Host>;
  /** Hosts that clients cannot reach. */
  unreached: Set<HostName>;
  /** Told just before a VM, its agent or its host dies. */
  onVmLoss: () => void;
  /** Told just before an agent, or its host, dies, or stands still for as long as if it had. */
  onAgentLoss: (host: Host) => void;
}

/** Lets the faults happen. */
export function scheduleFaults(victims: Victims, faults: readonly Fault[]): void {
  const { world, hosts } = victims;
  for (const fault of faults) {
    world.after(fault.atMs * ms, () => {
      const host = hosts[fault.host];
      const act = (): void => strike(victims, host, fault);
      switch (fault.trigger) {
        case 'time': return act();
        case 'stop': {
          const before = host.onStop;
          host.onStop = () => {
            host.onStop = before;
            before();
            world.after(0, act);
          };
          return;
        }
        case 'before-effect':
        case 'after-effect': {
          const target = host.effects + fault.effects;
          const before = host.onEffect;
          host.onEffect = (count, moment) => {
            before(count, moment);
            if (count !== target || !fault.trigger.startsWith(moment)) return;
            host.onEffect = before;
            act();
          };
        }
      }
    });
  }
}

function strike({ world, network, hosts, unreached, onVmLoss, onAgentLoss }: Victims, host: Host, fault: Fault): void {
  if (world.nowUs >= mendedAtMs * ms) return; // it came too late: all is mended already
  const { place, forMs } = fault;
  const again = (act: () => void): void => void world.after(forMs * ms, act);
  switch (fault.what) {
    case 'kill':
      if (host.qemu) onVmLoss();
      if (place !== 'qemu') onAgentLoss(host);
      if (place === 'host') host.powerOff();
      else if (place === 'agent') host.agent?.process.kill();
      else host.qemu?.kill();
      if (fault.backAfterMs > 0 && place !== 'qemu') {
        world.after(fault.backAfterMs * ms, () => {
          host.powerOn();
          host.startAgent(host.name === 'a' ? 'primary' : 'secondary');
        });
      }
      return;
    case 'freeze':
      if (place !== 'qemu' && forMs > longestUnnoticedMs) onAgentLoss(host);
      if (place !== 'qemu') host.agent?.process.freeze(forMs * ms);
      if (place !== 'agent') host.qemu?.freeze(forMs * ms);
      return;
    case 'reset': return network.reset(world.random.pick(['all', 'one']));
    case 'cut': return network.cutAfter(world.random.int(1, 40));
    case 'partition':
      network.block(world.random.pick([['a'], ['b'], ['a', 'b'], ['a', 'b']] as const));
      return again(() => network.heal());
    case 'slow':
      network.slow(world.random.int(1, 60) * ms);
      return again(() => network.slow(0));
    case 'clients-apart':
      world.log('clients', () => `cannot reach ${host.name}`);
      unreached.add(host.name);
      return again(() => unreached.delete(host.name));
    case 'step-clock': {
      // Late news is what makes a step dangerous.
      host.wallOffsetUs += (world.random.chance(0.7) ? -1 : 1) * world.random.delay(ms, second);
      world.log(host.name, () => 'steps its wall clock');
      if (world.random.chance(0.7)) host.agent?.process.freeze(world.random.int(5, 150) * ms);
      return;
    }
    case 'full-disk':
      world.log(host.name, () => 'has a full disk');
      host.diskFullUntilUs = world.nowUs + forMs * ms;
      return;
    case 'command': return hosts[fault.host].agent?.command(world.random.pick(['failover', 'failover', 'checkpoint']));
  }
}
