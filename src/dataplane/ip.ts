import { execFile } from 'node:child_process';

/** This host's network is not what it must be, or cannot be made so; with what the kernel or iproute2 said. */
export class NetworkError extends Error {
  readonly code = 'NETWORK';

  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'NetworkError';
  }
}

/** Runs `ip` with an argument array. @returns its standard output */
export async function ip(...args: string[]): Promise<string> {
  return run('ip', args, undefined);
}

/** Runs `tc` with an argument array. */
export async function tc(...args: string[]): Promise<void> {
  await run('tc', args, undefined);
}

/**
 * Runs many `ip` commands in one process.
 * @param netns namespace to run in, undefined: the caller's
 * @param commands one command each, without the leading `ip`; words must hold no white space
 */
export async function ipBatch(netns: string | undefined, commands: readonly string[]): Promise<void> {
  const where = netns === undefined ? [] : ['-n', netns];
  await run('ip', [...where, '-batch', '-'], commands.join('\n') + '\n');
}

/** True if the interface exists in the caller's namespace. */
export async function linkExists(ifname: string): Promise<boolean> {
  const links = JSON.parse(await ip('-json', 'link', 'show')) as { ifname: string }[];
  return links.some((link) => link.ifname === ifname);
}

function run(command: 'ip' | 'tc', args: string[], input: string | undefined): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = execFile(command, args, { timeout: 20_000, maxBuffer: 16 * 1024 * 1024 }, (error, stdout, stderr) => {
      if (!error) return resolve(stdout);
      const what = `${command} ${args.join(' ')}${input === undefined ? '' : ` (${input.trim().split('\n').length} commands)`}`;
      const said = stderr.trim() || error.message;
      reject(new NetworkError(`"${what}" failed: ${said}`, { cause: error }));
    });
    child.stdin?.on('error', () => {}); // it ended early; its exit status tells why
    child.stdin?.end(input ?? '');
  });
}
