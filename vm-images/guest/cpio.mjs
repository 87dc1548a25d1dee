/**
 * Writer of "newc" cpio archives (Linux: Documentation/driver-api/early-userspace/buffer-format.rst), the form of an
 * initramfs. Everything that could differ between two builds of the same tree is fixed: order, owner, times, inodes.
 */
const S_IFDIR = 0o040000;
const S_IFREG = 0o100000;
const S_IFLNK = 0o120000;
const S_IFCHR = 0o020000;

/**
 * @typedef {{ path: string, mode: number, data: Buffer, device?: [number, number] }} Entry
 *   `path` has no leading slash; `mode` holds type and permissions
 */

/** A tree of files in memory; parent folders appear by themselves. */
export class Tree {
  /** @type {Map<string, Entry>} */
  #entries = new Map();

  /** @param {string} path @param {string | Buffer} data @param {number} [permissions] */
  file(path, data, permissions = 0o644) {
    this.#add({ path, mode: S_IFREG | permissions, data: Buffer.from(data) });
  }

  /** @param {string} path */
  folder(path) {
    this.#add({ path, mode: S_IFDIR | 0o755, data: Buffer.alloc(0) });
  }

  /** @param {string} path @param {string} target */
  link(path, target) {
    this.#add({ path, mode: S_IFLNK | 0o777, data: Buffer.from(target) });
  }

  /** @param {string} path @param {number} major @param {number} minor */
  characterDevice(path, major, minor) {
    this.#add({ path, mode: S_IFCHR | 0o600, data: Buffer.alloc(0), device: [major, minor] });
  }

  /** @param {string} path */
  has(path) {
    return this.#entries.has(path);
  }

  /** @returns {Buffer} the whole archive */
  toCpio() {
    const entries = [...this.#entries.values()].sort((a, b) => (a.path < b.path ? -1 : 1));
    const parts = entries.flatMap((entry, index) => encode(entry, index + 1));
    return Buffer.concat([...parts, ...encode({ path: 'TRAILER!!!', mode: 0, data: Buffer.alloc(0) }, 0)]);
  }

  /** @param {Entry} entry */
  #add(entry) {
    if (this.#entries.has(entry.path)) throw new Error(`The image already has an entry ${entry.path}.`);
    const parent = entry.path.split('/').slice(0, -1).join('/');
    if (parent !== '' && !this.#entries.has(parent)) this.folder(parent);
    this.#entries.set(entry.path, entry);
  }
}

/**
 * @param {Entry} entry
 * @param {number} inode
 * @returns {Buffer[]}
 */
function encode({ path, mode, data, device: [major, minor] = [0, 0] }, inode) {
  const links = (mode & 0o170000) === S_IFDIR ? 2 : 1;
  const fields = [inode, mode, 0, 0, links, 0, data.length, 0, 0, major, minor, Buffer.byteLength(path) + 1, 0];
  const header = Buffer.from(`070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}${path}\0`);
  return [pad(header), pad(data)];
}

/** @param {Buffer} buffer filled up to a multiple of four bytes */
function pad(buffer) {
  const missing = -buffer.length & 3;
  return missing === 0 ? buffer : Buffer.concat([buffer, Buffer.alloc(missing)]);
}
