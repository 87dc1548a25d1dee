/** A real terminal for the tests: what is on its screen, and keys. */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { cli, until } from './lab-harness.js';

const run = promisify(execFile);

/** A terminal of our own: a tmux server at a socket in a folder of ours. */
export class Terminal {
  readonly #dir: string;
  /** A server of its own for each start: one that ends is in nobody's way. */
  #servers = 0;

  constructor(dir: string) {
    this.#dir = dir;
  }

  async #tmux(...args: string[]): Promise<string> {
    const { TMUX: _, CI: __, NO_COLOR: ___, ...env } = process.env;
    return (await run('tmux', ['-u', '-S', join(this.#dir, `tmux${this.#servers}`), '-f', '/dev/null', ...args], { env: { ...env, LC_ALL: 'C.UTF-8', SHELL: '/bin/sh' } })).stdout;
  }

  /** Starts `colopp` with these arguments; its exit code shows when it has ended. */
  async start(args: string[], options: { columns?: number; rows?: number; env?: Record<string, string> } = {}): Promise<void> {
    await this.startProgram([process.execPath, cli, ...args], options);
  }

  /** Starts any program, given by its arguments. */
  async startProgram(command: string[], { columns = 80, rows = 24, env = {} as Record<string, string> } = {}): Promise<void> {
    this.#servers++;
    const script = '"$@"; printf "ended with %s\\n" "$?"; exec sleep 1000';
    const environment = Object.entries(env).flatMap(([name, value]) => ['-e', `${name}=${value}`]);
    await this.#tmux('new-session', '-d', '-s', 'm', '-x', `${columns}`, '-y', `${rows}`, ...environment, 'sh', '-c', script, 'sh', ...command);
  }

  async keys(...keys: string[]): Promise<void> {
    await this.#tmux('send-keys', '-t', 'm', ...keys);
  }

  async resize(columns: number, rows: number): Promise<void> {
    await this.#tmux('resize-window', '-t', 'm', '-x', `${columns}`, '-y', `${rows}`);
  }

  /** What is on the screen now. @param escapes with colours and styles */
  async screen(escapes = false): Promise<string> {
    return this.#tmux('capture-pane', '-p', '-t', 'm', ...escapes ? ['-e'] : []);
  }

  /** Waits until the screen matches. */
  async shows(pattern: RegExp, timeoutMs = 10_000): Promise<string> {
    let text = '';
    await until(`the screen shows ${pattern}`, async () => pattern.test(text = await this.screen()), timeoutMs)
      .catch((error: Error) => { throw new Error(`${error.message}. It shows:\n${text}`); });
    return text;
  }

  async end(): Promise<void> {
    await this.#tmux('kill-server').catch(() => {});
  }
}
