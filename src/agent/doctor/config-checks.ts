/** What an agent's configuration needs of this host, of the network, and of its peer. */

import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { readFile, stat } from 'node:fs/promises';
import { createConnection, isIPv6 } from 'node:net';
import { networkInterfaces } from 'node:os';
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { ip, linkExists } from '../../dataplane/ip.js';
import { PeerError } from '../../peer/index.js';
import { greetAsClient } from '../../peer/handshake.js';
import { activeVcpusOf, describeVm, replicatesInputs, secondaryMayRun, type AgentConfig } from '../config.js';
import { fail, ok, skip, warn, type Check, type Verdict } from './finding.js';

const connectMs = 2000;
/** Slower than this, and every commit, so every held reply, feels it. */
const slowConnectMs = 5;
const answerMs = 500;
/** Around a frame of 1500 bytes: Ethernet, vxlan, UDP and IPv6. */
const tunnelOverheadBytes = 70;
const guestMtuBytes = 1500;
const leastSecretBytes = 16;
const autogroupSwitch = '/proc/sys/kernel/sched_autogroup_enabled';

export function configChecks(config: AgentConfig): Check[] {
  return [
    ['VM', () => vmImages(config)],
    ['memory', () => memory(config)],
    ['bridge', async () => await linkExists(config.network.bridge)
      ? ok(`${config.network.bridge} is there`)
      : fail(`there is no bridge ${config.network.bridge}`, `Make it, with the interface that leads to the clients in it: ip link add ${config.network.bridge} type bridge; ip link set ${config.network.bridge} up. Or name another one (network.bridge).`)],
    ['secret', () => secret(config)],
    ['address', async () => hasAddress(config.peer.listen.host)
      ? ok(`${config.peer.listen.host} is an address of this host`)
      : fail(`peer.listen names ${config.peer.listen.host}, which is no address of this host`, 'Name this host\'s own address on the replication network, or give it to an interface.')],
    ['peer', () => peer(config)],
    ['MTU', () => mtu(config)],
    ...mayPark(config) ? [['parking', () => parking()] as const] : [],
    ...config.witness ? [['witness', () => witness(config.witness!.address)] as const] : [],
  ];
}

async function vmImages(config: AgentConfig): Promise<Verdict> {
  try {
    describeVm(config, 'tcg', '');
    return ok(`${config.vm.name}: its images can be read`);
  } catch (error) {
    return fail((error as Error).message, 'Put the same files on both hosts, and name them in vm.kernel and vm.initrd.');
  }
}

/** The secondary keeps a copy of the guest's memory beside the guest. */
async function memory({ vm: { memoryMiB } }: AgentConfig): Promise<Verdict> {
  const availableKiB = Number(/^MemAvailable:\s+(\d+)/m.exec(await readFile('/proc/meminfo', 'utf8'))?.[1] ?? 0);
  const availableMiB = Math.floor(availableKiB / 1024);
  return availableMiB >= 2 * memoryMiB ? ok(`${availableMiB} MiB available, the guest has ${memoryMiB}`)
    : warn(`${availableMiB} MiB available; a secondary needs twice the guest's ${memoryMiB} MiB`, 'Free memory, add some, or give the guest less (vm.memoryMiB, on both hosts). An agent that runs already may have taken it.');
}

async function secret({ peer: { secretFile } }: AgentConfig): Promise<Verdict> {
  if (secretFile === undefined) {
    return warn('peer.secretFile is not set: whoever reaches the peer port may pose as the other host', 'Make one and copy it to the other host: (umask 077; head -c 32 /dev/urandom | base64 > /etc/colopp/secret)');
  }
  try {
    const { mode, size } = await stat(secretFile);
    if (size < leastSecretBytes) return fail(`${secretFile} has ${size} bytes`, `Put at least ${leastSecretBytes} random bytes into it, the same on both hosts.`);
    return (mode & 0o077) === 0 ? ok(`${secretFile} is readable by its owner only`)
      : warn(`${secretFile} can be read by others (mode ${(mode & 0o777).toString(8)})`, `chmod 600 ${secretFile}`);
  } catch (error) {
    return fail(`${secretFile} cannot be read: ${(error as Error).message}`, 'Make it, with at least 16 random bytes, the same on both hosts.');
  }
}

function hasAddress(address: string): boolean {
  const ours = Object.values(networkInterfaces()).flatMap((list) => list ?? []).map((each) => each.address);
  return address === '0.0.0.0' || address === '::' || ours.includes(address);
}

/**
 * Greets the peer's agent like its partner would, but for a stream that belongs to no session: name,
 * version and secret are compared, and then it refuses, so that nothing is disturbed.
 */
async function peer(config: AgentConfig): Promise<Verdict> {
  const { address: { host, port }, secretFile } = config.peer;
  const at = `${host} port ${port}`;
  const socket = createConnection({ host, port });
  socket.setTimeout(connectMs, () => socket.destroy(new Error(`no answer within ${connectMs} ms`)));
  socket.on('error', () => {}); // told by what is awaited below
  const startedMs = performance.now();
  try {
    await once(socket, 'connect');
    const took = performance.now() - startedMs;
    const secretBytes = secretFile === undefined ? undefined : await readFile(secretFile);
    const why = await greetAsClient(socket, { pairId: config.vm.name, hostName: config.host, incarnation: randomUUID(), secret: secretBytes }, 'checkpoint')
      .then(() => undefined, (error: unknown) => error as Error);
    if (why && !(why instanceof PeerError && why.code === 'PEER_LIMIT')) {
      return fail(`the agent at ${at} is no partner for this one: ${why.message}`, 'Compare vm.name, peer.secretFile and the version of colopp on both hosts.');
    }
    const detail = `the agent at ${at} answers and knows this pair; connecting took ${took.toFixed(1)} ms`;
    return took > slowConnectMs ? warn(detail, 'Use a faster replication network: every held reply waits for several round trips.') : ok(detail);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    return code === 'ECONNREFUSED' ? warn(`${host} answers in ${(performance.now() - startedMs).toFixed(1)} ms, but no agent listens at port ${port}`, 'Start the agent there, or mend peer.address.')
      : fail(`${at} cannot be reached: ${message}`, 'See that the other host is up, that the replication network connects the two, and that no firewall is in between.');
  } finally {
    socket.destroy();
  }
}

