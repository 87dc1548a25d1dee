import { LabError } from './errors.js';

const variable = 'COLOPP_SLOWDOWN';
const largest = 100;

/**
 * How many times slower than usual things may be in labs on this machine: an emulated or a crowded one. Heartbeats
 * and time limits of labs and drills are multiplied by it.
 * @throws LabError if COLOPP_SLOWDOWN is not a number from 1 to 100
 */
export function slowdown(environment: NodeJS.ProcessEnv = process.env): number {
  const text = environment[variable];
  if (text === undefined || text === '') return 1;
  const factor = Number(text);
  if (factor >= 1 && factor <= largest) return factor;
  throw new LabError(`The environment's ${variable} is ${JSON.stringify(text)}; it must be a number from 1 to ${largest}.`);
}
