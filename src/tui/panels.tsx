/** The parts of the screen. Each is given what it says and how large it is. */

import { Box, Text, type TextProps } from 'ink';
import type { ReactElement, ReactNode } from 'react';
import { chart, fit, millis, type Glyphs } from './text.js';
import type { Level } from './observation.js';
import type { EventLine, Figure, HostView, SubjectView, Tone, View } from './view.js';

const styles: Record<Tone, TextProps> = {
  plain: {}, good: { color: 'green' }, warn: { color: 'yellow' }, bad: { color: 'red', bold: true }, dim: { dimColor: true },
};
const levelTones: Record<Level, Tone> = { info: 'plain', warn: 'warn', error: 'bad' };

/** One line, cut off at its width. What is no longer true is grey whatever it says. */
function Line({ tone = 'plain', grey = false, children }: { tone?: Tone | undefined; grey?: boolean; children: ReactNode }): ReactElement {
  return <Text wrap="truncate" {...(grey ? styles.dim : styles[tone])}>{children}</Text>;
}

function Panel({ title, note, width, glyphs, children }: {
  title: string; note?: string | undefined; width: number; glyphs: Glyphs; children: ReactNode;
}): ReactElement {
  const head = `${glyphs.rule} ${title} ${note === undefined ? '' : `${glyphs.rule} ${note} `}`;
  return (
    <Box flexDirection="column" width={width} flexShrink={0}>
      <Line tone="dim">{fit(head, width) + glyphs.rule.repeat(Math.max(0, width - head.length))}</Line>
      {children}
    </Box>
  );
}

