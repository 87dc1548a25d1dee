import { integer, text } from './check.js';
import { native, type LinkInfo, type NativeLink, type NativeMap, type NativeProgram } from './native.js';
import './error.js';

// Links that are attached: they stay so until somebody says otherwise. A program that silently
// stopped running because a variable went out of scope would be the worst kind of bug.
const attached = new Set<Link>();

let make: (handle: NativeLink) => Link;

/** @internal */
export const wrapLink = (handle: NativeLink): Link => make(handle);

/** @internal What a link may be updated with; set by program.ts and map.ts, which import this file. */
export const updatable: {
  program?: (value: unknown) => NativeProgram | undefined;
  map?: (value: unknown) => NativeMap | undefined;
} = {};

/**
 * An attached program. It stays attached until `close()` or `detach()`, or until the process ends;
 * never because of garbage collection, and not because the object it came from was closed.
 * A pinned link outlives the process.
 */
export class Link {
  readonly #handle: NativeLink;
  #info: LinkInfo | undefined;

  static {
    make = (handle) => new Link(handle);
  }

  private constructor(handle: NativeLink) {
    this.#handle = handle;
    attached.add(this);
  }

  /** Opens the link pinned at `path`. */
  static fromPinned(path: string): Link {
    return new Link(native.linkFromPinned(text(path, 'path')));
  }

  /** Opens a link of the running kernel by its id. Linux 5.8. */
  static fromId(id: number): Link {
    return new Link(native.linkFromId(integer(id, 'link id', 1)));
  }

  #cached(): LinkInfo {
    return (this.#info ??= this.#handle.info());
  }

  /** The kernel's id of the link; 0 for a clsact filter, which has none. */
  get id(): number {
    return this.#cached().id;
  }

  /** `tcx`, `xdp`, `tracing`, `perf_event`, ...; `clsact` for a filter on a kernel without tcx. */
  get type(): string {
    return this.#cached().type;
  }

  /** The link's file descriptor. It belongs to the link: do not close it. */
  get fd(): number {
    return this.#handle.fd();
  }

  get closed(): boolean {
    return this.#handle.closed();
  }

  /** What the kernel says about the link now. */
  info(): LinkInfo {
    return this.#handle.info();
  }

  /** Puts another program (for struct_ops: another map) in this one's place, atomically. */
  update(replacement: object): void {
    const program = updatable.program?.(replacement);
    if (program !== undefined) return this.#handle.update(program);
    const map = updatable.map?.(replacement);
    if (map !== undefined) return this.#handle.updateMap(map);
    throw new TypeError('replacement must be a BpfProgram or a struct_ops BpfMap');
  }

  /** Makes the attachment outlive the process, under `path` on a BPF file system. */
  pin(path: string): void {
    this.#handle.pin(text(path, 'path'));
  }

  /**
   * Runs an iterator program once over all its elements and returns what it wrote.
   * @param maxBytes fails with EMSGSIZE beyond this
   */
  readIterator(maxBytes = 64 << 20): Uint8Array {
    return this.#handle.readIterator(integer(maxBytes, 'maxBytes', 1, 0x7fff_ffff));
  }

  /**
   * Ends the attachment now, even if the link is pinned or held elsewhere, where the kernel can
   * (tcx, xdp, cgroup, netns, struct_ops); other kinds end with their last holder. Closes this handle.
   */
  detach(): void {
    this.#handle.detach();
    attached.delete(this);
  }

  /** Lets go of the link: the attachment ends unless it is pinned or held elsewhere. Idempotent. */
  close(): void {
    attached.delete(this);
    this.#handle.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
