// What the methods of BpfProgram take and give.
import type { InterfaceOption } from './interfaces.js';
import type { TcxAnchors, TcxHook } from './tcx.js';

/** A value that the program reads with `bpf_get_attach_cookie()`. Linux 5.15; tracing: 6.0. */
export interface CookieOption {
  cookie?: bigint | number;
}

export interface TestRunOptions {
  /** The packet (networking programs); at least 14 bytes for those that expect Ethernet. */
  data?: Uint8Array;
  /** The context: `struct __sk_buff`, `struct xdp_md`, or the arguments of a tracing program. */
  ctx?: Uint8Array;
  /** Runs this often; `durationNs` is the average. Not for raw tracepoints and system call programs. */
  repeat?: number;
  /** Room for the packet afterwards; default: that of `data`, plus 256 bytes of head room. */
  dataSizeOut?: number;
  /** Room for the context afterwards; default: that of `ctx`. */
  ctxSizeOut?: number;
  /** Which CPU to run on (raw tracepoints); needs `flags` with BPF_F_TEST_RUN_ON_CPU (1). */
  cpu?: number;
  flags?: number;
  batchSize?: number;
}

export interface TestRunResult {
  /** What the program returned, as an unsigned 32-bit number. */
  retval: number;
  /** The packet afterwards. */
  data: Uint8Array;
  /** The context afterwards. */
  ctx: Uint8Array;
  /** Average of one run. */
  durationNs: number;
}

/** Where an XDP program runs. `auto` lets the kernel choose the fastest that the driver has. */
export type XdpMode = 'auto' | 'generic' | 'driver' | 'offload';
export interface AttachTcxOptions extends TcxHook, TcxAnchors {
  /**
   * `tcx` (Linux 6.6) or the older `clsact` filter, which stays with the device until the link is
   * closed, even when the process dies. `auto`: tcx where the kernel has it.
   */
  via?: 'auto' | 'tcx' | 'clsact';
  /** Order among clsact filters; lower runs first. Ignored by tcx. */
  priority?: number;
}

export interface PerfEventOptions extends CookieOption {
  /** `enum perf_type_id`: hardware 0, software 1 (default), tracepoint 2, ... */
  type?: number;
  /** Which event of that type; software: cpu-clock 0 (default), page-faults 2, ... */
  config?: bigint | number;
  /** Runs the program on every so many events. */
  samplePeriod?: bigint | number;
  /** Or: about so many times a second. */
  sampleFrequency?: bigint | number;
  /** Process to watch; default all. */
  pid?: number;
  /** CPU to watch; -1 (default) with a `pid` means all. */
  cpu?: number;
}

export interface UprobeOptions extends CookieOption {
  /** Executable or shared library; a bare name is looked up in the usual paths. */
  path: string;
  /** Function name; or use `offset` alone. */
  function?: string;
  /** Bytes from the function's start, or from the file's start without `function`. */
  offset?: number;
  /** Only in this process; 0 is the calling one. Default: all. */
  pid?: number;
  onReturn?: boolean;
}

/** An interface by index or name, and where on it. */
export interface AttachXdpOptions extends InterfaceOption {
  mode?: XdpMode;
}
