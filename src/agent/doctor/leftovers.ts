/** What processes that ended without a chance to clean up have left on this host. */

import { join } from 'node:path';
import { ip } from '../../dataplane/ip.js';
import { readPidFile } from '../../qemu/process-identity.js';
import type { AgentConfig } from '../config.js';
import { isListening } from '../control.js';
import { ok, warn, type Verdict } from './finding.js';

/** Names that agents and the doctor give to interfaces. */
const ourInterface = /^clp-/;
const ourNamespace = /^colopp-(.+)-(client|net|a|b)$/;

/** @param config of this host's agent, whose VM may still run without it, and whose interfaces may have names of their own */
export async function leftovers({ runDir = '/run/colopp', network }: Partial<Pick<AgentConfig, 'runDir' | 'network'>> = {}): Promise<Verdict> {
  const found: string[] = [];
  const remedies: string[] = [];
  const deadLabs = await labsWithoutProcesses();
  if (deadLabs.length > 0) {
    found.push(`the remains of ${deadLabs.length === 1 ? 'the lab' : 'the labs'} ${deadLabs.join(', ')}`);
    remedies.push(...deadLabs.map((name) => `colopp lab down --name ${name}`));
  }
  const agentLives = await isListening(join(runDir, 'agent.sock'));
  const interfaces = agentLives ? [] : await deadInterfaces(network);
  if (interfaces.length > 0) {
    found.push(`${interfaces.length === 1 ? 'the interface' : 'the interfaces'} ${interfaces.join(', ')} of an agent that is gone`);
    remedies.push(...interfaces.map((name) => `ip link del ${name}`));
  }
  const pid = agentLives ? undefined : (await readPidFile(join(runDir, 'qemu.pid')).catch(() => undefined))?.pid;
  if (pid !== undefined) {
    found.push(`a VM without its agent, process ${pid}`);
    remedies.push('Start the agent again: it takes the VM over. If that is not wanted, end the process.');
  }
  return found.length === 0 ? ok('no namespaces, interfaces or VMs without an owner') : warn(found.join('; '), remedies.join('; '));
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

/**
 * A tap that no process has open has no carrier. A tunnel always has one: it is nobody's if no tap beside it is open.
 * @param network says which further names are ours
 */
async function deadInterfaces(network?: AgentConfig['network']): Promise<string[]> {
  const { bridge: _, ...made } = network ?? { bridge: '' };
  const configured: string[] = Object.values(made);
  const out = await ip('-json', '-details', 'link', 'show').catch(() => '[]');
  const ours = (JSON.parse(out) as { ifname: string; flags: string[]; linkinfo?: { info_kind?: string } }[])
    .filter(({ ifname }) => ourInterface.test(ifname) || configured.includes(ifname));
  const tunnels = ours.filter(({ linkinfo }) => linkinfo?.info_kind === 'vxlan');
  const taps = ours.filter((link) => !tunnels.includes(link));
  const dead = taps.filter(({ flags }) => flags.includes('NO-CARRIER'));
  return [...dead, ...dead.length === taps.length ? tunnels : []].map(({ ifname }) => ifname);
}
