/** Set-up as a person runs it: on this machine, in this checkout and in copies of it that are spoiled on purpose. */
import { spawn } from 'node:child_process';
import { cpSync, existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const SECOND_RUN_LIMIT_MS = 5000;

interface Result {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
  readonly tookMs: number;
}

interface Options {
  readonly root?: string;
  readonly env?: Record<string, string>;
  /** Programs in front of it, e.g. to drop privileges. */
  readonly prefix?: readonly string[];
  /** Interrupt it once its output matches. */
  readonly interruptAt?: RegExp;
}

async function setup(args: readonly string[], { root = ROOT, env = {}, prefix = [], interruptAt }: Options = {}): Promise<Result> {
  const startedMs = performance.now();
  const [program = '', ...rest] = [...prefix, process.execPath, join(root, 'src/setup/setup.mjs'), ...args];
  const child = spawn(program, rest, { env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    const before = interruptAt?.test(stdout) ?? true;
    stdout += text;
    // A moment later, so that the step has children at work.
    if (!before && interruptAt?.test(stdout)) setTimeout(() => child.kill('SIGINT'), 200);
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
  const status = await new Promise<number | null>((resolve) => child.once('close', resolve));
  return { status, stdout, stderr, tookMs: performance.now() - startedMs };
}

/** Processes whose command line speaks of `folder`. */
function processesOf(folder: string): string[] {
  return readdirSync('/proc').filter((name) => /^\d+$/.test(name)).flatMap((pid) => {
    try {
      const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8');
      return command.includes(folder) ? [command.replaceAll('\0', ' ')] : [];
    } catch {
      return []; // it has ended meanwhile
    }
  });
}

const test = suite<{ copy: string }>('set-up');

test.before.each((context) => {
  context.copy = mkdtempSync(join(tmpdir(), 'colopp-checkout-'));
  for (const path of ['src/setup', 'vm-images', 'package.json', 'package-lock.json']) {
    cpSync(join(ROOT, path), join(context.copy, path), { recursive: true });
  }
});
test.after.each(({ copy }) => rmSync(copy, { recursive: true, force: true }));

test('a second run finds everything in place within 5 s', async () => {
  const { status, stdout, stderr, tookMs } = await setup(['--for', 'test']);
  assert.is(status, 0, stdout + stderr);
  const steps = stdout.split('\n').filter((line) => line.startsWith('  '));
  assert.ok(steps.length >= 8, stdout);
  for (const line of steps) assert.match(line, /in place$/);
  assert.ok(tookMs < SECOND_RUN_LIMIT_MS, `it took ${tookMs} ms`);
});

test('refuses without root, before it does anything', async ({ copy }) => {
  // It may read everything, like root, so that nothing but the refusal can stop it.
  const prefix = ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups', '--inh-caps=+dac_read_search', '--ambient-caps=+dac_read_search'];
  const { status, stdout, stderr } = await setup([], { root: copy, prefix });
  assert.is(status, 2);
  assert.is(stdout, '');
  assert.match(stderr, /^\[EROOT\] .* must run as root/);
  assert.match(stderr, /sudo npm run setup/);
  assert.not(existsSync(join(copy, 'build')));
});

test('tells a wrong command line from a failure', async () => {
  for (const args of [['--for', 'fun'], ['--only', 'half'], ['--nonsense'], ['stray']]) {
    const { status, stderr } = await setup(args);
    assert.is(status, 2, args.join(' '));
    assert.is(stderr.trim().split('\n').length, 1, stderr);
    assert.match(stderr, /^\[EUSAGE\] /);
  }
  const help = await setup(['--help']);
  assert.is(help.status, 0);
  assert.match(help.stdout, /--for demo\|test\|bench/);
});

test('a mirror that cannot be reached: the step, the reason and the remedy, and nothing half done', async ({ copy }) => {
  const { status, stdout, stderr } = await setup(['--for', 'test'], { root: copy, env: { COLOPP_DEBIAN_MIRROR: 'file:/nonexistent' } });
  assert.is(status, 1, stdout + stderr);
  assert.match(stdout, /QEMU runtime +FAILED/);
  assert.match(stdout, /\| E: The repository 'file:\/nonexistent/);
  assert.match(stderr, /^\[EDEBS\] .*step "QEMU runtime" failed: Could not get the package lists/);
  assert.match(stderr, /COLOPP_DEBIAN_MIRROR/);
  assert.equal(readdirSync(join(copy, 'build')), ['log']);
  assert.not(stdout.includes('Guest image'), 'later steps are not run');
});

test('Ctrl-C in the middle of a download: no process, no lock and no half-made image stays', async ({ copy }) => {
  const { status, stdout, stderr } = await setup(['--for', 'test'], { root: copy, interruptAt: /QEMU runtime +fetching/ });
  assert.is(status, 130, stdout + stderr);
  assert.match(stdout, /QEMU runtime +interrupted/);
  assert.match(stderr, /next run goes on/);
  assert.equal(readdirSync(join(copy, 'build')), ['log']);
  assert.equal(processesOf(copy), []);
});

test.run();