export function Header({ verdict, title, clock, width }: { verdict: View['verdict']; title: string; clock: string; width: number }): ReactElement {
  const word = ` ${verdict.word} `;
  const right = fit(`${title}  ${clock}`, Math.max(10, Math.floor(width / 3)));
  const text = fit(verdict.text, Math.max(0, width - word.length - right.length - 3));
  const gap = ' '.repeat(Math.max(1, width - word.length - 1 - text.length - right.length));
  return (
    <Text wrap="truncate">
      <Text {...styles[verdict.tone]} bold inverse>{word}</Text>{` ${text}${gap}`}<Text dimColor>{right}</Text>
    </Text>
  );
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

export function Pair({ hosts, loss, width, glyphs }: Pick<View, 'hosts' | 'loss'> & { width: number; glyphs: Glyphs }): ReactElement {
  const isWide = width >= columns.reduce((sum, { wide }) => sum + wide, 0);
  const cells = (texts: Record<ColumnKey, string>): Record<ColumnKey, string> => Object.fromEntries(columns.map(({ key, width, wide }) => {
    const cellWidth = isWide ? wide : width;
    return [key, fit(texts[key], cellWidth - 1).padEnd(cellWidth)];
  })) as Record<ColumnKey, string>;
  const titles = Object.fromEntries(columns.map(({ key, title }) => [key, title])) as Record<ColumnKey, string>;
  const indent = loss ? ' '.repeat(loss.question.length + 2) : '';
  return (
    <Panel title="pair" width={width} glyphs={glyphs}>
      <Line tone="dim">{Object.values(cells(titles)).join('')}</Line>
      {hosts.map((host) => <Host key={host.source} host={host} cells={cells} glyphs={glyphs} />)}
      {loss?.answers.map(({ text, tone }, row) => <Line key={row} tone={tone}>{(row === 0 ? ` ${loss.question} ` : indent) + text}</Line>)}
    </Panel>
  );
}

function Host({ host, cells, glyphs }: {
  host: HostView; cells: (texts: Record<ColumnKey, string>) => Record<ColumnKey, string>; glyphs: Glyphs;
}): ReactElement {
  const name = `${host.isActive ? glyphs.here : ' '} ${host.host}`;
  if (host.role === '') return <Line grey>{`${name}  ${host.stale}`}</Line>;
  const grey = host.stale !== undefined;
  // The age of what is no longer true comes where a reader ends.
  const { phase, ...texts } = cells({ ...host, host: name, vm: host.stale ?? host.vm });
  return (
    <Line grey={grey}>
      {texts.host + texts.role}<Text {...(grey ? styles.dim : styles[host.phaseTone])}>{phase}</Text>
      {texts.peer + texts.roundTrip + texts.generation + texts.vm}
    </Line>
  );
}

function Figures({ figures, grey, labelWidth }: { figures: readonly Figure[]; grey: boolean; labelWidth: number }): ReactNode {
  return figures.map(([label, value, tone]) => (
    <Line key={label} grey={grey} tone={tone}>{` ${label.padEnd(labelWidth)} ${value}`}</Line>
  ));
}

export function Checkpoints({ subject, width, height, glyphs }: { subject: SubjectView; width: number; height: number; glyphs: Glyphs }): ReactElement {
  const grey = subject.stale !== undefined;
  const pauses = subject.pausesMs.slice(-(width - 2));
  const known = pauses.filter((pause) => pause !== undefined);
  const note = subject.stale ?? (known.length === 0 ? undefined : `longest pause by second, to ${millis(Math.max(...known))}`);
  const chartHeight = Math.max(1, height - 1 - subject.checkpoints.length);
  return (
    <Panel title={`checkpoints of ${fit(subject.host, 14)}`} note={note} width={width} glyphs={glyphs}>
      {known.length > 0 && chart(pauses, chartHeight, glyphs).map((line, row) => (
        <Line key={row} grey={grey}>{` ${line}`}</Line>
      ))}
      <Figures figures={subject.checkpoints} grey={grey} labelWidth={8} />
    </Panel>
  );
}

export function Output({ subject, width, glyphs }: { subject: SubjectView; width: number; glyphs: Glyphs }): ReactElement {
  return (
    <Panel title={`output of ${fit(subject.host, 14)}`} note={subject.stale} width={width} glyphs={glyphs}>
      <Figures figures={subject.output} grey={subject.stale !== undefined} labelWidth={8} />
    </Panel>
  );
}

export function Events({ lines, note, width, glyphs }: { lines: readonly EventLine[]; note: string | undefined; width: number; glyphs: Glyphs }): ReactElement {
  return (
    <Panel title="events" note={note} width={width} glyphs={glyphs}>
      {lines.length === 0 && <Line tone="dim"> None since the monitor began.</Line>}
      {lines.map(({ head, level, text }, row) => (
        <Line key={row} tone={levelTones[level]}><Text dimColor>{head}</Text>{text}</Line>
      ))}
    </Panel>
  );
}

const keys: readonly [key: string, meaning: string][] = [
  ['c', 'checkpoint now'],
  ['f', 'failover: move the VM over; asks first'],
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
  ['held', 'output that waits: clients get it after the next commit'],
  ['passed', 'output that did not wait: unprotected, or neighbour discovery'],
  ['dropped', 'output nobody will see: taken over, no lease, or no room'],
];

export function Help({ width, glyphs }: { width: number; glyphs: Glyphs }): ReactElement {
  const rows = (list: readonly (readonly [string, string])[], labelWidth: number): ReactNode =>
    list.map(([label, meaning]) => <Line key={label}><Text bold>{` ${label.padEnd(labelWidth)}`}</Text> {meaning}</Line>);
  return (
    <>
      <Panel title="keys" width={width} glyphs={glyphs}>{rows(keys, 29)}</Panel>
      <Text> </Text>
      <Panel title="words" width={width} glyphs={glyphs}>{rows(words, 8)}</Panel>
      <Text> </Text>
      <Line tone="dim"> Any key closes this.</Line>
    </>
  );
}

export function Footer({ text, tone }: { text: string; tone: Tone }): ReactElement {
  return <Line tone={tone}>{text}</Line>;
}
