// What the tcx calls have in common: which hook, and where among the programs already there.
import { integer, oneOf, wrongType } from './check.js';
import type { InterfaceOption } from './interfaces.js';
import { Link } from './link.js';

/** One side of an interface. `ingress`: what it receives; `egress`: what it sends. */
export interface TcxHook extends InterfaceOption {
  direction: 'ingress' | 'egress';
}

/** A program (by id or handle) or a link that is already there, or all that are. */
export type TcxAnchor = 'all' | number | { readonly id: number } | Link;

/** Where to go among the programs already there. Default: after all. */
export interface TcxAnchors {
  before?: TcxAnchor;
  after?: TcxAnchor;
}

const BEFORE = 1 << 3;
const AFTER = 1 << 4;
const ANCHOR_IS_LINK = 1 << 13;

/** True for egress. */
export function directionOf(hook: TcxHook): boolean {
  return oneOf(hook.direction, 'direction', ['ingress', 'egress']) === 'egress';
}

/** The kernel's id of a program given by id or handle. */
export function programIdOf(program: number | { readonly id: number }, what: string): number {
  return integer(typeof program === 'object' && program !== null ? program.id : program, what, 1);
}

/** Flags of `bpf(2)` and the id that they refer to (0: all programs there). */
export function anchorOf({ before, after }: TcxAnchors): { flags: number; id: number } {
  if (before !== undefined && after !== undefined) {
    throw wrongType('position', 'given by either before or after', 'both');
  }
  const anchor = before ?? after;
  if (anchor === undefined) return { flags: 0, id: 0 };
  const side = before !== undefined ? BEFORE : AFTER;
  if (anchor === 'all') return { flags: side, id: 0 };
  if (anchor instanceof Link) return { flags: side | ANCHOR_IS_LINK, id: integer(anchor.id, 'anchor', 1) };
  return { flags: side, id: programIdOf(anchor, 'anchor') };
}
