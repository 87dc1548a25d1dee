/** Queries of the DNS, read as RFC 1035 section 4 and RFC 6891 section 6.1 lay them out. */

const LOOK_BYTES = 256;

/** Whether a datagram is a standard query and nothing else. */
export function isDnsQuery(datagram: Uint8Array): boolean {
  const view = new DataView(datagram.buffer, datagram.byteOffset, datagram.byteLength);
  try {
    const flags = view.getUint16(2);
    if ((flags & ~0x0130) !== 0) return false; // all but RD, AD, CD
    const [questions, answers, authorities, additional] = [4, 6, 8, 10].map((at) => view.getUint16(at));
    if (questions !== 1 || answers !== 0 || authorities !== 0 || additional! > 1) return false;

    let at = 12;
    for (let label = -1; label !== 0; ) {
      label = view.getUint8(at);
      if (label > 63) return false; // a pointer, or an extended label
      at += 1 + label;
    }
    if (at - 12 > 255) return false;
    const type = view.getUint16(at);
    if (type === 0 || type === 41 || (type >= 128 && type <= 254)) return false;
    if (view.getUint16(at + 2) !== 1) return false;
    at += 4;
    let looked = at;
    if (additional === 1) {
      if (view.getUint8(at) !== 0 || view.getUint16(at + 1) !== 41) return false;
      if (view.getUint8(at + 5) !== 0 || view.getUint8(at + 6) !== 0) return false;
      looked = at + 11;
      at = looked + view.getUint16(at + 9);
    }
    return at === datagram.byteLength && looked <= LOOK_BYTES;
  } catch (error) {
    if (error instanceof RangeError) return false; // it ends too early
    throw error;
  }
}
