/**
 * Two replicas of a VM behind one bridge, for tests with the kernel's own TCP.
 *
 * The test's namespace is the secondary host, and the client: its own stack is on
 * the bridge. Both VMs are namespaces of their own with the same addresses; the
 * first one's input is mirrored through a real tunnel, whose primary end was made
 * in a third namespace, so that there is a network between the two ends.
 */
import { execFileSync, spawn, type ChildProcess, type ChildProcessByStdio } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { BpfObject, ifIndex, type AttachTcxOptions, type Link } from 'libbpf-napi';
import type { LogNotice } from 'tap-hold';
import { Shadow, type ShadowOptions } from '../../../src/dataplane/shadow.js';
import { createTunnel, removeTunnel, tunnelAddress, tunnelPort } from '../../../src/dataplane/tunnel.js';
import { atExit, compile, scratch } from '../libbpf-support.js';
import { ip, sources } from '../tap.js';

// Namespaces have names for the whole machine; devices only for the test's own.
export const primaryVm = `colopp-s-pvm-${process.pid}`;
export const secondaryVm = `colopp-s-svm-${process.pid}`;
const primaryHost = `colopp-s-p-${process.pid}`;
const bridgeMac = '02:00:00:00:00:02';
const [bridge, primaryTap, secondaryTap] = ['colopp-s-br', 'colopp-s-pv', 'colopp-s-sv'];
const [tunnel, primaryTunnel, logTap] = ['clp-s-vx', 'clp-s-vxp', 'clp-s-log'];
const underlay = { 4: ['10.9.0.1', '10.9.0.2', 24], 6: ['fd09::1', 'fd09::2', 64] } as const;

export const guestAddress = { 4: '192.0.2.1', 6: '2001:db8::1' } as const;
export const clientAddress = { 4: '192.0.2.2', 6: '2001:db8::2' } as const;
export const servicePort = 7000;
export const repairPort = 7001;

/** What the stand-in for the primary does and has seen: see mirror.bpf.c. */
export type MirrorVariable =
  | 'input_iseq' | 'lost_per_mille' | 'doubled_per_mille' | 'lost' | 'doubled' | 'acked_iseq' | 'acked_epoch' | 'acks'
  | 'link_lost_per_mille' | 'link_lost' | 'clock_behind_ms' | 'shadow_outputs' | 'shadow_generation' | 'mirroring';
const places: Record<MirrorVariable, [at: number, bytes: 4 | 8]> = {
  input_iseq: [0, 8], lost: [8, 8], doubled: [16, 8], acked_iseq: [24, 8], acked_epoch: [32, 8], acks: [40, 8], link_lost: [48, 8],
  lost_per_mille: [56, 4], doubled_per_mille: [60, 4], link_lost_per_mille: [64, 4], clock_behind_ms: [68, 4],
  shadow_outputs: [72, 8], shadow_generation: [80, 4], mirroring: [84, 4],
};
type Cleanup = (() => void | Promise<void>)[];

export interface RigOptions {
  /** Of the replication network. */
  underlayVersion?: 4 | 6;
  underlayMtu?: number;
  /** The kernel segments what goes through the replication network. */
  segmented?: boolean;
  /** Neither client nor guest hand whole transfers to the kernel's segmentation. */
  smallPackets?: boolean;
  /** The guests know the client from the beginning, as one does that was set to a checkpoint. */
  neighbours?: boolean;
  timestamps?: boolean;
  sack?: boolean;
  shadow?: Partial<ShadowOptions>;
}

export class Rig {
  readonly shadow: Shadow;
  readonly notices: [notice: LogNotice, value: bigint][];
  readonly #mirror: Mirror;
  readonly #close: Cleanup;

