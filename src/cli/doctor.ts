import { Command } from 'commander';
import type { Finding } from '../agent/doctor/doctor.js';
import { loadConfig } from '../agent/config.js';
import { interruptible } from './interrupt.js';

interface Options { config?: string; qemu?: string; json?: boolean }

export function doctorCommand(): Command {
  return new Command('doctor')
    .description('check whether this host can take part in a pair')
    .option('-c, --config <file>', 'also check what this configuration of an agent needs: its VM, network and peer')
    .option('--qemu <path>', 'check this QEMU binary instead of the one that set-up found')
    .option('--json', 'print JSON')
    .addHelpText('after', `
Nothing is taken from versions: programs are loaded, devices are made, and two
QEMUs replicate to each other and fail over. All of it is gone afterwards.

Examples:
  colopp doctor
  colopp doctor --config /etc/colopp/agent.yaml
  colopp doctor --json | jq '.[] | select(.verdict != "ok")'

Exit code 0 if nothing fails, else 2.`)
    .action(run);
}

async function run({ config, qemu, json }: Options): Promise<void> {
  const agent = config === undefined ? undefined : loadConfig(config);
  const { examine } = await import('../agent/doctor/doctor.js');
  await interruptible(async (signal) => {
    const findings: Finding[] = [];
    for await (const finding of examine({ config: agent, qemuPath: qemu, signal })) {
      findings.push(finding);
      if (!json) process.stdout.write(textOf(finding));
    }
    if (json) process.stdout.write(`${JSON.stringify(findings, null, 2)}\n`);
    process.exitCode = findings.some(({ verdict }) => verdict === 'fail') ? 2 : 0;
  });
}

function textOf({ name, verdict, detail, remedy }: Finding): string {
  const line = `${verdict.padEnd(5)} ${name.padEnd(9)} ${detail}\n`;
  return remedy === '' ? line : `${line}${' '.repeat(16)}${remedy}\n`;
}
