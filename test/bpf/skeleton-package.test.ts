/** The package as others get it: packed, installed into an empty project, the README's example run. */
import { execFileSync, spawn } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { root } from './skeleton-support.js';

const home = mkdtempSync(join(tmpdir(), 'colopp-package-'));
process.on('exit', () => rmSync(home, { recursive: true, force: true }));

function run(file: string, ...args: string[]): string {
  return execFileSync(file, args, { cwd: home, encoding: 'utf8', stdio: 'pipe' });
}

/** The code blocks of the README's example, by their language. */
function example(): { c: string; ts: string; commands: string[] } {
  const readme = readFileSync(join(root, 'src/bpf-ts-loader/README.md'), 'utf8');
  const section = /## Example:[\s\S]*?(?=\n## )/.exec(readme)?.[0] ?? '';
  const blocks = [...section.matchAll(/```(\w*)\n([\s\S]*?)```/g)];
  const block = (wanted: string): string[] =>
    blocks.filter(([, language]) => language === wanted).map(([, , text]) => text as string);
  const [c = ''] = block('c');
  const [ts = ''] = block('ts');
  const commands = block('').flatMap((text) => text.trim().split('\n'));
  return { c, ts, commands };
}

test('pack, install, and the example of the README', async () => {
  const packed = JSON.parse(
    run('npm', 'pack', '--json', '--ignore-scripts', join(root, 'addon/libbpf-napi'), join(root, 'src/bpf-ts-loader')),
  ) as { filename: string; files: { path: string }[] }[];
  const files = packed[1]?.files.map(({ path }) => path) ?? [];
  for (const path of ['README.md', 'dist/cli.js', 'dist/index.d.ts', 'dist/runtime.js', 'dist/runtime.d.ts'])
    assert.ok(files.includes(path), path);
  assert.not.ok(
    files.some((path) => path.includes('test') || path.includes('tsbuildinfo')),
    'only what is needed',
  );

  writeFileSync(join(home, 'package.json'), '{ "type": "module" }\n');
  // The add-on is compiled at install; here the one that is built already will do.
  run(
    'npm',
    'install',
    '--ignore-scripts',
    '--prefer-offline',
    '--no-audit',
    '--no-fund',
    ...packed.map(({ filename }) => join(home, filename)),
  );
  cpSync(
    join(root, 'addon/libbpf-napi/build/Release/bpf_napi.node'),
    join(home, 'node_modules/libbpf-napi/build/Release/bpf_napi.node'),
  );

  const { c, ts, commands } = example();
  mkdirSync(join(home, 'bpf'));
  mkdirSync(join(home, 'src'));
  writeFileSync(join(home, 'bpf/runqlat.bpf.c'), c);
  writeFileSync(join(home, 'src/main.ts'), ts);

  const build = commands.find((line) => line.startsWith('npx bpf-ts-loader ')) ?? '';
  const built = run(join(home, 'node_modules/.bin/bpf-ts-loader'), ...build.split(' ').slice(2));
  assert.match(built, /^runqlat: built/);
  assert.ok(existsSync(join(home, 'src/runqlat.skel.ts')));

  const compile = commands.find((line) => line.startsWith('npx tsc ')) ?? '';
  const modules = join(root, 'node_modules');
  run(
    process.execPath,
    join(modules, 'typescript/bin/tsc'),
    '--typeRoots',
    join(modules, '@types'),
    ...compile.split(' ').slice(2),
  );

  // Something to see: more busy threads than CPUs.
  const load = Array.from({ length: 8 }, () => spawn(process.execPath, ['-e', 'for (;;);'], { stdio: 'ignore' }));
  try {
    const output = run(process.execPath, 'dist/main.js', '1.5');
    const counts = [...output.matchAll(/^ *(\d+) us (\d+)$/gm)].map(
      ([, slot, count]) => [Number(slot), Number(count)] as const,
    );
    assert.ok(counts.reduce((sum, [, count]) => sum + count, 0) > 100, `the histogram has counts:\n${output}`);
    assert.ok(counts.every(([slot]) => Number.isInteger(Math.log2(slot))));
    assert.match(output, /^.{1,16} \(\d+\) waited \d+ ms for CPU \d+$/m, 'and long waits are reported');
  } finally {
    for (const child of load) child.kill('SIGKILL');
  }
});

test.run();
