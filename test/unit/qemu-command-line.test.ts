import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { qemuArguments, type VmDescription } from '../../src/qemu/command-line.js';
import { QemuError } from '../../src/qemu/errors.js';

const VM: VmDescription = {
  name: 'web',
  memoryMiB: 256,
  vcpus: 2,
  accel: 'tcg',
  kernel: '/boot/vmlinuz',
  initrd: '/boot/initrd.img',
  append: 'console=ttyS0 quiet',
  nets: [{ id: 'lan', tap: 'tapP', mac: '52:54:00:c0:10:01' }],
  serial: { file: '/run/vm/serial' },
  qmpSocket: '/run/vm/qmp',
  incoming: false,
};

const build = (change: Partial<VmDescription> = {}) => qemuArguments({ ...VM, ...change });

/** The values given to an option, in order. */
function values(args: string[], option: string): string[] {
  return args.flatMap((arg, i) => (arg === option ? [args[i + 1] ?? ''] : []));
}

function refusal(change: Partial<VmDescription>): string {
  try {
    build(change);
  } catch (error) {
    assert.instance(error, QemuError);
    assert.is((error as QemuError).code, 'QEMU_CONFIG');
    return (error as QemuError).message;
  }
  throw new Error(`it was expected to be refused: ${JSON.stringify(change)}`);
}

test('the whole command line', () => {
  assert.equal(build(), [
    '-nodefaults',
    '-no-user-config',
    ...['-display', 'none'],
    ...['-name', 'guest=web,debug-threads=on'],
    ...[
      '-machine',
      'pc-q35-11.0,usb=off,vmport=off,dump-guest-core=off,hpet=off,smm=off,sata=off,smbus=off',
    ],
    ...['-accel', 'tcg,thread=multi'],
    ...['-cpu', 'qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,-svm'],
    ...['-smp', 'cpus=2,sockets=1,cores=2,threads=1'],
    ...['-m', 'size=256M'],
    ...['-rtc', 'base=utc,clock=vm'],
    '-only-migratable',
    ...['-sandbox', 'on,obsolete=deny,elevateprivileges=deny,spawn=deny'],
    ...['-msg', 'timestamp=on,guest-name=on'],
    ...['-chardev', 'socket,id=qmp,path=/run/vm/qmp,server=on,wait=off'],
    ...['-qmp', 'chardev:qmp'],
    ...['-chardev', 'file,id=serial,path=/run/vm/serial,append=on'],
    ...['-serial', 'chardev:serial'],
    ...[
      '-netdev',
      'tap,id=net-lan,ifname=tapP,script=no,downscript=no,vhost=off,vnet_hdr=on',
    ],
    ...['-device', 'virtio-net-pci,id=nic-lan,netdev=net-lan,mac=52:54:00:c0:10:01,romfile='],
    ...['-kernel', '/boot/vmlinuz'],
    ...['-initrd', '/boot/initrd.img'],
    ...['-append', 'console=ttyS0 quiet'],
  ]);
});

test('both hosts show the guest the same machine', () => {
  const host = { tap: 'tapS', mac: VM.nets[0]!.mac, id: 'lan' };
  const primary = build();
  const secondary = build({
    incoming: true,
    nets: [host],
    qmpSocket: '/other/qmp',
    serial: { socket: '/other/serial' },
  });
  assert.equal(values(secondary, '-incoming'), ['defer']);
  for (const option of ['-machine', '-cpu', '-smp', '-m', '-rtc', '-device', '-append']) {
    assert.equal(values(secondary, option), values(primary, option), option);
  }
});

test('a comma in a name or path does not end the option', () => {
  const args = build({
    serial: { file: '/run/a,b/serial' },
    qmpSocket: '/run/a,b/qmp',
    nets: [{ id: 'lan', tap: 'tap,x', mac: VM.nets[0]!.mac }],
  });
  assert.match(values(args, '-chardev')[0]!, 'path=/run/a,,b/qmp,server');
  assert.match(values(args, '-chardev')[1]!, 'path=/run/a,,b/serial,append');
  assert.match(values(args, '-netdev')[0]!, 'ifname=tap,,x,script');
  // What is an argument by itself needs no escape, and gets none.
  assert.equal(values(build({ append: 'a=1,2' }), '-append'), ['a=1,2']);
});

