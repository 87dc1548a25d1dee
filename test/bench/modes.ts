/** The ways of running the same guest that are measured beside each other. */

import type { AgentNews } from '../../src/agent/agent.js';
import { watchAgent } from '../../src/agent/control.js';
import { Lab } from '../../src/lab/lab.js';
import { StockColo } from './stock-colo.js';

/**
 * `unprotected`: one agent, no peer. `prerelease`: protected, with the guest's services declared.
 * `commit`: protected, every reply held until a checkpoint is committed. `compare`, `auto`: as
 * `prerelease`, and with the configuration's mode of that name. `stockColo`: QEMU's own COLO.
 */
export const modes = ['unprotected', 'prerelease', 'commit', 'compare', 'auto', 'stockColo'] as const;
export type Mode = (typeof modes)[number];

/** What has happened since the guest was started. */
export interface Counts {
  checkpoints: number;
  /** Output that left while protected: all packets, and those of them that a match released; undefined: not known. */
  output?: { packets: number; matched: number };
}

/** A guest that runs in one of the modes, and can be reached from the client namespace. */
export interface Subject {
  clientNamespace: string;
  /**
   * Counts so far.
   * @throws Error if the guest no longer runs as its mode says: what was measured means nothing
   */
  counts(): Promise<Counts>;
  /** Ends everything that was started. */
  stop(): Promise<void>;
}

/** One at a time: all modes use the same names. */
const LAB_NAME = 'bench';
const READY_TIMEOUT_MS = 60_000;

/** A service of the guest, as a configuration declares it. */
export interface Declared {
  port: number;
  protocol: string;
}

export interface ModeOptions {
  vcpus: number;
  /** What the modes with pre-release declare. */
  services: readonly Declared[];
  signal: AbortSignal;
}

/** Boots the guest in a mode; resolves once its services answer. Leaves nothing behind if it fails. */
export async function startMode(mode: Mode, { vcpus, services, signal }: ModeOptions): Promise<Subject> {
  if (mode === 'stockColo') {
    const pair = await StockColo.start({ name: LAB_NAME, vcpus, signal });
    return {
      clientNamespace: pair.clientNamespace,
      counts: async () => {
        pair.assertReplicating();
        return { checkpoints: pair.checkpoints };
      },
      stop: () => pair.stop(),
    };
  }
  const lab = new Lab(LAB_NAME);
  const isProtected = mode !== 'unprotected';
  const compares = mode === 'compare' || mode === 'auto';
  const overrides = { ...(compares || mode === 'prerelease' ? { services } : {}), ...(compares ? { mode } : {}) };
  await lab.up({
    vcpus, signal,
    ...(isProtected ? {} : { agents: ['a'] }),
    overrides: { a: overrides, b: overrides },
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
    counts: async () => {
      const { active, role, phase, reason, protected: nowProtected, checkpoints, output } = await lab.status('a');
      if (!active || nowProtected !== isProtected) throw new Error(`host a is ${role}, ${phase}: ${reason}`);
      if (protection?.lost) throw new Error(`the guest was unprotected for a while: ${protection.lost}`);
      const { commit, logged, match } = output.releasedBy;
      return { checkpoints: checkpoints.commits, output: { packets: output.earlyPackets + commit + logged + match, matched: match } };
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
