/** Can this host take part in a pair? Every answer comes from trying. */

import { locateQemu, probeNested, probeQemu, tryColo } from '../../qemu/index.js';
import type { AgentConfig } from '../config.js';
import { configChecks } from './config-checks.js';
import { fail, ok, skip, warn, type Check, type Finding } from './finding.js';
import { hostChecks } from './host-checks.js';
import { leftovers } from './leftovers.js';

export type { Finding } from './finding.js';

export interface ExamineOptions {
  /** A QEMU binary to check in place of the one that set-up found, or that the configuration names. */
  qemuPath?: string | undefined;
  /** What this host's agent is to be started with: then its VM, network and peer are checked, too. */
  config?: AgentConfig | undefined;
  signal?: AbortSignal | undefined;
}

/** Makes all checks, one after the other, and tells each finding at once: some take seconds. Leaves nothing behind. */
export async function* examine({ qemuPath, config, signal }: ExamineOptions = {}): AsyncGenerator<Finding> {
  yield* run([...hostChecks, ...await bpfChecks()], signal);
  yield* examineQemu(qemuPath ?? config?.vm.qemu, signal);
  yield* run(config ? configChecks(config) : [['peer', async () => skip('not checked', 'Name the agent\'s configuration to have its VM, network and peer checked: --config FILE')]], signal);
  yield* run([['leftovers', () => leftovers(config)]], signal);
}

/** Loaded only here: what this fails at is a finding like others. */
async function bpfChecks(): Promise<readonly Check[]> {
  try {
    return (await import('./bpf-checks.js')).bpfChecks;
  } catch (error) {
    return [['libbpf', async () => fail(`the native part of colopp cannot be loaded: ${(error as Error).message.split('\n')[0]}`, 'Install what it needs, and build it: npm run setup')]];
  }
}

async function* run(checks: readonly Check[], signal: AbortSignal | undefined): AsyncGenerator<Finding> {
  for (const [name, check] of checks) {
    signal?.throwIfAborted();
    yield { name, ...await check() };
  }
}

async function* examineQemu(path: string | undefined, signal: AbortSignal | undefined): AsyncGenerator<Finding> {
  let found;
  try {
    const runtime = await locateQemu(path === undefined ? {} : { explicitPath: path });
    found = { runtime, probe: await probeQemu(runtime, signal === undefined ? {} : { signal }) };
  } catch (error) {
    signal?.throwIfAborted();
    return yield { name: 'QEMU', ...fail((error as Error).message, 'QEMU 11 or newer is needed; npm run setup brings one.') };
  }
  const { runtime, probe: { version, kvm } } = found;
  yield { name: 'QEMU', ...ok(`${version} with COLO (${runtime.origin})`) };
  yield { name: 'KVM', ...kvm.usable ? ok(kvm.reason) : warn(`guests run under emulation (TCG): ${kvm.reason}`, 'Use a host whose CPU offers vmx or svm, if speed matters.') };
  yield { name: 'nested', ...ok((await probeNested(kvm)).reason) };
  try {
    const { pauseMs, takeoverMs, totalMs } = await tryColo(runtime, kvm.usable ? 'kvm' : 'tcg', signal === undefined ? {} : { signal });
    yield { name: 'COLO', ...ok(`two QEMUs on this host made a checkpoint (pause ${pauseMs.toFixed(1)} ms), and the second took over (${takeoverMs.toFixed(0)} ms); ${(totalMs / 1000).toFixed(1)} s in all`) };
  } catch (error) {
    signal?.throwIfAborted();
    yield { name: 'COLO', ...fail((error as Error).message, 'This QEMU has COLO, and it does not work. Use the one that npm run setup brings.') };
  }
}
