import { boolean, bytes, integer, oneOf, optional, options, text, u64, wrongType } from './check.js';
import { interfaceOf } from './interfaces.js';
import { updatable, wrapLink, Link } from './link.js';
import { mapHandle, type BpfMap } from './map.js';
import { needing, needOfSection } from './kernel-lacks.js';
import { native, type NativeLink, type NativeProgram, type ProgramKernelInfo, type TcxEntry } from './native.js';
import { programTypeOf } from './names.js';
import type {
  AttachTcxOptions,
  AttachXdpOptions,
  CookieOption,
  PerfEventOptions,
  TestRunOptions,
  TestRunResult,
  UprobeOptions,
  XdpMode,
} from './program-options.js';
import { anchorOf, directionOf, programIdOf, type TcxAnchors, type TcxHook } from './tcx.js';
import './error.js';

const xdpFlags = { auto: 0, generic: 1 << 1, driver: 1 << 2, offload: 1 << 3 } as const;
const xdpModes = Object.keys(xdpFlags) as XdpMode[];

const ALL_PROCESSES = -1;
const HEAD_ROOM_BYTES = 256;
const PACKET_MAX_BYTES = 1 << 24;

let handleOf: (program: BpfProgram) => NativeProgram;
let make: (handle: NativeProgram) => BpfProgram;

/** @internal */
export const wrapProgram = (handle: NativeProgram): BpfProgram => make(handle);

const cookieOf = (cookie: bigint | number | undefined): bigint => u64(cookie ?? 0n, 'cookie');
const pidOf = (pid: number | undefined): number => integer(pid ?? ALL_PROCESSES, 'pid', -1, 0x7fff_ffff);

function namesOf(value: string | readonly string[], what: string): string | string[] {
  if (typeof value === 'string') return text(value, what);
  if (!Array.isArray(value) || value.length === 0) throw wrongType(what, 'a pattern or a list of names', value);
  return value.map((name, i) => text(name, `${what}[${i}]`));
}

function cookiesOf(value: readonly (bigint | number)[] | undefined): bigint[] {
  return (value ?? []).map((cookie, i) => u64(cookie, `cookies[${i}]`));
}

/** A BPF program: of an object, or one that stands alone (`fromPinned`, `fromId`). */
export class BpfProgram {
  readonly #handle: NativeProgram;
  readonly name: string;
  /** The ELF section it was compiled into, such as `tcx/ingress`; empty when not of an object. */
  readonly section: string;