/** Whether this host, as the secondary, may have some vCPUs run and others parked. */
function mayPark(config: AgentConfig): boolean {
  const active = activeVcpusOf(config);
  return secondaryMayRun(config) && config.vm.vcpus > 1 && (active === 'auto' || active < config.vm.vcpus);
}

/** A parked vCPU gives way to others of its own group only, and an autogroup has no more than QEMU in it. */
export async function parking(path = autogroupSwitch): Promise<Verdict> {
  const text = await readFile(path, 'utf8').catch(() => '0'); // a kernel without autogroups has no such file
  return text.trim() === '0' ? ok('parked vCPUs give way to all other processes')
    : warn('the kernel schedules by autogroups: parked vCPUs do not give way to processes of other sessions', 'Switch them off before the VM is started: sysctl kernel.sched_autogroup_enabled=0 (and in /etc/sysctl.d, to keep it).');
}

/** Only whether it is there: what it has granted is nobody's business but the pair's. */
async function witness({ host, port }: { host: string; port: number }): Promise<Verdict> {
  const socket = createConnection({ host, port });
  socket.setTimeout(connectMs, () => socket.destroy(new Error(`no answer within ${connectMs} ms`)));
  socket.on('error', () => {}); // told by what is awaited
  const startedMs = performance.now();
  try {
    await once(socket, 'connect');
    return ok(`${host} port ${port} answers within ${(performance.now() - startedMs).toFixed(1)} ms`);
  } catch (error) {
    return fail(`${host} port ${port} cannot be reached: ${(error as Error).message}`, 'Start it there: colopp witness. Without it no host may go on when the other is lost.');
  } finally {
    socket.destroy();
  }
}

/** Whether a mirrored packet of full size fits into one of the replication network's. */
async function mtu(config: AgentConfig): Promise<Verdict> {
  const { address: { host, port } } = config.peer;
  let device: string;
  let mtuBytes: number;
  try {
    const [route] = JSON.parse(await ip('-json', 'route', 'get', host)) as { dev: string }[];
    device = route!.dev;
    const [link] = JSON.parse(await ip('-json', 'link', 'show', 'dev', device)) as { mtu: number }[];
    mtuBytes = link!.mtu;
  } catch (error) {
    return fail(`there is no way to ${host}: ${(error as Error).message}`, 'Give this host an address in the replication network (peer.address must be reachable).');
  }
  const arrives = await arrivesWhole(host, port, mtuBytes - (isIPv6(host) ? 48 : 28));
  const path = `${mtuBytes} bytes through ${device}`;
  if (arrives === 'too long') return fail(`the MTU of ${device} is ${mtuBytes}, but not all the way to ${host}`, `Set the same MTU on everything in between, or a smaller one here: ip link set ${device} mtu 1500`);
  const told = arrives === 'yes' ? `a packet of that size arrived at ${host}` : `${host} does not say whether a packet of that size arrives`;
  const wantedBytes = guestMtuBytes + tunnelOverheadBytes;
  if (mtuBytes < wantedBytes && replicatesInputs(config)) {
    return warn(`${path}; ${told}. Mirrored input of full size is split in two`, `Set it to ${wantedBytes} or more on both hosts and in between: ip link set ${device} mtu ${wantedBytes}`);
  }
  return arrives === 'yes' ? ok(`${path}; ${told}`) : skip(`${path}; ${told}`, 'Try it by hand: ping -M do -s 1472 (a firewall may drop what is asked here).');
}

/**
 * Linux forbids fragmentation of what fits the interface, and a host refuses a UDP port where nothing
 * listens: the refusal shows that the packet has come through whole.
 */
async function arrivesWhole(host: string, port: number, payloadBytes: number): Promise<'yes' | 'too long' | 'unknown'> {
  const socket = createSocket(isIPv6(host) ? 'udp6' : 'udp4');
  let answer: 'yes' | 'too long' | undefined;
  socket.on('error', (error: NodeJS.ErrnoException) => {
    answer ??= error.code === 'ECONNREFUSED' ? 'yes' : error.code === 'EMSGSIZE' ? 'too long' : undefined;
  });
  try {
    socket.connect(port, host);
    await once(socket, 'connect');
    const deadlineMs = performance.now() + answerMs;
    while (answer === undefined && performance.now() < deadlineMs) {
      socket.send(Buffer.alloc(payloadBytes), (error) => {
        const { code } = (error ?? {}) as NodeJS.ErrnoException;
        answer ??= code === 'ECONNREFUSED' ? 'yes' : code === 'EMSGSIZE' ? 'too long' : undefined;
      });
      await sleep(50);
    }
  } catch {
    // No route, say: whatever it is, it is not an answer.
  } finally {
    socket.close();
  }
  return answer ?? 'unknown';
}
