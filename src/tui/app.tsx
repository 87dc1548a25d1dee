/** The screen: lays the panels out in the terminal's size, and passes the keys on. */

import { Box, useInput, type Key } from 'ink';
import { useEffect, useRef, useState, useSyncExternalStore, type ReactElement } from 'react';
import { Block, type Line } from './block.js';
import { checkpointLines, headerLine, helpLines, logLines, outputLines, pairLines } from './panels.js';
import type { Frame, Store } from './store.js';
import { fit, timeOfDay, wrap, type Glyphs } from './text.js';
import { initialUi, press, type Action, type Ui } from './ui.js';
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
  const { text, tone } = footer(frame, ui, said, setting);
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
  heights: { pair: number; middle: number; events: number };
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
  const middle = Math.min(wanted, rows - 2 - pair - 2);
  const shown = eventsFrom(model.events, ui.level);
  const back = Math.min(ui.back, Math.max(0, shown.length - 1));
  const notes = [
    ...ui.level === 'info' ? [] : [ui.level === 'warn' ? 'warnings and errors' : 'errors'],
    ...back === 0 ? [] : [`${back} newer below`],
  ];
  const heights = { pair, middle, events: rows - 2 - pair - middle };
  return {
    view, heights,
    left: columns >= wideColumns ? columns - 50 : Math.floor((columns - 1) / 2),
    events: eventLines(shown, columns, heights.events - 1, back),
    note: notes.length === 0 ? undefined : notes.join(', '),
    eventCount: shown.length,
  };
}

function footer({ model, nowMs }: Frame, { confirming }: Ui, said: LogEvent | undefined, { isReplay, hasKeys }: Setting): { text: string; tone: Tone } {
  if (confirming) return { text: ` Move the VM from ${confirming.from} to ${confirming.to} now? y/n`, tone: 'warn' };
  const latest = said ?? model.said;
  if (latest && nowMs - latest.atMs < saidMs) return { text: ` ${latest.text}`, tone: latest.level === 'info' ? 'good' : 'bad' };
  if (!hasKeys) return { text: ' There is no terminal to read keys from.', tone: 'dim' };
  return { text: ` ${isReplay ? '' : 'c checkpoint  f failover  '}e filter events  tab other host  ? help  q quit`, tone: 'dim' };
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
