import { Command, InvalidArgumentError } from 'commander';
import { hostNames } from '../lab/topology.js';
import { Lab } from '../lab/lab.js';
import type { AgentAddress } from '../tui/feed.js';
import { UsageError } from './errors.js';
import { defaultSocket } from './operate.js';

interface Options {
  socket?: string[]; lab?: string; host?: string; interval: number;
  record?: string; replay?: string; speed: number;
}

export function monitorCommand(): Command {
  return new Command('monitor')
    .description('watch a pair, and act on it, in the terminal')
    .option('-s, --socket <path>', `control socket of the agent (default: $COLOPP_SOCKET or ${defaultSocket}); twice for both agents of a pair`, (path: string, before: string[] = []) => [...before, path])
    .option('--lab <name>', 'both agents of this lab instead')
    .option('--host <a|b>', 'only this host of the lab')
    .option('--interval <ms>', 'time between two updates', between(100, 60_000), 500)
    .option('--record <file>', 'write what is seen into a new file, as JSON lines')
    .option('--replay <file>', 'show such a file instead of a running pair')
    .option('--speed <n>', 'replay so many times as fast', between(0.1, 1000), 1)
    .addHelpText('after', `
Examples:
  colopp monitor
  colopp monitor --lab lab
  colopp monitor --record incident.jsonl
  colopp monitor --replay incident.jsonl --speed 10

The agent of one host knows little of what the other does. To watch both, bring
the other's socket here:
  ssh -N -L /run/colopp/peer.sock:/run/colopp/agent.sock root@beta &
  colopp monitor --socket /run/colopp/agent.sock --socket /run/colopp/peer.sock

Press ? for the keys. Colours are left out if NO_COLOR is set.`)
    .action(run);
}

async function run(options: Options): Promise<void> {
  checkOptions(options);
  requireTerminal();
  await openMonitor(options);
}

/** @throws UsageError that names what to use instead */
export function requireTerminal(): void {
  if (process.stdout.isTTY && process.env['TERM'] !== 'dumb') return;
  throw new UsageError(process.stdout.isTTY
    ? 'The monitor cannot draw on a terminal of type "dumb". For text, use: colopp status --json'
    : 'The monitor needs a terminal on its standard output. For scripts, use: colopp status --json');
}

/** Shows the monitor until somebody leaves it. */
export async function openMonitor(options: Partial<Options>): Promise<void> {
  process.env['NODE_ENV'] = 'production'; // React's development build checks everything twice
  // Only here: no other command needs React.
  const [{ runMonitor }, { LiveFeed }, { ReplayFeed }, { asciiGlyphs, unicodeGlyphs }] = await Promise.all([
    import('../tui/monitor.js'), import('../tui/feed.js'), import('../tui/recording.js'), import('../tui/text.js'),
  ]);
  const { interval = 500, replay, record, speed = 1 } = options;
  const ascii = !/utf-?8/i.test(process.env['LC_ALL'] || process.env['LC_CTYPE'] || process.env['LANG'] || '');
  const feed = replay === undefined ? new LiveFeed(agentsOf(options), interval) : await ReplayFeed.open(replay, speed, interval);
  await runMonitor({
    feed, ascii,
    setting: { title: titleOf(options), glyphs: ascii ? asciiGlyphs : unicodeGlyphs, hasColours: process.stdout.hasColors() },
    ...(record === undefined ? {} : { recordPath: record }),
  });
}

function checkOptions({ socket, lab, host, replay, record }: Options): void {
  if (socket !== undefined && lab !== undefined) throw new UsageError('Use --socket or --lab, not both.');
  if (socket !== undefined && socket.length > 2) throw new UsageError('A pair has two agents: use --socket at most twice.');
  if (socket !== undefined && socket.length === 2 && socket[0] === socket[1]) throw new UsageError(`Both agents cannot be at ${socket[0]}: --socket twice takes two sockets.`);
  if (host !== undefined && lab === undefined) throw new UsageError('--host is a host of a lab: use it with --lab.');
  if (host !== undefined && !hostNames.some((name) => name === host)) throw new UsageError(`A lab has the hosts a and b, not "${host}".`);
  if (replay === undefined) return;
  if (socket !== undefined || lab !== undefined) throw new UsageError('A recording is shown without a pair: use --replay without --socket and --lab.');
  if (record !== undefined) throw new UsageError('A recording is there already: use --record or --replay, not both.');
}

function agentsOf({ socket, lab, host }: Partial<Options>): AgentAddress[] {
  if (lab === undefined) {
    const [only = process.env['COLOPP_SOCKET'] ?? defaultSocket, other] = socket ?? [];
    return other === undefined ? [{ source: 'agent', socket: only }] : [{ source: 'agent 1', socket: only }, { source: 'agent 2', socket: other }];
  }
  const names = hostNames.filter((name) => host === undefined || name === host);
  return names.map((name) => ({ source: name, socket: new Lab(lab).socket(name) }));
}

function titleOf({ lab, replay }: Partial<Options>): string {
  if (replay !== undefined) return 'recording';
  return lab === undefined ? 'colopp' : `lab ${lab}`;
}

function between(low: number, high: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^\d+(\.\d+)?$/.test(text) || value < low || value > high) throw new InvalidArgumentError(`Give a number from ${low} to ${high}.`);
    return value;
  };
}
