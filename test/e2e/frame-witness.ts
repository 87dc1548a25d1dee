/** Who of a lab's hosts has spoken for the guest, as seen on the wire. */
import { Cables } from '../../src/lab/cables.js';
import { demoGuest, type Lab } from '../../src/lab/lab.js';
import type { HostName } from '../../src/lab/topology.js';

/** Frames with the guest's address that left a host. Times are CLOCK_MONOTONIC milliseconds, 0 if there was none. */
export interface Sighting { frames: number; firstMs: number; lastMs: number }

export class FrameWitness {
  readonly #cables: Cables;

  static async start(lab: Lab): Promise<FrameWitness> {
    return new FrameWitness(await Cables.attach(lab.topology, demoGuest().mac));
  }

  private constructor(cables: Cables) {
    this.#cables = cables;
  }

  async read(): Promise<Record<HostName, Sighting>> {
    const { reigns } = await this.#cables.report();
    const sightingOf = (host: HostName): Sighting => {
      const own = reigns.filter((reign) => reign.host === host);
      return {
        frames: own.reduce((sum, { frames }) => sum + frames, 0),
        firstMs: Number(own[0]?.firstNs ?? 0n) / 1e6, lastMs: Number(own.at(-1)?.lastNs ?? 0n) / 1e6,
      };
    };
    return { a: sightingOf('a'), b: sightingOf('b') };
  }

  /** Starts counting anew. */
  forget(): Promise<void> {
    return this.#cables.forget();
  }

  close(): void {
    this.#cables.close();
  }
}
