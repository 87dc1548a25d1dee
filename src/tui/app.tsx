/** The screen: lays the panels out in the terminal's size, and passes the keys on. */

import { Box, useInput, type Key } from 'ink';
import { useEffect, useRef, useState, useSyncExternalStore, type ReactElement } from 'react';
import { Block, type Line } from './block.js';
import { checkpointLines, headerLine, helpLines, logLines, outputLines, pairLines, secondaryLines, serviceLines, vcpusPerLine } from './panels.js';
import type { Frame, Store } from './store.js';
import { fit, timeOfDay, wrap, type Glyphs } from './text.js';
import { initialUi, press, questionText, type Action, type Ui } from './ui.js';
import { eventLines, eventsFrom, viewOf, type EventLine, type Tone, type View } from './view.js';
import type { LogEvent } from './model.js';

export interface Size { columns: number; rows: number }

/** What does not change while the monitor runs. */
export interface Setting {
  /** What is watched, for the header. */
  title: string;
  isReplay: boolean;
  /** False without a terminal on standard input. */
  hasKeys: boolean;
  glyphs: Glyphs;
  hasColours: boolean;
  /** A status older than this is shown grey. */
  staleMs: number;
}

const leastColumns = 50;
const leastRows = 14;
/** The panel of the events keeps at least this height, its title included. */
const leastEvents = 3;
/** So many lines of vCPUs come before figures that only help. */
const usefulStrips = 2;
/** From this width on, events and figures have room to spare for the chart. */
const wideColumns = 110;
/** How long an answer stays in the place of the keys. */
const saidMs = 5000;

/** The monitor, connected to its store and the keyboard. */
export function App({ store, screen, setting, onAction }: {
  store: Store; screen: Size & NodeJS.EventEmitter; setting: Setting; onAction: (action: Exclude<Action, { type: 'say' }>) => void;
}): ReactElement {
  const frame = useSyncExternalStore(store.subscribe, store.frame);
  const [ui, setUi] = useState(initialUi);
  // Several keys may come before the next picture.
  const latestUi = useRef(ui);
  const [said, setSaid] = useState<LogEvent>();
  const size = useSize(screen);
  useInput((input, key) => {
    const frame = store.frame();
    const { view, heights, eventCount } = arrange(frame, latestUi.current, setting, size);
    const situation = { view, events: eventCount, page: heights.events - 1, isReplay: setting.isReplay };
    const { ui: next, action } = press(latestUi.current, nameOf(input, key), situation);
    latestUi.current = next;
    setUi(next);
    setSaid(action?.type === 'say' ? { atMs: frame.nowMs, source: '', level: 'info', text: action.text, count: 1 } : undefined);
    if (action && action.type !== 'say') onAction(action);
  }, { isActive: setting.hasKeys });
  return <Picture frame={frame} ui={ui} said={said} size={size} setting={setting} />;
}

/** What the screen shows of a frame: a pure function, for tests too. */
export function Picture({ frame, ui, said, size, setting }: {
  frame: Frame; ui: Ui; said?: LogEvent | undefined; size: Size; setting: Setting;
}): ReactElement {
  const { columns, rows } = size;
  const { glyphs, title, hasColours } = setting;
  const block = (width: number, lines: readonly Line[]): ReactElement => <Block lines={lines} width={width} hasColours={hasColours} />;
  if (columns < leastColumns || rows < leastRows) {
    const text = `This terminal has ${columns}x${rows} cells; the monitor needs ${leastColumns}x${leastRows}.`;
    return block(columns, wrap(text, columns).slice(0, rows).map((part) => [{ text: part }]));
  }
  const { view, heights, left, events, note } = arrange(frame, ui, setting, size);
  const { subject } = view;
  const { text, tone } = footer(frame, ui, said, setting, view, columns);
  return (
    <Box flexDirection="column" width={columns} height={rows}>
      {block(columns, [headerLine(view.verdict, title, timeOfDay(frame.nowMs), columns)])}
      {ui.help ? block(columns, helpLines(columns, rows - 2, glyphs)) : (
        <>
          {block(columns, pairLines(view, columns, heights.pair, glyphs))}
          {subject && (
            <Box height={heights.middle}>
              <Box width={left + 1}>{block(left, checkpointLines(subject, left, heights.middle, glyphs))}</Box>
              {block(columns - left - 1, outputLines(subject, columns - left - 1, heights.middle, glyphs))}
            </Box>
          )}
          {subject && block(columns, serviceLines(subject, columns, heights.services, glyphs))}
          {view.secondary && block(columns, secondaryLines(view.secondary, columns, heights.secondary, glyphs))}
          {block(columns, logLines(events, note, columns, heights.events, glyphs))}
        </>
      )}
      <Box flexGrow={1} />
      {block(columns, [[{ text: fit(text, columns), tone }]])}
    </Box>
  );
}

interface Arrangement {
  view: View;
  heights: { pair: number; middle: number; services: number; secondary: number; events: number };
  /** Width of the left one of the two panels in the middle. */
  left: number;
  events: EventLine[];
  note: string | undefined;
  /** How many events there are to scroll through. */
  eventCount: number;
}

