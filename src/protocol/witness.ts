/**
 * What the witness decides, as a pure function: of the two hosts of a pair that
 * have lost each other, which one goes on.
 *
 * A term is one time of protection, numbered by the primary and told to the
 * secondary before it may take over; no two times have the same number. Of each
 * term the first host that asks goes on, and nobody who asks about an older one.
 */
export interface Claim {
  term: number;
  host: string;
}

/**
 * @param held the last claim that was granted for this VM
 * @returns the claim that holds from now on; `claim` was granted if that is it
 */
export function judge(held: Claim | undefined, claim: Claim): { held: Claim; granted: boolean } {
  if (!held || claim.term > held.term) return { held: claim, granted: true };
  return { held, granted: claim.term === held.term && claim.host === held.host };
}
