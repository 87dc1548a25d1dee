/** What must hold in every run, noted as soon as it does not. */

import type { Client, Operation } from './client.js';
import type { Output } from './gate.js';
import { contradiction } from './history.js';
import { hostNames, type HostName } from './network.js';
import type { Host } from './host.js';
import { second, type World } from './world.js';

export class Checks {
  /** The first thing that went wrong. */
  failure: string | undefined;
  /** The two hosts could not hear each other, and both spoke: what no pair without an arbiter can prevent. */
  split = false;
  /** Every copy of the VM was lost, or the only one while it was unprotected. */
  vmLost: string | undefined;
  readonly history: Operation[] = [];
  readonly #world: World;
  /** QEMUs that have spoken, in the order of their first words. */
  readonly #speakers: { name: string; host: HostName; firstUs: number; lastUs: number }[] = [];
  /** When the hosts were last apart for long enough to matter. */
  #apart: { fromUs: number; untilUs: number } | undefined;

  constructor(world: World) {
    this.#world = world;
  }

  fail(text: string): void {
    if (this.failure !== undefined) return;
    this.failure = `${(this.#world.nowUs / 1000).toFixed(3)} ms: ${text}`;
    this.#world.log('FAILURE', () => text);
  }

  apart(fromUs: number, untilUs: number): void {
    this.#apart = { fromUs: Math.min(fromUs, this.#apart?.fromUs ?? fromUs), untilUs };
  }

  /** A packet of a VM reaches the clients' network; `other` is the host that it does not come from. */
  onOutput(output: Output, host: HostName, other: Host): void {
    const { nowUs } = this.#world;
    const { speaker } = output;
    if (other.gate.speaks && other.qemu?.guest) {
      // A VM that took over, and whose agent died in that moment, has nobody to say so.
      if (!other.agent?.process.alive && other.agent?.state.role === 'primary') this.split = true;
      else this.#both(`${speaker} speaks, and ${other.qemu.name} may speak too`, nowUs);
    }
    const known = this.#speakers.find(({ name }) => name === speaker);
    if (!known) {
      this.#speakers.push({ name: speaker, host, firstUs: nowUs, lastUs: nowUs });
      return;
    }
    known.lastUs = nowUs;
    const last = this.#speakers.at(-1)!;
    if (last === known || last.host === host) return;
    if (!this.split) this.#both(`${speaker} speaks, though ${last.name} has spoken since ${(last.firstUs / 1000).toFixed(3)} ms`, last.firstUs);
  }

  #both(text: string, sinceUs: number): void {
    if (this.#apart && this.#apart.fromUs <= sinceUs) this.split = true;
    else this.fail(text);
  }

  /** Once both have spoken, or the VM is gone, clients may see two worlds. */
  get consistent(): boolean {
    return !this.split && this.vmLost === undefined;
  }

  onDenied(client: Client): void {
    if (this.consistent) this.fail(`the VM does not know of request ${client.answered} of client ${client.id}, which was answered`);
  }

  checkHistory(): void {
    if (!this.consistent) return;
    const found = contradiction(this.history);
    if (found !== undefined) this.fail(found);
  }

  /** All faults are over and mended, for a while: one VM speaks, the other host protects it. */
  checkConverged(hosts: readonly Host[], clients: readonly Client[], sinceUs: number): void {
    const states = hosts.map(({ name, agent }) => `${name}: ${agent?.state.role} ${agent?.state.phase} (${agent?.state.reason})`).join('; ');
    const active = hosts.filter(({ gate, qemu }) => gate.speaks && qemu?.guest);
    if (active.length !== 1) this.fail(`${active.length} hosts run a VM that may speak at the end: ${states}`);
    for (const host of hostNames) {
      if (!hosts.find(({ name }) => name === host)?.agent?.protected) this.fail(`${host} is not protected at the end: ${states}`);
    }
    if (!this.consistent) return;
    for (const client of clients) {
      if (client.lastAnswerUs < sinceUs) this.fail(`client ${client.id} has no answer since ${((sinceUs) / second).toFixed(1)} s: ${states}`);
    }
  }
}
