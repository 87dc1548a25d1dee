/**
 * Numbers from 0 (inclusive) to 1 (exclusive) that depend on the seed alone.
 * The generator is mulberry32 (Tommy Ettinger, public domain).
 * @param seed taken modulo 2^32
 */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