  static {
    handleOf = (program) => {
      if (!(#handle in program)) throw wrongType('program', 'a BpfProgram', program);
      return program.#handle;
    };
    make = (handle) => new BpfProgram(handle);
    updatable.program = (value) => (value instanceof BpfProgram ? value.#handle : undefined);
  }

  private constructor(handle: NativeProgram) {
    this.#handle = handle;
    const { name, section } = handle.info();
    this.name = name;
    this.section = section;
  }

  /** Opens the program pinned at `path`. */
  static fromPinned(path: string): BpfProgram {
    return new BpfProgram(native.programFromPinned(text(path, 'path')));
  }

  /** Opens a program of the running kernel by its id. */
  static fromId(id: number): BpfProgram {
    return new BpfProgram(native.programFromId(integer(id, 'program id', 1)));
  }

  /** libbpf's name of the type: `sched_cls`, `xdp`, `tracing`, ... */
  get type(): string {
    return this.#handle.info().type;
  }

  /** Number of `enum bpf_prog_type`. */
  get typeId(): number {
    return this.#handle.info().typeId;
  }

  /** libbpf's name of where it expects to be attached, such as `tcx_ingress`, if it expects anything. */
  get attachType(): string | undefined {
    return this.#handle.info().attachType;
  }

  get instructionCount(): number {
    return this.#handle.info().instructionCount;
  }

  /** The kernel's id of the program. */
  get id(): number {
    return this.#handle.kernelInfo().id;
  }

  /** The program's file descriptor. It belongs to the program: do not close it. */
  get fd(): number {
    return this.#handle.fd();
  }

  get closed(): boolean {
    return this.#handle.closed();
  }

  get autoload(): boolean {
    return this.#handle.info().autoload;
  }

  /** Whether load loads it into the kernel. Default: true, unless its section begins with `?`. */
  setAutoload(on: boolean): void {
    this.#handle.setAutoload(boolean(on, 'autoload'));
  }

  /**
   * Makes it a program of another type than its section says: for sections that mean nothing to
   * libbpf. Only before load.
   * @param expectedAttachType number of `enum bpf_attach_type`, for the types that need one
   */
  setType(type: string | number, expectedAttachType = 0): void {
    this.#handle.setType(programTypeOf(type), integer(expectedAttachType, 'expectedAttachType'));
  }

  /**
   * Names the function that a fentry, fexit, tp_btf, lsm or freplace program is for, in place of the
   * one in its section: of the kernel, or of another BPF program. Only before load.
   */
  setAttachTarget(functionName: string, program?: BpfProgram): void {
    this.#handle.setAttachTarget(text(functionName, 'function name'), program && handleOf(program));
  }

  /** What the kernel knows about the loaded program. */
  info(): ProgramKernelInfo {
    return this.#handle.kernelInfo();
  }

  /** Runs the program once (or `repeat` times) on given input, without attaching it. */
  testRun(given: TestRunOptions = {}): TestRunResult {
    const run = options<TestRunOptions>(given, 'testRun', testRunNames);
    const data = optional(run.data, 'data', (value, what) => bytes(value, what));
    let ctx = optional(run.ctx, 'ctx', (value, what) => bytes(value, what));
    const dataRoom = run.dataSizeOut ?? (data === undefined ? 0 : data.byteLength + HEAD_ROOM_BYTES);
    // The kernel has no separate context out for these: nothing comes back from a raw tracepoint,
    // and a system call program writes into the context it was given.
    const { type } = this;
    const ctxInPlace = type === 'syscall';
    if (ctxInPlace) ctx = ctx?.slice();
    const ctxBack = !ctxInPlace && !type.startsWith('raw_tracepoint');
    const ctxRoom = run.ctxSizeOut ?? (ctxBack ? (ctx?.byteLength ?? 0) : 0);
    const dataOut = new Uint8Array(integer(dataRoom, 'dataSizeOut', 0, PACKET_MAX_BYTES));
    const ctxOut = new Uint8Array(integer(ctxRoom, 'ctxSizeOut', 0, PACKET_MAX_BYTES));
    const done = this.#handle.testRun(
      data,
      ctx,
      dataOut,
      ctxOut,
      integer(run.repeat ?? 0, 'repeat', 0, 0x7fff_ffff),
      integer(run.cpu ?? 0, 'cpu'),
      integer(run.flags ?? 0, 'flags'),
      integer(run.batchSize ?? 0, 'batchSize'),
    );
    return {
      retval: done.retval,
      data: dataOut.subarray(0, Math.min(done.dataBytes, dataOut.byteLength)),
      ctx: ctxInPlace && ctx !== undefined ? ctx : ctxOut.subarray(0, Math.min(done.ctxBytes, ctxOut.byteLength)),
      durationNs: done.durationNs,
    };
  }

  // ---- attaching

  #attached(need: Parameters<typeof needing>[0], attach: () => NativeLink): Link {
    return wrapLink(needing(need, `program "${this.name}"`, attach));
  }

  /** Attaches the program as its section says. */
  attach(): Link {
    return this.#attached(needOfSection(this.section), () => this.#handle.attach());
  }

  /** tp_btf, fentry, fexit, fmod_ret and lsm programs, with a cookie. Linux 5.5; cookie: 6.0. */
  attachTrace(given: CookieOption = {}): Link {
    const { cookie } = options<CookieOption>(given, 'attachTrace', ['cookie']);
    return wrapLink(this.#handle.attachTrace(cookieOf(cookie)));
  }

  /** A raw tracepoint, such as `sched_switch`. Linux 4.17; cookie: 6.10. */
  attachRawTracepoint(name: string, given: CookieOption = {}): Link {
    const { cookie } = options<CookieOption>(given, 'attachRawTracepoint', ['cookie']);
    return wrapLink(this.#handle.attachRawTracepoint(text(name, 'tracepoint'), cookieOf(cookie)));
  }

  /** A tracepoint by category and name, such as `sched`, `sched_switch`. Needs tracefs mounted. Linux 4.7. */
  attachTracepoint(category: string, name: string, given: CookieOption = {}): Link {
    const { cookie } = options<CookieOption>(given, 'attachTracepoint', ['cookie']);
    return this.#attached('tracefs', () =>
      this.#handle.attachTracepoint(text(category, 'category'), text(name, 'name'), cookieOf(cookie)),
    );
  }

  /** Entry (or return) of a kernel function. Needs CONFIG_KPROBES. Linux 4.1. */
  attachKprobe(functionName: string, given: { offset?: number; onReturn?: boolean } & CookieOption = {}): Link {
    const { offset, onReturn, cookie } = options<typeof given>(given, 'attachKprobe', ['offset', 'onReturn', 'cookie']);
    return this.#attached('kprobes', () =>
      this.#handle.attachKprobe(
        text(functionName, 'function name'),
        integer(offset ?? 0, 'offset'),
        boolean(onReturn ?? false, 'onReturn'),
        cookieOf(cookie),
      ),
    );
  }

