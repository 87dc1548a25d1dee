import { boolean, bytes, integer, oneOf, optional, options as checkOptions, text, wrongType } from './check.js';
import { batches, deleteAll, updateAll, type Batch } from './map-batch.js';
import { wrapLink, updatable, type Link } from './link.js';
import { native, type NativeMap, type NativeMapInfo } from './native.js';
import { mapTypeOf } from './names.js';
import './error.js';

/** When an update may happen: always, only for a new key, only for one that exists. */
export type UpdateMode = 'any' | 'noexist' | 'exist';
const updateFlags = { any: 0, noexist: 1, exist: 2 } as const;

/** Flags of a map that are useful to the caller of `BpfMap.create`; values of `<linux/bpf.h>`. */
export const MapFlag = {
  /** Hash: do not allocate all elements at creation. An LPM trie needs it. */
  NoPrealloc: 1 << 0,
  /** Programs may only read. */
  ReadOnlyProgram: 1 << 7,
  /** Array: its memory can be mapped. Linux 5.5. */
  Mmapable: 1 << 10,
} as const;

export interface CreateMapOptions {
  /** libbpf's name of the type (`hash`, `array`, `lpm_trie`, ...) or the kernel's number. */
  type: string | number;
  /** Bytes of a key; 0 (default) for queues, stacks, ring buffers and bloom filters. */
  keySize?: number;
  /** Bytes of a value; 4 for maps that hold maps, programs or interfaces. */
  valueSize?: number;
  maxEntries: number;
  /** At most 15 characters are kept by the kernel. */
  name?: string;
  /** See `MapFlag`. */
  flags?: number;
  /** For a map of maps: a map like those that it will hold. */
  inner?: BpfMap;
}
const createNames = ['type', 'keySize', 'valueSize', 'maxEntries', 'name', 'flags', 'inner'] as const;

// Suffixes of the names that libbpf gives to maps of global data ("gate.bss"); sections with a name
// of their own (".data.flows") keep it whole.
const dataSections = ['.bss', '.data', '.rodata', '.kconfig'];

// The value of a map of maps or of programs, as the kernel exchanges it: a descriptor in, an id out.
const HANDLE_BYTES = 4;

const modes = ['any', 'noexist', 'exist'] as const;
const noKey = new Uint8Array(0);
const littleEndian = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1;

let handleOf: (map: BpfMap) => NativeMap;
let make: (handle: NativeMap) => BpfMap;
let refresh: (map: BpfMap) => void;

/** @internal */
export const mapHandle = (map: BpfMap): NativeMap => handleOf(map);
/** @internal */
export const wrapMap = (handle: NativeMap): BpfMap => make(handle);
/** @internal Forgets the sizes known so far: loading may settle them. */
export const refreshMap = (map: BpfMap): void => refresh(map);

/** A BPF map: of an object, or one that stands alone (`create`, `fromPinned`, `fromId`). */
export class BpfMap {
  readonly #handle: NativeMap;
  #shape: NativeMapInfo | undefined;
  #view: Uint8Array | undefined;

