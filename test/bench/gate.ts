/**
 * What the gate costs per packet: nanoseconds by kernel test runs, one packet a
 * run, beside a program that does nothing. Runs of all take turns.
 */

import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { BpfProgram } from 'libbpf-napi';
import { BpfObject } from 'libbpf-napi';
import { build } from 'bpf-ts-loader';
import { quantile } from '../../src/agent/pause-history.js';
import { Services } from '../../src/dataplane/services.js';
import { GateMode, openGate } from '../../src/dataplane/skel/gate.skel.js';
import { Conversation, Tcp } from '../bpf/conversation.js';
import { measureServices } from './services.js';

const rounds = 20_000;
const port = 6379;
/** 100 bytes of request and reply together, as the goal has it. */
const request = '*2\r\n$3\r\nGET\r\n$40\r\n' + 'k'.repeat(40) + '\r\n';
const reply = '$26\r\n' + 'v'.repeat(26) + '\r\n';
const empty = `
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
char LICENSE[] SEC("license") = "Dual MIT/GPL";
SEC("tcx/ingress") int empty(struct __sk_buff *skb) { return -1; }
`;

interface GateBench {
  emptyNs: number;
  passNs: number;
  holdNs: number;
  prereleasePairNs: number;
  /** What classifying a typical request costs alone, by protocol. */
  servicesNs: Record<string, number>;
}

export async function run(jsonPath?: string): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'colopp-bench-'));
  try {
    await writeFile(join(folder, 'empty.bpf.c'), empty);
    await build({ dir: folder, outObj: folder, outTs: folder });
    using object = BpfObject.open(join(folder, 'empty.bpf.o'));
    object.load();
    const figures: GateBench = { ...measureGate(object.program('empty')), servicesNs: await measureServices() };
    const above = figures.prereleasePairNs - 2 * figures.emptyNs;
    console.log(`nanoseconds per packet, median of ${rounds}:`);
    console.log(`  nothing             ${figures.emptyNs}`);
    console.log(`  pass                ${figures.passNs}`);
    console.log(`  hold                ${figures.holdNs}`);
    console.log(`  pre-release a pair  ${figures.prereleasePairNs}, ${above} above two empty runs (goal: 400)`);
    for (const [name, ns] of Object.entries(figures.servicesNs)) console.log(`  classify ${name.padEnd(10)} ${ns}`);
    if (jsonPath !== undefined) await writeFile(jsonPath, `${JSON.stringify(figures, null, 2)}\n`);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

function measureGate(nothing: BpfProgram): Omit<GateBench, 'servicesNs'> {
  const specs = openGate();
  const { rodata } = specs.globals;
  rodata.tap_ifindex.set(1);
  rodata.hold_ifindex.set(1);
  rodata.release_mark.set(1);
  rodata.follow_flows.set(true);
  using gate = specs.load();
  const { bss } = gate.globals;
  const { gate_in, gate_out } = gate.programs;
  new Services(gate, [{ port, protocol: 'resp', preRelease: true }]);
  bss.lease_until_ns.set((1n << 64n) - 1n);
  bss.commit_ns.set(process.hrtime.bigint());
  bss.logged_iseq.set((1n << 63n) - 1n);

  const talk = new Conversation(40_000, port);
  const other = new Conversation(40_001, 9);
  gate_in.testRun({ data: talk.fromClient('', { flags: Tcp.syn, ack: 0 }) });
  gate_out.testRun({ data: talk.fromGuest('', { flags: Tcp.syn | Tcp.ack }) });

  const times = { empty: [] as number[], pass: [] as number[], hold: [] as number[], pair: [] as number[] };
  const timed = (program: BpfProgram, data: Uint8Array, verdict: number): number => {
    const { retval, durationNs } = program.testRun({ data });
    if ((retval | 0) !== verdict) throw new Error(`${program.name} gave ${retval | 0}, not ${verdict}: this measures something else`);
    return Number(durationNs);
  };
  const undeclared = other.fromGuest(reply);
  for (let i = 0; i < rounds; i++) {
    times.empty.push(timed(nothing, undeclared, -1));
    bss.mode.set(GateMode.GATE_PASS);
    times.pass.push(timed(gate_out, undeclared, -1));
    bss.mode.set(GateMode.GATE_PROTECTED);
    times.hold.push(timed(gate_out, undeclared, 7));
    times.pair.push(timed(gate_in, talk.fromClient(request), -1) + timed(gate_out, talk.fromGuest(reply), -1));
  }
  const median = (values: number[]): number => quantile(values, 0.5)!;
  return { emptyNs: median(times.empty), passNs: median(times.pass), holdNs: median(times.hold), prereleasePairNs: median(times.pair) };
}
