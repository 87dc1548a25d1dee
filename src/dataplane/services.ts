/** Declared services in the gate's maps: which ports, how their requests are read, what came of it. */

import { GateObjects, Service, ServiceProtocol, type ServiceCounts } from './skel/gate.skel.js';

/** How the requests to a service are told apart, by the name that configurations use. */
export const serviceProtocols = {
  resp: ServiceProtocol.SERVICE_RESP,
  http: ServiceProtocol.SERVICE_HTTP,
  memcached: ServiceProtocol.SERVICE_MEMCACHED,
  dns: ServiceProtocol.SERVICE_DNS,
  'read-only': ServiceProtocol.SERVICE_READ_ONLY,
  never: ServiceProtocol.SERVICE_NEVER,
} as const;

export type ServiceProtocolName = keyof typeof serviceProtocols;

export interface DeclaredService {
  /** The guest's port. */
  port: number;
  protocol: ServiceProtocolName;
  preRelease: boolean;
}

/** What became of the packets of one service while it was protected. */
export interface ServiceStats extends DeclaredService {
  prereleasedPackets: number;
  controlPackets: number;
  heldPackets: { order: number; unlogged: number; doubt: number; standing: number; off: number };
  untrackedFlows: number;
  /** A write is in doubt at this moment, in one flow or more. */
  openWrites: number;
}

const tcp = 6;
const udp = 17;
const prereleaseOffset = 4;
/** OPEN_NS of bpf/flow.h. */
const openNs = 10_000_000_000n;

/** The services of one gate; the order of `declared` is their index in the kernel. */
export class Services {
  readonly #objects: GateObjects;
  readonly #declared: DeclaredService[];
  readonly #memory: DataView;

  constructor(objects: GateObjects, declared: readonly DeclaredService[]) {
    this.#objects = objects;
    this.#declared = declared.map((service) => ({ ...service }));
    const memory = objects.maps.services.raw.mmap();
    this.#memory = new DataView(memory.buffer, memory.byteOffset, memory.byteLength);
    this.#declared.forEach(({ port, protocol, preRelease }, index) => {
      const classifier = serviceProtocols[protocol];
      Service.write(this.#memory, index * Service.size, Service.create({ classifier, prerelease: Number(preRelease) }));
      const key = { port: bigEndian(port), protocol: protocol === 'dns' ? udp : tcp };
      objects.maps.service_ports.update(key, index);
    });
  }

  /** Switches the pre-release of the service at a port on or off, or of both if there is one of TCP and one of UDP, from the next packet on. */
  setPreRelease(port: number, on: boolean): void {
    if (this.#declared.every((service) => service.port !== port)) throw new RangeError(`There is no declared service at port ${port}.`);
    this.#declared.forEach((service, index) => {
      if (service.port !== port) return;
      service.preRelease = on;
      this.#memory.setUint32(index * Service.size + prereleaseOffset, Number(on), true);
    });
  }

  /** Whether held output from this port, of TCP and UDP, may be compared. At most `mostUncompared` ports may be left out. */
  setCompared(port: number, on: boolean): void {
    const { uncompared_ports } = this.#objects.maps;
    for (const protocol of [tcp, udp]) {
      const key = { port: bigEndian(port), protocol };
      if (on) uncompared_ports.delete(key);
      else uncompared_ports.update(key, 1);
    }
  }

  /**
   * When a service was last written to, CLOCK_MONOTONIC, if a commit has yet to settle that.
   * @returns 0n: every service is settled; undefined: a write waits for its reply
   */
  unsettledNs(commitNs: bigint, earlierCommitNs: bigint): bigint | undefined {
    let newestNs = 0n;
    for (const index of this.#declared.keys()) {
      const { open_writes, open_ns, settled_ns, vague_ns } = Service.read(this.#memory, index * Service.size);
      if (open_writes > 0n && (open_ns >= earlierCommitNs || process.hrtime.bigint() - open_ns < openNs)) return undefined;
      if (settled_ns >= commitNs && settled_ns > newestNs) newestNs = settled_ns;
      if (vague_ns >= earlierCommitNs && vague_ns > newestNs) newestNs = vague_ns;
    }
    return newestNs;
  }

  /** Of all services: requests that may have been writes, and packets that were held because a write was in doubt. */
  writeCounts(): { writes: number; doubtPackets: number } {
    const sums = this.#declared.map((_, index) => this.#sums(index));
    const total = (member: keyof ServiceCounts): number => sums.reduce((sum, of) => sum + of(member), 0);
    return { writes: total('writes'), doubtPackets: total('held_doubt') };
  }

  stats(): ServiceStats[] {
    return this.#declared.map((declared, index) => {
      const sum = this.#sums(index);
      return {
        ...declared,
        prereleasedPackets: sum('prereleased'),
        controlPackets: sum('control'),
        heldPackets: {
          order: sum('held_order'), unlogged: sum('held_unlogged'), doubt: sum('held_doubt'),
          standing: sum('held_standing'), off: sum('held_off'),
        },
        untrackedFlows: sum('untracked_flows'),
        openWrites: Number(Service.read(this.#memory, index * Service.size).open_writes),
      };
    });
  }

  /** Counts of a service over all CPUs. */
  #sums(index: number): (member: keyof ServiceCounts) => number {
    const perCpu = this.#objects.maps.service_counters.lookup(index) ?? [];
    return (member) => Number(perCpu.reduce((total, counts) => total + counts[member], 0n));
  }
}

/** As a big-endian field is read on this machine. */
function bigEndian(port: number): number {
  return ((port & 0xff) << 8) | (port >> 8);
}
