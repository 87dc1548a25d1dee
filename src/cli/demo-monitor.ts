/** The demo as something to watch and to act on: clients work on a protected guest, and the monitor shows it. */

import { setTimeout as sleep } from 'node:timers/promises';
import { ClientProcess } from '../drill/client-process.js';
import { demoGuest, Lab } from '../lab/lab.js';
import { addresses } from '../lab/topology.js';
import { openMonitor, requireTerminal } from './monitor.js';
import type { Progress } from './progress.js';

/** Few enough that a small machine has time for the picture, too. */
const load = { writers: 4, readers: 2, redisReaders: 2, newcomers: 1 };
const protectTimeoutMs = 120_000;
/** The VM is to move when it is told to, also where the machine is busy and heartbeats are late. */
const patient = { intervalMs: 100, missed: 10 };
/** In this time every connection must have had a reply, after the last look. */
const replyMs = 2000;

/** What became of the clients. */
export interface DemoMonitorOutcome { connections: number; broken: string[]; acknowledged: number; lost: number }

export interface DemoMonitorOptions { labName: string; vcpus: number; signal: AbortSignal; progress: Progress }

/**
 * Makes a lab with clients, opens the monitor, and when that is left, counts what became of the clients.
 * Everything is gone afterwards.
 */
export async function runDemoMonitor({ labName, vcpus, signal, progress }: DemoMonitorOptions): Promise<DemoMonitorOutcome> {
  requireTerminal();
  const lab = new Lab(labName);
  let clients: ClientProcess | undefined;
  try {
    progress.start('two hosts, a client, two networks; both agents');
    await lab.up({ preRelease: true, vcpus, signal, overrides: { a: { heartbeat: patient }, b: { heartbeat: patient } } });
    progress.start('boot the guest and copy it to host b');
    await lab.waitFor('a', 'protected', (status) => status.protected, protectTimeoutMs, signal);
    await lab.waitForGuest(protectTimeoutMs, signal);
    progress.start('connect clients');
    clients = new ClientProcess(lab.topology.client);
    const { ports } = demoGuest();
    const { connections } = await clients.start({ guest: addresses.guest, redisPort: ports.redis, httpPort: ports.http, ...load });
    progress.done(`${connections} connections; the monitor opens. Press f and y there to move the VM, q to leave`);
    await sleep(1000, undefined, { signal });

    await openMonitor({ lab: labName });

    progress.start('read back every acknowledged write');
    const leftNs = process.hrtime.bigint();
    await sleep(replyMs, undefined, { signal });
    const { reports, acknowledged, lost } = await clients.stop(leftNs);
    progress.done(`${acknowledged}`);
    return { connections, broken: reports.flatMap(({ name, broken }) => broken === undefined ? [] : [`${name}: ${broken}`]), acknowledged, lost };
  } finally {
    clients?.kill();
    progress.start('clean up');
    const { processes } = await lab.down();
    progress.done(`${processes} processes ended`);
  }
}

export function isUnharmed({ broken, acknowledged, lost }: DemoMonitorOutcome): boolean {
  return broken.length === 0 && lost === 0 && acknowledged > 0;
}

export function outcomeText(outcome: DemoMonitorOutcome): string {
  const { connections, broken, acknowledged, lost } = outcome;
  return [
    '', isUnharmed(outcome) ? 'Nobody was cut off, nothing acknowledged was lost.' : 'FAILED: something was lost.',
    `  connections  ${connections - broken.length} of ${connections} open TCP connections survived`,
    `  writes       ${lost} of ${acknowledged} acknowledged writes were lost (each was read back)`,
    ...broken.map((each) => `  broken       ${each}`), '',
  ].join('\n');
}
