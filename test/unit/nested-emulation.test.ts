/** Which failures of the nested tests are the emulated CPU's alone, and how they are avoided. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { emulationFault, ringThroughPorts } from '../nested/emulation.js';

test('an exception that KVM was misled about is one', () => {
  assert.match(emulationFault('---- qemu.log ----\nKVM internal error. Suberror: 3\nextra data[0]: 0x00000000febfb000\n') ?? '', /suberror 3/);
});

test('other failures are not, whatever else KVM says', () => {
  assert.is(emulationFault('KVM internal error. Suberror: 1\nextra data[0]: 0x0'), undefined);
  assert.is(emulationFault('KVM internal error. Suberror: 31'), undefined);
  assert.is(emulationFault('colopp [NOT_PRIMARY]: Checkpoints are asked for at the primary.'), undefined);
});

test('what the lab knows of its guest stays as it was, with a way around the fault', () => {
  assert.equal(JSON.parse(ringThroughPorts('{"kernel":"vmlinuz","ports":{"redis":6379}}')), {
    kernel: 'vmlinuz', ports: { redis: 6379 }, extraArgs: ['-global', 'virtio-net-pci.modern-pio-notify=on'],
  });
});

test.run();
