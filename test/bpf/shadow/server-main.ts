/**
 * The service of a replicated VM: what it answers depends on its state and the
 * request only, and its state changes only by requests.
 *
 *   get           its counter, with eight digits     (a read)
 *   inc           its counter, one more              (a write)
 *   up N + bytes  their CRC-32
 *   down N        N bytes that everybody can compute
 */
import { createServer, type Socket } from 'node:net';
import { pattern } from '../frames.js';
import { crc32 } from './crc32.js';

let counter = 0;
/** Of one length, whatever the number: two writers' order may differ after a takeover, as long as nobody saw it. */
const digits = (value: number): string => `${String(value).padStart(8, '0')}\n`;

function serve(socket: Socket): void {
  let text = '';
  let left = 0;
  let crc = 0;
  socket.setNoDelay(true);
  socket.on('error', () => {});
  socket.on('data', (data: Buffer) => {
    let at = 0;
    while (at < data.length) {
      if (left > 0) {
        const part = data.subarray(at, at + left);
        crc = crc32(part, crc);
        left -= part.length;
        at += part.length;
        if (left === 0) socket.write(`${crc}\n`);
        continue;
      }
      const end = data.indexOf(10, at);
      text += data.toString('latin1', at, end < 0 ? data.length : end);
      at = end < 0 ? data.length : end + 1;
      if (end < 0) break;
      const [verb = '', argument = '0'] = text.split(' ');
      text = '';
      if (verb === 'get') socket.write(digits(counter));
      else if (verb === 'inc') socket.write(digits(++counter));
      else if (verb === 'up') [left, crc] = [Number(argument), 0];
      else if (verb === 'down') socket.write(pattern(Number(argument)));
      else socket.write('what?\n');
    }
  });
  socket.on('end', () => socket.end());
}

createServer({ allowHalfOpen: true }, serve).listen(7000, '::', () => process.stdout.write('ready\n'));
// Whoever started this ends it by closing its input.
process.stdin.on('end', () => process.exit()).resume();
