/** Set-up's engine and its judgements, without touching the machine. */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';

/** Set-up is plain JavaScript that is never compiled: it is loaded from its source. */
const load = async (path: string): Promise<any> => import(new URL(`../../../${path}`, import.meta.url).href);

const { runSteps, Reporter } = await load('src/setup/steps.mjs');
const { fingerprint } = await load('src/setup/fingerprint.mjs');
const { parseOsRelease } = await load('src/setup/host.mjs');
const { isLibbpfRecent } = await load('src/setup/packages.mjs');
const { acquireLock } = await load('src/setup/lock.mjs');
const { SetupError } = await load('src/setup/errors.mjs');
const { Tree } = await load('vm-images/guest/cpio.mjs');

const test = suite<{ folder: string }>('set-up');

test.before.each((context) => {
  context.folder = mkdtempSync(join(tmpdir(), 'colopp-setup-'));
});
test.after.each(({ folder }) => rmSync(folder, { recursive: true }));

/** Run steps as set-up does; what it printed, and the error it ended with. */
async function run(folder: string, steps: object[], signal = new AbortController().signal): Promise<{ text: string; error?: any }> {
  let text = '';
  const out = new Writable({
    write(chunk: Buffer, _encoding, done) {
      text += chunk.toString();
      done();
    },
  });
  try {
    await runSteps(steps, { buildDir: folder, signal, reporter: new Reporter({ out, root: folder, steps }) });
    return { text };
  } catch (error) {
    return { text, error };
  }
}

test('a step is skipped when its inputs are those of its last success and its outputs exist', async ({ folder }) => {
  const product = join(folder, 'product');
  let inputs = 'a';
  let runs = 0;
  const step = {
    name: 'step', title: 'Step', doing: 'working', remedy: 'Try again.', inputs: () => inputs, outputs: () => [product],
    run: async () => {
      runs += 1;
      writeFileSync(product, '');
    },
  };
  assert.match((await run(folder, [step])).text, /Step {2}done in/);
  assert.match((await run(folder, [step])).text, /Step {2}in place/);
  assert.is(runs, 1);
  inputs = 'b';
  await run(folder, [step]);
  assert.is(runs, 2, 'other inputs');
  rmSync(product);
  await run(folder, [step]);
  assert.is(runs, 3, 'the product is gone');
});

test('a step that fails names itself, what it printed and the remedy, and is not trusted afterwards', async ({ folder }) => {
  let broken = false;
  let later = 0;
  const steps = [
    {
      name: 'step', title: 'Some step', doing: 'working', remedy: 'Turn it off and on.', inputs: () => 'same',
      run: async (runner: any) => {
        if (broken) await runner.run(process.execPath, ['-e', 'console.error("it hurts here"); process.exit(3)']);
      },
    },
    { name: 'later', title: 'Later', doing: 'working', remedy: '', inputs: () => 'same', run: async () => void (later += 1) },
  ];
  await run(folder, steps);
  rmSync(join(folder, 'stamps'), { recursive: true });
  broken = true;
  const { text, error } = await run(folder, steps);
  assert.match(text, /Some step {2}FAILED after/);
  assert.match(text, /\| it hurts here/);
  assert.instance(error, SetupError);
  assert.match(error.message, /The set-up step "Some step" failed: .*ended with status 3/s);
  assert.match(error.remedy, /Turn it off and on\..*log\/step\.log/s);
  assert.is(error.exitCode, 1);
  assert.is(later, 1, 'steps after it are not run');
  broken = false;
  assert.match((await run(folder, steps)).text, /Some step {2}done in/);
});

test('a step that leaves no product has failed', async ({ folder }) => {
  const { error } = await run(folder, [{ name: 's', title: 'S', doing: '', remedy: '', inputs: () => '', outputs: () => [join(folder, 'nothing')], run: async () => {} }]);
  assert.is(error.code, 'EOUTPUT');
  assert.not(existsSync(join(folder, 'stamps/s.json')));
});

