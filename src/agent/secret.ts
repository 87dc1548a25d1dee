import { readFileSync } from 'node:fs';
import { ConfigError } from './config.js';

const leastBytes = 16;

/**
 * Reads what only the hosts of a pair, or they and their witness, know.
 * @param what names the setting in errors
 * @param path undefined: there is no secret
 * @throws ConfigError
 */
export function readSecret(what: string, path: string | undefined): Buffer | undefined {
  if (path === undefined) return undefined;
  try {
    const secret = readFileSync(path);
    if (secret.length < leastBytes) throw new Error(`it has ${secret.length} bytes; at least ${leastBytes} are needed`);
    return secret;
  } catch (cause) {
    throw new ConfigError(`${what} ${path} cannot be used: ${(cause as Error).message}.`, { cause });
  }
}
