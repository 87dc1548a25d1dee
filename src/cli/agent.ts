import { constants, setPriority } from 'node:os';
import { Command, Option } from 'commander';
import { loadConfig } from '../agent/config.js';
import { requireKernel } from '../agent/requirements.js';
import { serviceExitCodeOf } from './errors.js';
import { openLog } from './log.js';

/** All keys there are; those that only some want are in comments. */
export const exampleConfiguration = `  host: alpha
  role: primary                    # at first; later stateDir remembers it
  runDir: /run/colopp              # sockets and logs
  stateDir: /var/lib/colopp        # remembers who may run the VM
  vm:
    name: shop
    memoryMiB: 2048
    vcpus: 2
    kernel: /srv/shop/vmlinuz      # kernel, initrd, append, mac: the same on both hosts
    initrd: /srv/shop/initrd.img
    append: console=ttyS0
    mac: 52:54:00:12:34:56
    accel: auto                    # kvm, tcg, or what this host can
    # qemu: /opt/qemu/bin/qemu-system-x86_64  # in place of the one that set-up found
    extraArgs: []                  # for QEMU: further devices, say, the same on both hosts
  network:
    bridge: br0                    # leads to the clients; must exist
    tap: clp-tap0                  # made by the agent
    holdTap: clp-hold0             # made by the agent; output waits there
    tunnel: clp-tunnel0            # made if inputs are mirrored: for services, mode, secondary
    logTap: clp-log0               # likewise
    shadowTap: clp-shadow0         # made if outputs are compared
  peer:
    listen: 10.9.0.1:7749          # on the replication network
    address: 10.9.0.2:7749
    secretFile: /etc/colopp/secret # at least 16 bytes, the same on both hosts
    retryMs: 1000
  # witness:                       # decides who goes on; see colopp witness --help
  #   address: 10.9.1.9:7750
  #   secretFile: /etc/colopp/witness-secret
  heartbeat: { intervalMs: 100, missed: 3 }  # the same on both hosts
  checkpoint:
    holdMs: 0                      # a checkpoint starts no sooner after a packet was held
    periodMs: 10000                # or at this period
    timeoutMs: 10000               # one that takes longer ends the protection
    syncTimeoutMs: 120000
    maxHeldPackets: 4096           # more than this starts a checkpoint at once
    maxHeldBytes: 16777216
    holdMemoryBytes: 268435456
  # services:                      # whose replies may leave early; README: what that promises
  #   - { port: 6379, protocol: resp }  # or http, memcached, dns, read-only, never
  #   - { port: 80, protocol: http, preRelease: false }
  metrics: { listen: 127.0.0.1:9749 }  # for Prometheus; without it there is no such port
  mode: commit                     # or compare: output also leaves once both VMs have said it; or auto
  compare: { auditPercent: 1, auditMismatches: 3, latestMs: 200 }
  secondary: paused                # or active: always, not only while the primary compares
  activeVcpus: auto                # vCPUs that run while this host is the secondary: auto, or 0 to 64
`;

const help = `
Example of a configuration file (the primary; its peer has role, host, listen and address swapped).
Needed are host, role, runDir, stateDir, vm.name, memoryMiB, kernel and mac, network.bridge, tap
and holdTap, peer.listen and address.

${exampleConfiguration}
Examples:
  colopp agent --config /etc/colopp/agent.yaml
  colopp agent --config /etc/colopp/agent.yaml --check

Ctrl-C, or SIGTERM, ends the agent and leaves nothing behind. A VM that is
protected is handed over to the other host first, as by colopp failover; one that
is not ends with its agent. So to end a VM, stop the secondary's agent first.
Exit code 2 is for what somebody has to mend, 75 for what may come by itself: the
bridge, an address to listen at, memory for QEMU.

Under systemd the agent tells when it is ready and gives signs of life; see
colopp systemd-unit --help.`;

function describe({ role, phase }: { role: string; phase: string }): string {
  return `${role}, ${phase}`;
}

export function agentCommand(): Command {
  return new Command('agent')
    .description("run this host's half of a pair")
    .requiredOption('-c, --config <file>', 'configuration file (YAML)')
    .option('--check', 'only check the configuration')
    .addOption(new Option('--log-level <level>', 'least severity of what is logged').choices(['trace', 'debug', 'info', 'warn', 'error']).default('info'))
    .addHelpText('after', help)
    .action(run);
}

async function run(options: { config: string; check?: boolean; logLevel: string }): Promise<void> {
  const config = loadConfig(options.config);
  if (options.check) {
    process.stdout.write(`${options.config} is a valid configuration.\n`);
    return;
  }
  requireKernel();
  // Heartbeats and checkpoints wait for this process, and VMs compete with it.
  setPriority(constants.priority.PRIORITY_HIGH);
  // Only here: no other command needs the native add-ons.
  const [{ Agent }, { ServiceManager }, { allowHugePages }] = await Promise.all([import('../agent/agent.js'), import('sd-notify'), import('huge-pages')]);
  allowHugePages(false); // on busy CPUs the kernel would stop this process for making them
  const { log, end } = openLog(options.logLevel);
  const manager = new ServiceManager();
  const agent = await Agent.start(config, log).catch((error: unknown) => {
    process.exitCode = serviceExitCodeOf(error);
    throw error;
  });
  manager.ready();
  manager.status(describe(agent.status()));
  agent.follow((news) => {
    // A checkpoint is part of being protected, and there are dozens a second.
    if (news.event === 'phase' && news.phase !== 'checkpointing') manager.status(describe(news));
  });
  let stopping = false;
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.on(signal, () => {
      if (stopping) return;
      stopping = true;
      log.info(`Ending on ${signal}.`);
      manager.stopping();
      void agent.stop();
    });
  }
  await agent.ended;
  manager.close();
  end();
}
