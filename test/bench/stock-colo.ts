/**
 * The peer: the same QEMU and guest under QEMU's own COLO, as its docs/COLO-FT.txt and
 * docs/colo-proxy.txt describe it. Both VMs run; filters inside QEMU mirror the input, rewrite the
 * secondary's TCP numbers and let a packet out once the secondary has said the same.
 */

import { spawn } from 'node:child_process';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Lab, demoGuest, type Guest } from '../../src/lab/lab.js';
import { addresses, hostNames, type HostName } from '../../src/lab/topology.js';
import { ip, ipBatch } from '../../src/dataplane/ip.js';
import { QemuProcess, chooseAccel, locateQemu, probeKvm, qemuArguments, type QemuRuntime } from '../../src/qemu/index.js';

const READY_TIMEOUT_MS = 60_000;
const SYNC_TIMEOUT_MS = 60_000;
const POLL_MS = 50;
const TAP = 'clp-tap0';
const PORTS = { mirror: 9003, secondaryOutput: 9004, migration: 9998 } as const;
const UNLIMITED_BYTES_PER_SECOND = 10_000_000_000;
/** Shorter than the 3 s after which colo-compare gives up waiting for a secondary. */
const SILENCE_MS = 600;
const REPLY_TIMEOUT_MS = 10_000;

export interface StockColoOptions {
  /** Of the namespaces it makes; no lab may have it. */
  name: string;
  vcpus: number;
  signal: AbortSignal;
}

/** A running pair. Its network is that of a lab without agents. */
export class StockColo {
  readonly #lab: Lab;
  readonly #vms = new Map<HostName, QemuProcess>();
  readonly #signal: AbortSignal;
  #checkpoints = 0;
  #broken: string | undefined;

  private constructor(lab: Lab, signal: AbortSignal) {
    this.#lab = lab;
    this.#signal = signal;
  }

  /** Boots the guest and brings the pair into the COLO state; half a pair is taken down again. */
  static async start({ name, vcpus, signal }: StockColoOptions): Promise<StockColo> {
    const guest = demoGuest();
    const runtime = await locateQemu();
    const { accel } = chooseAccel('auto', await probeKvm(runtime, { signal }));
    const lab = new Lab(name);
    await lab.up({ networkOnly: true, signal });
    const pair = new StockColo(lab, signal);
    try {
      // The primary listens where the secondary's filters connect to.
      for (const host of hostNames) await pair.#startVm(host, runtime, guest, vcpus, accel);
      await lab.waitForGuest(READY_TIMEOUT_MS, signal);
      await pair.#replicate();
      await pair.#proveCompared();
      return pair;
    } catch (error) {
      await pair.stop();
      throw error;
    }
  }

  get clientNamespace(): string {
    return this.#lab.topology.client;
  }

  /** Checkpoints taken so far, those that QEMU starts of its own accord included. */
  get checkpoints(): number {
    return this.#checkpoints;
  }

