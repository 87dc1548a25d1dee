/** The monitor in a real terminal, with real keys, over a real lab: what it shows, what it does, and what it survives. */
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { assertRefused, cli, colopp, ownLab, until, untilProtected } from './lab-harness.js';

const run = promisify(execFile);
const dir = mkdtempSync(join(tmpdir(), 'colopp-monitor-'));
const recording = join(dir, 'recording.jsonl');
const lab = ownLab('t-monitor');

/** A terminal of our own: a tmux server at a socket in our folder. */
class Terminal {
  /** A server of its own for each start: one that ends is in nobody's way. */
  #servers = 0;

  async #tmux(...args: string[]): Promise<string> {
    const { TMUX: _, CI: __, NO_COLOR: ___, ...env } = process.env;
    return (await run('tmux', ['-u', '-S', join(dir, `tmux${this.#servers}`), '-f', '/dev/null', ...args], { env: { ...env, LC_ALL: 'C.UTF-8', SHELL: '/bin/sh' } })).stdout;
  }

  /** Starts `colopp` with these arguments; its exit code shows when it has ended. */
  async start(args: string[], { columns = 80, rows = 24, env = {} as Record<string, string> } = {}): Promise<void> {
    this.#servers++;
    const script = '"$@"; printf "ended with %s\\n" "$?"; exec sleep 1000';
    const environment = Object.entries(env).flatMap(([name, value]) => ['-e', `${name}=${value}`]);
    await this.#tmux('new-session', '-d', '-s', 'm', '-x', `${columns}`, '-y', `${rows}`, ...environment, 'sh', '-c', script, 'sh', process.execPath, cli, ...args);
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

const terminal = new Terminal();
const commits = (text: string): number => Number(/commits +(\d+)/.exec(text)?.[1] ?? NaN);
let agentPid = 0;

test.before(async () => {
  await lab.down();
  await lab.up();
  agentPid = (await untilProtected(lab, 'a', 60_000)).pid;
});
test.after.each(() => terminal.end());
test.after(async () => {
  await terminal.end();
  await lab.down();
  rmSync(dir, { recursive: true });
});

test('without a terminal it refuses, and names what to use instead', async () => {
  assertRefused(await colopp('monitor', '--lab', 't-monitor'), /needs a terminal on its standard output.* colopp status --json/);
  assertRefused(await colopp('monitor', '--replay', '/nonexistent', '--record', 'x'), /--record or --replay, not both/);
  assertRefused(await colopp('monitor', '--host', 'a'), /use it with --lab/);
});

test('it shows a protected pair, takes keys, fits every size, and gives the terminal back', async () => {
  await terminal.start(['monitor', '--lab', 't-monitor', '--record', recording]);
  const before = await terminal.shows(/PROTECTED {2}b can take over from a[^]*▶ a +primary +protected[^]*b +secondary +protected/);

  await terminal.keys('c');
  await terminal.shows(/Checkpoint committed, the VM was paused for [\d.]+ ms/);
  await until('the commit is counted', async () => commits(await terminal.screen()) > commits(before));

  await terminal.keys('?');
  await terminal.shows(/checkpoint now[^]*Any key closes this/);
  await terminal.keys('x');
  await terminal.shows(/─ events ─/);
  await terminal.keys('Tab');
  await terminal.shows(/output of b/);
  await terminal.keys('Tab');
  await terminal.shows(/output of a/);
  await terminal.keys('e');
  await terminal.shows(/events ─ warnings and errors/);

  for (const [columns, rows] of [[140, 40], [60, 16], [30, 8], [80, 24]] as const) {
    await terminal.resize(columns, rows);
    const text = await terminal.shows(columns < 50 ? /the monitor needs 50x14/ : new RegExp(`^─ pair ─{${columns - 7}}$`, 'm'));
    assert.is(text.match(/─ pair ─/g)?.length ?? 0, columns < 50 ? 0 : 1, `nothing is left of another size:\n${text}`);
  }
  await terminal.shows(/checkpoints of a[^]*q quit/);

  await terminal.keys('q');
  assert.not.match(await terminal.shows(/^ended with 0$/m), 'pair', 'the screen is as it was before');
});

test('an agent that dies and comes back: the last truth turns grey, then the truth is told again', async () => {
  await terminal.start(['monitor', '--lab', 't-monitor', '--host', 'a']);
  await terminal.shows(/ PROTECTED .*b can take over/);
  process.kill(agentPid, 'SIGKILL');
  await terminal.shows(/NO ANSWER {2}What is shown was true [\d.]+ m?s ago[^]*a +primary +protected.* old[^]*does not answer any more: it has ended/);
  assert.match(await terminal.screen(true), /\x1b\[2m[^\x1b]*a +primary/, 'it is faint');
  await terminal.keys('c');
  await terminal.shows(/No agent answers: there is nobody to command/);

  agentPid = await lab.startAgent('a');
  await terminal.shows(/The agent answers again, as process \d+/);
  await untilProtected(lab, 'b', 60_000);
  await terminal.shows(/ PROTECTED {2}a can take over from b/);
});

test('failover: asks first; no leaves everything, yes moves the VM', async () => {
  await terminal.start(['monitor', '--lab', 't-monitor'], { env: { NO_COLOR: '1' } });
  await terminal.shows(/ PROTECTED {2}a can take over from b/);
  await terminal.keys('f');
  await terminal.shows(/Move the VM from b to a now\? y\/n/);
  await terminal.keys('n');
  await terminal.shows(/^ No failover\./m);
  assert.is((await lab.status('b')).role, 'primary');
  assert.not.match(await terminal.screen(true), /\x1b\[(?:\d+;)*[34][0-8]/, 'NO_COLOR');

  await terminal.keys('f');
  await terminal.shows(/Move the VM from b to a now\? y\/n/);
  await terminal.keys('y');
  await terminal.shows(/▶ a +primary[^]*b +secondary/, 20_000);
  assert.ok((await lab.status('a')).active);
});

test('a recording shows what its monitor saw', async () => {
  const lines = readFileSync(recording, 'utf8').trimEnd().split('\n').map((line) => JSON.parse(line) as { kind?: string });
  for (const kind of ['status', 'news', 'said']) assert.ok(lines.some((line) => line.kind === kind), `it holds ${kind}`);
  await terminal.start(['monitor', '--replay', recording, '--speed', '100']);
  await terminal.shows(/ PROTECTED .*b can take over from a[^]*Checkpoint committed[^]*The recording ends here/);
  await terminal.keys('f');
  await terminal.shows(/This is a recording: there is nobody to command/);
  await terminal.keys('q');
  await terminal.shows(/^ended with 0$/m);
});

test.run();