  static {
    handleOf = (map) => {
      if (!(#handle in map)) throw wrongType('map', 'a BpfMap', map);
      return map.#handle;
    };
    make = (handle) => new BpfMap(handle);
    refresh = (map) => {
      map.#shape = undefined;
    };
    updatable.map = (value) => (value instanceof BpfMap ? value.#handle : undefined);
  }

  private constructor(handle: NativeMap) {
    this.#handle = handle;
    this.#shape = handle.info();
  }

  /** Creates a map that belongs to no object. Close it after use. */
  static create(given: CreateMapOptions): BpfMap {
    const options = checkOptions<CreateMapOptions>(given, 'BpfMap.create', createNames);
    return new BpfMap(
      native.createMap(
        mapTypeOf(options.type),
        optional(options.name, 'name', text) ?? '',
        integer(options.keySize ?? 0, 'keySize'),
        integer(options.valueSize ?? 0, 'valueSize'),
        integer(options.maxEntries, 'maxEntries'),
        integer(options.flags ?? 0, 'flags'),
        options.inner === undefined ? undefined : handleOf(options.inner),
      ),
    );
  }

  /** Opens the map pinned at `path`. */
  static fromPinned(path: string): BpfMap {
    return new BpfMap(native.mapFromPinned(text(path, 'path')));
  }

  /** Opens a map of the running kernel by its id. */
  static fromId(id: number): BpfMap {
    return new BpfMap(native.mapFromId(integer(id, 'map id', 1)));
  }

  #info(): NativeMapInfo {
    return (this.#shape ??= this.#handle.info());
  }

  /** The map's name. For global data libbpf puts the object's name before that of the section. */
  get name(): string {
    return this.#info().name;
  }

  /** libbpf's name of the type: `hash`, `array`, `ringbuf`, `lru_percpu_hash`, ... */
  get type(): string {
    return this.#info().type;
  }

  /** Number of `enum bpf_map_type`. */
  get typeId(): number {
    return this.#info().typeId;
  }

  /** Bytes of a key; 0 for queues, stacks and ring buffers. */
  get keySize(): number {
    return this.#info().keySize;
  }

  /** Bytes of a value as the program sees it. */
  get valueSize(): number {
    return this.#info().valueSize;
  }

  /** Bytes of a value on our side: for a per-CPU map, all CPUs' values, each rounded up to 8. */
  get valueBytes(): number {
    return this.#info().valueBytes;
  }

  /** Entries at most; bytes for a ring buffer. */
  get maxEntries(): number {
    return this.#info().maxEntries;
  }

  get flags(): number {
    return this.#info().flags;
  }

  get isPerCpu(): boolean {
    return this.#info().perCpu;
  }

  /** Id of the key's type in the object's BTF; 0 when there is none. */
  get keyTypeId(): number {
    return this.#info().keyTypeId ?? 0;
  }

  /** Id of the value's type in the object's BTF; 0 when there is none. */
  get valueTypeId(): number {
    return this.#info().valueTypeId ?? 0;
  }

  /** `.bss`, `.data`, `.rodata`, `.kconfig` or `.data.NAME` for global data; else undefined. */
  get sectionName(): string | undefined {
    const { internal, name } = this.#info();
    if (!internal) return undefined;
    if (name.startsWith('.')) return name;
    return dataSections.find((section) => name.endsWith(section)) ?? name.slice(name.indexOf('.'));
  }

  /** Where the map is pinned or will be at load. */
  get pinPath(): string | undefined {
    return this.#handle.info().pinPath;
  }

  /** The kernel's id of the map. */
  get id(): number {
    return this.#handle.id();
  }

  /** The map's file descriptor. It belongs to the map: do not close it. */
  get fd(): number {
    return this.#handle.fd();
  }

  get closed(): boolean {
    return this.#handle.closed();
  }

  // ---- before load

  /** A copy of the initial content of global data (or of a struct_ops map); undefined for others. */
  get initialValue(): Uint8Array | undefined {
    return this.#handle.initialValue();
  }

  /** Sets the initial content of global data, whole. Only before load. */
  setInitialValue(value: Uint8Array): void {
    this.#handle.setInitialValue(bytes(value, 'value'));
  }

  /** Sets `maxEntries`. Only before load. */
  resize(maxEntries: number): void {
    this.#handle.setMaxEntries(integer(maxEntries, 'maxEntries'));
    this.#shape = undefined;
  }

  /**
   * Sets `valueSize`, in bytes: of a map that leaves it open, such as one of stack traces, or of
   * global data whose last array is to have another length. Only before load.
   */
  setValueSize(valueSize: number): void {
    this.#handle.setValueSize(integer(valueSize, 'valueSize', 1));
    this.#shape = undefined;
  }

  /** Where the map is to be pinned by load (or found, if it is there already); undefined: nowhere. */
  setPinPath(path: string | undefined): void {
    this.#handle.setPinPath(path === undefined ? undefined : text(path, 'path'));
  }

  /** Whether load creates the map. Programs that use a map that was not created must not be loaded. */
  setAutocreate(on: boolean): void {
    this.#handle.setAutocreate(boolean(on, 'autocreate'));
  }

  /** The template of the maps that this map of maps will hold. Only before load. */
  setInner(template: BpfMap): void {
    this.#handle.setInner(handleOf(template));
  }

  /** Makes the object use an existing map in place of this one. Only before load. */
  reuse(existing: BpfMap): void {
    this.#handle.reuse(handleOf(existing));
    this.#shape = undefined;
  }

  // ---- elements

  // The wording of an error is not worth its time on every call.
  #key(key: Uint8Array): Uint8Array {
    if (key instanceof Uint8Array && key.byteLength === this.#info().keySize) return key;
    return bytes(key, `key of map "${this.name}"`, this.keySize);
  }

  #value(value: Uint8Array): Uint8Array {
    if (value instanceof Uint8Array && value.byteLength === this.#info().valueBytes) return value;
    return bytes(value, `value of map "${this.name}"`, this.valueBytes);
  }

  /**
   * The value of `key`, or undefined. With `into` (of `valueBytes` bytes) nothing is allocated.
   * A per-CPU map gives all CPUs' values one after the other: see `lookupPerCpu`.
   */
  lookup(key: Uint8Array, into?: Uint8Array): Uint8Array | undefined {
    const value = into === undefined ? new Uint8Array(this.valueBytes) : this.#value(into);
    return this.#handle.lookup(this.#key(key), value, 0) ? value : undefined;
  }

  /** Takes the value of `key` out of the map. Hash maps: Linux 5.14. */
  lookupAndDelete(key: Uint8Array, into?: Uint8Array): Uint8Array | undefined {
    const value = into === undefined ? new Uint8Array(this.valueBytes) : this.#value(into);
    return this.#handle.lookupAndDelete(this.#key(key), value, 0) ? value : undefined;
  }

  /** Sets the value of `key`. Throws EEXIST or ENOENT when `mode` forbids it, E2BIG when full. */
  update(key: Uint8Array, value: Uint8Array, mode: UpdateMode = 'any'): void {
    this.#handle.update(this.#key(key), this.#value(value), updateFlags[oneOf(mode, 'mode', modes)]);
  }

  /** Removes `key`; false when it was not there. */
  delete(key: Uint8Array): boolean {
    return this.#handle.delete(this.#key(key));
  }

  /** One value per possible CPU, each of `valueSize` bytes; undefined when there is no such key. */
  lookupPerCpu(key: Uint8Array): Uint8Array[] | undefined {
    const all = this.lookup(key);
    return all === undefined ? undefined : this.splitPerCpu(all);
  }

  /** Sets one value per possible CPU. */
  updatePerCpu(key: Uint8Array, values: readonly Uint8Array[], mode: UpdateMode = 'any'): void {
    const { possibleCpus, valueSize, valueBytes, perCpu } = this.#info();
    if (!perCpu) throw wrongType('map', 'a per-CPU map', this.type);
    integer(values.length, 'number of values', possibleCpus, possibleCpus);
    const all = new Uint8Array(valueBytes);
    const stride = valueBytes / possibleCpus;
    values.forEach((value, cpu) => all.set(bytes(value, `value of CPU ${cpu}`, valueSize), cpu * stride));
    this.update(key, all, mode);
  }

  /** Splits a per-CPU map's value (as `lookup` and `entries` give it) into one view per CPU. */
  splitPerCpu(all: Uint8Array): Uint8Array[] {
    const { possibleCpus, valueSize, valueBytes, perCpu } = this.#info();
    if (!perCpu) throw wrongType('map', 'a per-CPU map', this.type);
    this.#value(all);
    const stride = valueBytes / possibleCpus;
    return Array.from({ length: possibleCpus }, (_, cpu) => all.subarray(cpu * stride, cpu * stride + valueSize));
  }

  /**
   * All keys. An entry may be deleted when its key has been given. On a map that others change
   * meanwhile, keys may be missed or come twice; the number of keys is bounded by `maxEntries`.
   */
  *keys(): IterableIterator<Uint8Array> {
    let key: Uint8Array | undefined;
    for (let count = 0; count < this.maxEntries; count++) {
      const next = new Uint8Array(this.keySize);
      if (!this.#handle.nextKey(key, next)) break;
      // The next key is found before this one is given away: the caller may delete it.
      if (key !== undefined) yield key;
      key = next;
    }
    if (key !== undefined) yield key;
  }

  /** All entries, fetched many at a time where the kernel can (Linux 5.6). See `keys` for changes meanwhile. */
  *entries(): IterableIterator<[key: Uint8Array, value: Uint8Array]> {
    for (const batch of this.batches()) {
      for (let i = 0; i < batch.count; i++) {
        yield [
          batch.keys.subarray(i * this.keySize, (i + 1) * this.keySize),
          batch.values.subarray(i * this.valueBytes, (i + 1) * this.valueBytes),
        ];
      }
    }
  }

  [Symbol.iterator](): IterableIterator<[key: Uint8Array, value: Uint8Array]> {
    return this.entries();
  }

  /**
   * All entries in batches of packed keys and values. Falls back to one system call per entry where
   * the kernel or the map's type has no batch operations.
   * @param options `size`: entries per batch; `remove`: take them out of the map as they are read
   */
  batches(options: { size?: number; remove?: boolean } = {}): IterableIterator<Batch> {
    return batches(this, this.#handle, integer(options.size ?? 512, 'size', 1, 1 << 24), options.remove ?? false);
  }

  /** Sets many entries, given as packed keys and values. */
  updateBatch(keys: Uint8Array, values: Uint8Array, mode: UpdateMode = 'any'): void {
    const count = this.#count(keys);
    bytes(values, `values for map "${this.name}"`, count * this.valueBytes);
    updateAll(this, this.#handle, keys, values, count, updateFlags[oneOf(mode, 'mode', modes)]);
  }

  /** Removes many entries, given as packed keys; returns how many there were. */
  deleteBatch(keys: Uint8Array): number {
    return deleteAll(this, this.#handle, keys, this.#count(keys));
  }

  #count(keys: Uint8Array): number {
    const { keySize } = this.#info();
    bytes(keys, 'keys');
    if (keySize === 0 || keys.byteLength % keySize !== 0) {
      throw wrongType(`keys of map "${this.name}"`, `a multiple of ${keySize} bytes long`, keys.byteLength);
    }
    return keys.byteLength / keySize;
  }

  // ---- queues, stacks, bloom filters

  /** Adds an element to a queue, a stack or a bloom filter. */
  push(value: Uint8Array): void {
    this.#handle.update(this.#noKey(), this.#value(value), 0);
  }

  /** Takes the next element of a queue or a stack. */
  pop(): Uint8Array | undefined {
    const value = new Uint8Array(this.valueBytes);
    return this.#handle.lookupAndDelete(this.#noKey(), value, 0) ? value : undefined;
  }

  /** The next element of a queue or a stack, left where it is. */
  peek(): Uint8Array | undefined {
    const value = new Uint8Array(this.valueBytes);
    return this.#handle.lookup(this.#noKey(), value, 0) ? value : undefined;
  }

  /** Whether a bloom filter may contain `value`; false is certain. */
  has(value: Uint8Array): boolean {
    return this.#handle.lookup(this.#noKey(), this.#value(value), 0);
  }

  #noKey(): Uint8Array {
    if (this.keySize !== 0) throw wrongType('map', 'a queue, a stack or a bloom filter', this.type);
    return noKey;
  }

  // ---- maps that hold other things

  /** Puts a map into a map of maps, or a program into a program array. */
  updateHandle(key: Uint8Array, target: { readonly fd: number }, mode: UpdateMode = 'any'): void {
    const value = new Uint8Array(HANDLE_BYTES);
    new DataView(value.buffer).setUint32(0, integer(target.fd, 'descriptor of target'), littleEndian);
    this.update(key, value, mode);
  }

  /** The kernel's id of the map or program under `key`. */
  lookupId(key: Uint8Array): number | undefined {
    const value = this.lookup(key);
    if (value === undefined) return undefined;
    return new DataView(value.buffer, value.byteOffset).getUint32(0, littleEndian);
  }

  /** Opens the map under `key` of a map of maps; close it after use. */
  lookupMap(key: Uint8Array): BpfMap | undefined {
    const id = this.lookupId(key);
    return id === undefined ? undefined : BpfMap.fromId(id);
  }

  /** Puts an interface into a devmap, with an XDP program to run on egress (Linux 5.8) if given. */
  updateDevice(key: Uint8Array, ifindex: number, program?: { readonly fd: number }): void {
    const value = new Uint8Array(this.valueBytes);
    const view = new DataView(value.buffer);
    view.setUint32(0, integer(ifindex, 'ifindex', 1, 0x7fff_ffff), littleEndian);
    // struct bpf_devmap_val: { __u32 ifindex; int bpf_prog_fd; }, where -1 means none.
    if (this.valueBytes >= 8) view.setInt32(4, program === undefined ? -1 : integer(program.fd, 'program'), littleEndian);
    else if (program !== undefined) throw wrongType('map', 'a devmap with values of 8 bytes', `${this.valueBytes} bytes`);
    this.update(key, value);
  }

  /** Registers a struct_ops map's operations with the kernel. */
  attachStructOps(): Link {
    return wrapLink(this.#handle.attachStructOps());
  }

  // ---- the map as a whole

  /**
   * The memory of an array map (with `Mmapable`; maps of global data have it where the kernel can):
   * reads and writes go to the live map without a system call. Elements lie `valueSize` rounded up
   * to 8 apart. Stays valid as long as it is referenced, whatever is closed. For a map that can
   * never change again (`.rodata` after load) it is a plain copy. Linux 5.5.
   */
  mmap(): Uint8Array {
    if (this.closed) this.#handle.fd(); // throws the error of a closed handle
    return (this.#view ??= this.#handle.mmap());
  }

  /** Makes the map read-only for user space, for good. Linux 5.2. */
  freeze(): void {
    this.#handle.freeze();
  }

  /** Keeps the map alive under `path` on a BPF file system. */
  pin(path: string): void {
    this.#handle.pin(text(path, 'path'));
  }

  unpin(path: string): void {
    this.#handle.unpin(text(path, 'path'));
  }

  /** Closes a map that stands alone. A map of an object is closed with its object. Idempotent. */
  close(): void {
    this.#handle.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
