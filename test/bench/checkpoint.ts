import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { locateQemu } from '../../src/qemu/index.js';
import { ColoPair, type Channel, type GuestImage } from './colo-pair.js';

/**
 * How long a checkpoint stops an idle guest: over a connection of our agents, and over QEMU's own TCP channel.
 * Both pairs stand side by side and take turns, so that whatever else the machine does falls on
 * both alike.
 */

const GUEST_FILE = fileURLToPath(new URL('../../../build/guest/guest.json', import.meta.url));
const WARM_UP = 5;
const ROUNDS = 60;
const GAP_MS = 100;

export interface CheckpointBench {
  relayPauseMsP50: number;
  stockTcpPauseMsP50: number;
  /** relayPauseMsP50 / stockTcpPauseMsP50 */
  ratio: number;
}

/** Measures, prints, and writes the figures to `jsonPath` if there is one. */
export async function run(jsonPath?: string): Promise<void> {
  const guest = JSON.parse(await readFile(GUEST_FILE, 'utf8')) as GuestImage;
  const runtime = await locateQemu();
  const folder = await mkdtemp(join(tmpdir(), 'colopp-bench-'));
  const pairs: ColoPair[] = [];
  const interruption = new AbortController();
  const { signal } = interruption;
  const onSignal = (name: string) => interruption.abort(new Error(`interrupted by ${name}`));
  process.on('SIGINT', onSignal).on('SIGTERM', onSignal);
  try {
    const pauses: Record<Channel, number[]> = { handed: [], tcp: [] };
    for (const channel of ['handed', 'tcp'] as const) {
      console.log(`starting a pair over ${channel === 'handed' ? 'a connection of ours' : "QEMU's own TCP"}`);
      const home = await mkdtemp(join(folder, `${channel}-`));
      pairs.push(await ColoPair.start(channel, runtime, guest, home, signal));
    }
    for (let round = -WARM_UP; round < ROUNDS; round++) {
      for (const pair of pairs) {
        await sleep(GAP_MS, undefined, { signal });
        const pauseMs = await pair.checkpoint();
        if (round >= 0) pauses[pair.channel].push(pauseMs);
      }
    }
    const relayPauseMsP50 = median(pauses.handed);
    const stockTcpPauseMsP50 = median(pauses.tcp);
    const figures: CheckpointBench = {
      relayPauseMsP50,
      stockTcpPauseMsP50,
      ratio: Number((relayPauseMsP50 / stockTcpPauseMsP50).toFixed(3)),
    };
    console.log(`checkpoint pause, median of ${ROUNDS}, ${guest.memoryMiB} MiB idle guest, TCG:`);
    console.log(`  over a connection of ours ${relayPauseMsP50.toFixed(1)} ms`);
    console.log(`  over QEMU's own TCP       ${stockTcpPauseMsP50.toFixed(1)} ms`);
    console.log(`  ratio                     ${figures.ratio}`);
    if (jsonPath !== undefined) await writeFile(jsonPath, `${JSON.stringify(figures)}\n`);
  } finally {
    process.off('SIGINT', onSignal).off('SIGTERM', onSignal);
    for (const pair of pairs) await pair.stop();
    await rm(folder, { recursive: true, force: true });
  }
}

function median(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted[Math.floor(sorted.length / 2)];
  if (middle === undefined) throw new Error('nothing was measured');
  return middle;
}
