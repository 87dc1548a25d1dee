/** What a host says of VMs in VMs, and how slow labs on it may be. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { slowdown } from '../../src/lab/slowdown.js';
import { probeNested } from '../../src/qemu/index.js';

const test = suite<{ modules: string }>('nested virtualisation');
const usable = { usable: true, reason: 'KVM works' };

test.before.each((context) => {
  context.modules = mkdtempSync(join(tmpdir(), 'colopp-modules-'));
});
test.after.each(({ modules }) => rmSync(modules, { recursive: true }));

function loaded(modules: string, driver: string, nested: string): void {
  mkdirSync(join(modules, driver, 'parameters'), { recursive: true });
  writeFileSync(join(modules, driver, 'parameters/nested'), `${nested}\n`);
}

for (const [driver, value] of [['kvm_intel', 'Y'], ['kvm_amd', '1']] as const) {
  test(`${driver} with nested=${value} passes virtualisation on`, async ({ modules }) => {
    loaded(modules, driver, value);
    const { accel, reason } = await probeNested(usable, modules);
    assert.is(accel, 'kvm');
    assert.match(reason, driver);
  });
}

test('a driver that does not: TCG, and how to change that', async ({ modules }) => {
  loaded(modules, 'kvm_intel', 'N');
  const { accel, reason } = await probeNested(usable, modules);
  assert.is(accel, 'tcg');
  assert.match(reason, 'load it with nested=1');
});

test('no driver that could say, or no KVM at all: TCG, and why', async ({ modules }) => {
  assert.is((await probeNested(usable, modules)).accel, 'tcg');
  loaded(modules, 'kvm_intel', 'Y');
  const { accel, reason } = await probeNested({ usable: false, reason: 'KVM is off: there is no /dev/kvm' }, modules);
  assert.is(accel, 'tcg');
  assert.match(reason, 'there is no /dev/kvm');
});

test('slowdown: a factor, 1 by itself, and a sentence for anything else', () => {
  assert.is(slowdown({}), 1);
  assert.is(slowdown({ COLOPP_SLOWDOWN: '' }), 1);
  assert.is(slowdown({ COLOPP_SLOWDOWN: '2.5' }), 2.5);
  for (const text of ['0.5', 'fast', '101', 'NaN']) assert.throws(() => slowdown({ COLOPP_SLOWDOWN: text }), /must be a number from 1 to 100/);
});

test.run();
