/** How long the last checkpoints paused the VM, and how long before it stood still they had been asked for. */

const kept = 4096;

export class PauseHistory {
  readonly #pausesMs: number[] = [];
  readonly #asksMs: number[] = [];
  #next = 0;
  #lastAtMs: number | undefined;

  add(pauseMs: number, askMs: number): void {
    this.#pausesMs[this.#next] = pauseMs;
    this.#asksMs[this.#next] = askMs;
    this.#next = (this.#next + 1) % kept;
    this.#lastAtMs = performance.now();
  }

  summary(): { lastMsAgo: number | null; pauseMsP50: number | null; pauseMsP99: number | null; askMsP50: number | null; askMsP99: number | null } {
    return {
      lastMsAgo: this.#lastAtMs === undefined ? null : performance.now() - this.#lastAtMs,
      pauseMsP50: quantile(this.#pausesMs, 0.5),
      pauseMsP99: quantile(this.#pausesMs, 0.99),
      askMsP50: quantile(this.#asksMs, 0.5),
      askMsP99: quantile(this.#asksMs, 0.99),
    };
  }
}

/** The value below which a share `q` of the values lies (nearest rank); null of nothing. */
export function quantile(values: readonly number[], q: number): number | null {
  if (values.length === 0) return null;
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(q * sorted.length) - 1)] ?? null;
}
