/** What a host and the witness say to each other: one claim, one verdict, on a connection of their own. */

import { z } from 'zod';

/** The pair that a connection to a witness names in its greeting. */
export const witnessPairId = 'witness';

const term = z.number().int().min(0).max(Number.MAX_SAFE_INTEGER);

export const claimSchema = z.strictObject({
  type: z.literal('claim'),
  vm: z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/),
  term,
});

export const verdictSchema = z.strictObject({
  type: z.literal('verdict'),
  granted: z.boolean(),
  /** Whose claim was granted: the asking host's, or the one that was faster. */
  holder: z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$/),
});

export type ClaimMessage = z.infer<typeof claimSchema>;
export type Verdict = z.infer<typeof verdictSchema>;
