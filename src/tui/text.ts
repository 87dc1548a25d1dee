/** Text for a terminal: what may reach it, and how quantities are written. Every character is one cell wide. */

/** Letters and marks that are one cell wide in every terminal and steer nothing: no controls, no direction marks, nothing that combines. */
const unsafe = /[^\x20-\x7e\u00a1-\u00ac\u00ae-\u017f\u0391-\u03c9\u0410-\u044f\u2010-\u2015\u2018-\u201d\u2026]/gu;

/**
 * Makes text of any origin harmless: it can neither steer the terminal nor break the layout.
 * @param longest in characters; the rest is cut off
 */
export function clean(text: string, longest: number): string {
  // Cut before and after: the first bounds the work, the second holds for pairs that became one mark.
  return fit(text.slice(0, longest * 2).replace(/\s+/g, ' ').replace(unsafe, '?').trim(), longest);
}

/** At most `width` characters, the last one telling that some are missing. */
export function fit(text: string, width: number): string {
  return text.length <= width ? text : width < 1 ? '' : `${text.slice(0, width - 1).trimEnd()}…`;
}

/** Lines of at most `width` characters, broken between words where that is possible. */
export function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  let rest = text;
  while (rest.length > width) {
    const space = rest.lastIndexOf(' ', width);
    const end = space > width / 2 ? space : width;
    lines.push(rest.slice(0, end));
    rest = rest.slice(end).trimStart();
  }
  return [...lines, rest];
}

/** A span of time, short: `23 ms`, `4.2 s`, `3 min 20 s`, `2 h 5 min`. */
export function span(ms: number): string {
  if (ms < 9.95) return `${ms.toFixed(1)} ms`;
  if (ms < 999.5) return `${ms.toFixed(0)} ms`;
  const seconds = ms / 1000;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min${whole % 60 === 0 ? '' : ` ${whole % 60} s`}`;
  const minutes = Math.round(whole / 60);
  return `${Math.floor(minutes / 60)} h${minutes % 60 === 0 ? '' : ` ${minutes % 60} min`}`;
}

/** A pause or a wait: always in milliseconds, so that figures under each other compare. */
export function millis(ms: number): string {
  return `${ms < 99.95 ? ms.toFixed(1) : ms.toFixed(0)} ms`;
}

export function perSecond(rate: number): string {
  return `${rate < 9.95 ? rate.toFixed(1) : rate.toFixed(0)}/s`;
}

export function byteCount(count: number): string {
  if (count < 1024) return `${count} B`;
  for (const [unit, size] of [['KiB', 1024], ['MiB', 1024 ** 2], ['GiB', 1024 ** 3]] as const) {
    if (count < size * 1024 || unit === 'GiB') return `${(count / size).toFixed(1)} ${unit}`;
  }
  return '';
}

export function plural(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`;
}

/** Local time of day, `02:53:10`. */
export function timeOfDay(atMs: number): string {
  const at = new Date(atMs);
  return [at.getHours(), at.getMinutes(), at.getSeconds()].map((part) => `${part}`.padStart(2, '0')).join(':');
}

/** What lines and bars are drawn with. */
export interface Glyphs {
  rule: string;
  here: string;
  /** From nothing to a full cell. */
  bars: string;
  /** What a vCPU does: runs, waits for a CPU, sleeps. */
  run: string;
  wait: string;
  idle: string;
}

export const unicodeGlyphs: Glyphs = { rule: '─', here: '▶', bars: ' ▁▂▃▄▅▆▇█', run: '█', wait: '▒', idle: '·' };
export const asciiGlyphs: Glyphs = { rule: '-', here: '>', bars: ' .:|', run: '#', wait: '~', idle: '.' };

/** A bar of `width` cells, shared out as the shares say; the rest is idle. */
export function strip(runShare: number, waitShare: number, width: number, { run, wait, idle }: Glyphs): string {
  const cells = (share: number): number => Math.round(Math.max(0, Math.min(1, share)) * width);
  const running = cells(runShare);
  const waiting = Math.min(width - running, cells(waitShare));
  return run.repeat(running) + wait.repeat(waiting) + idle.repeat(width - running - waiting);
}

/**
 * Columns as high as their values, from zero to the greatest of them.
 * @param values `undefined` leaves its column empty; anything else shows at least a trace
 * @returns `height` lines, the top one first
 */
export function chart(values: readonly (number | undefined)[], height: number, { bars }: Glyphs): string[] {
  const steps = bars.length - 1;
  const greatest = Math.max(...values.map((value) => value ?? 0), Number.MIN_VALUE);
  const levels = values.map((value) => value === undefined ? 0 : Math.max(1, Math.round(value / greatest * height * steps)));
  return Array.from({ length: height }, (_, row) => {
    const below = (height - 1 - row) * steps;
    return levels.map((level) => bars[Math.min(steps, Math.max(0, level - below))] ?? ' ').join('');
  });
}
