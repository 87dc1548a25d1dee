/** The parts of the screen as lines that fit into a width: what each says, and in which style. */

import type { Line, Part } from './block.js';
import type { Level } from './observation.js';
import { chart, fit, millis, strip, type Glyphs } from './text.js';
import type { EventLine, Figure, HostView, SecondaryView, SubjectView, Tone, View } from './view.js';

const levelTones: Record<Level, Tone> = { info: 'plain', warn: 'warn', error: 'bad' };

/** A panel with its title, in so many lines at most; the title says how many more there are. */
function panel(title: string, note: string | undefined, body: readonly Line[], width: number, height: number, { rule }: Glyphs): Line[] {
  const more = body.length - (height - 1);
  const end = more > 0 ? ` +${more} more ${rule}` : '';
  const head = fit(`${rule} ${title} ${note === undefined ? '' : `${rule} ${note} `}`, width - end.length);
  const heading: Line = [{ text: head.padEnd(width - end.length, rule) + end, tone: 'dim' }];
  return [heading, ...body].slice(0, height);
}

function line(text: string, width: number, tone?: Tone): Line {
  return [{ text: fit(text, width), tone }];
}

export function headerLine({ word, tone, text }: View['verdict'], title: string, clock: string, width: number): Line {
  const badge = ` ${word} `;
  const right = fit(`${title}  ${clock}`, Math.max(10, Math.floor(width / 3)));
  const middle = fit(text, Math.max(0, width - badge.length - right.length - 3));
  return [
    { text: badge, tone, bold: true, inverse: true },
    { text: ` ${middle}`.padEnd(width - badge.length - right.length) },
    { text: right, tone: 'dim' },
  ];
}

type ColumnKey = 'host' | 'role' | 'phase' | 'peer' | 'roundTrip' | 'generation' | 'vm';

/** Together as wide as 80 cells; a wider terminal gives names more room. */
const columns: readonly { title: string; key: ColumnKey; width: number; wide: number }[] = [
  { title: '  host', key: 'host', width: 10, wide: 22 },
  { title: 'role', key: 'role', width: 10, wide: 12 },
  { title: 'phase', key: 'phase', width: 14, wide: 16 },
  { title: 'heard', key: 'peer', width: 13, wide: 24 },
  { title: 'round trip', key: 'roundTrip', width: 11, wide: 12 },
  { title: 'gen', key: 'generation', width: 4, wide: 6 },
  { title: 'VM', key: 'vm', width: 18, wide: 28 },
];
const wideWidth = columns.reduce((sum, { wide }) => sum + wide, 0);

export function pairLines({ hosts, lease, remarks }: Pick<View, 'hosts' | 'lease' | 'remarks'>, width: number, height: number, glyphs: Glyphs): Line[] {
  const row = (texts: Record<ColumnKey, string>, toneOf: (key: ColumnKey) => Tone): Line => clip(columns.map((column) => {
    const cell = width >= wideWidth ? column.wide : column.width;
    return { text: fit(texts[column.key], cell - 1).padEnd(cell), tone: toneOf(column.key) };
  }), width);
  const titles = Object.fromEntries(columns.map(({ key, title }) => [key, title])) as Record<ColumnKey, string>;
  const hostLine = (host: HostView): Line => {
    const name = `${host.isActive ? glyphs.here : ' '} ${host.host}`;
    if (host.role === '') return line(`${name}  ${host.stale}`, width, 'dim');
    // The age of what is no longer true comes where a reader ends.
    const toneOf = (key: ColumnKey): Tone => host.stale !== undefined ? 'dim' : key === 'phase' ? host.phaseTone : 'plain';
    return row({ ...host, host: name, vm: host.stale ?? host.vm }, toneOf);
  };
  const remarkLines = remarks.flatMap(({ label, texts, tone }) => texts.map((text, i) => line(` ${i === 0 ? label : ' '.repeat(label.length)} ${text}`, width, tone)));
  return panel('pair', lease, [row(titles, () => 'dim'), ...hosts.map(hostLine), ...remarkLines], width, height, glyphs);
}

/** Ends a line of parts at `width`. */
function clip(parts: readonly Part[], width: number): Line {
  let left = width;
  return parts.map((part) => {
    const text = part.text.slice(0, left);
    left -= text.length;
    return { ...part, text };
  });
}

function figureLines(figures: readonly Figure[], isStale: boolean, width: number): Line[] {
  return figures.map(([label, value, tone]) => line(` ${label.padEnd(8)} ${value}`, width, isStale ? 'dim' : tone));
}

/** The chart takes the height that the figures leave. */
export function checkpointLines({ host, stale, pausesMs, checkpoints }: SubjectView, width: number, height: number, glyphs: Glyphs): Line[] {
  const pauses = pausesMs.slice(-(width - 2));
  const known = pauses.filter((pause) => pause !== undefined);
  const chartHeight = Math.max(1, height - 1 - checkpoints.length);
  const bars = known.length === 0 ? [] : chart(pauses, chartHeight, glyphs).map((text) => line(` ${text}`, width, stale === undefined ? 'plain' : 'dim'));
  const scale = known.length === 0 ? undefined : `pause to ${millis(Math.max(...known))}`;
  return panel(`checkpoints of ${fit(host, 14)}`, stale ?? scale, [...bars, ...figureLines(checkpoints, stale !== undefined, width)], width, height, glyphs);
}

