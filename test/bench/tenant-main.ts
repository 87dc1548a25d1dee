/**
 * Somebody else's work on the secondary's host: computes without end, and for
 * each line it reads prints how much it has done since the line before.
 */

import { createHash } from 'node:crypto';

const block = Buffer.alloc(16 * 1024);
let done = 0;

process.stdin.on('data', (lines: Buffer) => {
  for (const byte of lines) {
    if (byte !== 10) continue;
    process.stdout.write(`${done}\n`);
    done = 0;
  }
});
process.stdin.on('end', () => process.exit());

function work(): void {
  // Some milliseconds at a time, so that it hears when it is asked.
  for (let i = 0; i < 100; i++) createHash('sha256').update(block).digest();
  done += 100;
  setImmediate(work);
}
work();
