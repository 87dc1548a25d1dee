/** Lines of text on the screen: how ink is given them. */

import { Transform } from 'ink';
import type { ReactElement } from 'react';
import type { Tone } from './view.js';

/** A piece of a line in one style. */
export interface Part { text: string; tone?: Tone | undefined; bold?: boolean; inverse?: boolean }
export type Line = readonly Part[];

const colours: Record<Tone, string> = { plain: '', good: '32', warn: '33', bad: '31', dim: '2' };

/**
 * Draws lines, each of which must fit into `width`.
 * Ink never forgets a text it has measured, and here most texts are new ones;
 * so it measures blanks, and is given the words when it draws.
 */
export function Block({ lines, width, hasColours }: { lines: readonly Line[]; width: number; hasColours: boolean }): ReactElement | null {
  if (lines.length === 0) return null;
  const blank = ' '.repeat(width);
  return (
    <Transform transform={(_, row) => (lines[row] ?? []).map((part) => styled(part, hasColours)).join('')}>
      {lines.map(() => blank).join('\n')}
    </Transform>
  );
}

/** Without colours, what stands out is bold, and what does not is still faint where the terminal can do that. */
function styled({ text, tone = 'plain', bold = tone === 'bad', inverse = false }: Part, hasColours: boolean): string {
  if (text === '') return '';
  const codes = [
    hasColours || tone === 'dim' ? colours[tone] : '', bold ? '1' : '', inverse ? '7' : '',
  ].filter((code) => code !== '');
  return codes.length === 0 ? text : `\x1b[${codes.join(';')}m${text}\x1b[0m`;
}
