import { Command } from 'commander';
import pino from 'pino';
import { parseEndpoint } from '../agent/config.js';
import { readSecret } from '../agent/secret.js';

const help = `
When the two hosts of a pair lose each other, each may think that the other is
dead. The witness lets one of them go on, the first that asks, and never both.
It runs on a third machine, which both hosts reach by another way than each
other: on the clients' side of the network, say. One witness serves any number
of pairs; their VMs must have different names. It carries no traffic of the VMs
and may be restarted at any time, but not forget: keep its folder.

While a pair that has a witness cannot reach it, nothing is lost yet: only if
the hosts lose each other as well does the VM stay silent, until one of the
others can be reached or "colopp start-alone" decides.

In the agents' configuration, on both hosts:

  witness:
    address: 10.9.1.9:7750
    secretFile: /etc/colopp/witness-secret   # at least 16 bytes, known to the witness, too

Examples:
  colopp witness --listen 10.9.1.9:7750 --state-dir /var/lib/colopp-witness --secret-file /etc/colopp/witness-secret`;

interface Options { listen: { host: string; port: number }; stateDir: string; secretFile?: string; logLevel: string }

export function witnessCommand(): Command {
  return new Command('witness')
    .description('decides which host goes on when the two of a pair have lost each other')
    .requiredOption('-l, --listen <address:port>', 'where the hosts reach the witness', parseEndpoint)
    .requiredOption('-d, --state-dir <dir>', 'where it remembers what it has decided')
    .option('-s, --secret-file <file>', 'a file with at least 16 bytes that the hosts know, too')
    .option('--log-level <level>', 'trace, debug, info, warn or error', 'info')
    .addHelpText('after', help)
    .action(run);
}

async function run({ listen, stateDir, secretFile, logLevel }: Options): Promise<void> {
  const secret = readSecret('--secret-file', secretFile);
  const { Witness } = await import('../agent/witness/server.js');
  const log = pino({ level: logLevel, base: null, timestamp: pino.stdTimeFunctions.isoTime });
  const witness = await Witness.listen({ listen, stateDir, secret, log });
  log.info({ port: witness.port }, 'The witness listens.');
  if (!secret) log.warn('Without --secret-file, whoever can connect can decide which host goes on.');
  await new Promise<void>((resolve) => {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => resolve());
  });
  await witness.close();
}
