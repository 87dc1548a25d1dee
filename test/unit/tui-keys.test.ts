/** What the monitor's keys do. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { initialUi, press, type Situation, type Ui } from '../../src/tui/ui.js';
import { viewOf } from '../../src/tui/view.js';
import { after, healthyPair, saw, secondaryStatus, status, t0 } from './tui-support.js';

const situation: Situation = { view: viewOf(after(...healthyPair()), t0 + 1000, 2000), events: 20, page: 8, isReplay: false };
const target = { source: 'a', host: 'a', from: 'a', to: 'b' };

function ui(changes: Partial<Ui> = {}): Ui {
  return { ...initialUi, ...changes };
}

test('c asks the active host for a checkpoint', () => {
  assert.equal(press(ui(), 'c', situation), { ui: ui(), action: { type: 'command', command: 'checkpoint', target } });
});

test('f asks first: only y moves the VM', () => {
  const asked = press(ui(), 'f', situation);
  assert.equal(asked, { ui: ui({ confirming: target }) });
  assert.equal(press(asked.ui, 'y', situation), { ui: ui(), action: { type: 'command', command: 'failover', target } });
  for (const key of ['n', 'q', 'f', 'c', 'escape', 'Y', 'yy', '']) {
    const { ui: next, action } = press(asked.ui, key, situation);
    assert.equal(next, ui(), key);
    assert.is(action?.type, 'say', key);
  }
});

test('y to a question that the pair has overtaken moves nothing', () => {
  const moved = viewOf(after(
    saw.status('a', 0, secondaryStatus({ host: 'a', peer: { host: 'b', rttUs: 1, silentMs: 1 } })),
    saw.status('b', 0, status({ host: 'b', peer: { host: 'a', rttUs: 1, silentMs: 1 } })),
  ), t0, 2000);
  assert.equal(press(ui({ confirming: target }), 'y', { ...situation, view: moved }).action, { type: 'say', text: 'No failover: the pair has changed since the question.' });
  const gone = viewOf(after(saw.gone('a', 0)), t0, 2000);
  assert.is(press(ui({ confirming: target }), 'y', { ...situation, view: gone }).action?.type, 'say');
});

test('nobody to command: a recording, or no agent', () => {
  for (const key of ['c', 'f']) {
    assert.match((press(ui(), key, { ...situation, isReplay: true }).action as { text: string }).text, /recording/);
    const gone = viewOf(after(), t0, 2000);
    assert.match((press(ui(), key, { ...situation, view: gone }).action as { text: string }).text, /No agent answers/);
  }
});

test('help, filter, scrolling, the other host', () => {
  assert.equal(press(ui(), '?', situation), { ui: ui({ help: true }) });
  assert.equal(press(ui({ help: true }), 'c', situation), { ui: ui() }, 'any key closes help, and does nothing else');
  assert.equal(press(ui({ help: true }), 'q', situation).action, { type: 'quit' });
  assert.equal(['info', 'warn', 'error'].map((level) => press(ui({ level } as Partial<Ui>), 'e', situation).ui.level), ['warn', 'error', 'info']);
  assert.is(press(ui(), 'up', situation).ui.back, 1);
  assert.is(press(ui(), 'down', situation).ui.back, 0);
  assert.is(press(ui(), 'pageup', situation).ui.back, 8);
  assert.is(press(ui(), 'home', situation).ui.back, 19);
  assert.is(press(ui({ back: 19 }), 'pageup', situation).ui.back, 19);
  assert.is(press(ui({ back: 5 }), 'end', situation).ui.back, 0);
  assert.is(press(ui(), 'tab', situation).ui.selected, 'b');
  assert.equal(press(ui(), 'x', situation), { ui: ui() });
  assert.equal(press(ui(), 'ctrl-l', situation).action, { type: 'repaint' });
});

test.run();
