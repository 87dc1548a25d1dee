/**
 * A binding over the system's libbpf: open and load BPF objects, read and write their maps, attach
 * their programs, consume their ring buffers, and walk type information.
 */
export { BpfError, errnoName } from './error.js';
export type { VerifierLog } from './verifier-log.js';
export { BpfObject, type OpenOptions } from './object.js';
export { BpfMap, MapFlag, type CreateMapOptions, type UpdateMode } from './map.js';
export type { Batch } from './map-batch.js';
export { BpfProgram } from './program.js';
export type {
  AttachTcxOptions,
  AttachXdpOptions,
  CookieOption,
  PerfEventOptions,
  TestRunOptions,
  TestRunResult,
  UprobeOptions,
  XdpMode,
} from './program-options.js';
export type { TcxAnchor, TcxAnchors, TcxHook } from './tcx.js';
export { Link } from './link.js';
export type { LinkInfo, ProgramKernelInfo, TcxEntry } from './native.js';
export { RingBuffer, type DropCounter, type RingBufferOptions, type RingBufferStats } from './ring-buffer.js';
export { UserRingBuffer } from './user-ring-buffer.js';
export * from './btf.js';
export { probe, type Answer, type KernelConfigAnswer } from './probe.js';
export { ifIndex, type InterfaceOption } from './interfaces.js';
import { native } from './native.js';

/** Version of the libbpf in use, such as `v1.4`. */
export const libbpfVersion: string = native.libbpfVersion;
