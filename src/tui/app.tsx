/** The screen: lays the panels out in the terminal's size, and passes the keys on. */

import { Box, Text, useInput, type Key } from 'ink';
import { useEffect, useState, useSyncExternalStore, type ReactElement } from 'react';
import { Checkpoints, Events, Footer, Header, Help, Output, Pair } from './panels.js';
import type { Frame, Store } from './store.js';
import { fit, timeOfDay, type Glyphs } from './text.js';
import { initialUi, press, type Action, type Ui } from './ui.js';
import { eventLines, eventsFrom, viewOf, type Tone, type View } from './view.js';
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
  const [said, setSaid] = useState<LogEvent>();
  const size = useSize(screen);
  useInput((input, key) => {
    const situation = { ...arrange(frame, ui, setting, size), isReplay: setting.isReplay };
    const { ui: next, action } = press(ui, nameOf(input, key), situation);
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
  const { glyphs, title } = setting;
  if (columns < leastColumns || rows < leastRows) {
    return <Text wrap="wrap">{`This terminal has ${columns}x${rows} cells; the monitor needs ${leastColumns}x${leastRows}.`}</Text>;
  }
  const { view, middleHeight, left, lines, note } = arrange(frame, ui, setting, size);
  const { subject } = view;
  const { text, tone } = footer(frame, ui, said, setting);
  return (
    <Box flexDirection="column" width={columns} height={rows} overflow="hidden">
      <Header verdict={view.verdict} title={title} clock={timeOfDay(frame.nowMs)} width={columns} />
      {ui.help ? <Help width={columns} glyphs={glyphs} /> : (
        <>
          <Pair hosts={view.hosts} loss={view.loss} width={columns} glyphs={glyphs} />
          {subject && (
            <Box height={middleHeight} flexShrink={0} overflow="hidden" columnGap={1}>
              <Checkpoints subject={subject} width={left} height={middleHeight} glyphs={glyphs} />
              <Output subject={subject} width={columns - left - 1} glyphs={glyphs} />
            </Box>
          )}
          <Events lines={lines} note={note} width={columns} glyphs={glyphs} />
        </>
      )}
      <Box flexGrow={1} />
      <Footer text={fit(text, columns)} tone={tone} />
    </Box>
  );
}

interface Arrangement {
  view: View;
  /** Height of the row of panels between pair and events, and width of the left one. */
  middleHeight: number;
  left: number;
  lines: ReturnType<typeof eventLines>;
  note: string | undefined;
  events: number;
  /** How many lines of events there are. */
  page: number;
}

function arrange({ model, nowMs }: Frame, ui: Ui, { staleMs }: Setting, { columns, rows }: Size): Arrangement {
  const view = viewOf(model, nowMs, staleMs, ui.selected);
  const figures = Math.max(view.subject?.output.length ?? 0, (view.subject?.checkpoints.length ?? 0) + 1);
  const pairHeight = 2 + view.hosts.length + (view.loss?.answers.length ?? 0);
  // A tall terminal gives the chart some of its height.
  const middleHeight = view.subject ? 1 + figures + Math.max(0, Math.min(6, Math.floor((rows - 30) / 3))) : 0;
  const page = Math.max(1, rows - pairHeight - middleHeight - 3);
  const events = eventsFrom(model.events, ui.level);
  const back = Math.min(ui.back, Math.max(0, events.length - 1));
  const notes = [
    ...ui.level === 'info' ? [] : [ui.level === 'warn' ? 'warnings and errors' : 'errors'],
    ...back === 0 ? [] : [`${back} newer below`],
  ];
  return {
    view, middleHeight, page, events: events.length,
    left: columns >= wideColumns ? columns - 50 : Math.floor((columns - 1) / 2),
    lines: eventLines(events, columns, page, back),
    note: notes.length === 0 ? undefined : notes.join(', '),
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
  return input;
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