  static async open(options: RigOptions = {}): Promise<Rig> {
    const { underlayVersion = 4, underlayMtu = 1600, segmented = false, timestamps = true, sack = true } = options;
    const close: Cleanup = [];
    const notices: Rig['notices'] = [];
    try {
      makeNetwork(close);
      makeVm(primaryVm, primaryTap, close);
      makeVm(secondaryVm, secondaryTap, close);
      for (const conf of [`tcp_timestamps=${Number(timestamps)}`, `tcp_sack=${Number(sack)}`]) {
        for (const vm of [primaryVm, secondaryVm]) execFileSync('ip', ['netns', 'exec', vm, 'sysctl', '-qw', `net.ipv4.${conf}`]);
        const [name, value] = conf.split('=') as [string, string];
        writeFileSync(`/proc/sys/net/ipv4/${name}`, value);
      }
      if (options.neighbours) {
        for (const vm of [primaryVm, secondaryVm]) {
          for (const address of Object.values(clientAddress)) execFileSync('ip', ['-n', vm, 'neighbour', 'replace', address, 'lladdr', bridgeMac, 'dev', 'eth0']);
        }
      }
      if (options.smallPackets) {
        ip(`link set ${bridge} gso_max_segs 1`);
        for (const vm of [primaryVm, secondaryVm]) execFileSync('ip', ['-n', vm, 'link', 'set', 'eth0', 'gso_max_segs', '1']);
      }
      const [primaryAddress, secondaryAddress] = await makeTunnel(underlayVersion, underlayMtu, segmented, close);
      const mirror = new Mirror(ifIndex(primaryTunnel), tunnelAddress(secondaryAddress));
      close.push(() => mirror.close());
      mirror.attach('mirror', { ifname: primaryTap, direction: 'egress' });
      mirror.attach('primary_says', { ifname: primaryTap, direction: 'ingress' });
      mirror.attach('acknowledged', { ifname: primaryTunnel, direction: 'ingress' });
      mirror.attach('link_in', { ifname: bridge, direction: 'ingress' });
      mirror.attach('link_out', { ifname: bridge, direction: 'egress' });
      const shadow = Shadow.open({
        tap: secondaryTap, tunnel, logTap, peerAddress: primaryAddress,
        onNotice: (...notice) => { notices.push(notice); }, ...options.shadow,
      });
      close.push(() => shadow.close());
      // The guest's clock: nearer to the guest than everything else.
      mirror.attach('behind_in', { ifname: secondaryTap, direction: 'egress' });
      mirror.attach('behind_out', { ifname: secondaryTap, direction: 'ingress', before: 'all' });
      await Promise.all([startServer(primaryVm, close), startServer(secondaryVm, close)]);
      return new Rig(shadow, notices, mirror, close);
    } catch (error) {
      await cleanUp(close);
      throw error;
    }
  }

  private constructor(shadow: Shadow, notices: Rig['notices'], mirror: Mirror, close: Cleanup) {
    this.shadow = shadow;
    this.notices = notices;
    this.#mirror = mirror;
    this.#close = close;
  }

  get(name: MirrorVariable): number {
    return this.#mirror.get(name);
  }

  set(name: MirrorVariable, value: number): void {
    this.#mirror.set(name, value);
  }

  /** How far both guests have come in what they say to the client with this port; undefined: neither has said anything. */
  said(port: number): { primary: number; secondary: number } | undefined {
    return this.#mirror.said(port);
  }

  /** Protection begins. */
  reset(epoch = 77n): void {
    // What the kernel says by itself, such as multicast reports, may come at any moment.
    this.set('mirroring', 0);
    this.shadow.reset(epoch, BigInt(this.get('input_iseq')) + 1n);
    this.set('mirroring', 1);
  }

  /** Waits until the secondary has told the primary that it has every input. */
  async settled(): Promise<void> {
    await eventually(() => this.get('acked_iseq') === this.get('input_iseq'), () => [this.get('acked_iseq'), this.get('input_iseq'), this.shadow.stats()]);
  }

  /** Somebody deletes it. */
  loseLogTap(): void {
    ip(`link del ${logTap}`);
  }

  /** The primary host dies. */
  killPrimary(): void {
    ip(`link set ${primaryTap} down`);
  }

