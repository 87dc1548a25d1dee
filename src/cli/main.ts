#!/usr/bin/env node
import { Command, CommanderError } from 'commander';
import { agentCommand } from './agent.js';
import { completionCommand } from './completion.js';
import { demoCommand } from './demo.js';
import { doctorCommand } from './doctor.js';
import { drillCommand } from './drill.js';
import { exitCodeOf, report } from './errors.js';
import { explainCommand } from './explain.js';
import { labCommand } from './lab.js';
import { monitorCommand } from './monitor.js';
import { reprotectCommand } from './reprotect.js';
import { checkpointCommand, failoverCommand, pauseCommand, serviceCommand, startAloneCommand, statusCommand } from './operate.js';
import { systemdUnitCommand } from './systemd-unit.js';
import { vcpuCommand } from './vcpu.js';
import { witnessCommand } from './witness.js';

const program = new Command('colopp')
  .description('Keeps a virtual machine and its TCP connections alive when its host dies.')
  .version('0.1.0')
  .showHelpAfterError('(add --help for the options and examples)')
  .exitOverride()
  .addHelpText('after', `
Examples:
  colopp doctor                        can this host take part?
  colopp demo                          watch a VM outlive its host, on this machine
  colopp agent --config agent.yaml     run a host's half of a pair
  colopp status                        what the agent of this host says
  colopp monitor                       watch the pair, and act on it

Exit codes: 0 done, 1 failed, 2 wrong usage, configuration or environment, 130 interrupted.`);

for (const command of [
  agentCommand(), statusCommand(), checkpointCommand(), failoverCommand(), pauseCommand(), reprotectCommand(), startAloneCommand(), serviceCommand(), vcpuCommand(),
  monitorCommand(), doctorCommand(), labCommand(), drillCommand(), demoCommand(), witnessCommand(), systemdUnitCommand(), explainCommand(), completionCommand(),
]) program.addCommand(inherit(command));

try {
  await program.parseAsync();
} catch (error) {
  if (error instanceof CommanderError) {
    process.exitCode = error.exitCode === 0 ? 0 : 2; // commander has said what is wrong
  } else {
    report(error);
    process.exitCode ||= exitCodeOf(error); // the command may know better
  }
}

/** Subcommands throw like the program does, instead of ending the process themselves. */
function inherit(command: Command): Command {
  command.exitOverride().showHelpAfterError('(add --help for the options and examples)');
  for (const sub of command.commands) inherit(sub);
  return command;
}