  /** @throws Error if the pair has left the COLO state */
  assertReplicating(): void {
    if (this.#broken !== undefined) throw new Error(`stock COLO has ended: ${this.#broken}`);
  }

  /** Ends both VMs and removes the namespaces. */
  async stop(): Promise<void> {
    for (const vm of this.#vms.values()) await vm.kill();
    await this.#lab.down();
  }

  #vm(host: HostName): QemuProcess {
    const vm = this.#vms.get(host);
    if (!vm) throw new Error(`the VM of host ${host} has not started`);
    return vm;
  }

  async #startVm(host: HostName, runtime: QemuRuntime, guest: Guest, vcpus: number, accel: 'kvm' | 'tcg'): Promise<void> {
    const netns = this.#lab.topology.hosts[host];
    const dir = join(this.#lab.dir, host);
    await mkdir(dir, { mode: 0o700 });
    await ip('-n', netns, 'tuntap', 'add', 'dev', TAP, 'mode', 'tap', 'vnet_hdr');
    await ipBatch(netns, [`link set ${TAP} master br0 addrgenmode none up`]);
    const qmpSocket = join(dir, 'qmp');
    const vm = await QemuProcess.start({
      // `ip` becomes QEMU: the process stays the same.
      runtime: { ...runtime, argv: ['ip', 'netns', 'exec', netns, ...runtime.argv] },
      args: qemuArguments({
        name: 'guest', memoryMiB: guest.memoryMiB, vcpus, accel,
        kernel: guest.kernel, initrd: guest.initrd,
        append: `${guest.append} colopp.ip=${addresses.guest}/24 colopp.ip6=${addresses.guest6}/64`,
        nets: [{ id: 'net0', tap: TAP, mac: guest.mac }],
        serial: { file: this.#lab.log(host, 'console') },
        qmpSocket,
        incoming: host === 'b',
        extraArgs: host === 'a' ? primaryFilters(dir) : secondaryFilters(),
      }),
      qmpSocket, pidFile: join(dir, 'pid'), logFile: this.#lab.log(host, 'qemu'), signal: this.#signal,
    });
    this.#vms.set(host, vm);
    vm.qmp.on('COLO_EXIT', () => { this.#broken ??= `the QEMU of host ${host} left COLO`; });
    void vm.ended.then(() => { this.#broken ??= `the QEMU of host ${host} is gone`; });
  }

  async #replicate(): Promise<void> {
    const [primary, secondary] = [this.#vm('a').qmp, this.#vm('b').qmp];
    for (const qmp of [primary, secondary]) {
      await qmp.execute('migrate-set-capabilities', { capabilities: ['return-path', 'x-colo'].map((capability) => ({ capability, state: true })) });
    }
    // All else stays as QEMU has it: a checkpoint when outputs differ, and one every 20 s.
    await primary.execute('migrate-set-parameters', { 'max-bandwidth': UNLIMITED_BYTES_PER_SECOND });
    const uri = `tcp:${addresses.replication.b}:${PORTS.migration}`;
    await secondary.execute('migrate-incoming', { uri });
    await primary.execute('migrate', { uri });
    const deadlineMs = performance.now() + SYNC_TIMEOUT_MS;
    for (;;) {
      const { status, 'error-desc': why } = await primary.execute('query-migrate');
      if (status === 'colo' && (await secondary.execute('query-status')).running) break;
      this.assertReplicating();
      if (status === 'failed' || performance.now() > deadlineMs) throw new Error(`stock COLO cannot be entered: the migration is ${status}: ${why ?? 'for too long'}`);
      await sleep(POLL_MS, undefined, { signal: this.#signal });
    }
    primary.on('RESUME', () => { this.#checkpoints++; });
  }

  /**
   * Makes sure that replies do pass through colo-compare: while the secondary is frozen none may
   * come, and once it thaws they must.
   */
  async #proveCompared(): Promise<void> {
    await this.#ping();
    const { pid } = this.#vm('b');
    process.kill(pid, 'SIGSTOP');
    try {
      const reply = this.#ping();
      reply.catch(() => {});
      const silent = sleep(SILENCE_MS, 'silent', { signal: this.#signal });
      if (await Promise.race([reply, silent]) !== 'silent') throw new Error('stock COLO let a reply out while its secondary was frozen: nothing is compared');
      process.kill(pid, 'SIGCONT');
      await reply;
    } finally {
      process.kill(pid, 'SIGCONT');
    }
    this.assertReplicating();
  }

  /** Asks the guest's Redis for a sign of life, as a client. */
  async #ping(): Promise<void> {
    const child = spawn('ip', ['netns', 'exec', this.clientNamespace, 'redis-cli', '-h', addresses.guest, 'PING'], {
      stdio: ['ignore', 'pipe', 'inherit'], timeout: REPLY_TIMEOUT_MS, signal: this.#signal,
    });
    const ended = new Promise<number | null>((resolve, reject) => child.once('error', reject).once('close', resolve));
    let said = '';
    child.stdout.on('data', (chunk) => { said += String(chunk); });
    await ended;
    if (said.trim() !== 'PONG') throw new Error(`the guest under stock COLO did not answer a PING within ${REPLY_TIMEOUT_MS / 1000} s`);
  }
}

/**
 * Input is mirrored to the secondary; output goes to colo-compare, and from there to the tap. The
 * sockets are as quick as QEMU can make them: unix ones inside a host, no Nagle between the hosts.
 */
function primaryFilters(dir: string): string[] {
  const listen = (id: string, port: number): string => `socket,id=${id},host=${addresses.replication.a},port=${port},server=on,wait=off,nodelay=on`;
  // Two ends of a wire from one part of QEMU to another.
  const wire = (id: string): string[] => [
    '-chardev', `socket,id=${id}-end,path=${join(dir, id)},server=on,wait=off`,
    '-chardev', `socket,id=${id},path=${join(dir, id)}`,
  ];
  return [
    '-chardev', listen('mirror', PORTS.mirror),
    '-chardev', listen('secondary', PORTS.secondaryOutput),
    ...wire('primary'), ...wire('released'),
    '-object', 'filter-mirror,id=m0,netdev=net-net0,queue=tx,outdev=mirror,vnet_hdr_support=on',
    '-object', 'filter-redirector,id=r0,netdev=net-net0,queue=rx,indev=released-end,vnet_hdr_support=on',
    '-object', 'filter-redirector,id=r1,netdev=net-net0,queue=rx,outdev=primary-end,vnet_hdr_support=on',
    '-object', 'iothread,id=compare-thread',
    '-object', 'colo-compare,id=c0,primary_in=primary,secondary_in=secondary,outdev=released,iothread=compare-thread,vnet_hdr_support=on',
  ];
}

/** Input comes from the primary, and output goes there, with the TCP numbers of the primary's connections. */
function secondaryFilters(): string[] {
  const connect = (id: string, port: number): string => `socket,id=${id},host=${addresses.replication.a},port=${port},nodelay=on`;
  return [
    '-chardev', connect('mirrored', PORTS.mirror),
    '-chardev', connect('output', PORTS.secondaryOutput),
    '-object', 'filter-redirector,id=f1,netdev=net-net0,queue=tx,indev=mirrored,vnet_hdr_support=on',
    '-object', 'filter-redirector,id=f2,netdev=net-net0,queue=rx,outdev=output,vnet_hdr_support=on',
    '-object', 'filter-rewriter,id=rew0,netdev=net-net0,queue=all,vnet_hdr_support=on',
  ];
}
