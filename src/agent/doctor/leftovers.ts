/** What processes that ended without a chance to clean up have left on this host. */

import { join } from 'node:path';
import { ip } from '../../dataplane/ip.js';
import { readPidFile } from '../../qemu/process-identity.js';
import { isListening } from '../control.js';
import { ok, warn, type Verdict } from './finding.js';

/** Names that agents and the doctor give to interfaces. */
const ourInterface = /^clp-/;
const ourNamespace = /^colopp-(.+)-(client|net|a|b)$/;

/** @param runDir of this host's agent, whose VM may still run without it */
export async function leftovers(runDir = '/run/colopp'): Promise<Verdict> {
  const found: string[] = [];
  const remedies: string[] = [];
  const deadLabs = await labsWithoutProcesses();
  if (deadLabs.length > 0) {
    found.push(`the remains of ${deadLabs.length === 1 ? 'the lab' : 'the labs'} ${deadLabs.join(', ')}`);
    remedies.push(...deadLabs.map((name) => `colopp lab down --name ${name}`));
  }
  const agentLives = await isListening(join(runDir, 'agent.sock'));
  const taps = agentLives ? [] : await deadTaps();
  if (taps.length > 0) {
    found.push(`${taps.length === 1 ? 'the tap' : 'the taps'} ${taps.join(', ')} of an agent that is gone`);
    remedies.push(...taps.map((tap) => `ip link del ${tap}`));
  }
  const pid = agentLives ? undefined : (await readPidFile(join(runDir, 'qemu.pid')).catch(() => undefined))?.pid;
  if (pid !== undefined) {
    found.push(`a VM without its agent, process ${pid}`);
    remedies.push('Start the agent again: it takes the VM over. If that is not wanted, end the process.');
  }
  return found.length === 0 ? ok('no namespaces, taps or VMs without an owner') : warn(found.join('; '), remedies.join('; '));
}

async function labsWithoutProcesses(): Promise<string[]> {
  const out = await ip('-json', 'netns', 'list').catch(() => '');
  const names = out.trim() === '' ? [] : (JSON.parse(out) as { name: string }[]).map(({ name }) => name);
  const processes = new Map<string, number>();
  for (const name of names) {
    const lab = ourNamespace.exec(name)?.[1];
    if (lab === undefined) continue;
    const pids = await ip('netns', 'pids', name).catch(() => '');
    processes.set(lab, (processes.get(lab) ?? 0) + pids.split('\n').filter(Boolean).length);
  }
  return [...processes].filter(([, count]) => count === 0).map(([lab]) => lab);
}

/** A tap that no process has open has no carrier. */
async function deadTaps(): Promise<string[]> {
  const out = await ip('-json', 'link', 'show').catch(() => '[]');
  return (JSON.parse(out) as { ifname: string; flags: string[] }[])
    .filter(({ ifname, flags }) => ourInterface.test(ifname) && flags.includes('NO-CARRIER')).map(({ ifname }) => ifname);
}
