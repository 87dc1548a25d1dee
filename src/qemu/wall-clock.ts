/**
 * Converts wall-clock stamps made by another process of this host (QMP events carry
 * CLOCK_REALTIME microseconds) to CLOCK_MONOTONIC, which is what the kernel's `bpf_ktime_get_ns`
 * and `process.hrtime` read.
 *
 * The two clocks are slewed together: they differ by a constant until somebody *steps* the wall
 * clock. JavaScript reads the wall clock only in whole milliseconds, so one reading fixes that
 * constant to within 1 ms; each further reading, at another phase of the millisecond, narrows
 * the range, and one that contradicts it means that the clock was stepped, so the search begins
 * anew.
 */
export class WallClock {
  readonly #wallMs: () => number;
  readonly #monotonicNs: () => bigint;
  #lowNs = 0n;
  #highNs = -1n;

  /** The clocks can be replaced by a test's own. */
  constructor(
    wallMs: () => number = Date.now,
    monotonicNs: () => bigint = () => process.hrtime.bigint(),
  ) {
    this.#wallMs = wallMs;
    this.#monotonicNs = monotonicNs;
    this.sample();
  }

  /** How far off a converted stamp may be, at most, in nanoseconds. */
  get uncertaintyNs(): bigint {
    return this.#highNs - this.#lowNs;
  }

  /** Compares the two clocks once more. Costs under a microsecond; call it at every event. */
  sample(): void {
    const before = this.#monotonicNs();
    const wallNs = BigInt(this.#wallMs()) * 1_000_000n;
    const after = this.#monotonicNs();
    const low = wallNs - after;
    const high = wallNs + 1_000_000n - before;
    const narrowedLow = low > this.#lowNs ? low : this.#lowNs;
    const narrowedHigh = high < this.#highNs ? high : this.#highNs;
    const stepped = narrowedLow > narrowedHigh;
    this.#lowNs = stepped ? low : narrowedLow;
    this.#highNs = stepped ? high : narrowedHigh;
  }

  /** Samples for as long as one tick of the wall clock takes (about 1 ms), to start precisely. */
  settle(): void {
    const start = this.#monotonicNs();
    while (this.#monotonicNs() - start < 1_100_000n) this.sample();
  }

  /** The CLOCK_MONOTONIC time, in ns, of a wall-clock stamp in microseconds. */
  toMonotonicNs(wallUs: number): bigint {
    return BigInt(wallUs) * 1000n - (this.#lowNs + this.#highNs) / 2n;
  }
}
