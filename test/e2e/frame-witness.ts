/** Who of a lab's hosts has spoken for the guest, as seen on the wire. */
import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { demoGuest, type Lab } from '../../src/lab/lab.js';
import type { HostName } from '../../src/lab/topology.js';

/** Frames with the guest's address that left a host. Times are CLOCK_MONOTONIC milliseconds, 0 if there was none. */
export interface Sighting { frames: number; firstMs: number; lastMs: number }
export type WitnessOrder = 'read' | 'forget';

export class FrameWitness {
  readonly #child: ChildProcess;

  static async start(lab: Lab): Promise<FrameWitness> {
    const main = fileURLToPath(new URL('frame-witness-main.js', import.meta.url));
    const child = fork(main, [demoGuest().mac], {
      execPath: 'ip', execArgv: ['netns', 'exec', lab.topology.net, process.execPath], stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    });
    const early = once(child, 'exit').then(() => { throw new Error('The witness ended before it was ready.'); });
    await Promise.race([once(child, 'message'), early]);
    early.catch(() => {});
    return new FrameWitness(child);
  }

  private constructor(child: ChildProcess) {
    this.#child = child;
  }

  read(): Promise<Record<HostName, Sighting>> {
    return this.#ask('read');
  }

  /** Starts counting anew. */
  async forget(): Promise<void> {
    await this.#ask('forget');
  }

  close(): void {
    this.#child.kill('SIGKILL');
  }

  async #ask(order: WitnessOrder): Promise<Record<HostName, Sighting>> {
    const answer = once(this.#child, 'message');
    this.#child.send(order);
    const [seen] = await answer as [Record<HostName, Sighting>];
    return seen;
  }
}
