/** The agent's log, on standard output. */

import pino, { type Logger } from 'pino';

/** What a full disk does not take waits for room up to here, bytes; what comes after it is lost. */
const mostWaiting = 1024 * 1024;

/** @returns the log, and what writes out the rest of it when all is done */
export function openLog(level: string): { log: Logger; end: () => void } {
  // Not synchronous: a slow disk must not stop the heartbeats.
  const destination = pino.destination({ dest: 1, sync: false, maxLength: mostWaiting });
  let stuck = false;
  // Nobody can be told, and the VM matters more. The next line tries again.
  destination.on('error', () => { stuck = true; });
  destination.on('write', () => { stuck = false; });
  return {
    log: pino({ level, base: null, timestamp: pino.stdTimeFunctions.isoTime }, destination),
    end: () => {
      if (stuck) destination.destroy(); // flushing would wait for room for ever
      else destination.flushSync();
    },
  };
}
