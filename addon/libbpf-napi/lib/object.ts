import { integer, optional, options as checkOptions, text, wrongType } from './check.js';
import { bpfError } from './error.js';
import { refreshMap, wrapMap, type BpfMap } from './map.js';
import { native, type NativeObject } from './native.js';
import { wrapProgram, type BpfProgram } from './program.js';
import { verifierLogs, type VerifierLog } from './verifier-log.js';

export interface OpenOptions {
  /** Name of the object: the beginning of the names of its global data maps. Default: from the path. */
  name?: string;
  /** Where maps with `pinning` in their definition are pinned. Default: `/sys/fs/bpf`. */
  pinRoot?: string;
  /** BTF file to relocate against in place of the running kernel's. */
  btfPath?: string;
  /** Lines of a kernel configuration that override the system's for `.kconfig` externs. */
  kconfig?: string;
  /** 1 or 2: keep the verifier's log also of programs that load, in `verifierLogs`. */
  logLevel?: 0 | 1 | 2;
}

let handleOf: (object: BpfObject) => NativeObject;
/** @internal */
export const objectHandle = (object: BpfObject): NativeObject => handleOf(object);

/**
 * A BPF object file: its maps and programs, before and after they are loaded into the kernel.
 *
 *     using object = BpfObject.open('counter.bpf.o');
 *     object.load();
 *     const link = object.program('count').attachTcx({ ifname: 'eth0', direction: 'ingress' });
 */
export class BpfObject {
  readonly #handle: NativeObject;
  /** All maps by name, in the order of the file. */
  readonly maps: ReadonlyMap<string, BpfMap>;
  /** All programs by the name of their function, in the order of the file. */
  readonly programs: ReadonlyMap<string, BpfProgram>;
  #logs: VerifierLog[] = [];

  static {
    handleOf = (object) => {
      if (!(#handle in object)) throw wrongType('object', 'a BpfObject', object);
      return object.#handle;
    };
  }

  private constructor(handle: NativeObject) {
    this.#handle = handle;
    this.maps = new Map(handle.maps().map(wrapMap).map((map) => [map.name, map]));
    this.programs = new Map(handle.programs().map(wrapProgram).map((program) => [program.name, program]));
  }

  /**
   * Opens a compiled BPF object, from a file or from memory. Nothing happens in the kernel yet.
   * @throws BpfError when libbpf cannot make sense of it
   */
  static open(source: string | Uint8Array, given: OpenOptions = {}): BpfObject {
    const options = checkOptions<OpenOptions>(given, 'open', ['name', 'pinRoot', 'btfPath', 'kconfig', 'logLevel']);
    const from = source instanceof Uint8Array ? source : text(source, 'source');
    return new BpfObject(
      new native.NativeObject(
        from,
        optional(options.name, 'name', text),
        optional(options.pinRoot, 'pinRoot', text),
        optional(options.btfPath, 'btfPath', text),
        optional(options.kconfig, 'kconfig', text),
        integer(options.logLevel ?? 0, 'logLevel', 0, 2),
      ),
    );
  }

  get name(): string {
    return this.#handle.name();
  }

  get loaded(): boolean {
    return this.#handle.loaded();
  }

  get closed(): boolean {
    return this.#handle.closed();
  }

  /** With `logLevel`: the verifier's log of each program that was loaded. */
  get verifierLogs(): readonly VerifierLog[] {
    return this.#logs;
  }

  /** The map of this name; global data also by its section (`.bss`). */
  map(name: string): BpfMap {
    const found = this.maps.get(name) ?? [...this.maps.values()].find((map) => map.sectionName === name);
    if (found === undefined) throw this.#absent('map', name, this.maps);
    return found;
  }

  /** The program of this function name. */
  program(name: string): BpfProgram {
    const found = this.programs.get(name);
    if (found === undefined) throw this.#absent('program', name, this.programs);
    return found;
  }

  #absent(kind: string, name: string, all: ReadonlyMap<string, unknown>): Error {
    const has = all.size === 0 ? 'none' : [...all.keys()].join(', ');
    return bpfError('find', `${kind} "${String(name)}" in BPF object "${this.name}"`, 2, `it has ${has}`);
  }

  /**
   * Creates the maps and loads the programs into the kernel. Takes as long as the verifier takes;
   * `loadAsync` does not block.
   * @throws BpfError with the verifier's whole log in `log`
   */
  load(): void {
    this.#loaded(this.#handle.load());
  }

  /** `load` on another thread. Until it settles every other use of the object throws EBUSY. */
  async loadAsync(): Promise<void> {
    this.#loaded(await this.#handle.loadAsync());
  }

  #loaded(output: string): void {
    this.#logs = verifierLogs(output);
    for (const map of this.maps.values()) refreshMap(map);
  }

  /**
   * Frees the object. Links stay attached (each is closed for itself), pinned maps and programs stay
   * pinned; any other use of the object, its maps and its programs throws from now on. Idempotent.
   */
  close(): void {
    this.#handle.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
