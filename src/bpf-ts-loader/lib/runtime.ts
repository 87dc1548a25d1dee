/** What generated skeletons are made of. */
export * from './runtime/codec.js';
export type { Constant, Variable } from './runtime/globals.js';
export { KeyedMap, PerCpuMap, QueueMap } from './runtime/maps.js';
export { decode, encode, type RecordsOptions, RingBufferMap } from './runtime/ring-buffer.js';
export { LoadedObject, ObjectSpecs, openObject } from './runtime/skeleton.js';
export { LoaderError, type LoaderErrorCode } from './errors.js';
export type { BpfMap, BpfProgram, OpenOptions } from 'libbpf-napi';
