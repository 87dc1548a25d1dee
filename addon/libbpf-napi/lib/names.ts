// Numbers of the kernel's enums by the names that libbpf gives them.
import { integer, outOfRange, text } from './check.js';
import { native } from './native.js';

const names = native.names();

function numberOf(value: string | number, what: string, list: readonly string[]): number {
  if (typeof value === 'number') return integer(value, what, 1);
  const number = list.indexOf(text(value, what));
  if (number < 1) throw outOfRange(what, `a number or one of ${list.slice(1).join(', ')}`, value);
  return number;
}

/** `hash` -> 1. A number is let through: the kernel may know types that this libbpf does not. */
export const mapTypeOf = (type: string | number): number => numberOf(type, 'map type', names.mapTypes);
/** `xdp` -> 6. */
export const programTypeOf = (type: string | number): number => numberOf(type, 'program type', names.programTypes);
/** `bpf_map_lookup_elem` -> 1. */
export const helperOf = (helper: string | number): number => numberOf(helper, 'helper', names.helpers);
