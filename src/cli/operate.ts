/** Commands to a running agent. */

import { Argument, Command, Option } from 'commander';
import type { AgentStatus } from '../agent/agent.js';
import { callAgent, type ControlCommand, type ControlRequest } from '../agent/control.js';
import { Lab } from '../lab/lab.js';
import { UsageError } from './errors.js';
import { whole } from './options.js';
import { serviceText, statusText } from './status-text.js';

export const defaultSocket = '/run/colopp/agent.sock';

export interface Target { socket?: string; lab?: string; host?: string; json?: boolean }

/** A command with the options that say which agent is meant. */
export function onAgent(name: string, description: string, examples: string): Command {
  return new Command(name)
    .description(description)
    .option('-s, --socket <path>', `control socket of the agent (default: $COLOPP_SOCKET or ${defaultSocket})`)
    .option('--lab <name>', 'an agent of this lab instead; with --host')
    .option('--host <a|b>', 'which host of the lab', 'a')
    .option('--json', 'print JSON')
    .addHelpText('after', `\nExamples:\n${examples}`);
}

function socketOf(target: Target): string {
  if (target.lab === undefined) return target.socket ?? process.env['COLOPP_SOCKET'] ?? defaultSocket;
  if (target.socket !== undefined) throw new UsageError('Use --socket or --lab, not both.');
  if (target.host !== 'a' && target.host !== 'b') throw new UsageError(`A lab has the hosts a and b, not "${target.host}".`);
  return new Lab(target.lab).socket(target.host);
}

export async function ask<T>(target: Target, command: ControlCommand, details: Partial<ControlRequest> = {}): Promise<T> {
  return await callAgent(socketOf(target), { ...details, command }) as T;
}

export function print(target: Target, result: unknown, text: string): void {
  process.stdout.write(target.json ? `${JSON.stringify(result, null, 2)}\n` : `${text}\n`);
}

export function statusCommand(): Command {
  return onAgent('status', 'show what an agent is doing', `  colopp status
  colopp status --lab lab --host b
  colopp status --json | jq .output.heldPackets

It shows: role and state; the VM and how it runs; when the peer was last heard;
commits, and how long they paused the VM; output that waits now and what became
of the rest; for each declared service what left early and why the rest did not.
Exit code 2 if no agent answers.`)
    .action(async (target: Target) => {
      const status = await ask<AgentStatus>(target, 'status');
      print(target, status, statusText(status));
    });
}

export function checkpointCommand(): Command {
  return onAgent('checkpoint', 'make a checkpoint now and wait for its commit', `  colopp checkpoint
  colopp checkpoint --lab lab --json

Ask the primary's agent. A commit means that the other host has loaded the
checkpoint: what the VM said before is released to its clients.
Exit code 1 if there is no protection, or no commit in time.`)
    .action(async (target: Target) => {
      const result = await ask<{ pauseMs: number }>(target, 'checkpoint');
      print(target, result, `Committed. The VM was paused for ${result.pauseMs.toFixed(1)} ms.`);
    });
}

export function failoverCommand(): Command {
  return onAgent('failover', 'move the VM to the other host now', `  colopp failover
  colopp failover --lab lab --host a

Either host's agent may be asked. The VM goes on from its last commit, and its
connections with it; what clients were told is never taken back. It takes some
ten milliseconds. Afterwards the pair protects itself again, the other way
round. Exit code 1 if the VM is not protected: then it stays where it is.`)
    .action(async (target: Target) => {
      const status = await ask<AgentStatus>(target, 'failover');
      print(target, status, status.active ? `${status.host} runs the VM now.` : `${status.host} has handed the VM over.`);
    });
}

export function pauseCommand(): Command {
  return onAgent('pause', 'end the protection of the VM until it is asked for again', `  colopp pause
  colopp reprotect

For maintenance of the other host, or of the network between. The VM runs on and
its clients notice nothing, but if its host is lost meanwhile, so is the VM.
Ask the primary's agent. An agent that is restarted protects again.`)
    .action(async (target: Target) => {
      const status = await ask<AgentStatus>(target, 'pause');
      print(target, status, `${status.host} runs the VM unprotected. To protect it again: colopp reprotect`);
    });
}

export function serviceCommand(): Command {
  return onAgent('service', 'show a declared service, or switch its pre-release', `  colopp service 6379
  colopp service 6379 --pre-release off
  colopp service 80 --pre-release on --lab lab --host b

While it is off every reply waits for a commit, as if the service were not
declared. It counts for this host, from the next packet on and until its agent
is restarted: tell the other host's agent, too.`)
    .addArgument(new Argument('<port>', 'the guest\'s port').argParser(whole(1, 65535)))
    .addOption(new Option('--pre-release <on|off>', 'whether its replies may leave before a checkpoint').choices(['on', 'off']))
    .action(async (port: number, target: Target & { preRelease?: 'on' | 'off' }) => {
      const { preRelease } = target;
      const status = await (preRelease === undefined ? ask<AgentStatus>(target, 'status') : ask<AgentStatus>(target, 'pre-release', { port, on: preRelease === 'on' }));
      const service = status.output.services.find((each) => each.port === port);
      if (!service) throw new UsageError(`No service is declared at port ${port} of ${status.host}. Declare it in the agent's configuration (services).`);
      print(target, service, `port ${port}  ${serviceText(service)}`);
    });
}

export function startAloneCommand(): Command {
  return onAgent('start-alone', 'let a host that is fenced or ended run the VM: only if you are sure that its peer does not', `  colopp start-alone

A host is fenced when its peer may have taken the VM over while it could not be
heard. It goes on by itself once the peer can be asked. Only when the peer is
gone for good is it yours to decide: two hosts that both run the VM answer
clients differently. One whose VM has ended boots it again.
Exit code 1 if this host is neither fenced nor ended.`)
    .action(async (target: Target) => {
      const status = await ask<AgentStatus>(target, 'start-alone');
      print(target, status, `${status.host} runs the VM in generation ${status.generation}, unprotected.`);
    });
}
