import { execFileSync } from 'node:child_process';
import { release } from 'node:os';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { BpfError, BpfMap, libbpfVersion, probe } from 'libbpf-napi';
import { thrown } from './libbpf-support.js';

test('program types', () => {
  assert.is(probe.programType('xdp'), 'yes');
  assert.is(probe.programType(6), 'yes');
  assert.is(probe.programType('sched_cls'), 'yes');
  // A type that no kernel has: libbpf cannot make a program of it, so it cannot tell.
  assert.is(probe.programType(9999), 'unknown');
  assert.match(thrown(() => probe.programType('xpd')).message, 'xdp');
});

test('map types: the answer is that of trying', () => {
  for (const type of ['hash', 'ringbuf', 'lpm_trie', 'user_ringbuf', 'bloom_filter']) assert.is(probe.mapType(type), 'yes', type);
  const number = 9999;
  assert.is.not(probe.mapType(number), 'yes');
  assert.instance(thrown(() => BpfMap.create({ type: number, keySize: 4, valueSize: 4, maxEntries: 1 })), BpfError);
});

test('helpers, by the type of program that calls them', () => {
  assert.is(probe.helper('xdp', 'bpf_redirect_map'), 'yes');
  assert.is(probe.helper('sched_cls', 'bpf_clone_redirect'), 'yes');
  assert.is(probe.helper('xdp', 'bpf_clone_redirect'), 'no');
  assert.is(probe.helper('xdp', 'bpf_xdp_adjust_head'), 'yes');
  assert.is(probe.helper('sched_cls', 'bpf_xdp_adjust_head'), 'no');
});

test('types of the kernel, tcx', () => {
  assert.is(probe.btf(), 'yes');
  const [major = 0, minor = 0] = release().split('.').map(Number);
  assert.is(probe.tcx(), major > 6 || (major === 6 && minor >= 6) ? 'yes' : 'no');
});

test('kernel configuration: yes with its value, no, and a name that is none', () => {
  const config = execFileSync('sh', ['-c', 'zcat /proc/config.gz 2>/dev/null || cat "/boot/config-$(uname -r)"'], { encoding: 'utf8' });
  assert.equal(probe.kernelConfig('CONFIG_BPF'), { answer: 'yes', value: 'y' });
  assert.equal(probe.kernelConfig('CONFIG_HZ'), { answer: 'yes', value: /^CONFIG_HZ=(\d+)$/m.exec(config)?.[1] });
  assert.equal(probe.kernelConfig('CONFIG_NO_SUCH_OPTION'), { answer: 'no' });
  const off = /^# (CONFIG_\w+) is not set$/m.exec(config)?.[1] ?? '';
  assert.equal(probe.kernelConfig(off), { answer: 'no' });
  assert.instance(thrown(() => probe.kernelConfig('HZ')), RangeError);
});

test('without rights the answer is that there is none', () => {
  const child = `
    import { probe } from 'libbpf-napi';
    process.setgid(65534); process.setuid(65534);
    console.log([probe.programType('xdp'), probe.mapType('ringbuf'), probe.helper('xdp', 'bpf_redirect_map')].join(' '));`;
  const text = execFileSync(process.execPath, ['--input-type=module', '-e', child], {
    encoding: 'utf8',
    cwd: import.meta.dirname,
  });
  assert.is(text.trim(), 'unknown unknown unknown');
});

test('the version of libbpf', () => {
  assert.match(libbpfVersion, /^v\d+\.\d+/);
});

test.run();
