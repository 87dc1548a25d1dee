/** How one test file ended, judged from its exit and from uvu's closing summary. */
export interface Outcome {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
  /** Why the file counts as failed beyond its own count: it crashed, ran out of time, or tested nothing. */
  readonly trouble?: string;
}

/** How a child process ended. */
export interface Exit {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
  /** It was ended because its time was over. */
  readonly timedOut: boolean;
}

const COLOUR = /\x1b\[[0-9;]*m/g;
const SUMMARY = /^\s*Total:\s+(\d+)\s*\n\s*Passed:\s+(\d+)\s*\n\s*Skipped:\s+(\d+)/gm;

/**
 * Judge a file by what it printed and how it ended. Its own counts are believed only if they agree with its exit:
 * a file that dies, hangs, leaves before its summary or runs no test has failed, whatever it says.
 */
export function judge(output: string, exit: Exit): Outcome {
  const [, total = 0, passed = 0, skipped = 0] = [...output.replace(COLOUR, '').matchAll(SUMMARY)].at(-1)?.map(Number) ?? [];
  const failed = total - passed;
  const trouble = troubleOf(exit, total, failed);
  return trouble === undefined ? { passed, failed, skipped } : { passed, failed: Math.max(failed, 1), skipped, trouble };
}

function troubleOf(exit: Exit, total: number, failed: number): string | undefined {
  if (exit.timedOut) return 'ran out of time';
  if (exit.signal !== null) return `ended by ${exit.signal}`;
  if (exit.status !== 0 && failed === 0) return `ended with status ${exit.status}`;
  if (total === 0) return 'ran no test';
  return undefined;
}

/** More failures than these are no accident of timing. */
const MOST_SECOND_TRIES = 2;

/**
 * Which of the files that failed are run once more. Those in real time can lose a race against a crowded machine;
 * nothing else has that excuse, and one failure that is sure leaves nothing to be won by a second try.
 */
export function secondTries<File extends { readonly realTime: boolean }>(failed: readonly File[]): readonly File[] {
  return failed.length <= MOST_SECOND_TRIES && failed.every(({ realTime }) => realTime) ? failed : [];
}