export function outputLines({ host, stale, output }: SubjectView, width: number, height: number, glyphs: Glyphs): Line[] {
  return panel(`output of ${fit(host, 14)}`, stale, figureLines(output, stale !== undefined, width), width, height, glyphs);
}

const serviceWidths = { name: 16, state: 7, early: 22 };

export function serviceLines({ host, stale, services }: SubjectView, width: number, height: number, glyphs: Glyphs): Line[] {
  const rows = services.map(({ name, state, tone, early, held }) => clip([
    { text: ` ${fit(name, serviceWidths.name - 1)}`.padEnd(serviceWidths.name), tone: stale === undefined ? 'plain' : 'dim' },
    { text: state.padEnd(serviceWidths.state), tone: stale === undefined ? tone : 'dim' },
    { text: fit(`${early.padEnd(serviceWidths.early)}${held}`, Math.max(0, width - serviceWidths.name - serviceWidths.state)), tone: stale === undefined ? 'plain' : 'dim' },
  ], width));
  return panel(`services of ${fit(host, 14)}`, stale ?? 'pre-release, what leaves early, what waits and why', rows, width, height, glyphs);
}

const stripCells = 12;
const vcpuWidth = stripCells + 14;

/** How many vCPUs fit beside each other. */
export function vcpusPerLine(width: number): number {
  return Math.max(1, Math.floor(width / vcpuWidth));
}

/** As many vCPUs beside each other as fit: its number, what it does, whether it is parked or paused. */
export function secondaryLines({ host, stale, figures, vcpus, compare }: SecondaryView, width: number, height: number, glyphs: Glyphs): Line[] {
  const perLine = vcpusPerLine(width);
  const rows: Line[] = [];
  for (let at = 0; at < vcpus.length; at += perLine) {
    rows.push(clip(vcpus.slice(at, at + perLine).flatMap(({ vcpu, run, wait, rests }): Part[] => [
      { text: ` ${`${vcpu}`.padStart(3)} `, tone: 'dim' },
      { text: strip(run, wait, stripCells, glyphs), tone: stale !== undefined || rests ? 'dim' : 'plain' },
      { text: (rests ? ` ${rests}` : '').padEnd(vcpuWidth - stripCells - 5), tone: 'dim' },
    ]), width));
  }
  const figured = (list: readonly Figure[]): Line[] => figureLines(list, stale !== undefined, width);
  return panel(`secondary ${fit(host, 14)}`, stale, [...figured(figures), ...rows, ...figured(compare)], width, height, glyphs);
}

export function logLines(events: readonly EventLine[], note: string | undefined, width: number, height: number, glyphs: Glyphs): Line[] {
  const body: Line[] = events.length === 0
    ? [line(' None since the monitor began.', width, 'dim')]
    : events.map(({ head, level, text }) => [{ text: head, tone: 'dim' }, { text, tone: levelTones[level] }]);
  return panel('events', note, body, width, height, glyphs);
}

const keys: readonly [key: string, meaning: string][] = [
  ['c', 'checkpoint now'],
  ['f', 'failover: move the VM over; asks first'],
  ['p', 'pause the protection, which asks first, or begin it again'],
  ['s', 'switch the pre-release of a service'],
  ['v', 'choose the active vCPUs of the secondary'],
  ['e', 'events: all, warnings and errors, errors'],
  ['tab', 'checkpoints and output of the other host'],
  ['up, down, page up, page down', 'older and newer events'],
  ['end, escape', 'the newest event and the active host again'],
  ['ctrl-l', 'draw the screen anew'],
  ['q', 'quit; the pair does not notice'],
];
const words: readonly [word: string, meaning: string][] = [
  ['behind', 'age of the last commit: the state the other host would go on from'],
  ['heard', 'the other host, as this one last heard its heartbeat'],
  ['pause', 'how long a checkpoint stopped the VM; the chart: the longest by second'],
  ['lease', 'how long a host that hears nothing may still speak'],
  ['held', 'output that waits: clients get it after the next commit'],
  ['passed', 'output that did not wait: unprotected, or neighbour discovery'],
  ['dropped', 'output nobody will see: taken over, no lease, or no room'],
  ['early', 'replies to reads that left before a commit (pre-release)'],
  ['by', 'what released held output: a commit, the input log, a match'],
];

export function helpLines(width: number, height: number, glyphs: Glyphs): Line[] {
  const rows = (list: readonly (readonly [string, string])[], labelWidth: number): Line[] =>
    list.map(([label, meaning]) => clip([{ text: ` ${label.padEnd(labelWidth)} `, bold: true }, { text: meaning }], width));
  return [
    ...panel('keys', undefined, rows(keys, 29), width, height, glyphs),
    ...panel('words', undefined, rows(words, 8), width, height, glyphs),
  ].slice(0, height);
}