  async close(): Promise<void> {
    await cleanUp(this.#close);
  }
}

/** Undoes everything, even if some of it fails; then says what failed first. */
async function cleanUp(close: Cleanup): Promise<void> {
  const failures: unknown[] = [];
  for (const action of close.splice(0).reverse()) {
    try {
      await action();
    } catch (error) {
      failures.push(error);
    }
  }
  if (failures.length > 0) throw failures[0];
}

function makeNetwork(close: Cleanup): void {
  ip(
    `link add ${bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0`,
    `link set ${bridge} address ${bridgeMac} addrgenmode none`,
  );
  close.push(() => ip(`link del ${bridge}`));
  writeFileSync(`/proc/sys/net/ipv6/conf/${bridge}/disable_ipv6`, '0');
  ip(
    `link set ${bridge} up`, 'link set lo up',
    `address add ${clientAddress[4]}/24 dev ${bridge}`, `address add ${clientAddress[6]}/64 dev ${bridge} nodad`,
  );
}

function addNetns(name: string, close: Cleanup): void {
  const remove = (): void => { execFileSync('ip', ['netns', 'del', name], { stdio: 'ignore' }); };
  execFileSync('ip', ['netns', 'add', name]);
  close.push(remove);
  atExit(remove);
  execFileSync('ip', ['-n', name, 'link', 'set', 'lo', 'up']);
}

function makeVm(name: string, tap: string, close: Cleanup): void {
  addNetns(name, close);
  ip(
    `link add ${tap} type veth peer name eth0 address 02:00:00:00:00:01 netns ${name}`,
    `link set ${tap} addrgenmode none master ${bridge} up`,
  );
  close.push(() => ip(`link del ${tap}`));
  execFileSync('ip', ['-n', name, '-batch', '-'], {
    input: [
      'link set eth0 addrgenmode none up', `address add ${guestAddress[4]}/24 dev eth0`, `address add ${guestAddress[6]}/64 dev eth0 nodad`, '',
    ].join('\n'),
  });
}

async function makeTunnel(version: 4 | 6, mtu: number, segmented: boolean, close: Cleanup): Promise<[primary: string, secondary: string]> {
  addNetns(primaryHost, close);
  const [primary, secondary, prefix] = underlay[version];
  ip(`link add clp-s-su mtu ${mtu} type veth peer name clp-s-pu mtu ${mtu} netns ${primaryHost}`, 'link set clp-s-su addrgenmode none');
  close.push(() => ip('link del clp-s-su'));
  writeFileSync('/proc/sys/net/ipv6/conf/clp-s-su/disable_ipv6', '0');
  ip(`address add ${secondary}/${prefix} dev clp-s-su${version === 6 ? ' nodad' : ''}`, 'link set clp-s-su up');
  execFileSync('ip', ['-n', primaryHost, '-batch', '-'], {
    input: [
      `link set clp-s-pu addrgenmode none up${segmented ? ' gso_max_segs 1' : ''}`, `address add ${primary}/${prefix} dev clp-s-pu${version === 6 ? ' nodad' : ''}`,
      // A tunnel stays in the network of the namespace it was made in, wherever the device goes.
      `link add ${primaryTunnel} type vxlan external gbp nolearning noudpcsum udp6zerocsumtx udp6zerocsumrx dstport ${tunnelPort}`,
      `link set ${primaryTunnel} netns ${process.pid}`, '',
    ].join('\n'),
  });
  ip(`link set ${primaryTunnel} addrgenmode none up`);
  close.push(() => ip(`link del ${primaryTunnel}`));
  await createTunnel(tunnel);
  close.push(() => removeTunnel(tunnel));
  return [primary, secondary];
}

let mirrorObject: string | undefined;

/** The programs of mirror.bpf.c, and the record that they share with the test. */
export class Mirror {
  readonly #object: BpfObject;
  readonly #state: DataView;
  readonly #links: Link[] = [];

  /** @param tunnelIfindex the primary's end; @param peer where it leads to, as tunnelAddress gives it */
  constructor(tunnelIfindex: number, peer: { ipv6: boolean; words: number[] }) {
    const bpf = join(sources, '../../bpf');
    mirrorObject ??= compile(readFileSync(join(sources, 'shadow/mirror.bpf.c'), 'utf8').replace('"tcp_rewrite.h"', `"${bpf}/tcp_rewrite.h"`), 'mirror');
    this.#object = BpfObject.open(mirrorObject);
    const rodata = this.#object.map('mirror.rodata');
    const setup = new DataView(rodata.initialValue!.slice().buffer);
    [tunnelIfindex, Number(peer.ipv6), ...peer.words].forEach((word, i) => setup.setUint32(4 * i, word, true));
    rodata.setInitialValue(new Uint8Array(setup.buffer));
    this.#object.load();
    const memory = this.#object.map('mirror.bss').mmap();
    this.#state = new DataView(memory.buffer, memory.byteOffset, memory.byteLength);
  }

