// The compiled half: what it exports, and nothing of what it means. The classes of this package
// check every argument before it gets here.
import { createRequire } from 'node:module';

export interface NativeObject {
  load(): string;
  loadAsync(): Promise<string>;
  close(): void;
  closed(): boolean;
  loaded(): boolean;
  name(): string;
  maps(): NativeMap[];
  programs(): NativeProgram[];
  btf(): Uint8Array | undefined;
}

export interface NativeMapInfo {
  name: string;
  typeId: number;
  type: string;
  keySize: number;
  valueSize: number;
  valueBytes: number;
  maxEntries: number;
  flags: number;
  perCpu: boolean;
  possibleCpus: number;
  internal: boolean;
  autocreate?: boolean;
  keyTypeId?: number;
  valueTypeId?: number;
  pinPath?: string;
}

export interface BatchResult {
  count: number;
  errno: number;
}

export interface NativeMap {
  info(): NativeMapInfo;
  fd(): number;
  id(): number;
  close(): void;
  closed(): boolean;
  initialValue(): Uint8Array | undefined;
  setInitialValue(bytes: Uint8Array): void;
  setMaxEntries(count: number): void;
  setValueSize(bytes: number): void;
  setPinPath(path: string | undefined): void;
  setAutocreate(on: boolean): void;
  setInner(map: NativeMap): void;
  reuse(map: NativeMap): void;
  lookup(key: Uint8Array, into: Uint8Array, flags: number): boolean;
  lookupAndDelete(key: Uint8Array, into: Uint8Array, flags: number): boolean;
  update(key: Uint8Array, value: Uint8Array, flags: number): void;
  delete(key: Uint8Array): boolean;
  nextKey(key: Uint8Array | undefined, into: Uint8Array): boolean;
  lookupBatch(
    cursor: Uint8Array | undefined,
    next: Uint8Array,
    keys: Uint8Array,
    values: Uint8Array,
    count: number,
    remove: boolean,
  ): BatchResult;
  updateBatch(keys: Uint8Array, values: Uint8Array, count: number, flags: number): BatchResult;
  deleteBatch(keys: Uint8Array, count: number): BatchResult;
  pin(path: string): void;
  unpin(path: string): void;
  freeze(): void;
  mmap(): Uint8Array;
  attachStructOps(): NativeLink;
}

export interface NativeProgramInfo {
  name: string;
  section: string;
  typeId: number;
  type: string;
  attachTypeId: number;
  attachType?: string;
  autoload: boolean;
  instructionCount: number;
}

export interface NativeTestRun {
  retval: number;
  durationNs: number;
  dataBytes: number;
  ctxBytes: number;
}

export interface NativeProgram {
  info(): NativeProgramInfo;
  kernelInfo(): ProgramKernelInfo;
  fd(): number;
  close(): void;
  closed(): boolean;
  setAutoload(on: boolean): void;
  setType(type: number, attachType: number): void;
  setAttachTarget(name: string, program: NativeProgram | undefined): void;
  testRun(
    data: Uint8Array | undefined,
    ctx: Uint8Array | undefined,
    dataOut: Uint8Array | undefined,
    ctxOut: Uint8Array | undefined,
    repeat: number,
    cpu: number,
    flags: number,
    batchSize: number,
  ): NativeTestRun;
  pin(path: string): void;
  unpin(path: string): void;
  attach(): NativeLink;
  attachTrace(cookie: bigint): NativeLink;
  attachRawTracepoint(name: string, cookie: bigint): NativeLink;
  attachTracepoint(category: string, name: string, cookie: bigint): NativeLink;
  attachKprobe(name: string, offset: number, onReturn: boolean, cookie: bigint): NativeLink;
  attachKprobeMulti(what: string | string[], onReturn: boolean, cookies: bigint[]): NativeLink;
  attachKsyscall(name: string, onReturn: boolean, cookie: bigint): NativeLink;
  attachUprobe(
    path: string,
    name: string | undefined,
    offset: number,
    pid: number,
    onReturn: boolean,
    cookie: bigint,
  ): NativeLink;
  attachUprobeMulti(
    path: string,
    what: string | string[],
    pid: number,
    onReturn: boolean,
    cookies: bigint[],
  ): NativeLink;
  attachUsdt(path: string, provider: string, name: string, pid: number, cookie: bigint): NativeLink;
  attachPerfEvent(
    type: number,
    config: bigint,
    samplePeriod: bigint,
    sampleFrequency: bigint,
    pid: number,
    cpu: number,
    cookie: bigint,
  ): NativeLink;
  attachCgroup(path: string): NativeLink;
  attachNetns(path: string): NativeLink;
  attachXdp(ifindex: number, flags: number): NativeLink;
  attachNetfilter(family: number, hook: number, priority: number, flags: number): NativeLink;
  attachIter(map: NativeMap | undefined): NativeLink;
  attachFreplace(target: NativeProgram, name: string): NativeLink;
  attachTcx(ifindex: number, egress: boolean, anchorFlags: number, anchorId: number): NativeLink;
  attachClsact(ifindex: number, egress: boolean, priority: number): NativeLink;
  attachClsactDetached(ifindex: number, egress: boolean, priority: number): void;
  attachTcxDetached(
    ifindex: number,
    egress: boolean,
    anchorFlags: number,
    anchorId: number,
    replaceId: number,
  ): void;
}

