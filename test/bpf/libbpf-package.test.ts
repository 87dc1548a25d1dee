/** The package as others get it: packed, installed into an empty project, its example run. */
import { execFile, execFileSync } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { BpfProgram } from 'libbpf-napi';
import { scratch, vethPair } from './libbpf-support.js';

const run = promisify(execFile);
const source = fileURLToPath(new URL('../../../addon/libbpf-napi', import.meta.url));

test('npm pack, npm install in an empty project, the example counts packets', async () => {
  const project = join(scratch, 'project');
  mkdirSync(project);
  writeFileSync(join(project, 'package.json'), '{ "private": true, "type": "module" }');
  execFileSync('npm', ['pack', '--silent', '--pack-destination', project], { cwd: source, stdio: 'pipe' });
  const archive = readdirSync(project).find((name) => name.endsWith('.tgz')) ?? '';
  assert.is(archive, 'libbpf-napi-0.1.0.tgz');
  const files = execFileSync('tar', ['tzf', join(project, archive)], { encoding: 'utf8' }).trim().split('\n');
  assert.ok(files.includes('package/dist/index.d.ts'));
  assert.ok(files.includes('package/README.md'));
  assert.not.ok(files.some((file) => /\.node$|\.o$|tsbuildinfo|\/build\//.test(file)), files.join('\n'));

  // The headers of this Node, where they are installed with it, save a download. Optimising takes
  // the compiler half of its time and shows nothing here.
  const headers = join(process.execPath, '../..');
  const nodedir = existsSync(join(headers, 'include/node/node_api.h')) ? { npm_config_nodedir: headers } : {};
  const env = { ...process.env, ...nodedir, JOBS: 'max', CXXFLAGS: '-O0' };
  execFileSync('npm', ['install', '--prefer-offline', '--no-audit', '--no-fund', `./${archive}`], { cwd: project, env, stdio: 'pipe' });

  const pair = vethPair();
  execFileSync('ip', ['addr', 'add', '198.18.77.1/24', 'dev', pair.peer]);
  const sender = createSocket('udp4');
  const example = join(project, 'node_modules/libbpf-napi/examples/packet-counter/counter.mjs');
  // For an address that nobody has, ARP requests go out again and again.
  const timer = setInterval(() => sender.send('x', 9, '198.18.77.2'), 100);
  const { stdout: output } = await run(process.execPath, [example, pair.name, '2.5'], { cwd: project });
  clearInterval(timer);
  sender.close();
  assert.match(output, 'first seen: 0x0806, in a packet of 42 bytes');
  assert.match(output, /[1-9]\d* packets, [1-9]\d* bytes; 0x0806: [1-9]/);
  assert.equal(BpfProgram.queryTcx({ ifname: pair.name, direction: 'ingress' }), []);
});

test.run();
