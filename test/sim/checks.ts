/** What must hold in every run, noted as soon as it does not. */

import type { Client, Operation } from './client.js';
import { judgeHistory } from './history.js';
import { hostNames, type HostName } from './network.js';
import type { Host } from './host.js';
import { second, type World } from './world.js';

export class Checks {
  /** The first thing that went wrong. */
  failure: string | undefined;
  /** The two hosts could not hear each other, and both spoke: what no pair without a witness can prevent. */
  split = false;
  /** Every copy of the VM was lost, or the only one while it was unprotected. */
  vmLost: string | undefined;
  readonly history: Operation[] = [];
  /** See `Judgement`: 0 of a run in which clients may see two worlds. */
  registers = 0;
  unjudged = 0;
  readonly #world: World;
  readonly #hasWitness: boolean;
  /** QEMUs that have spoken, in the order of their first words. */
  readonly #speakers: { name: string; host: HostName; firstUs: number; lastUs: number }[] = [];
  /** When the hosts were last apart for long enough to matter. */
  #unheard = false;
  #apart: { fromUs: number; untilUs: number } | undefined;

  constructor(world: World, hasWitness: boolean) {
    this.#world = world;
    this.#hasWitness = hasWitness;
  }

  fail(text: string): void {
    if (this.failure !== undefined) return;
    this.#world.stop();
    this.failure = `${(this.#world.nowUs / 1000).toFixed(3)} ms: ${text}`;
    this.#world.log('FAILURE', () => text);
  }

  /** An agent dies. If its VM has taken over, or is about to, and the old primary lives and has not heard of it, nobody can say so any more. */
  onAgentLoss(host: Host, other: Host): void {
    const [mine, its] = [host.agent, other.agent];
    if (this.#hasWitness || !mine?.process.alive || !its?.process.alive) return;
    const hasTakenOver = mine.state.role === 'primary' && mine.state.generation > its.state.generation;
    if (its.state.role === 'primary' && (hasTakenOver || mine.state.phase === 'taking-over')) this.#unheard = true;
  }

  apart(fromUs: number, untilUs: number): void {
    if (this.#hasWitness) return;
    this.#apart = { fromUs: Math.min(fromUs, this.#apart?.fromUs ?? fromUs), untilUs };
  }

  /** A packet of a VM of `host` reaches the clients' network. */
  onOutput(speaker: string, host: Host, other: Host): void {
    const { nowUs } = this.#world;
    if (other.gate.speaks && other.qemu?.guest) this.#both(`${speaker} speaks, and ${other.qemu.name} may speak too`, nowUs);
    const known = this.#speakers.find(({ name }) => name === speaker);
    if (!known) {
      this.#speakers.push({ name: speaker, host: host.name, firstUs: nowUs, lastUs: nowUs });
      return;
    }
    known.lastUs = nowUs;
    const last = this.#speakers.at(-1)!;
    if (last === known || last.host === host.name) return;
    this.#both(`${speaker} speaks, though ${last.name} has spoken since ${(last.firstUs / 1000).toFixed(3)} ms`, last.firstUs);
  }

  #both(text: string, sinceUs: number): void {
    const apart = this.#apart !== undefined && this.#apart.fromUs <= sinceUs;
    if (apart || this.#unheard) this.split = true;
    else this.fail(text);
  }

  /** Once both have spoken, or could, or the VM is gone, clients may see two worlds. */
  get consistent(): boolean {
    return !this.split && !this.#unheard && this.vmLost === undefined;
  }

  onBroken(text: string): void {
    if (this.consistent) this.fail(text);
  }

  checkHistory(): void {
    if (!this.consistent) return;
    const { contradiction, registers, unjudged } = judgeHistory(this.history);
    this.registers = registers;
    this.unjudged = unjudged;
    if (contradiction !== undefined) this.fail(contradiction);
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
      if (client.lastNewsUs < sinceUs) this.fail(`client ${client.id} (connection ${client.conn}) has heard nothing since ${((sinceUs) / second).toFixed(1)} s: ${states}`);
    }
  }
}