  /** Many kernel functions at once, by pattern (`tcp_*`) or by name. Needs CONFIG_FPROBE. Linux 5.18. */
  attachKprobeMulti(
    functions: string | readonly string[],
    given: { onReturn?: boolean; cookies?: readonly (bigint | number)[] } = {},
  ): Link {
    const { onReturn, cookies } = options<typeof given>(given, 'attachKprobeMulti', ['onReturn', 'cookies']);
    return this.#attached('kprobes', () =>
      this.#handle.attachKprobeMulti(
        namesOf(functions, 'functions'),
        boolean(onReturn ?? false, 'onReturn'),
        cookiesOf(cookies),
      ),
    );
  }

  /** A system call, whatever the kernel calls its function. Needs CONFIG_KPROBES. */
  attachKsyscall(name: string, given: { onReturn?: boolean } & CookieOption = {}): Link {
    const { onReturn, cookie } = options<typeof given>(given, 'attachKsyscall', ['onReturn', 'cookie']);
    return this.#attached('kprobes', () =>
      this.#handle.attachKsyscall(text(name, 'system call'), boolean(onReturn ?? false, 'onReturn'), cookieOf(cookie)),
    );
  }

  /** A function of a program or a shared library. Linux 4.3. */
  attachUprobe(given: UprobeOptions): Link {
    const probe = options<UprobeOptions>(given, 'attachUprobe', uprobeNames);
    return this.#attached('uprobes', () =>
      this.#handle.attachUprobe(
        text(probe.path, 'path'),
        optional(probe.function, 'function', text),
        integer(probe.offset ?? 0, 'offset', 0, Number.MAX_SAFE_INTEGER),
        pidOf(probe.pid),
        boolean(probe.onReturn ?? false, 'onReturn'),
        cookieOf(probe.cookie),
      ),
    );
  }

  /** Many functions of one file at once, by pattern or by name. Linux 6.6. */
  attachUprobeMulti(
    path: string,
    functions: string | readonly string[],
    given: { pid?: number; onReturn?: boolean; cookies?: readonly (bigint | number)[] } = {},
  ): Link {
    const { pid, onReturn, cookies } = options<typeof given>(given, 'attachUprobeMulti', ['pid', 'onReturn', 'cookies']);
    return this.#attached('uprobes', () =>
      this.#handle.attachUprobeMulti(
        text(path, 'path'),
        namesOf(functions, 'functions'),
        pidOf(pid),
        boolean(onReturn ?? false, 'onReturn'),
        cookiesOf(cookies),
      ),
    );
  }

  /** A statically defined tracepoint (USDT) of a program or library. */
  attachUsdt(path: string, provider: string, name: string, given: { pid?: number } & CookieOption = {}): Link {
    const { pid, cookie } = options<typeof given>(given, 'attachUsdt', ['pid', 'cookie']);
    return this.#attached('uprobes', () =>
      this.#handle.attachUsdt(
        text(path, 'path'),
        text(provider, 'provider'),
        text(name, 'name'),
        pidOf(pid),
        cookieOf(cookie),
      ),
    );
  }

  /** A perf event: every so many page faults, so many times a second on a CPU, ... Linux 4.9. */
  attachPerfEvent(given: PerfEventOptions): Link {
    const event = options<PerfEventOptions>(given, 'attachPerfEvent', perfEventNames);
    const period = u64(event.samplePeriod ?? 0n, 'samplePeriod');
    const frequency = u64(event.sampleFrequency ?? 0n, 'sampleFrequency');
    if ((period === 0n) === (frequency === 0n)) {
      throw wrongType('perf event', 'given either samplePeriod or sampleFrequency', given);
    }
    return wrapLink(
      this.#handle.attachPerfEvent(
        integer(event.type ?? 1, 'type'),
        u64(event.config ?? 0n, 'config'),
        period,
        frequency,
        pidOf(event.pid),
        integer(event.cpu ?? -1, 'cpu', -1, 0xffff),
        cookieOf(event.cookie),
      ),
    );
  }

  /** A control group, by the path of its directory on cgroup2. Linux 4.10; as a link: 5.7. */
  attachCgroup(path: string): Link {
    return wrapLink(this.#handle.attachCgroup(text(path, 'path')));
  }

  /** A network namespace, by path (`/proc/self/ns/net`): sk_lookup, flow dissector. Linux 5.8. */
  attachNetns(path: string): Link {
    return wrapLink(this.#handle.attachNetns(text(path, 'path')));
  }

  /** XDP: an interface's receive path, before anything else. Linux 4.8; as a link: 5.9. */
  attachXdp(given: AttachXdpOptions): Link {
    const hook = options<AttachXdpOptions>(given, 'attachXdp', ['ifindex', 'ifname', 'mode']);
    const flags = xdpFlags[oneOf(hook.mode ?? 'auto', 'mode', xdpModes)];
    return wrapLink(this.#handle.attachXdp(interfaceOf(hook), flags));
  }

  /**
   * A netfilter hook of this network namespace. Linux 6.4.
   * @param given `family`: 2 IPv4, 10 IPv6; `hook`: 0 prerouting, 1 local in, 2 forward, 3 local
   *   out, 4 postrouting; `defragment`: whole datagrams only (Linux 6.6)
   */
  attachNetfilter(given: { family: number; hook: number; priority: number; defragment?: boolean }): Link {
    const at = options<typeof given>(given, 'attachNetfilter', ['family', 'hook', 'priority', 'defragment']);
    return wrapLink(
      this.#handle.attachNetfilter(
        integer(at.family, 'family'),
        integer(at.hook, 'hook'),
        integer(at.priority, 'priority', -0x8000_0000, 0x7fff_ffff),
        boolean(at.defragment ?? false, 'defragment') ? 1 : 0,
      ),
    );
  }

  /** An iterator: read its output with `link.readIterator()`. Over a map's elements if one is given. Linux 5.8. */
  attachIter(map?: BpfMap): Link {
    return wrapLink(this.#handle.attachIter(map && mapHandle(map)));
  }

  /** Replaces a global function of another loaded program. Linux 5.6. */
  attachFreplace(target: BpfProgram, functionName: string): Link {
    return wrapLink(this.#handle.attachFreplace(handleOf(target), text(functionName, 'function name')));
  }

  /** An interface's ingress or egress, held by a link. Linux 6.6; before that by a clsact filter. */
  attachTcx(given: AttachTcxOptions): Link {
    const hook = options<AttachTcxOptions>(given, 'attachTcx', attachTcxNames);
    const ifindex = interfaceOf(hook);
    const egress = directionOf(hook);
    const anchor = anchorOf(hook);
    const via = oneOf(hook.via ?? 'auto', 'via', ['auto', 'tcx', 'clsact']);
    const priority = integer(hook.priority ?? 0, 'priority', 0, 0xffff);
    if (via === 'clsact' || (via === 'auto' && !native.tcxSupported())) {
      if (anchor.flags !== 0) throw wrongType('before and after', 'left out: clsact filters have priorities', anchor.id);
      return wrapLink(this.#handle.attachClsact(ifindex, egress, priority));
    }
    return wrapLink(this.#handle.attachTcx(ifindex, egress, anchor.flags, anchor.id));
  }

  /**
   * An interface's ingress or egress, held by the device itself: stays after this process has
   * ended, until `detachTcx` or the end of the device. Linux 6.6.
   * @param given `replace`: takes the place of this program, atomically
   */
  attachTcxDetached(given: TcxHook & TcxAnchors & { replace?: number | BpfProgram }): void {
    const hook = options<typeof given>(given, 'attachTcxDetached', [
      'ifindex',
      'ifname',
      'direction',
      'before',
      'after',
      'replace',
    ]);
    const anchor = anchorOf(hook);
    const replaced = hook.replace === undefined ? 0 : programIdOf(hook.replace, 'replace');
    this.#handle.attachTcxDetached(interfaceOf(hook), directionOf(hook), anchor.flags, anchor.id, replaced);
  }

  /** The programs on an interface's ingress or egress, in the order in which they run. Linux 6.6. */
  static queryTcx(given: TcxHook): TcxEntry[] {
    const hook = options<TcxHook>(given, 'queryTcx', ['ifindex', 'ifname', 'direction']);
    return native.queryTcx(interfaceOf(hook), directionOf(hook));
  }

  /**
   * A clsact filter that stays with the interface when the process dies, in place of one of the same
   * `priority` that was put there so before. Filters of lower priority run first, and the next one
   * runs if a program returns -1. For kernels before 6.6.
   */
  attachClsactDetached(given: TcxHook & { priority: number }): void {
    const hook = options<typeof given>(given, 'attachClsactDetached', ['ifindex', 'ifname', 'direction', 'priority']);
    this.#handle.attachClsactDetached(interfaceOf(hook), directionOf(hook), integer(hook.priority, 'priority', 1, 0xffff));
  }

  /** Takes a program that `attachTcxDetached` put there (no matter which process) off an interface. */
  static detachTcx(given: TcxHook & { program: number | BpfProgram }): void {
    const hook = options<typeof given>(given, 'detachTcx', ['ifindex', 'ifname', 'direction', 'program']);
    native.detachTcx(interfaceOf(hook), directionOf(hook), programIdOf(hook.program, 'program'));
  }

  // ---- the program as a whole

  /** Keeps the program loaded under `path` on a BPF file system. */
  pin(path: string): void {
    this.#handle.pin(text(path, 'path'));
  }

  unpin(path: string): void {
    this.#handle.unpin(text(path, 'path'));
  }

  /** Closes a program that stands alone. A program of an object is closed with its object. Idempotent. */
  close(): void {
    this.#handle.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

const testRunNames = ['data', 'ctx', 'repeat', 'dataSizeOut', 'ctxSizeOut', 'cpu', 'flags', 'batchSize'] as const;
const uprobeNames = ['path', 'function', 'offset', 'pid', 'onReturn', 'cookie'] as const;
const perfEventNames = ['type', 'config', 'samplePeriod', 'sampleFrequency', 'pid', 'cpu', 'cookie'] as const;
const attachTcxNames = ['ifindex', 'ifname', 'direction', 'before', 'after', 'via', 'priority'] as const;
