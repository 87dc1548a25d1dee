import { fileURLToPath } from 'node:url';
import { Command } from 'commander';

export function systemdUnitCommand(): Command {
  return new Command('systemd-unit')
    .description('print a systemd unit that runs agents with this installation')
    .addHelpText('after', `
The unit is a template: colopp@NAME runs the agent of /etc/colopp/NAME.yaml.
The agent is restarted when it dies or hangs, and tried again while its bridge or
address is not there yet, but not with a configuration that cannot be used. Its VM
is left alone meanwhile, and the new agent takes it over, or gives it up if the
other host has it.

Examples:
  colopp systemd-unit > /etc/systemd/system/colopp@.service
  systemctl daemon-reload
  systemctl enable --now colopp@shop
  journalctl -u colopp@shop -f`)
    .action(() => void process.stdout.write(systemdUnit(process.execPath, fileURLToPath(new URL('main.js', import.meta.url)))));
}

/** @param node absolute path of Node.js @param main absolute path of the command line's entry */
export function systemdUnit(node: string, main: string): string {
  return `# /etc/systemd/system/colopp@.service, made by: colopp systemd-unit
[Unit]
Description=colopp agent of %i
Wants=network-online.target
After=network-online.target
# What the host lacks may come late: there is no giving up, but for what only a person can mend (see below).
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart=${quoted(node)} ${quoted(main)} agent --config /etc/colopp/%i.yaml
# An agent whose event loop stands still is as good as dead. Its VM was silenced long before: see the lease.
WatchdogSec=5
Restart=on-failure
RestartSec=1
# Wrong configuration, kernel or QEMU: trying again does not help.
RestartPreventExitStatus=2
# The VM must outlive an agent that crashed. An agent that is stopped, or restarted, hands a protected VM over to
# the other host first; an unprotected one ends with it.
KillMode=process
TimeoutStopSec=30
OOMScoreAdjust=-900
UMask=0077

[Install]
WantedBy=multi-user.target
`;
}

/** As one word of a command line in a unit. */
function quoted(path: string): string {
  const escaped = path.replaceAll('%', '%%').replaceAll('$', '$$$$').replaceAll('\\', '\\\\').replaceAll('"', '\\"');
  return /[\s"'\\;]/.test(path) ? `"${escaped}"` : escaped;
}
