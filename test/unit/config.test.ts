/** The agent's configuration: what is accepted, and how mistakes are named. */

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { parse } from 'yaml';
import type { z } from 'zod';
import { ConfigError, configSchema, describeVm, loadConfig, parseConfig } from '../../src/agent/config.js';
import { agentCommand, exampleConfiguration } from '../../src/cli/agent.js';

const good = `host: alpha
role: primary
runDir: /run/colopp
stateDir: /var/lib/colopp
vm:
  name: web
  memoryMiB: 256
  kernel: /boot/vmlinuz
  mac: 52:54:00:00:00:01
network:
  bridge: br0
  tap: tap0
  holdTap: hold0
peer:
  listen: 10.0.0.1:7000
  address: "[fd00::2]:7000"
`;

let folder: string;
test.before.each(() => { folder = mkdtempSync(join(tmpdir(), 'colopp-config-')); });
test.after.each(() => rmSync(folder, { recursive: true }));

/** The error that a text causes. */
function mistake(text: string): string {
  try {
    parseConfig(text, 'c.yaml');
  } catch (error) {
    assert.instance(error, ConfigError);
    assert.is((error as ConfigError).code, 'CONFIG');
    return (error as Error).message;
  }
  throw new Error('it was accepted');
}

/** The same configuration with one line in place of another. */
function changed(from: string, to: string): string {
  if (!good.includes(from)) throw new Error(`there is no ${from}`);
  return good.replace(from, to);
}

test('a small configuration is completed by defaults', () => {
  const config = parseConfig(good, 'c.yaml');
  assert.equal(config.peer, { listen: { host: '10.0.0.1', port: 7000 }, address: { host: 'fd00::2', port: 7000 }, retryMs: 1000 });
  assert.equal(config.heartbeat, { intervalMs: 100, missed: 3 });
  assert.is(config.checkpoint.holdMs, 0);
  assert.is(config.checkpoint.periodMs, 10_000);
  assert.is(config.secondary, 'paused');
  assert.is(config.vm.vcpus, 1);
  assert.is(config.vm.accel, 'auto');
});

/** Names of all keys of a schema, those of sections with their section: `vm.name`. */
function keysOf(schema: z.core.$ZodType, path = ''): string[] {
  const { innerType, in: input, element, shape } = schema._zod.def as { innerType?: z.core.$ZodType; in?: z.core.$ZodType; element?: z.core.$ZodType; shape?: Record<string, z.core.$ZodType> };
  const inner = innerType ?? input ?? element;
  if (inner) return keysOf(inner, path);
  if (!shape) return [path];
  return Object.entries(shape).flatMap(([key, value]) => keysOf(value, path === '' ? key : `${path}.${key}`));
}

