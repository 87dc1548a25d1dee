/**
 * Two hosts and a client on one machine, as network namespaces:
 *
 *   colopp-LAB-client   eth0 10.77.0.1 ──┐
 *                                     client-sw   (in colopp-LAB-net)
 *   colopp-LAB-a   br0 ── uplink ────────┤ │
 *                  tap0 (the VM)           │
 *                  repl 10.78.0.1 ── repl-sw
 *   colopp-LAB-b   the same, repl 10.78.0.2
 *
 * and a third network, mgmt 10.79.0.0/24, on which both hosts reach the witness.
 *
 * The switches live in a namespace of their own, so that the cable of a host
 * can be pulled without its help. Everything of a lab is in namespaces with its
 * name, and goes with them.
 */

import { ipBatch, ip, NetworkError } from '../dataplane/ip.js';

export type HostName = 'a' | 'b';
export const hostNames: readonly HostName[] = ['a', 'b'];

const prefix = 'colopp-';

/** The fixed addresses of every lab; labs do not see each other. */
export const addresses = {
  client: '10.77.0.1',
  guest: '10.77.0.10',
  client6: 'fd77::1',
  guest6: 'fd77::10',
  replication: { a: '10.78.0.1', b: '10.78.0.2' },
  management: { a: '10.79.0.1', b: '10.79.0.2' },
  witness: '10.79.0.9',
} as const;

export interface Topology {
  name: string;
  client: string;
  net: string;
  hosts: Record<HostName, string>;
}

/** Names of a lab's namespaces. @throws RangeError for a name that cannot be one */
export function topology(name: string): Topology {
  if (!/^[a-z0-9][a-z0-9-]{0,19}$/.test(name)) {
    throw new RangeError(`A lab cannot be named ${JSON.stringify(name)}: use 1 to 20 lower-case letters, digits and "-".`);
  }
  const of = (part: string): string => `${prefix}${name}-${part}`;
  return { name, client: of('client'), net: of('net'), hosts: { a: of('a'), b: of('b') } };
}

/** All namespaces of a lab, in the order they are made. */
export function namespaces(lab: Topology): string[] {
  return [lab.net, lab.client, ...hostNames.map((host) => lab.hosts[host])];
}

/** Names of the namespaces that exist on this machine. */
export async function existingNamespaces(): Promise<string[]> {
  const out = await ip('-json', 'netns', 'list');
  return out.trim() === '' ? [] : (JSON.parse(out) as { name: string }[]).map((ns) => ns.name);
}

/** Names of the labs of which at least one namespace exists. */
export async function existingLabs(): Promise<string[]> {
  const labs = (await existingNamespaces()).flatMap((ns) => {
    const match = /^colopp-(.+)-(client|net|a|b)$/.exec(ns);
    return match ? [match[1]!] : [];
  });
  return [...new Set(labs)].sort();
}

/** Makes the namespaces, switches and cables of a lab. */
export async function createNetwork(lab: Topology): Promise<void> {
  const existing = (await existingNamespaces()).filter((ns) => namespaces(lab).includes(ns));
  if (existing.length > 0) {
    throw new NetworkError(`The lab "${lab.name}" exists already (${existing.join(', ')}). Take it down first: colopp lab down --name ${lab.name}`);
  }
  await ipBatch(undefined, namespaces(lab).map((ns) => `netns add ${ns}`));
  await ipBatch(lab.net, [
    ...['client-sw', 'repl-sw', 'mgmt-sw'].flatMap((sw) => [
      `link add ${sw} type bridge stp_state 0 forward_delay 0 mcast_snooping 0`,
      `link set ${sw} addrgenmode none up`,
    ]),
    `addr add ${addresses.witness}/24 dev mgmt-sw`,
    `link add client type veth peer name eth0 netns ${lab.client}`,
    'link set client master client-sw addrgenmode none up',
    ...hostNames.flatMap((host) => [
      `link add ${host}-up type veth peer name uplink netns ${lab.hosts[host]}`,
      `link set ${host}-up master client-sw addrgenmode none up`,
      `link add ${host}-repl type veth peer name repl netns ${lab.hosts[host]}`,
      `link set ${host}-repl master repl-sw addrgenmode none up`,
      `link add ${host}-mgmt type veth peer name mgmt netns ${lab.hosts[host]}`,
      `link set ${host}-mgmt master mgmt-sw addrgenmode none up`,
    ]),
  ]);
  await Promise.all([
    ipBatch(lab.client, [
      'link set lo up',
      `addr add ${addresses.client}/24 dev eth0`,
      `addr add ${addresses.client6}/64 dev eth0 nodad`,
      'link set eth0 up',
    ]),
    ...hostNames.map((host) => ipBatch(lab.hosts[host], [
      'link set lo up',
      'link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0',
      'link set br0 addrgenmode none up',
      'link set uplink master br0 addrgenmode none up',
      `addr add ${addresses.replication[host]}/24 dev repl`,
      'link set repl up',
      `addr add ${addresses.management[host]}/24 dev mgmt`,
      'link set mgmt up',
    ])),
  ]);
}

/** Cuts or restores all cables of a host, at the switches' end. */
export async function setCables(lab: Topology, host: HostName, state: 'up' | 'down'): Promise<void> {
  await ipBatch(lab.net, ['up', 'repl', 'mgmt'].map((cable) => `link set ${host}-${cable} ${state}`));
}

/** Ids of the processes inside one of a lab's namespaces. */
export async function processesIn(ns: string): Promise<number[]> {
  return (await ip('netns', 'pids', ns)).split('\n').filter(Boolean).map(Number);
}

/**
 * Removes whatever exists of a lab's namespaces, with taps, programs and cables. The devices go first: a namespace
 * without a name lives on for as long as the kernel still retries what a killed process had left to say on a TCP
 * connection, which is minutes when the other end is dead.
 */
export async function removeNetwork(lab: Topology): Promise<string[]> {
  const present = (await existingNamespaces()).filter((ns) => namespaces(lab).includes(ns));
  for (const ns of present) {
    const links = JSON.parse(await ip('-details', '-json', '-netns', ns, 'link', 'show')) as { ifname: string; linkinfo?: { info_kind: string } }[];
    const made = links.filter(({ linkinfo }) => ['bridge', 'veth', 'tun', 'vxlan'].includes(linkinfo?.info_kind ?? ''));
    await ipBatch(ns, made.map(({ ifname }) => `link del ${ifname}`));
    await ip('netns', 'del', ns);
  }
  return present;
}