test('under KVM the CPU model is enforced', () => {
  const args = build({ accel: 'kvm' });
  assert.equal(values(args, '-accel'), ['kvm']);
  assert.match(values(args, '-cpu')[0]!, /,enforce$/);
});

test('packets always pass through QEMU', () => {
  assert.match(values(build(), '-netdev')[0]!, 'vhost=off');
  assert.match(refusal({ extraArgs: ['-netdev', 'tap,id=x,vhost=on'] }), 'bypass QEMU');
});

test('sizes out of range are refused', () => {
  assert.match(refusal({ memoryMiB: 8 }), /memoryMiB is 8, but must be a whole number from 16/);
  assert.match(refusal({ memoryMiB: 256.5 }), 'memoryMiB is 256.5');
  assert.match(refusal({ vcpus: 0 }), 'vcpus is 0');
  assert.match(refusal({ vcpus: Number.NaN }), 'vcpus is NaN');
});

test('names and paths that QEMU or Linux would not take are refused', () => {
  assert.match(refusal({ name: 'a b' }), 'name "a b"');
  assert.match(refusal({ kernel: 'vmlinuz' }), 'kernel "vmlinuz" is not an absolute path');
  assert.match(refusal({ initrd: '/a\0b' }), 'initrd holds a zero byte');
  assert.match(refusal({ qmpSocket: `/${'x'.repeat(107)}` }), 'is 108 bytes long');
  build({ qmpSocket: `/${'x'.repeat(106)}` });
});

test('networks that cannot work are refused', () => {
  const lan = VM.nets[0]!;
  assert.match(refusal({ nets: [{ ...lan, tap: 'a-name-too-long-' }] }), 'no name of a network');
  assert.match(refusal({ nets: [{ ...lan, mac: '01:54:00:c0:10:01' }] }), 'no unicast MAC');
  assert.match(refusal({ nets: [{ ...lan, mac: '52:54:00:c0:10' }] }), 'no unicast MAC');
  assert.match(refusal({ nets: [{ ...lan, id: 'a,b' }] }), 'net id "a,b"');
  const wan = { id: 'wan', tap: 'tapW', mac: '52:54:00:c0:10:02' };
  assert.match(refusal({ nets: [lan, { ...wan, id: 'lan' }] }), 'share the id lan');
  assert.match(refusal({ nets: [lan, { ...wan, tap: 'tapP' }] }), 'share the tap tapP');
  assert.match(
    refusal({ nets: [lan, { ...wan, mac: lan.mac.toUpperCase() }] }),
    'share the MAC address',
  );
  assert.is(values(build({ nets: [lan, wan] }), '-device').length, 2);
});

test('what the host would decide in place of the configuration is refused', () => {
  assert.match(refusal({ machine: 'q35' }), 'must carry a version');
  assert.match(refusal({ machine: 'pc-q35-11.0,accel=kvm' }), 'must carry a version');
  assert.match(refusal({ cpu: 'host' }), 'depends on the host');
  assert.match(refusal({ cpu: 'max,+x2apic' }), 'depends on the host');
  assert.match(refusal({ cpu: 'qemu64 -S' }), 'characters that no model has');
  const other = build({ machine: 'pc-i440fx-11.0', cpu: 'Westmere-v2' });
  assert.not.match(values(other, '-machine')[0]!, 'sata');
  assert.equal(values(other, '-cpu'), ['Westmere-v2']);
});

test('extra arguments may add, not contradict', () => {
  const extraArgs = ['-drive', 'file=/x,,y,if=virtio', '-device', 'virtio-rng-pci'];
  assert.equal(build({ extraArgs }).slice(-4), extraArgs);
  for (const option of ['-m', '--m', '-smp', '-qmp', '-incoming', '-daemonize', '-S', '-accel']) {
    assert.match(refusal({ extraArgs: [option] }), `extra argument ${option} contradicts`);
  }
  assert.match(refusal({ extraArgs: ['a\0b'] }), 'zero byte');
});

test.run();
