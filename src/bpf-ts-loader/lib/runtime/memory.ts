/** Sets `length` bytes to zero. */
export function zeroBytes(view: DataView, offset: number, length: number): void {
  for (let i = 0; i < length; i++) view.setUint8(offset + i, 0);
}

/** Copies `length` bytes from one view to another. */
export function copyBytes(from: DataView, fromOffset: number, to: DataView, toOffset: number, length: number): void {
  let i = 0;
  for (; i + 4 <= length; i += 4) to.setUint32(toOffset + i, from.getUint32(fromOffset + i));
  for (; i < length; i++) to.setUint8(toOffset + i, from.getUint8(fromOffset + i));
}

/** A bitfield of at most 32 bits, beginning `shift` bits into the byte at `offset`. */
export function bits(view: DataView, offset: number, shift: number, count: number): number {
  let value = 0;
  // At most five bytes: exact in a double.
  for (let i = Math.ceil((shift + count) / 8) - 1; i >= 0; i--) value = value * 256 + view.getUint8(offset + i);
  return Math.floor(value / 2 ** shift) % 2 ** count;
}

export function signedBits(view: DataView, offset: number, shift: number, count: number): number {
  const value = bits(view, offset, shift, count);
  return value >= 2 ** (count - 1) ? value - 2 ** count : value;
}

/** A bitfield of at most 64 bits. */
export function bigBits(view: DataView, offset: number, shift: number, count: number): bigint {
  let value = 0n;
  for (let i = Math.ceil((shift + count) / 8) - 1; i >= 0; i--)
    value = (value << 8n) | BigInt(view.getUint8(offset + i));
  return BigInt.asUintN(count, value >> BigInt(shift));
}

export function signedBigBits(view: DataView, offset: number, shift: number, count: number): bigint {
  return BigInt.asIntN(count, bigBits(view, offset, shift, count));
}

/** Writes a bitfield into bits that are zero. */
export function putBits(view: DataView, offset: number, shift: number, count: number, value: number | boolean): void {
  putBigBits(view, offset, shift, count, BigInt(value));
}

export function putBigBits(view: DataView, offset: number, shift: number, count: number, value: bigint): void {
  let rest = BigInt.asUintN(count, value) << BigInt(shift);
  for (let i = 0; rest !== 0n; i++, rest >>= 8n) {
    view.setUint8(offset + i, view.getUint8(offset + i) | Number(rest & 0xffn));
  }
}

/** Sets the bits of a bitfield to zero. */
export function clearBits(view: DataView, offset: number, shift: number, count: number): void {
  let mask = ((1n << BigInt(count)) - 1n) << BigInt(shift);
  for (let i = 0; mask !== 0n; i++, mask >>= 8n) {
    view.setUint8(offset + i, view.getUint8(offset + i) & ~Number(mask & 0xffn));
  }
}
