// node counter.mjs INTERFACE [SECONDS]     as root; ends with Ctrl-C
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { BpfObject, Btf, RingBuffer } from 'libbpf-napi';

const [ifname = 'lo', seconds = 'Infinity'] = process.argv.slice(2);

// Compile the program against the types of the running kernel. A real project does this when it is
// built, and ships the object: CO-RE adapts it to the kernel that it meets.
function compile(source) {
  const directory = mkdtempSync(join(tmpdir(), 'packet-counter-'));
  try {
    writeFileSync(join(directory, 'vmlinux.h'), Btf.load('/sys/kernel/btf/vmlinux').dumpC());
    const clang = ['clang', 'clang-19', 'clang-18', 'clang-16'].find((name) => existsSync(`/usr/bin/${name}`));
    const object = join(directory, 'counter.bpf.o');
    execFileSync(clang ?? 'clang', ['-target', 'bpf', '-g', '-O2', '-I', directory, '-c', source, '-o', object]);
    return BpfObject.open(object);
  } finally {
    rmSync(directory, { recursive: true });
  }
}

const object = compile(fileURLToPath(new URL('counter.bpf.c', import.meta.url)));
object.load();
const link = object.program('count').attachTcx({ ifname, direction: 'ingress' });

const stop = new AbortController();
process.once('SIGINT', () => stop.abort());
setTimeout(() => stop.abort(), Math.min(Number(seconds) * 1000, 2 ** 31 - 1)).unref();

const totals = new BigUint64Array(object.map('.bss').mmap().buffer); // live: no system call per read
const hex = (protocol) => `0x${protocol.toString(16).padStart(4, '0')}`;
const timer = setInterval(() => {
  const protocols = [];
  for (const [key, value] of object.map('by_protocol')) {
    const perCpu = object.map('by_protocol').splitPerCpu(value);
    const sum = perCpu.reduce((total, bytes) => total + Buffer.from(bytes).readBigUInt64LE(), 0n);
    protocols.push(`${hex(Buffer.from(key).readUInt32LE())}: ${sum}`);
  }
  console.log(`${totals[0]} packets, ${totals[1]} bytes; ${protocols.join(', ')}`);
}, 1000);

const sightings = new RingBuffer(object.map('first_seen'), {
  signal: stop.signal,
  drops: { map: object.map('.data.lost') },
});
try {
  for await (const batch of sightings) {
    for (const record of batch) {
      const view = new DataView(record.buffer, record.byteOffset, record.byteLength);
      console.log(`first seen: ${hex(view.getUint32(8, true))}, in a packet of ${view.getUint32(12, true)} bytes`);
    }
  }
} catch (error) {
  if (!stop.signal.aborted) throw error;
} finally {
  clearInterval(timer);
  sightings.close();
  link.close();
  object.close();
}
