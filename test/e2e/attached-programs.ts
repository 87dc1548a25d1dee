/** Prints the ids of all programs attached by tcx in the network namespace it runs in. */
import { readdirSync } from 'node:fs';
import { BpfProgram } from 'libbpf-napi';

const ids = readdirSync('/proc/sys/net/ipv4/conf').filter((name) => name !== 'all' && name !== 'default').flatMap((ifname) =>
  (['ingress', 'egress'] as const).flatMap((direction) => BpfProgram.queryTcx({ ifname, direction }).map(({ progId }) => progId)));
process.stdout.write(JSON.stringify(ids));