/** What the kernel tells about a loaded program. Run figures stay 0 unless `kernel.bpf_stats_enabled` is set. */
export interface ProgramKernelInfo {
  id: number;
  name: string;
  /** Hash of the instructions, in hexadecimal. */
  tag: string;
  /** Nanoseconds since boot. */
  loadedAtNs: bigint;
  uid: number;
  gplCompatible: boolean;
  translatedBytes: number;
  nativeBytes: number;
  verifiedInstructions: number;
  btfId: number;
  runCount: bigint;
  runTimeNs: bigint;
  recursionMisses: bigint;
  mapIds: number[];
}

/** What the kernel tells about a link; the fields after `programId` depend on `type`. */
export interface LinkInfo {
  id: number;
  type: string;
  programId: number;
  attachType?: string;
  ifindex?: number;
  direction?: 'ingress' | 'egress';
  tracepoint?: string;
  target?: string;
  targetObjectId?: number;
  targetBtfId?: number;
  cgroupId?: bigint;
  netnsInode?: number;
  mapId?: number;
  protocolFamily?: number;
  hook?: number;
  priority?: number;
  handle?: number;
}

export interface NativeLink {
  close(): void;
  closed(): boolean;
  detach(): void;
  fd(): number;
  info(): LinkInfo;
  update(program: NativeProgram): void;
  updateMap(map: NativeMap): void;
  pin(path: string): void;
  readIterator(maxBytes: number): Uint8Array;
}

export interface NativeRingBuffer {
  consume(maxRecords: number, maxBytes: number): Uint8Array[];
  arm(callback: () => void): void;
  disarm(): void;
  reference(on: boolean): void;
  stats(): { sizeBytes: number; pendingBytes: number; consumedBytes: number };
  close(): void;
}

export interface NativeUserRingBuffer {
  submit(record: Uint8Array): boolean;
  close(): void;
}

export interface NativeBtf {
  bytes(): Uint8Array;
  dumpC(): string;
  close(): void;
}

export interface TcxEntry {
  /** Id of the program. */
  progId: number;
  /** Id of the link that holds it there; absent when the device itself does. */
  linkId?: number;
  /** Name of the program, when it could be read. */
  name?: string;
}

interface Native {
  NativeObject: new (
    source: string | Uint8Array,
    name: string | undefined,
    pinRoot: string | undefined,
    btfPath: string | undefined,
    kconfig: string | undefined,
    logLevel: number,
  ) => NativeObject;
  NativeRingBuffer: new (map: NativeMap) => NativeRingBuffer;
  NativeUserRingBuffer: new (map: NativeMap) => NativeUserRingBuffer;
  NativeBtf: new (source: string | Uint8Array, basePath: string | undefined) => NativeBtf;
  setErrorFactory(make: (operation: string, subject: string, errno: number, log: string) => Error): void;
  ifIndex(name: string): number;
  createMap(
    type: number,
    name: string,
    keySize: number,
    valueSize: number,
    maxEntries: number,
    flags: number,
    inner: NativeMap | undefined,
  ): NativeMap;
  mapFromPinned(path: string): NativeMap;
  mapFromId(id: number): NativeMap;
  programFromPinned(path: string): NativeProgram;
  programFromId(id: number): NativeProgram;
  linkFromPinned(path: string): NativeLink;
  linkFromId(id: number): NativeLink;
  queryTcx(ifindex: number, egress: boolean): TcxEntry[];
  detachTcx(ifindex: number, egress: boolean, programId: number): void;
  tcxSupported(): boolean;
  probeProgramType(type: number): number;
  probeMapType(type: number): number;
  probeHelper(programType: number, helper: number): number;
  names(): { mapTypes: string[]; programTypes: string[]; helpers: string[] };
  libbpfVersion: string;
}

export const native = createRequire(import.meta.url)('../build/Release/bpf_napi.node') as Native;