  attach(program: string, options: AttachTcxOptions): void {
    this.#links.push(this.#object.program(program).attachTcx(options));
  }

  get(name: MirrorVariable): number {
    const [at, bytes] = places[name];
    return bytes === 4 ? this.#state.getUint32(at, true) : Number(this.#state.getBigUint64(at, true));
  }

  set(name: MirrorVariable, value: number): void {
    const [at, bytes] = places[name];
    if (bytes === 4) this.#state.setUint32(at, value, true);
    else this.#state.setBigUint64(at, BigInt(value), true);
  }

  said(port: number): { primary: number; secondary: number } | undefined {
    const key = new Uint8Array(4);
    new DataView(key.buffer).setUint32(0, port, true);
    const value = this.#object.map('said').lookup(key) as Uint8Array | undefined;
    if (value === undefined) return undefined;
    const view = new DataView(value.buffer, value.byteOffset);
    return { primary: view.getUint32(0, true), secondary: view.getUint32(4, true) };
  }

  close(): void {
    for (const link of this.#links) link.close();
    this.#object.close();
  }
}

async function startServer(vm: string, close: Cleanup): Promise<void> {
  const script = fileURLToPath(new URL('./server-main.js', import.meta.url));
  const child: ChildProcess = spawn('ip', ['netns', 'exec', vm, process.execPath, script], { stdio: ['pipe', 'pipe', 'inherit'] });
  close.push(async () => {
    const gone = once(child, 'exit');
    child.stdin!.end();
    await gone;
  });
  atExit(() => child.kill('SIGKILL'));
  await Promise.race([once(child.stdout!, 'data'), once(child, 'exit').then(() => { throw new Error(`the server in ${vm} did not start`); })]);
}

/** A service in a VM whose one connection can be taken to the other: see repair-server.c. */
export class RepairServer {
  readonly #child: ChildProcessByStdio<Writable, Readable, null>;

  static async start(vm: string): Promise<RepairServer> {
    const program = join(scratch, 'repair-server');
    if (!existsSync(program)) execFileSync('gcc', ['-O2', '-Wall', '-Wextra', '-o', program, join(sources, 'shadow/repair-server.c')], { stdio: 'inherit' });
    const child = spawn('ip', ['netns', 'exec', vm, program], { stdio: ['pipe', 'pipe', 'inherit'] });
    atExit(() => child.kill('SIGKILL'));
    await once(child.stdout, 'data');
    return new RepairServer(child);
  }

  private constructor(child: ChildProcessByStdio<Writable, Readable, null>) {
    this.#child = child;
  }

  /** Takes the connection as it is now to another replica. */
  async copyTo(other: RepairServer): Promise<void> {
    const state = await this.#order('save');
    if (await other.#order(`load ${state}`) !== 'loaded') throw new Error('the connection could not be taken over');
  }

  /** Its kernel still receives; the service itself does nothing until it is resumed. */
  pause(): void {
    this.#child.kill('SIGSTOP');
  }

  resume(): void {
    this.#child.kill('SIGCONT');
  }

  async #order(text: string): Promise<string> {
    this.#child.stdin.write(`${text}\n`);
    const [said] = await Promise.race([once(this.#child.stdout, 'data'), once(this.#child, 'exit').then(() => ['(it ended)'])]) as [Buffer | string];
    return said.toString().trim();
  }

  async close(): Promise<void> {
    if (this.#child.exitCode !== null) return;
    const gone = once(this.#child, 'exit');
    this.#child.stdin.end();
    await gone;
  }
}

/** Waits until `holds`, or says what was instead. */
export async function eventually(holds: () => boolean, tell: () => unknown, limitMs = 5000): Promise<void> {
  const end = Date.now() + limitMs;
  while (!holds()) {
    if (Date.now() > end) {
      throw new Error(`not within ${limitMs} ms: ${holds}; it is ${JSON.stringify(tell(), (_, value: unknown) => typeof value === 'bigint' ? String(value) : value)}`);
    }
    await sleep(2);
  }
}
