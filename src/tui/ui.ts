/** What the keys do, as a pure function: (what is open, key) -> (what is open, what to do). */

import type { MonitorRequest } from './feed.js';
import type { Level } from './observation.js';
import type { Target, View } from './view.js';

/** Something that is asked before it is done. */
export type Question =
  | { kind: 'failover' | 'pause'; target: Target }
  | ({ kind: 'service' } & View['services'])
  | ({ kind: 'vcpus' } & NonNullable<View['vcpus']>);

export interface Ui {
  help: boolean;
  /** What waits for an answer. */
  asking: Question | undefined;
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
  | { type: 'command'; sources: string[]; request: MonitorRequest }
  | { type: 'say'; text: string };

/** What there is to act on. */
export interface Situation {
  view: View;
  /** Shown events, and how many of them fit at once. */
  events: number;
  page: number;
  isReplay: boolean;
}

export const initialUi: Ui = { help: false, asking: undefined, level: 'info', back: 0, selected: undefined };

const nextLevel: Record<Level, Level> = { info: 'warn', warn: 'error', error: 'info' };
/** Keys are single digits. */
const mostChoices = 9;

interface Pressed { ui: Ui; action?: Action }

/** @param key a character, or `up`, `down`, `pageup`, `pagedown`, `home`, `end`, `tab`, `escape`, `ctrl-l` */
export function press(ui: Ui, key: string, situation: Situation): Pressed {
  if (key === 'ctrl-l') return { ui, action: { type: 'repaint' } };
  if (ui.asking) return answer({ ...ui, asking: undefined }, ui.asking, key, situation);
  if (key === 'q') return { ui, action: { type: 'quit' } };
  if (ui.help) return { ui: { ...ui, help: false } };
  const scrolled = (back: number): Pressed => ({ ui: { ...ui, back: Math.max(0, Math.min(situation.events - 1, back)) } });
  switch (key) {
    case '?': case 'h': return { ui: { ...ui, help: true } };
    case 'c': case 'f': case 'p': case 's': case 'v': return command(ui, key, situation);
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

function command(ui: Ui, key: 'c' | 'f' | 'p' | 's' | 'v', { view, isReplay }: Situation): Pressed {
  const say = (text: string): Pressed => ({ ui, action: { type: 'say', text } });
  const ask = (asking: Question): Pressed => ({ ui: { ...ui, asking } });
  if (isReplay) return say('This is a recording: there is nobody to command.');
  const { target, services, vcpus } = view;
  if (!target) return say('No agent answers: there is nobody to command.');
  switch (key) {
    case 'c': return { ui, action: { type: 'command', sources: [target.source], request: { command: 'checkpoint' } } };
    case 'f': return ask({ kind: 'failover', target });
    case 'p':
      if (target.protection === 'on') return ask({ kind: 'pause', target });
      return { ui, action: { type: 'command', sources: [target.source], request: { command: 'reprotect' } } };
    case 's': return services.services.length === 0 ? say('No service is declared.') : ask({ kind: 'service', ...services });
    case 'v': return vcpus ? ask({ kind: 'vcpus', ...vcpus }) : say('The agent of the secondary does not answer, or has no vCPUs to choose from.');
  }
}

function answer(ui: Ui, question: Question, key: string, { view }: Situation): Pressed {
  const say = (text: string): Pressed => ({ ui, action: { type: 'say', text } });
  const send = (sources: string[], request: MonitorRequest): Pressed => ({ ui, action: { type: 'command', sources, request } });
  switch (question.kind) {
    case 'failover': case 'pause': {
      const what = question.kind === 'failover' ? 'No failover' : 'The protection goes on';
      if (key !== 'y') return say(`${what}.`);
      const { target } = view;
      // The same command would do something else now.
      if (target?.from !== question.target.from || target.source !== question.target.source) return say(`${what}: the pair has changed since the question.`);
      return send([target.source], { command: question.kind });
    }
    case 'service': {
      const service = /^[1-9]$/.test(key) ? question.services[Number(key) - 1] : undefined;
      return service ? send(question.sources, { command: 'pre-release', port: service.port, on: !service.preRelease }) : say('All services stay as they are.');
    }
    case 'vcpus': {
      if (key === 'a') return send([question.source], { command: 'active-vcpus', activeVcpus: 'auto' });
      const isCount = /^[0-9]$/.test(key) && Number(key) <= question.of;
      return isCount ? send([question.source], { command: 'active-vcpus', activeVcpus: Number(key) }) : say('The active vCPUs stay as they are.');
    }
  }
}

/** The question as the footer shows it. */
export function questionText(question: Question): string {
  switch (question.kind) {
    case 'failover': return `Move the VM from ${question.target.from} to ${question.target.to} now? y/n`;
    case 'pause': return 'End the protection of the VM, until p is pressed again? y/n';
    case 'service': return `Switch pre-release of ${question.services.slice(0, mostChoices).map(({ port, preRelease }, i) => `${i + 1}: port ${port} (${preRelease ? 'on' : 'off'})`).join('  ')}`;
    case 'vcpus': return `Active vCPUs of ${question.host} (now ${question.mode}): 0 to ${Math.min(mostChoices, question.of)}, or a for auto`;
  }
}

function nextSource(view: View): string | undefined {
  const shown = view.hosts.findIndex(({ isSubject }) => isSubject);
  return view.hosts[(shown + 1) % view.hosts.length]?.source;
}
