/** What the keys do, as a pure function: (what is open, key) -> (what is open, what to do). */

import type { Level } from './observation.js';
import type { Target, View } from './view.js';

export interface Ui {
  help: boolean;
  /** A failover that waits for its yes. */
  confirming: Target | undefined;
  /** Events below this level are hidden. */
  level: Level;
  /** So many of the newest events are scrolled out of sight. */
  back: number;
  /** The source to show; undefined: whichever is active. */
  selected: string | undefined;
}

export type Action =
  | { type: 'quit' }
  | { type: 'repaint' }
  | { type: 'command'; command: 'checkpoint' | 'failover'; target: Target }
  | { type: 'say'; text: string };

/** What there is to act on. */
export interface Situation {
  view: View;
  /** Shown events, and how many of them fit at once. */
  events: number;
  page: number;
  isReplay: boolean;
}

export const initialUi: Ui = { help: false, confirming: undefined, level: 'info', back: 0, selected: undefined };

const nextLevel: Record<Level, Level> = { info: 'warn', warn: 'error', error: 'info' };

/** @param key a character, or `up`, `down`, `pageup`, `pagedown`, `home`, `end`, `tab`, `escape`, `ctrl-l` */
export function press(ui: Ui, key: string, situation: Situation): { ui: Ui; action?: Action } {
  if (key === 'ctrl-l') return { ui, action: { type: 'repaint' } };
  if (ui.confirming) return decide(ui, ui.confirming, key, situation);
  if (key === 'q') return { ui, action: { type: 'quit' } };
  if (ui.help) return { ui: { ...ui, help: false } };
  const scrolled = (back: number): { ui: Ui } => ({ ui: { ...ui, back: Math.max(0, Math.min(situation.events - 1, back)) } });
  switch (key) {
    case '?': case 'h': return { ui: { ...ui, help: true } };
    case 'c': case 'f': return command(ui, key, situation);
    case 'e': return { ui: { ...ui, level: nextLevel[ui.level], back: 0 } };
    case 'tab': return { ui: { ...ui, selected: nextSource(situation.view) } };
    case 'up': case 'k': return scrolled(ui.back + 1);
    case 'down': case 'j': return scrolled(ui.back - 1);
    case 'pageup': return scrolled(ui.back + situation.page);
    case 'pagedown': return scrolled(ui.back - situation.page);
    case 'home': return scrolled(situation.events);
    case 'end': case 'escape': return { ui: { ...ui, back: 0, selected: undefined } };
    default: return { ui };
  }
}

function command(ui: Ui, key: 'c' | 'f', { view, isReplay }: Situation): { ui: Ui; action?: Action } {
  if (isReplay) return { ui, action: { type: 'say', text: 'This is a recording: there is nobody to command.' } };
  const { target } = view;
  if (!target) return { ui, action: { type: 'say', text: 'No agent answers: there is nobody to command.' } };
  if (key === 'c') return { ui, action: { type: 'command', command: 'checkpoint', target } };
  return { ui: { ...ui, confirming: target } };
}

function decide(before: Ui, asked: Target, key: string, { view }: Situation): { ui: Ui; action?: Action } {
  const ui = { ...before, confirming: undefined };
  if (key !== 'y') return { ui, action: { type: 'say', text: 'No failover.' } };
  const { target } = view;
  // The same command would do the opposite now.
  if (target?.from !== asked.from || target.source !== asked.source) {
    return { ui, action: { type: 'say', text: 'No failover: the pair has changed since the question.' } };
  }
  return { ui, action: { type: 'command', command: 'failover', target } };
}

function nextSource(view: View): string | undefined {
  const shown = view.hosts.findIndex(({ isSubject }) => isSubject);
  return view.hosts[(shown + 1) % view.hosts.length]?.source;
}
