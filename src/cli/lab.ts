import { Command } from 'commander';
import { Lab } from '../lab/lab.js';
import { addresses, existingLabs, hostNames } from '../lab/topology.js';
import { interruptible } from './interrupt.js';
import { whole } from './options.js';
import { statusText } from './status-text.js';

const defaultName = 'lab';

export function labCommand(): Command {
  const lab = new Command('lab')
    .description('two hosts and a client on this machine, in network namespaces')
    .addHelpText('after', `
Examples:
  colopp lab up                        two agents, a protected guest, a client network
  colopp status --lab lab --host b
  ip netns exec colopp-lab-client curl http://${addresses.guest}/1k
  colopp lab down`);
  lab.command('up')
    .description('make a lab, start the agents and wait until the guest is protected')
    .option('--name <name>', 'name of the lab; several can stand side by side', defaultName)
    .option('--vcpus <n>', 'vCPUs of the guest', whole(1, 8), 1)
    .option('--network-only', 'only the namespaces and cables')
    .addHelpText('after', `
Examples:
  colopp lab up
  colopp lab up --name two --vcpus 2
  colopp monitor --lab two`)
    .action(up);
  lab.command('down')
    .description('end every process in a lab and remove it, also after a crash')
    .option('--name <name>', 'name of the lab', defaultName)
    .option('--all', 'all labs on this machine')
    .addHelpText('after', `
Examples:
  colopp lab down
  colopp lab down --all`)
    .action(down);
  lab.command('status')
    .description('show the labs on this machine and what their agents say')
    .option('--json', 'print JSON')
    .addHelpText('after', `
Examples:
  colopp lab status
  colopp lab status --json | jq '.[].hosts.a.phase'`)
    .action(status);
  return lab;
}

async function up(options: { name: string; vcpus: number; networkOnly?: boolean }): Promise<void> {
  const lab = new Lab(options.name);
  const say = (text: string): void => void process.stdout.write(`${text}\n`);
  await interruptible(async (signal) => {
    await lab.up({ vcpus: options.vcpus, networkOnly: options.networkOnly === true, signal });
    try {
      signal.throwIfAborted();
      say(`Lab "${lab.name}" is up: ${Object.values(lab.topology.hosts).join(', ')}, ${lab.topology.client}.`);
      if (options.networkOnly) return;
      say('Waiting until the guest is protected and its services answer...');
      await lab.waitFor('a', 'protected', (s) => s.protected, 120_000, signal);
      await lab.waitForGuest(120_000, signal);
      say(statusText(await lab.status('a')));
      say(`\nTry:  ip netns exec ${lab.topology.client} curl http://${addresses.guest}/1k\n      colopp failover --lab ${lab.name}\n      colopp lab down --name ${lab.name}`);
    } catch (error) {
      if (signal.aborted) await lab.down();
      throw error;
    }
  });
}

async function down(options: { name: string; all?: boolean }): Promise<void> {
  const names = options.all ? await existingLabs() : [options.name];
  if (names.length === 0) process.stdout.write('There is no lab.\n');
  for (const name of names) {
    const { processes, namespaces } = await new Lab(name).down();
    process.stdout.write(namespaces.length === 0 && processes === 0
      ? `There is no lab "${name}".\n`
      : `Lab "${name}" is down: ${processes} processes ended, ${namespaces.length} namespaces removed.\n`);
  }
}

async function status(options: { json?: boolean }): Promise<void> {
  const labs = await Promise.all((await existingLabs()).map(async (name) => {
    const lab = new Lab(name);
    const hosts = await Promise.all(hostNames.map(async (host) => [host, await lab.status(host).catch(() => null)] as const));
    return { name, hosts: Object.fromEntries(hosts) };
  }));
  if (options.json) return void process.stdout.write(`${JSON.stringify(labs, null, 2)}\n`);
  if (labs.length === 0) return void process.stdout.write('There is no lab. Make one: colopp lab up\n');
  for (const { name, hosts } of labs) {
    for (const host of hostNames) {
      const answer = hosts[host];
      process.stdout.write(`\n${name}/${host}\n${answer ? statusText(answer) : 'no agent answers'}\n`);
    }
  }
}
