import { setTimeout as sleep } from 'node:timers/promises';
import type { AgentStatus } from '../agent/agent.js';
import { ask, onAgent, print, type Target } from './operate.js';
import { whole } from './options.js';
import { Progress } from './progress.js';

const pollMs = 100;

export function reprotectCommand() {
  return onAgent('reprotect', 'build a new secondary for a VM that outlived its host, and wait until it is protected', `  colopp reprotect
  colopp reprotect --lab lab --host b
  colopp reprotect --timeout 600

It happens by itself too, soon after the other host's agent is back; clients notice nothing.
Exit code 0 once the VM is protected, 1 if it is not within the time.`)
    .option('--timeout <s>', 'how long to wait', whole(1, 86_400), 120)
    .action(run);
}

async function run(target: Target & { timeout: number }): Promise<void> {
  const progress = new Progress(target.json ? process.stderr : process.stdout);
  const deadlineMs = performance.now() + target.timeout * 1000;
  let status = await ask<AgentStatus>(target, 'reprotect');
  const already = status.protected;
  let shown: string | undefined;
  while (!status.protected) {
    if (performance.now() > deadlineMs) {
      progress.failed();
      throw new NotProtectedError(status, target.timeout);
    }
    const step = `${status.phase}: ${status.reason}`;
    if (step !== shown) progress.start(step);
    shown = step;
    await sleep(pollMs);
    status = await ask<AgentStatus>(target, 'status');
  }
  progress.done('');
  const peer = status.peer?.host ?? 'the other host';
  print(target, status, already ? `${peer} protects the VM already.` : `Protected: ${peer} can take over from ${status.host}.`);
}

class NotProtectedError extends Error {
  readonly code = 'NOT_PROTECTED';

  constructor({ host, phase, reason }: AgentStatus, seconds: number) {
    super(`The VM on ${host} was not protected within ${seconds} s: ${phase} (${reason}). See that the other host's agent runs and can be reached.`);
    this.name = 'NotProtectedError';
  }
}
