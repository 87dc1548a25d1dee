/** The picture as text, at several sizes, and what of it is written to the terminal. */
import { EventEmitter } from 'node:events';
import type { WriteStream } from 'node:tty';
import { renderToString } from 'ink';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { Picture, type Setting, type Size } from '../../src/tui/app.js';
import type { Model } from '../../src/tui/model.js';
import { Screen } from '../../src/tui/screen.js';
import { asciiGlyphs, chart, clean, fit, span, unicodeGlyphs, wrap } from '../../src/tui/text.js';
import { initialUi, type Ui } from '../../src/tui/ui.js';
import { after, healthyPair, saw, secondaryStatus, setting, status, t0 } from './tui-support.js';

interface Looks { size?: Size; ui?: Partial<Ui>; with?: Partial<Setting>; atMs?: number }

function picture(model: Model, { size = { columns: 80, rows: 24 }, ui = {}, with: changed = {}, atMs = 1007 }: Looks = {}): string {
  const frame = { model, nowMs: t0 + atMs };
  const text = renderToString(<Picture frame={frame} ui={{ ...initialUi, ...ui }} size={size} setting={{ ...setting, ...changed }} />, { columns: size.columns });
  const lines = text.replace(/\x1b\[[\d;]*m/g, '').split('\n');
  assert.ok(lines.length <= size.rows, `${lines.length} lines fit into ${size.rows} rows`);
  assert.ok(lines.every((line) => line.length <= size.columns), `no line is wider than ${size.columns}`);
  return text;
}

const plain = (text: string): string => text.replace(/\x1b\[[\d;]*m/g, '');
const lastLine = (text: string): string => plain(text).split('\n').at(-1) ?? '';

test('80x24: everything at a glance', () => {
  const text = plain(picture(after(...healthyPair(), saw.note('b', 900, 'info', 'Ready to take over.'))));
  const withoutClock = text.replace(/\d\d:\d\d:\d\d/g, 'HH:MM:SS').replace(/ +$/gm, '');
  assert.snapshot(withoutClock, `\
 PROTECTED  b can take over from a, 30 ms behind.             lab test  HH:MM:SS
─ pair ─ lease 300 ms, of the pair itself ──────────────────────────────────────
  host    role      phase         heard        round trip gen VM
▶ a       primary   protected     b 34 ms ago  0.3 ms     3   guest tcg
  b       secondary protected     a 12 ms ago  0.4 ms     3   guest tcg, silent
 If a is lost: b goes on from 30 ms ago; nothing clients were told is lost.
               12 packets (4.3 KiB) would go; TCP sends again.
─ checkpoints of a ─ pause to 30.0 ms ─ ─ output of a ──────────────────────────
                                    █    gate     holds output until a commit
                                    █    held now 12, 4.3 KiB, for 12.1 ms
 commits  42                             released 1000, 100/s
 pause    p50 9.8 ms, p99 14.2 ms        dropped  0
 rate     2.0/s                          passed   5, 0.0/s
 last     30 ms ago                      hold     mean 21.2 ms, max 43.0 ms
─ events ───────────────────────────────────────────────────────────────────────
HH:MM:SS info  b Ready to take over.







 c checkpoint  f failover  p pause  e filter  tab other  ? help  q quit`);
});

test('from the smallest to a very large terminal: it fits, and is complete where there is room', () => {
  const model = after(...healthyPair(), ...Array.from({ length: 60 }, (_, i) => saw.note('a', i, 'warn', `event ${i} ${'and more '.repeat(i)}`)));
  for (const [columns, rows] of [[50, 14], [60, 16], [80, 24], [100, 30], [140, 40], [300, 100]] as const) {
    const text = plain(picture(model, { size: { columns, rows } }));
    assert.match(text, 'PROTECTED');
    assert.match(text, /▶ a {2,}primary/);
    if (rows >= 24) assert.match(text, /hold {5}mean 21.2 ms, max 43.0 ms/);
    assert.match(text, 'event 59', 'the newest event');
    picture(model, { size: { columns, rows }, ui: { help: true } });
  }
  assert.match(plain(picture(model, { size: { columns: 140, rows: 40 } })), 'b 34 ms ago             0.3 ms      3     guest tcg');
  assert.match(plain(picture(model, { size: { columns: 40, rows: 10 } })).replace(/\n/g, ' '), 'This terminal has 40x10 cells; the monitor needs 50x14.');
});

test('without colours there is none, but what matters still stands out', () => {
  const model = after(...healthyPair(), saw.note('a', 0, 'error', 'bad'), saw.note('a', 0, 'warn', 'well'));
  assert.match(picture(model, { with: { hasColours: true } }), /\x1b\[[\d;]*3[123]/);
  const text = picture(model);
  assert.not.match(text, /\x1b\[(?:\d+;)*[34]\d/);
  assert.match(text, /\x1b\[7m|;7m/, 'the verdict is inverse');
});

test('an agent that is gone: the last truth is grey and says its age', () => {
  const model = after(...healthyPair(), saw.gone('a', 1500), saw.gone('b', 1500));
  const text = picture(model, { atMs: 31_000, with: { hasColours: true } });
  assert.match(plain(text), /NO ANSWER {2}What is shown was true 30 s ago\./);
  assert.match(plain(text), /a {7}primary {3}protected .* 30 s old/);
  assert.match(plain(text), /checkpoints of a ─ 30 s old/);
  for (const line of text.split('\n').filter((line) => /protected|held now|commits/.test(line))) {
    assert.match(line, /^(\x1b\[2m|\x1b\[0m)*\x1b\[2m/, `grey: ${JSON.stringify(line)}`);
    assert.not.match(line, /\x1b\[32m/);
  }
});

test('nothing that a peer, a file or an agent says steers the terminal', () => {
  const evil = '\x1b]52;c;aGk=\x07\x1b[2J\x9b31m\r\n\u202e\u200b\ud83d\ude00\u0301';
  const hostile = status({ host: evil, role: evil, phase: evil, reason: evil.repeat(100), peer: { host: evil, rttUs: 1e300, silentMs: -5 }, vm: { name: evil }, output: { mode: evil, heldBytes: 1e300 } });
  const model = after(saw.status('a', 0, hostile), saw.status('b', 0, secondaryStatus({ host: 'x'.repeat(500) })), saw.note('a', 1, 'error', evil.repeat(500)), saw.said('a', 2, 'error', evil), saw.gone('b', 3, evil));
  for (const size of [{ columns: 80, rows: 24 }, { columns: 140, rows: 40 }]) {
    const text = picture(model, { size });
    assert.not.match(plain(text), /[^\x20-\x7e\n─▶▁▂▃▄▅▆▇█…]/u);
  }
});

const services = [{
  port: 6379, protocol: 'resp', preRelease: true, prereleasedPackets: 80, controlPackets: 17, heldPackets: { order: 0, unlogged: 1, doubt: 2, standing: 0, off: 0 }, openWrites: 1,
}, {
  port: 80, protocol: 'http', preRelease: false, prereleasedPackets: 0, controlPackets: 0, heldPackets: { order: 0, unlogged: 0, doubt: 0, standing: 0, off: 12 }, openWrites: 0,
}];

/** A pair with declared services, an input log, comparing, and a secondary of which one vCPU is active. */
const busyPair = (declared = services): Model => after(
  saw.status('a', 0, status({
    output: { services: declared, earlyPackets: 97, inputSeq: 500, loggedSeq: 497, releasedBy: { commit: 61, logged: 30, match: 9, end: 0 } },
    compare: { mode: 'auto', comparing: true, reason: 'matches release sooner', divergences: 2, late: 1, auditMismatches: 0, uncompared: [], caught: [] },
  })),
  saw.status('b', 0, secondaryStatus({
    inputLog: { log: { loggedPackets: 12, loggedBytes: 4400, gaps: 0 } },
    vcpus: { mode: 'auto', of: 2, active: [1], reason: 'one vCPU is busy', load: [{ vcpu: 0, run: 0, wait: 0.25 }, { vcpu: 1, run: 0.5, wait: 0.25 }] },
  })),
);

test('80x24 with services and an active secondary: what leaves early, what waits and why, what the secondary does', () => {
  const text = plain(picture(busyPair())).replace(/\d\d:\d\d:\d\d/g, 'HH:MM:SS').replace(/ +$/gm, '');
  const from = text.indexOf('─ services');
  assert.snapshot(text.slice(from), `\
─ services of a ─ pre-release, what leaves early, what waits and why ───────────
 6379 resp      on     97 % early            held 3: write in doubt 2, not logg…
 80 http        off    0 % early             held 12: switched off 12
─ secondary b ──────────────────────────────────────────────────────── +1 more ─
 input    12 packets logged, 4.3 KiB; 3 not there yet
 vCPUs    1 of 2 active: one vCPU is busy
   0 ▒▒▒········· parked     1 ██████▒▒▒···
─ events ───────────────────────────────────────────────────────────────────────
 None since the monitor began.

 c checkpoint  f failover  p pause  s services  v vCPUs  ? help  q quit`);
});

test('what a panel has no room for is counted in its title', () => {
  const model = busyPair([...services, { ...services[0]!, port: 6380 }, { ...services[0]!, port: 6381 }]);
  assert.match(plain(picture(model)), /^─ services of a ─ .* \+2 more ─$/m);
  const large = plain(picture(model, { size: { columns: 80, rows: 50 } }));
  assert.match(large, /6381 resp/);
  assert.not.match(large, ' more ─');
});

test('a larger terminal shows all of it: shares of releases, each vCPU, and its decision', () => {
  const text = plain(picture(busyPair(), { size: { columns: 120, rows: 40 } }));
  assert.match(text, /by +commit 61 %, logged 30 %, match 9 %/);
  assert.match(text, /early +97/);
  assert.match(text, 'vCPUs    1 of 2 active: one vCPU is busy');
  assert.match(text, /  0 ▒▒▒·{9} parked +1 █{6}▒▒▒···/);
  const ascii = plain(picture(busyPair(), { size: { columns: 120, rows: 40 }, with: { glyphs: asciiGlyphs } }));
  assert.match(ascii, /  0 ~~~\.{9} parked +1 #{6}~~~\.\.\./);
});

test('a service that was caught breaking its promise stands out', () => {
  const compare = { mode: 'auto', comparing: true, reason: '', divergences: 0, late: 0, auditMismatches: 3, uncompared: [], caught: [6379] };
  const text = picture(after(saw.status('a', 0, status({ output: { services }, compare }))), { with: { hasColours: true } });
  assert.match(text, /\x1b\[[\d;]*31[^C]*CAUGHT/);
});

test('from the smallest terminal on the new panels leave room for the pair and the newest event', () => {
  for (const [columns, rows] of [[50, 14], [60, 16], [80, 20], [80, 24], [100, 30], [200, 60]] as const) {
    const text = plain(picture(busyPair(), { size: { columns, rows } }));
    assert.match(text, /▶ a {2,}primary/, `${columns}x${rows}`);
    assert.match(text, 'None since the monitor began', `${columns}x${rows}`);
  }
});

test('the question before a failover, and answers, take the place of the keys', () => {
  const model = after(...healthyPair());
  const asking = { kind: 'failover', target: { source: 'a', host: 'a', from: 'a', to: 'b', protection: 'on' } } as const;
  assert.match(plain(picture(model, { ui: { asking } })), 'Move the VM from a to b now? y/n');
  const said = after(...healthyPair(), saw.said('a', 1000, 'info', 'Checkpoint committed.'));
  assert.match(lastLine(picture(said)), 'Checkpoint committed.');
  assert.match(lastLine(picture(said, { atMs: 9000 })), 'c checkpoint');
});

test('help shows every key, and how to leave it, also on a small terminal', () => {
  const text = plain(picture(after(...healthyPair()), { ui: { help: true } }));
  assert.match(lastLine(text), 'Any key closes this.');
  assert.match(text, /^ by  .*a match$/m, 'to the last word');
  for (const key of ['c ', 'f ', 'p ', 's ', 'v ', 'e ', 'tab', 'up, down', 'ctrl-l', 'q ']) assert.match(text, new RegExp(`^ ${key}`, 'm'));
});

// ---- the terminal ------------------------------------------------------------

class Terminal extends EventEmitter {
  columns = 80;
  rows = 24;
  writableLength = 0;
  written = '';
  write(text: string): void {
    this.written += text;
  }
  take(): string {
    const text = this.written;
    this.written = '';
    return text;
  }
}

test('only lines that differ are written, each at its place; the terminal is given back', () => {
  const terminal = new Terminal();
  const screen = new Screen(terminal as unknown as WriteStream, false);
  screen.open();
  assert.match(terminal.take(), '\x1b[?1049h');
  screen.write('one\ntwo\nthree');
  assert.is(terminal.take(), '\x1b[1;1H\x1b[2Kone\x1b[0m\x1b[2;1H\x1b[2Ktwo\x1b[0m\x1b[3;1H\x1b[2Kthree\x1b[0m');
  screen.write('one\n2\nthree');
  assert.is(terminal.take(), '\x1b[2;1H\x1b[2K2\x1b[0m');
  screen.write('one\n2\nthree');
  assert.is(terminal.take(), '');
  screen.write('one');
  assert.is(terminal.take(), '\x1b[2;1H\x1b[2K\x1b[0m\x1b[3;1H\x1b[2K\x1b[0m');
  terminal.rows = 2;
  terminal.emit('resize');
  assert.match(terminal.take(), '\x1b[2J');
  screen.write('1\n2\n3');
  assert.not.match(terminal.take(), '3;1H');
  terminal.writableLength = 1e6;
  screen.write('a\nb');
  assert.is(terminal.take(), '', 'a reader that is too slow gets fewer pictures');
  terminal.writableLength = 0;
  screen.repaint();
  assert.match(terminal.take(), /a.*b/s);
  screen.close();
  assert.match(terminal.take(), '\x1b[?1049l');
  screen.write('late');
  assert.is(terminal.take(), '');
});

test('a terminal that knows only ASCII gets only ASCII', () => {
  const terminal = new Terminal();
  const screen = new Screen(terminal as unknown as WriteStream, true);
  screen.open();
  terminal.take();
  screen.write(picture(after(...healthyPair(), saw.note('a', 0, 'info', 'naïve … Ω')), { with: { glyphs: asciiGlyphs } }));
  assert.not.match(terminal.written, /[^\x00-\x7f]/);
  assert.match(terminal.written, '- pair - lease');
  screen.close();
});

// ---- words -------------------------------------------------------------------

test('spans of time, texts that must fit, charts', () => {
  assert.equal([0.04, 9.94, 10, 999, 1000, 9999, 61_000, 3_600_000, 7_500_000].map(span),
    ['0.0 ms', '9.9 ms', '10 ms', '999 ms', '1.0 s', '10 s', '1 min 1 s', '1 h', '2 h 5 min']);
  assert.is(fit('hello world', 7), 'hello…');
  assert.is(clean('a\tb\n c', 10), 'a b c');
  assert.equal(wrap('aaaa bbbb cccc', 9), ['aaaa bbbb', 'cccc']);
  assert.equal(wrap('a'.repeat(12), 5), ['aaaaa', 'aaaaa', 'aa']);
  assert.equal(chart([8, undefined, 4, 0, 1], 2, unicodeGlyphs), ['█    ', '█ █▁▂']);
  assert.equal(chart([], 1, asciiGlyphs), ['']);
});

test.run();
