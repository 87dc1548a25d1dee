import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { QemuError } from '../../src/qemu/errors.js';
import { chooseAccel, kvmObstacle } from '../../src/qemu/probe.js';
import { locateQemu } from '../../src/qemu/runtime.js';

interface Context {
  folder: string;
  runtimeFile: string;
}

const runtime = suite<Context>('qemu runtime');

runtime.before.each((context) => {
  context.folder = mkdtempSync(join(tmpdir(), 'colopp-runtime-'));
  context.runtimeFile = join(context.folder, 'runtime.json');
});
runtime.after.each(({ folder }) => rmSync(folder, { recursive: true, force: true }));

/** A stand-in binary that states a version. */
function fake({ folder }: Context, name: string, version: string): string {
  const path = join(folder, name);
  const says = `QEMU emulator version ${version} (Debian 1:${version})`;
  writeFileSync(path, `#!/bin/sh\n[ "$1" = --version ] && echo '${says}'\n`, { mode: 0o755 });
  return path;
}

async function failure(promise: Promise<unknown>): Promise<QemuError> {
  try {
    await promise;
  } catch (error) {
    assert.instance(error, QemuError);
    return error as QemuError;
  }
  throw new Error('it was expected to fail');
}

runtime('the configured QEMU comes before every other', async (context) => {
  const explicitPath = fake(context, 'mine', '11.0.0');
  fake(context, 'qemu-system-x86_64', '12.0.0');
  const { argv, env } = await locateQemu({ ...context, explicitPath, searchPath: context.folder });
  assert.equal(argv, [explicitPath]);
  assert.equal(env, {});
});

runtime('the private runtime comes before the system’s, with its own environment', async (context) => {
  const binary = fake(context, 'private', '11.1.2');
  fake(context, 'qemu-system-x86_64', '12.0.0');
  const env = { QEMU_MODULE_DIR: '/x' };
  writeFileSync(
    context.runtimeFile,
    JSON.stringify({ version: '11.1.2', argvPrefix: [binary], env }),
  );
  const found = await locateQemu({ ...context, searchPath: context.folder });
  assert.equal(found.argv, [binary]);
  assert.equal(found.env, env);
});

runtime('the system’s QEMU is taken if it is new enough', async (context) => {
  const binary = fake(context, 'qemu-system-x86_64', '11.0.0');
  const searchPath = `/nonexistent:relative:${context.folder}`;
  assert.equal((await locateQemu({ ...context, searchPath })).argv, [binary]);
});

runtime('one too old is refused, with the remedy', async (context) => {
  for (const version of ['7.2.0', '10.0.2', '9.11.11']) {
    const explicitPath = fake(context, 'old', version);
    const error = await failure(locateQemu({ explicitPath }));
    assert.is(error.code, 'QEMU_VERSION');
    assert.match(error.message, `QEMU ${version} (configured ${explicitPath}) cannot replicate`);
    assert.match(error.message, 'npm run setup');
  }
});

runtime('none at all is one sentence, with the remedy', async (context) => {
  const error = await failure(locateQemu({ ...context, searchPath: context.folder }));
  assert.is(error.code, 'QEMU_NOT_FOUND');
  assert.match(error.message, /no QEMU on this host: .*npm run setup/);
});

runtime('a configured path that is no program is refused', async (context) => {
  writeFileSync(join(context.folder, 'text'), 'x', { mode: 0o644 });
  for (const explicitPath of ['qemu', '/nonexistent/qemu', join(context.folder, 'text')]) {
    const error = await failure(locateQemu({ explicitPath }));
    assert.is(error.code, 'QEMU_NOT_FOUND');
    assert.match(error.message, explicitPath);
  }
});

runtime('a program that is not QEMU, or fails, is refused with what it said', async (context) => {
  const explicitPath = join(context.folder, 'odd');
  writeFileSync(explicitPath, '#!/bin/sh\necho hello\n', { mode: 0o755 });
  assert.match((await failure(locateQemu({ explicitPath }))).message, 'it says "hello');
  writeFileSync(explicitPath, '#!/bin/sh\necho libfoo.so: missing >&2; exit 127\n');
  assert.match((await failure(locateQemu({ explicitPath }))).message, 'libfoo.so: missing');
});

runtime('a damaged or oversized description of the runtime is refused', async (context) => {
  for (const text of ['{', '[]', '{"version":"11","argvPrefix":[],"env":{}}', 'x'.repeat(70_000)]) {
    writeFileSync(context.runtimeFile, text);
    const error = await failure(locateQemu({ ...context, searchPath: '' }));
    assert.is(error.code, 'QEMU_NOT_FOUND');
    assert.match(error.message, context.runtimeFile);
  }
});

runtime('KVM needs the device, and a CPU that can run guests', async ({ folder }) => {
  const device = join(folder, 'kvm');
  const cpuinfo = join(folder, 'cpuinfo');
  writeFileSync(cpuinfo, 'processor\t: 0\nflags\t\t: fpu sse vmx_not svmish\n');
  assert.match((await kvmObstacle({ device, cpuinfo }))!, `there is no ${device}`);
  writeFileSync(device, '');
  assert.match((await kvmObstacle({ device, cpuinfo }))!, 'neither vmx nor svm');
  for (const flag of ['vmx', 'svm']) {
    writeFileSync(cpuinfo, `processor\t: 0\nflags\t\t: fpu ${flag} sse\n`);
    assert.is(await kvmObstacle({ device, cpuinfo }), undefined);
  }
});

runtime('the accelerator follows the configuration and the probe', () => {
  const yes = { usable: true, reason: 'KVM works' };
  const no = { usable: false, reason: 'KVM is off: there is no /dev/kvm' };
  assert.is(chooseAccel('auto', yes).accel, 'kvm');
  assert.is(chooseAccel('tcg', yes).accel, 'tcg');
  assert.equal(chooseAccel('auto', no), { accel: 'tcg', reason: `TCG, since ${no.reason}` });
  assert.throws(
    () => chooseAccel('kvm', no),
    (error: QemuError) => error.code === 'QEMU_KVM' && error.message.includes(no.reason),
  );
});

runtime.run();
