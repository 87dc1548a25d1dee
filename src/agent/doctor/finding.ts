/** What one check of the doctor says. */

export interface Finding {
  name: string;
  /** `skip`: it was not checked; the remedy says how to have it checked. */
  verdict: 'ok' | 'warn' | 'fail' | 'skip';
  detail: string;
  /** What to do about it; empty if nothing needs doing. */
  remedy: string;
}

export type Verdict = Omit<Finding, 'name'>;
export type Check = readonly [name: string, check: () => Promise<Verdict>];

export const ok = (detail: string): Verdict => ({ verdict: 'ok', detail, remedy: '' });
export const warn = (detail: string, remedy: string): Verdict => ({ verdict: 'warn', detail, remedy });
export const fail = (detail: string, remedy: string): Verdict => ({ verdict: 'fail', detail, remedy });
export const skip = (detail: string, remedy: string): Verdict => ({ verdict: 'skip', detail, remedy });
