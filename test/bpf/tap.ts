/**
 * Real taps for the tests: a network namespace of the test's own, a bridge in it with a guest's
 * and a client's tap, and programs at the far ends that play QEMU.
 */
import { execFileSync, spawn, spawnSync, type ChildProcessByStdio } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import type { Readable, Writable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { ifIndex } from 'libbpf-napi';
import * as assert from 'uvu/assert';
import type { TapHold } from 'tap-hold';
import { GateMode, openGate, type GateObjects } from '../../src/dataplane/skel/gate.skel.js';
import { decodeVnet, encodeVnet, VNET_BYTES, type Packet } from './frames.js';
import { tapPump } from './tap-pump.js';

/** The sources beside this file, which is compiled to another folder. */
export const sources = fileURLToPath(new URL('../../../test/bpf/', import.meta.url));
const marker = 'COLOPP_T_NETNS';

/**
 * Runs the calling file once more in a network namespace of its own and ends this process; returns
 * in that second run. The namespace has no name: it goes with its processes and devices, however
 * they end.
 */
export function enterOwnNamespace(moduleUrl: string): void {
  if (process.env[marker] === undefined) {
    const { status, error } = spawnSync('unshare', ['--net', process.execPath, ...process.execArgv, fileURLToPath(moduleUrl), ...process.argv.slice(2)], {
      stdio: 'inherit',
      env: { ...process.env, [marker]: '1' },
    });
    if (error) throw error;
    process.exit(status ?? 1);
  }
  // Nothing but the test may speak here.
  for (const conf of ['all', 'default']) writeFileSync(`/proc/sys/net/ipv6/conf/${conf}/disable_ipv6`, '1');
}

/** Runs `ip` commands in one process. */
export function ip(...commands: string[]): void {
  execFileSync('ip', ['-batch', '-'], { input: commands.join('\n') + '\n', stdio: ['pipe', 'ignore', 'inherit'] });
}

/** True if there is such a device. */
export function deviceExists(name: string): boolean {
  try {
    return ifIndex(name) > 0;
  } catch {
    return false;
  }
}

/** The far end of a tap, where a VM would be; or a raw socket on a device, which only sends. */
export class FarEnd {
  /** What came out of the tap, oldest first. */
  readonly received: Packet[] = [];
  readonly #child: ChildProcessByStdio<Writable, Readable, null>;
  readonly #opened: Promise<void>;
  #onOpened = (): void => {};
  /** Of a packet that has not come in full. */
  #rest: Buffer = Buffer.alloc(0);

  /** @param kind `tap`: makes the tap unless it is there */
  static async open(kind: 'tap' | 'packet', ifname: string): Promise<FarEnd> {
    const child = spawn(tapPump(), [kind, ifname], { stdio: ['pipe', 'pipe', 'inherit'] });
    const end = new FarEnd(child);
    await Promise.race([end.#opened, once(child, 'exit').then(() => { throw new Error(`there is no far end of ${ifname}: see above`); })]);
    return end;
  }

  private constructor(child: ChildProcessByStdio<Writable, Readable, null>) {
    this.#child = child;
    this.#opened = new Promise((resolve) => { this.#onOpened = resolve; });
    child.stdout.on('data', (chunk: Buffer) => this.#take(chunk));
  }

  /** Sends a packet; `count` times, with a 32-bit counter from 0 on at `counterAt` in the frame. */
  send({ vnet, frame }: Packet, count = 1, counterAt?: number): void {
    const order = Buffer.alloc(12);
    order.writeUInt32LE(VNET_BYTES + frame.length, 0);
    order.writeUInt32LE(count, 4);
    order.writeUInt32LE(counterAt === undefined ? 0 : VNET_BYTES + counterAt, 8);
    this.#child.stdin.write(Buffer.concat([order, encodeVnet(vnet), frame]));
  }

  /** Forgets what was received, and returns it. */
  take(): Packet[] {
    return this.received.splice(0);
  }

  /** It reads nothing, until it goes on. */
  standStill(): void {
    this.#child.kill('SIGSTOP');
  }

  goOn(): void {
    this.#child.kill('SIGCONT');
  }

  async close(): Promise<void> {
    if (this.#child.exitCode !== null) return; // it went with its device
    const gone = once(this.#child, 'exit');
    this.#child.kill('SIGKILL');
    await gone;
  }

  #take(chunk: Buffer): void {
    const all = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    let at = 0;
    while (all.length - at >= 4) {
      const bytes = all.readUInt32LE(at);
      if (all.length - at - 4 < bytes) break;
      const packet = all.subarray(at + 4, at + 4 + bytes);
      if (bytes === 0) this.#onOpened();
      else this.received.push({ vnet: decodeVnet(packet), frame: packet.subarray(VNET_BYTES) });
      at += 4 + bytes;
    }
    this.#rest = all.subarray(at);
  }
}

/** A bridge with the guest's tap on one side and the client's on the other, and who plays them. */
export interface Bridged {
  bridge: string;
  guestTap: string;
  guest: FarEnd;
  client: FarEnd;
}

/** As long as the kernel lets it be: Linux 7.2 has a limit. */
function lengthenQueue(ifname: string): void {
  for (let packets = 200_000; ; packets /= 2) {
    const { status } = spawnSync('ip', ['link', 'set', ifname, 'txqueuelen', String(packets)], { stdio: 'ignore' });
    if (status === 0) return;
    assert.ok(packets > 1000, `the kernel refuses a queue of ${packets} packets`);
  }
}

export async function bridged(): Promise<Bridged> {
  const [bridge, guestTap, clientTap] = ['colopp-t-br', 'colopp-t-guest', 'colopp-t-client'];
  ip(
    `link add ${bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0`,
    ...[guestTap, clientTap].flatMap((tap) => [
      `tuntap add dev ${tap} mode tap vnet_hdr`,
      `link set ${tap} mtu 9000 master ${bridge} up`,
    ]),
    `link set ${bridge} mtu 9000 up`,
  );
  for (const tap of [guestTap, clientTap]) lengthenQueue(tap);
  const [guest, client] = await Promise.all([FarEnd.open('tap', guestTap), FarEnd.open('tap', clientTap)]);
  return { bridge, guestTap, guest, client };
}

/** The gate between `tap` and the hold thread, with its programs attached; a lease for ever. */
export function attachGate(tap: string, hold: Pick<TapHold, 'ifIndex'>, mode: GateMode = GateMode.GATE_PROTECTED): { gate: GateObjects; detach: () => void } {
  const specs = openGate();
  specs.globals.rodata.tap_ifindex.set(ifIndex(tap));
  specs.globals.rodata.hold_ifindex.set(hold.ifIndex);
  specs.globals.rodata.release_mark.set(0x600d_cafe);
  specs.globals.bss.lease_until_ns.set((1n << 64n) - 1n);
  specs.globals.bss.mode.set(mode);
  const gate = specs.load();
  const { gate_out, gate_in, gate_release } = gate.programs;
  const links = [
    gate_release.attachTcx({ ifindex: hold.ifIndex, direction: 'ingress' }),
    gate_in.attachTcx({ ifname: tap, direction: 'egress' }),
    gate_out.attachTcx({ ifname: tap, direction: 'ingress' }),
  ];
  const detach = (): void => {
    for (const link of links) link.close();
    gate.close();
  };
  return { gate, detach };
}
