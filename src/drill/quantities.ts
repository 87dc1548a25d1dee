/** Times and shares as drill files write them. */

const unitsMs = { ms: 1, s: 1000, min: 60_000 } as const;
const time = /^(\d+(?:\.\d+)?)(ms|s|min)$/;

/** From `lowMs` to `highMs`; chance decides where the two differ. */
export interface Span { lowMs: number; highMs: number }

/** `500ms`, `2s`, `1.5min`. @returns milliseconds, undefined if it is none */
export function parseTime(text: string): number | undefined {
  const match = time.exec(text);
  return match ? Number(match[1]) * unitsMs[match[2] as keyof typeof unitsMs] : undefined;
}

/** A time, or two with `..` between them. */
export function parseSpan(text: string): Span | undefined {
  const ends = text.split('..').map(parseTime);
  const [lowMs, highMs] = [ends[0], ends.at(-1)];
  return ends.length > 2 || lowMs === undefined || highMs === undefined ? undefined : { lowMs, highMs };
}

/** `10%`, `0.5%`. @returns from 0 to 1, undefined if it is none */
export function parseShare(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)%$/.exec(text);
  const share = Number(match?.[1]) / 100;
  return share <= 1 ? share : undefined;
}

/** For people: milliseconds below ten seconds. */
export function timeText(ms: number): string {
  return ms < 10_000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}