test('an interruption ends the whole family of a child and leaves no stamp', async ({ folder }) => {
  const interruption = new AbortController();
  const pidFile = join(folder, 'pid');
  const script = `const c = require('node:child_process').spawn('sleep', ['600']); require('node:fs').writeFileSync(${JSON.stringify(pidFile)}, String(c.pid)); setInterval(() => {}, 1000)`;
  const step = {
    name: 's', title: 'S', doing: 'waiting', remedy: '', inputs: () => '',
    run: async (runner: any) => void (await runner.run(process.execPath, ['-e', script])),
  };
  const running = run(folder, [step], interruption.signal);
  while (!existsSync(pidFile) || readFileSync(pidFile, 'utf8') === '') await new Promise((resolve) => setTimeout(resolve, 10));
  interruption.abort(new Error('stop'));
  const { text, error } = await running;
  assert.is(error.message, 'stop');
  assert.match(text, /S {2}interrupted after/);
  assert.not(existsSync(join(folder, 'stamps/s.json')));
  assert.not(isRunning(Number(readFileSync(pidFile, 'utf8'))));
});

/** Whether a process exists and is not just waiting to be reaped. */
function isRunning(pid: number): boolean {
  try {
    return !/\) Z /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return false;
  }
}

test('two set-ups take turns, and the lock of one that died is taken over', async ({ folder }) => {
  const file = join(folder, 'lock');
  const signal = AbortSignal.timeout(5000);
  writeFileSync(file, JSON.stringify({ pid: process.pid, startTicks: 'of another process with this number' }));
  const release = await acquireLock(file, { signal, onWait: () => assert.unreachable('nobody holds it') });
  let waitedFor = 0;
  const second = acquireLock(file, { signal, onWait: (pid: number) => (waitedFor = pid) });
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.is(waitedFor, process.pid);
  release();
  (await second)();
  assert.not(existsSync(file));
});

test('a fingerprint changes with contents, names and missing files, and with nothing else', ({ folder }) => {
  const of = (): string => fingerprint({ root: folder, files: ['one'], folders: ['more'], values: 1 });
  const missing = of();
  writeFileSync(join(folder, 'one'), 'a');
  const first = of();
  mkdirSync(join(folder, 'more/node_modules'), { recursive: true });
  writeFileSync(join(folder, 'more/node_modules/product'), '');
  assert.is(of(), first, 'products do not count');
  writeFileSync(join(folder, 'more/two'), '');
  const second = of();
  writeFileSync(join(folder, 'one'), 'b');
  assert.is(new Set([missing, first, second, of()]).size, 4);
});

test('os-release is read with and without quotes', () => {
  assert.equal(parseOsRelease('ID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\n'), { ID: 'debian', VERSION_ID: '12', VERSION_CODENAME: 'bookworm' });
});

test('libbpf is judged by its upstream version, not by the epoch', () => {
  const recent = ['1:1.4.6-1~bpo12+1', '1:1.3.0-1', '1:1.10.0-1', '2.0-1', '1:2.0.0-1'];
  const old = ['1:1.1.2-0+deb12u1', '1:0.3-2', undefined, ''];
  for (const version of recent) assert.ok(isLibbpfRecent(version), version);
  for (const version of old) assert.not(isLibbpfRecent(version), String(version));
});

test('an initramfs archive is the same whatever order it was filled in', () => {
  const fill = (order: number[]): Buffer => {
    const tree = new Tree();
    const entries = [() => tree.file('usr/bin/a', 'aaa', 0o755), () => tree.link('bin', 'usr/bin'), () => tree.characterDevice('dev/null', 1, 3)];
    for (const index of order) entries[index]?.();
    return tree.toCpio();
  };
  const archive = fill([0, 1, 2]);
  assert.ok(archive.equals(fill([2, 0, 1])));
  assert.equal(readCpio(archive), [
    ['bin', 0o120777, 'usr/bin'], ['dev', 0o040755, ''], ['dev/null', 0o020600, ''],
    ['usr', 0o040755, ''], ['usr/bin', 0o040755, ''], ['usr/bin/a', 0o100755, 'aaa'],
  ]);
});

/** Entries of a newc archive (path, mode, contents), read as the kernel reads it. */
function readCpio(archive: Buffer): [string, number, string][] {
  const entries: [string, number, string][] = [];
  for (let at = 0; ;) {
    assert.is(archive.toString('latin1', at, at + 6), '070701');
    const field = (index: number): number => Number.parseInt(archive.toString('latin1', at + 6 + index * 8, at + 14 + index * 8), 16);
    const [mode, size, nameSize] = [field(1), field(6), field(11)];
    const path = archive.toString('utf8', at + 110, at + 110 + nameSize - 1);
    const data = (at + 110 + nameSize + 3) & ~3;
    if (path === 'TRAILER!!!') return entries;
    entries.push([path, mode, archive.toString('utf8', data, data + size)]);
    at = (data + size + 3) & ~3;
  }
}

test.run();
