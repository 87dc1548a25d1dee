import { InvalidArgumentError } from 'commander';

/** Reads the argument of an option that takes whole numbers. */
export function whole(low: number, high: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^\d+$/.test(text) || value < low || value > high) throw new InvalidArgumentError(`Give a whole number from ${low} to ${high}.`);
    return value;
  };
}