/** Shares the screen out. What is asked most often comes first; the events have the rest. */
function arrange({ model, nowMs }: Frame, ui: Ui, { staleMs }: Setting, { columns, rows }: Size): Arrangement {
  const view = viewOf(model, nowMs, staleMs, ui.selected);
  const { subject } = view;
  const pair = 2 + view.hosts.length + view.remarks.reduce((sum, { texts }) => sum + texts.length, 0);
  const figures = subject ? Math.max(subject.output.length, subject.checkpoints.length + 1) : 0;
  // A tall terminal gives the chart some of its height; a low one has to leave something out.
  const wanted = subject ? 1 + figures + Math.max(0, Math.min(6, Math.floor((rows - 30) / 3))) : 0;
  const services = subject && subject.services.length > 0 ? 1 + subject.services.length : 0;
  const { secondary } = view;
  const strips = secondary ? Math.ceil(secondary.vcpus.length / vcpusPerLine(columns)) : 0;
  const decided = secondary ? 1 + secondary.figures.length + Math.min(usefulStrips, strips) : 0;
  const secondaryWanted = secondary ? 1 + secondary.figures.length + strips + secondary.compare.length : 0;
  const [middle = 0, servicesHeight = 0, secondaryHeight = 0] = shareOut(rows - 2 - pair - leastEvents, [[2, 5, wanted], [2, 3, services], [2, decided, secondaryWanted]]);
  const shown = eventsFrom(model.events, ui.level);
  const back = Math.min(ui.back, Math.max(0, shown.length - 1));
  const notes = [
    ...ui.level === 'info' ? [] : [ui.level === 'warn' ? 'warnings and errors' : 'errors'],
    ...back === 0 ? [] : [`${back} newer below`],
  ];
  const heights = { pair, middle, services: servicesHeight, secondary: secondaryHeight, events: rows - 2 - pair - middle - servicesHeight - secondaryHeight };
  return {
    view, heights,
    left: columns >= wideColumns ? columns - 50 : Math.floor((columns - 1) / 2),
    events: eventLines(shown, columns, heights.events - 1, back),
    note: notes.length === 0 ? undefined : notes.join(', '),
    eventCount: shown.length,
  };
}

/**
 * Heights for panels, in order of importance: each first gets what it needs to say anything, then what
 * makes it useful, then what it wants.
 * @param panels [least, useful, wanted]; wanted 0: there is no such panel
 */
function shareOut(height: number, panels: readonly (readonly [least: number, useful: number, wanted: number])[]): number[] {
  const heights = panels.map(() => 0);
  let left = Math.max(0, height);
  const grow = (i: number, to: number): void => {
    const more = Math.max(0, Math.min(to - heights[i]!, left));
    heights[i]! += more;
    left -= more;
  };
  panels.forEach(([least, , wanted], i) => { if (wanted >= least && left >= least) grow(i, least); });
  for (const step of [1, 2] as const) {
    panels.forEach((panel, i) => { if (heights[i]! > 0) grow(i, Math.min(panel[step], panel[2])); });
  }
  return heights;
}

function footer({ model, nowMs }: Frame, { asking, help }: Ui, said: LogEvent | undefined, { isReplay, hasKeys }: Setting, view: View, columns: number): { text: string; tone: Tone } {
  if (help) return { text: ' Any key closes this.', tone: 'dim' };
  if (asking) return { text: ` ${questionText(asking)}`, tone: 'warn' };
  const latest = said ?? model.said;
  if (latest && nowMs - latest.atMs < saidMs) return { text: ` ${latest.text}`, tone: latest.level === 'info' ? 'good' : 'bad' };
  if (!hasKeys) return { text: ' There is no terminal to read keys from.', tone: 'dim' };
  const commands = isReplay ? [] : [
    'c checkpoint', 'f failover', view.target && view.target.protection !== 'on' ? 'p protect' : 'p pause',
    ...view.services.services.length > 0 ? ['s services'] : [], ...view.vcpus ? ['v vCPUs'] : [],
  ];
  const keys = (others: readonly string[]): string => ` ${[...commands, ...others, '? help', 'q quit'].join('  ')}`;
  // Help has them all; where there is little room, it is enough to know of it.
  const text = [['e filter', 'tab other'], ['e filter'], []].map(keys).find((line) => line.length <= columns);
  return { text: text ?? ' ? help  q quit', tone: 'dim' };
}

function nameOf(input: string, key: Key): string {
  if (key.ctrl) return `ctrl-${input}`;
  if (key.upArrow) return 'up';
  if (key.downArrow) return 'down';
  if (key.pageUp) return 'pageup';
  if (key.pageDown) return 'pagedown';
  if (key.home) return 'home';
  if (key.end) return 'end';
  if (key.tab) return 'tab';
  if (key.escape) return 'escape';
  return input; // of several characters if they were pasted: that is no key
}

function useSize(screen: Size & NodeJS.EventEmitter): Size {
  const [size, setSize] = useState<Size>({ columns: screen.columns, rows: screen.rows });
  useEffect(() => {
    const onResize = (): void => setSize({ columns: screen.columns, rows: screen.rows });
    screen.on('resize', onResize);
    return () => void screen.off('resize', onResize);
  }, [screen]);
  return size;
}
