/** What generated skeletons are made of. */
export * from './runtime/arrays.js';
export type { AtomicCodec, Cell, Codec } from './runtime/codec.js';
export type { Constant, Variable } from './runtime/globals.js';
export { inspect, shown } from './runtime/inspect.js';
export { KeyedMap, PerCpuMap, QueueMap } from './runtime/maps.js';
export * from './runtime/memory.js';
export {
  decode,
  encode,
  RecordSender,
  type RecordsOptions,
  RingBufferMap,
  UserRingMap,
} from './runtime/ring-buffer.js';
export * from './runtime/scalars.js';
export { LoadedObject, ObjectSpecs, openObject } from './runtime/skeleton.js';
export { LoaderError, type LoaderErrorCode } from './errors.js';
export type { BpfMap, BpfProgram, OpenOptions } from 'libbpf-napi';
