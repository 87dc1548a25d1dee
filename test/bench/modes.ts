/** The ways of running the same guest that are measured beside each other. */

import type { AgentNews } from '../../src/agent/agent.js';
import { watchAgent } from '../../src/agent/control.js';
import { Lab } from '../../src/lab/lab.js';
import { StockColo } from './stock-colo.js';

/**
 * `unprotected`: one agent, no peer. `prerelease`: protected, with the guest's services declared.
 * `commit`: protected, every reply held until a checkpoint is committed. `stockColo`: QEMU's own COLO.
 */
export const modes = ['unprotected', 'prerelease', 'commit', 'stockColo'] as const;
export type Mode = (typeof modes)[number];

/** A guest that runs in one of the modes, and can be reached from the client namespace. */
export interface Subject {
  clientNamespace: string;
  /**
   * Checkpoints so far.
   * @throws Error if the guest no longer runs as its mode says: what was measured means nothing
   */
  checkpoints(): Promise<number>;
  /** Ends everything that was started. */
  stop(): Promise<void>;
}

/** One at a time: all modes use the same names. */
const LAB_NAME = 'bench';
const READY_TIMEOUT_MS = 60_000;
const services = [{ port: 6379, protocol: 'resp' }, { port: 80, protocol: 'http' }];

/** Boots the guest in a mode; resolves once its services answer. Leaves nothing behind if it fails. */
export async function startMode(mode: Mode, vcpus: number, signal: AbortSignal): Promise<Subject> {
  if (mode === 'stockColo') {
    const pair = await StockColo.start({ name: LAB_NAME, vcpus, signal });
    return {
      clientNamespace: pair.clientNamespace,
      checkpoints: async () => {
        pair.assertReplicating();
        return pair.checkpoints;
      },
      stop: () => pair.stop(),
    };
  }
  const lab = new Lab(LAB_NAME);
  const isProtected = mode !== 'unprotected';
  await lab.up({
    vcpus, signal,
    ...(isProtected ? {} : { agents: ['a'] }),
    ...(mode === 'prerelease' ? { overrides: { a: { services }, b: { services } } } : {}),
  });
  try {
    await lab.waitFor('a', isProtected ? 'protected' : 'running its VM alone', (s) => s.active && s.protected === isProtected, READY_TIMEOUT_MS, signal);
    await lab.waitForGuest(READY_TIMEOUT_MS, signal);
  } catch (error) {
    await lab.down();
    throw error;
  }
  const watching = new AbortController();
  const protection = isProtected ? watchProtection(lab, watching.signal) : undefined;
  return {
    clientNamespace: lab.topology.client,
    checkpoints: async () => {
      const { active, role, phase, reason, protected: nowProtected, checkpoints } = await lab.status('a');
      if (!active || nowProtected !== isProtected) throw new Error(`host a is ${role}, ${phase}: ${reason}`);
      if (protection?.lost) throw new Error(`the guest was unprotected for a while: ${protection.lost}`);
      return checkpoints.commits;
    },
    stop: async () => {
      watching.abort();
      await lab.down();
    },
  };
}

/** Notices when a protection ends, also one that is restored before anybody asks. */
function watchProtection(lab: Lab, signal: AbortSignal): { lost?: string } {
  const protection: { lost?: string } = {};
  const watch = async (): Promise<void> => {
    for await (const value of watchAgent(lab.socket('a'), signal)) {
      const news = value as AgentNews;
      if (news.event === 'phase' && news.phase !== 'protected' && news.phase !== 'checkpointing') protection.lost ??= `host a was ${news.phase}`;
    }
  };
  watch().catch((error: unknown) => { protection.lost ??= (error as Error).message; });
  return protection;
}

/** Removes what a killed benchmark left behind. */
export async function removeLeftovers(): Promise<void> {
  const leftover = new Lab(LAB_NAME);
  if (process.geteuid?.() === 0 && await leftover.exists()) await leftover.down();
}
