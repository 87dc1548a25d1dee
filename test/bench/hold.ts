/**
 * What the hold thread costs: packets per second from a guest's tap through the gate and the thread to
 * the clients' bridge, beside a plain read/write loop in its place, over the same taps with the same
 * programs; and how long an idle thread takes to release one packet.
 *
 *   watermark   held, and released by a watermark that moves every 10 ms
 *   compare     held, and released because the secondary says the same; the plain loop reads both taps, too
 */

import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { copyFile, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { build } from 'bpf-ts-loader';
import { BpfObject, ifIndex } from 'libbpf-napi';
import { TapHold } from 'tap-hold';
import { quantile } from '../../src/agent/pause-history.js';
import { attachGate, enterOwnNamespace, ip } from '../bpf/tap.js';

const rounds = 5;
const pings = 1000;
const commitEveryMs = 10;
const queuePackets = 400_000;
/** Longer than any pause on the way. */
const quietMs = 1000;
const [bridge, guest, secondary, holdTap, shadowTap, client] =
  ['bench-br', 'bench-guest', 'bench-second', 'bench-hold', 'bench-shadow', 'bench-client'] as const;
const sources = fileURLToPath(new URL('../../../test/bench/hold/', import.meta.url));
const wire = fileURLToPath(new URL('../../../bpf/wire.h', import.meta.url));
const allFrames = [
  { name: '64', bytes: 64, gsoSize: 0, count: 200_000 },
  { name: '1500', bytes: 1514, gsoSize: 0, count: 100_000 },
  { name: '65536', bytes: 54 + 45 * 1448, gsoSize: 1448, count: 10_000 },
] as const;
type Frames = (typeof allFrames)[number];
const ways = ['watermark', 'compare'] as const;
type Way = (typeof ways)[number];
const subjects = ['plain', 'hold'] as const;
type Subject = (typeof subjects)[number];

interface Throughput {
  plainPps: number;
  holdPps: number;
  ratio: number;
}

interface Latency {
  p50Us: number;
  p99Us: number;
}

interface HoldBench {
  /** The lowest of those below. Goal: 0.7. */
  ratio: number;
  throughput: Record<Way, Record<string, Throughput>>;
  /** From a write to one tap until it can be read from the clients'. Goal of p99: 100. */
  idle: { plain: Latency; watermark: Latency; compare: Latency };
}

/** What was built for the run. */
interface Tools {
  peer: string;
  object: string;
}

export async function run(jsonPath?: string): Promise<void> {
  enterOwnNamespace(new URL('./main.js', import.meta.url).href);
  const folder = await mkdtemp(join(tmpdir(), 'colopp-bench-'));
  try {
    const tools = await compile(folder);
    makeTaps();
    const figures = await measure(tools);
    if (jsonPath !== undefined) await writeFile(jsonPath, `${JSON.stringify(figures, null, 2)}\n`);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function compile(folder: string): Promise<Tools> {
  const peer = join(folder, 'peer');
  for (const file of ['peer.c', 'around.bpf.c']) await copyFile(join(sources, file), join(folder, file));
  await copyFile(wire, join(folder, 'wire.h'));
  execFileSync('gcc', ['-O2', '-Wall', '-Wextra', '-o', peer, join(folder, 'peer.c')], { stdio: 'inherit' });
  await build({ dir: folder, outObj: folder, outTs: folder });
  return { peer, object: join(folder, 'around.bpf.o') };
}

function makeTaps(): void {
  ip(
    `link add ${bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0`,
    ...[guest, secondary, client].map((tap) => `tuntap add dev ${tap} mode tap vnet_hdr`),
    ...[guest, client].map((port) => `link set ${port} master ${bridge}`),
    ...[bridge, guest, secondary, client].map((device) => `link set ${device} up`),
  );
}

async function measure(tools: Tools): Promise<HoldBench> {
  const throughput = {} as HoldBench['throughput'];
  for (const way of ways) {
    throughput[way] = {};
    for (const frames of allFrames) {
      const pps: Record<Subject, number[]> = { plain: [], hold: [] };
      for (let round = 0; round < rounds; round++) {
        for (const subject of subjects) pps[subject].push(await flood(tools, subject, way, frames));
      }
      const [plainPps, holdPps] = [quantile(pps.plain, 0.5)!, quantile(pps.hold, 0.5)!];
      const ratio = Number((holdPps / plainPps).toFixed(3));
      throughput[way][frames.name] = { plainPps, holdPps, ratio };
      console.log(`${way.padEnd(10)} ${frames.name.padStart(5)} bytes: plain loop ${thousands(plainPps)}, hold thread ${thousands(holdPps)} packets/s, ratio ${ratio}`);
    }
  }
  const idle = {
    plain: await ping(tools, 'plain', 'watermark'),
    watermark: await ping(tools, 'hold', 'watermark'),
    compare: await ping(tools, 'hold', 'compare'),
  };
  for (const [name, { p50Us, p99Us }] of Object.entries(idle)) console.log(`idle, ${name.padEnd(10)} p50 ${p50Us} us, p99 ${p99Us} us (goal: 100)`);
  const ratio = Math.min(...Object.values(throughput).flatMap((by) => Object.values(by).map((figures) => figures.ratio)));
  console.log(`lowest ratio ${ratio} (goal: 0.7)`);
  return { ratio, throughput, idle };
}

const thousands = (value: number): string => `${(value / 1000).toFixed(1)}k`.padStart(7);

/** The hold thread or the plain loop at the hold tap, the gate, and in front of the shadow tap who plays the secondary. */
async function withSubject<T>(tools: Tools, subject: Subject, way: Way, body: (around: BpfObject, hold: TapHold | undefined) => Promise<T>): Promise<T> {
  const undo: (() => unknown)[] = [];
  const compared = way === 'compare';
  try {
    let hold: TapHold | undefined;
    if (subject === 'plain') {
      const loop = await start(tools.peer, 'loop', holdTap, compared ? shadowTap : '-');
      undo.push(() => end(loop));
      ip(...[holdTap, ...(compared ? [shadowTap] : [])].map((tap) => `link set ${tap} txqueuelen ${queuePackets} up`));
    } else {
      hold = new TapHold({
        ifname: holdTap, queuePackets, ringBytes: 1024 * 1024 * 1024, limitPackets: 1e9, limitBytes: 1e12, onNotice: () => {},
        ...(compared ? { compare: { ifname: shadowTap, ringBytes: 512 * 1024 * 1024, onFound: () => {} } } : {}),
      });
      undo.push(() => hold!.close());
      if (compared) {
        hold.setCompare({ lateFirstMs: 60_000, lateMaxMs: 60_000, flowBytes: 512 * 1024 * 1024, flowPackets: 1_000_000 });
        hold.commit(process.hrtime.bigint(), 1);
      }
    }
    const { detach } = attachGate(guest, { ifIndex: ifIndex(holdTap) });
    undo.push(detach);
    const object = BpfObject.open(tools.object);
    undo.push(() => object.close());
    object.map('.rodata').setInitialValue(new Uint8Array(Uint32Array.of(compared ? ifIndex(shadowTap) : 0).buffer));
    object.load();
    if (compared) {
      const link = object.program('secondary').attachTcx({ ifname: secondary, direction: 'ingress' });
      undo.push(() => link.close());
    }
    return await body(object, hold);
  } finally {
    for (const step of undo.reverse()) await step();
  }
}

/** @returns packets per second that reached the clients' side */
function flood(tools: Tools, subject: Subject, way: Way, { bytes, gsoSize, count }: Frames): Promise<number> {
  return withSubject(tools, subject, way, async (around, hold) => {
    const counted = around.map('.bss').mmap();
    const arrived = (): number => Number(new DataView(counted.buffer, counted.byteOffset).getBigUint64(0, true));
    const link = around.program('clients').attachTcx({ ifname: client, direction: 'egress' });
    const generator = await start(tools.peer, 'flood', guest, way === 'compare' ? secondary : '-', client, bytes, gsoSize, count);
    await forwarding(guest, client);
    const commits = setInterval(() => { if (way === 'watermark') hold?.releaseUpTo(process.hrtime.bigint()); }, commitEveryMs);
    try {
      generator.stdin!.end();
      let seen = 0, seenMs = performance.now();
      // The first quarter is for warming up: a ring that was never used is made of pages that are not there yet.
      while (arrived() < count / 4 && performance.now() - seenMs < quietMs) await sleep(1);
      const first = arrived(), startMs = performance.now();
      seenMs = startMs;
      // A kernel that is short of time may lose some.
      while (seen < count && performance.now() - seenMs < quietMs) {
        await sleep(2);
        if (arrived() > seen) [seen, seenMs] = [arrived(), performance.now()];
      }
      if (seen < count * 0.95) throw new Error(`Of ${count} packets ${seen} came through the ${subject} (${way}).`);
      return Math.round((seen - first) / (seenMs - startMs) * 1000);
    } finally {
      clearInterval(commits);
      await end(generator);
      link.close();
    }
  });
}

function ping(tools: Tools, subject: Subject, way: Way): Promise<Latency> {
  return withSubject(tools, subject, way, async (_, hold) => {
    if (way === 'watermark') hold?.releaseAll();
    const child = await start(tools.peer, 'ping', guest, way === 'compare' ? secondary : '-', client, pings);
    await forwarding(guest, client);
    child.stdin!.end();
    let output = '';
    child.stdout!.on('data', (text: string) => { output += text; });
    await once(child, 'close');
    const times = output.trim().split('\n').map(Number);
    if (times.length !== pings) throw new Error(`Of ${pings} packets ${times.length} came back.`);
    const us = (q: number): number => Number((quantile(times, q)! / 1000).toFixed(1));
    return { p50Us: us(0.5), p99Us: us(0.99) };
  });
}

/** A bridge forwards to and from a tap a moment after it was opened. */
async function forwarding(...taps: string[]): Promise<void> {
  for (const tap of taps) {
    while (!execFileSync('ip', ['-o', 'link', 'show', tap], { encoding: 'utf8' }).includes('state UP')) await sleep(10);
  }
}

/** Starts the peer; resolves when its taps are open. */
async function start(peer: string, ...args: (string | number)[]): Promise<ChildProcess> {
  const child = spawn(peer, args.map(String), { stdio: ['pipe', 'pipe', 'inherit'] });
  child.stdout.setEncoding('utf8');
  const exit = once(child, 'exit').then(() => { throw new Error(`The peer ended at once (${args.join(' ')}).`); });
  await Promise.race([once(child.stdout, 'data'), exit]);
  exit.catch(() => {}); // that it ends some time is expected
  return child;
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, 'exit');
  child.kill('SIGKILL');
  await gone;
}
