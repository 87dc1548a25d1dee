/** The process behind {@link Cables}, in the namespace of a lab's switches. */

import { ifIndex } from 'libbpf-napi';
import { TapHold } from 'tap-hold';
import { ipBatch } from '../dataplane/ip.js';
import { silenceIpv6 } from '../dataplane/silence-ipv6.js';
import { Fault, FaultOf, openCables, Reigns, type CablesObjects } from '../dataplane/skel/cables.skel.js';
import type { CableAnswer, CableFault, CableOrder } from './cables.js';
import { hostNames, type HostName } from './topology.js';

/** In the order of `enum cable`. */
const ports = ['a-up', 'b-up', 'a-repl', 'b-repl', 'a-mgmt', 'b-mgmt'];
const suffixes = { client: 'up', replication: 'repl', management: 'mgmt' } as const;
const delayTap = 'late';
const delayMemoryBytes = 64 * 1024 * 1024;
/** How punctual late frames are. */
const tickMs = 1;
const perMillion = 1e6;

const [guestMac = ''] = process.argv.slice(2);
const waiting = new TapHold({ ifname: delayTap, ringBytes: delayMemoryBytes, onNotice: () => {} });
silenceIpv6(delayTap);
let ticker: NodeJS.Timeout | undefined;
const { globals: { bss }, maps } = await start();

async function start(): Promise<CablesObjects> {
  // Late frames enter the switch through a port of its own, behind which nobody is ever looked for.
  await ipBatch(undefined, [
    `link set ${delayTap} master repl-sw up`,
    `link set ${delayTap} type bridge_slave learning off flood off mcast_flood off bcast_flood off`,
  ]);
  const specs = openCables();
  specs.globals.rodata.cable_ifindex.set(Uint32Array.from(ports.map((port) => ifIndex(port))));
  specs.globals.rodata.guest_mac.set(Uint8Array.from(guestMac.split(':').map((part) => Number.parseInt(part, 16))));
  specs.globals.rodata.delay_ifindex.set(ifIndex(delayTap));
  const objects = specs.load();
  for (const ifname of ports) {
    objects.programs.cable_from.attachTcx({ ifname, direction: 'ingress' });
    objects.programs.cable_to.attachTcx({ ifname, direction: 'egress' });
  }
  return objects;
}

function cableOf(host: HostName, network: CableFault['network']): number {
  return ports.indexOf(`${host}-${suffixes[network]}`);
}

function spoil({ host, network, direction, of, drop, delay, delayMs }: CableFault): void {
  if (delay > 0) {
    const release = (): void => waiting.releaseUpTo(process.hrtime.bigint() - BigInt(Math.round(delayMs * 1e6)));
    clearInterval(ticker);
    release(); // before the first frame comes
    ticker = setInterval(release, tickMs);
  }
  const faults = direction === 'from' ? bss.faults_from : bss.faults_to;
  faults.set(faults.get().map((fault, cable) => cable !== cableOf(host, network) ? fault : Fault.create({
    drop_ppm: Math.round(drop * perMillion), delay_ppm: Math.round(delay * perMillion),
    of: of === 'mirror' ? FaultOf.FAULT_OF_MIRROR : FaultOf.FAULT_OF_ALL,
  })));
}

function heal(): void {
  for (const faults of [bss.faults_from, bss.faults_to]) faults.set(faults.get().map(() => Fault.create()));
  clearInterval(ticker);
  ticker = undefined;
  waiting.releaseAll();
}

function obey(order: CableOrder): void {
  switch (order.type) {
    case 'read': return;
    case 'forget': return maps.speech.update(0, Reigns.create());
    case 'fault': return spoil(order.fault);
    case 'heal': return heal();
    case 'corrupt': {
      const cable = cableOf(order.host, 'replication');
      return bss.faults_from.set(bss.faults_from.get().map((fault, i) => i === cable ? { ...fault, corrupt_type: order.frameType } : fault));
    }
  }
}

function report(): CableAnswer {
  const { count, list } = maps.speech.lookup(0)!;
  return {
    type: 'report',
    report: {
      reigns: list.slice(0, count).map(({ host, frames, first_ns, last_ns }) => ({
        host: hostNames[host]!, frames: Number(frames), firstNs: first_ns.toString(), lastNs: last_ns.toString(),
      })),
      reignCount: count,
      droppedFrames: Number(bss.dropped.get()), delayedFrames: Number(bss.delayed.get()), corruptedFrames: Number(bss.corrupted.get()),
    },
  };
}

process.on('message', (order: CableOrder) => {
  try {
    obey(order);
    process.send!(report());
  } catch (error) {
    process.send!({ type: 'failed', reason: (error as Error).message } satisfies CableAnswer);
  }
});
// The parent's end is ours.
process.on('disconnect', () => process.exit(0));
process.send!(report());
