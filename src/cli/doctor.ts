import { Command } from 'commander';

export function doctorCommand(): Command {
  return new Command('doctor')
    .description('check whether this host can take part in a pair')
    .option('--qemu <path>', 'check this QEMU binary instead of the one that set-up found')
    .option('--json', 'print JSON')
    .addHelpText('after', `
Examples:
  colopp doctor
  colopp doctor --json

Exit code 0 if nothing fails, else 2.`)
    .action(run);
}

async function run(options: { qemu?: string; json?: boolean }): Promise<void> {
  const { examine } = await import('../agent/doctor.js');
  const findings = await examine(options.qemu);
  if (options.json) {
    process.stdout.write(`${JSON.stringify(findings, null, 2)}\n`);
  } else {
    for (const { name, verdict, detail, remedy } of findings) {
      process.stdout.write(`${verdict.padEnd(5)} ${name.padEnd(8)} ${detail}\n`);
      if (verdict !== 'ok') process.stdout.write(`${' '.repeat(15)}${remedy}\n`);
    }
  }
  process.exitCode = findings.some((finding) => finding.verdict === 'fail') ? 2 : 0;
}