test('the example in the help of the agent can be used, and has every key that there is', () => {
  const copied = parseConfig(exampleConfiguration, 'help');
  assert.equal([copied.witness, copied.services, copied.vm.qemu], [undefined, [], undefined], 'a copy promises nothing');
  const all = exampleConfiguration.replaceAll(/^( *)# /gm, '$1');
  parseConfig(all, 'help');
  const shown = new Set<string>();
  const look = (value: unknown, path: string): void => {
    if (Array.isArray(value) && value.some((each) => typeof each === 'object')) return value.forEach((each) => look(each, path));
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return void shown.add(path);
    for (const [key, inner] of Object.entries(value)) look(inner, path === '' ? key : `${path}.${key}`);
  };
  look(parse(all), '');
  const known = keysOf(configSchema);
  assert.ok(known.length > 40, known.join(', '));
  assert.equal(known.filter((key) => !shown.has(key)), []);
});

test('what the help of the agent calls needed is all that is', () => {
  const help = agentCommand();
  let text = '';
  help.configureOutput({ writeOut: (part) => { text += part; } }).outputHelp();
  const [, needed = ''] = /Needed are ([^]+?)\.\n/.exec(text) ?? [];
  const parts = needed.replaceAll('\n', ' ').split(/, | and /);
  for (const line of good.split('\n').filter((each) => /^ *\w+: ?\S/.test(each))) {
    const key = /\w+/.exec(line)![0];
    assert.ok(parts.some((part) => part.split('.').at(-1) === key), `${key} is not among: ${needed}`);
    assert.match(mistake(changed(`${line}\n`, '')), new RegExp(`${key}: `));
  }
});

test('a file is read as well as a text', () => {
  const path = join(folder, 'agent.yaml');
  writeFileSync(path, good);
  assert.equal(loadConfig(path), parseConfig(good, path));
});

test('mistakes are named with file, line, column and key', () => {
  const cases: [string, string, RegExp][] = [
    ['role: primary', 'role: boss', /^c\.yaml:2:7: role: .*primary/],
    ['  memoryMiB: 256', '  memoryMiB: 16', /^c\.yaml:7:14: vm\.memoryMiB: .*32/],
    ['  memoryMiB: 256', '  memoryMiB: 1.5', /^c\.yaml:7:14: vm\.memoryMiB: .*int/i],
    ['  memoryMiB: 256', '  memoryMiB: lots', /^c\.yaml:7:14: vm\.memoryMiB: .*number/],
    ['  mac: 52:54:00:00:00:01', '  mac: 53:54:00:00:00:01', /^c\.yaml:9:8: vm\.mac: must be a unicast MAC/],
    ['  tap: tap0', '  tap: a-name-that-is-too-long', /^c\.yaml:12:8: network\.tap: must be an interface name/],
    ['  tap: tap0', '  tap: br0', /network: needs interfaces with different names/],
    ['10.0.0.1:7000', '10.0.0.1', /^c\.yaml:15:11: peer\.listen: must be ADDRESS:PORT/],
    ['10.0.0.1:7000', '10.0.0.1:70000', /^c\.yaml:15:11: peer\.listen: has a port outside/],
    ['runDir: /run/colopp', 'runDir: run', /^c\.yaml:3:9: runDir: must be an absolute path/],
    ['host: alpha', 'host: -alpha', /^c\.yaml:1:7: host: must be a host name/],
  ];
  for (const [from, to, expected] of cases) assert.match(mistake(changed(from, to)), expected);
});

test('unknown keys are named, wherever they are', () => {
  assert.match(mistake(`${good}colour: blue\n`), /unknown key "colour"/);
  assert.match(mistake(changed('  name: web', '  name: web\n  memory: 1G')), /^c\.yaml:\d+:\d+: vm: unknown key "memory"; see "colopp agent --help"/);
});

test('missing keys are named', () => {
  assert.match(mistake(changed('host: alpha\n', '')), /: host: /);
  assert.match(mistake(changed('  kernel: /boot/vmlinuz\n', '')), /^c\.yaml:\d+:\d+: vm\.kernel: /);
});

test('ranges have both ends', () => {
  const heartbeat = (text: string): string => `${good}heartbeat: { ${text} }\n`;
  assert.is(parseConfig(heartbeat('intervalMs: 10, missed: 2'), 'c').heartbeat.missed, 2);
  for (const wrong of ['intervalMs: 9', 'intervalMs: 10001', 'missed: 1', 'missed: 101', 'missed: .nan', 'missed: .inf']) {
    assert.match(mistake(heartbeat(wrong)), /^c\.yaml:\d+:\d+: heartbeat\./, wrong);
  }
  assert.match(mistake(`${good}checkpoint: { holdMs: -1 }\n`), /checkpoint\.holdMs/);
  assert.match(mistake(`${good}secondary: asleep\n`), /^c\.yaml:\d+:12: secondary: /);
});

test('what is no YAML is said to be none, and where', () => {
  assert.match(mistake('host: [a\nrole: b'), /^c\.yaml:\d+:\d+: not valid YAML: /);
  assert.match(mistake(`${good}host: beta\n`), /^c\.yaml:17:1: not valid YAML: .*unique/);
  assert.match(mistake('a: *nowhere'), /YAML/);
});

test('empty files, lists and plain words are no configurations', () => {
  for (const text of ['', '- a\n- b\n', 'hello', '42', 'null']) assert.match(mistake(text), /^c\.yaml.*the file: /, text);
});

test('aliases cannot be used to blow a file up', () => {
  let text = 'a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n';
  for (let i = 1; i < 9; i++) text += `a${i}: &a${i} [${Array(10).fill(`*a${i - 1}`).join(', ')}]\n`;
  const startMs = performance.now();
  assert.match(mistake(text), /^c\.yaml: not usable YAML: /);
  assert.ok(performance.now() - startMs < 2000);
});

test('files that cannot be read are named with the reason', () => {
  const missing = join(folder, 'none.yaml');
  assert.throws(() => loadConfig(missing), (error: Error) => error instanceof ConfigError && error.message.includes(missing) && error.message.includes('ENOENT'));
  assert.throws(() => loadConfig(folder), (error: Error) => error instanceof ConfigError && error.message.includes('EISDIR'));
});

test('a file may have 256 KiB and no more', () => {
  const path = join(folder, 'big.yaml');
  const padded = (bytes: number): string => good + '#'.repeat(bytes - good.length);
  writeFileSync(path, padded(256 * 1024));
  assert.is(loadConfig(path).host, 'alpha');
  writeFileSync(path, padded(256 * 1024 + 1));
  assert.throws(() => loadConfig(path), (error: Error) => error instanceof ConfigError && error.message.includes('262145 bytes'));
});

test('two hosts that describe the same VM come to the same digest, however they name its files', () => {
  const at = (name: string, content: string): string => {
    const path = join(folder, name);
    writeFileSync(path, content);
    return path;
  };
  const withKernel = (path: string, more = ''): ReturnType<typeof parseConfig> => parseConfig(changed('/boot/vmlinuz', `${path}${more}`), 'c');
  const one = describeVm(withKernel(at('kernel', 'linux')), 'tcg', '11.1.0');
  assert.equal(describeVm(withKernel(at('other', 'linux')), 'tcg', '11.1.0'), one);
  const different = [
    describeVm(withKernel(at('third', 'linux!')), 'tcg', '11.1.0'),
    describeVm(withKernel(at('kernel', 'linux')), 'kvm', '11.1.0'),
    describeVm(withKernel(at('kernel', 'linux')), 'tcg', '11.1.1'),
    describeVm(withKernel(at('kernel', 'linux'), '\n  vcpus: 2'), 'tcg', '11.1.0'),
    describeVm(withKernel(at('kernel', 'linux'), '\n  append: quiet'), 'tcg', '11.1.0'),
  ];
  assert.is(new Set([one, ...different].map(({ digest }) => digest)).size, 6);
  assert.match(one.summary, /^web, 256 MiB, 1 vCPU, 52:54:00:00:00:01, tcg, QEMU 11\.1\.0, images [0-9a-f]{8}, lost after 3 heartbeats of 100 ms$/);
});

test('hosts whose heartbeats differ do not describe the same VM, and the words say so', () => {
  const kernel = join(folder, 'kernel');
  writeFileSync(kernel, 'linux');
  const described = (heartbeat: string): ReturnType<typeof describeVm> =>
    describeVm(parseConfig(`${changed('/boot/vmlinuz', kernel)}heartbeat: { ${heartbeat} }\n`, 'c'), 'tcg', '11.1.0');
  const one = described('');
  assert.equal(described('intervalMs: 100, missed: 3'), one, 'said or left out');
  const [slower, longer, sameSilence] = [described('intervalMs: 200'), described('missed: 6'), described('intervalMs: 50, missed: 6')];
  assert.is(new Set([one, slower, longer, sameSilence].map(({ digest }) => digest)).size, 4);
  assert.match(slower.summary, /lost after 3 heartbeats of 200 ms$/);
  assert.match(longer.summary, /lost after 6 heartbeats of 100 ms$/);
});

test('an image that cannot be read is named', () => {
  const config = parseConfig(changed('/boot/vmlinuz', join(folder, 'none')), 'c');
  assert.throws(() => describeVm(config, 'tcg', '11'), (error: Error) => error instanceof ConfigError && error.message.includes('ENOENT'));
});

test.run();
