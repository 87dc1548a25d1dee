/** What the monitor's keys do. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { MonitorRequest } from '../../src/tui/feed.js';
import { initialUi, press, questionText, type Action, type Situation, type Ui } from '../../src/tui/ui.js';
import { viewOf } from '../../src/tui/view.js';
import { after, healthyPair, saw, secondaryStatus, status, t0 } from './tui-support.js';

const situation: Situation = { view: viewOf(after(...healthyPair()), t0 + 1000, 2000), events: 20, page: 8, isReplay: false };
const target = { source: 'a', host: 'a', from: 'a', to: 'b', protection: 'on' as const };
const failover = { kind: 'failover' as const, target };
const toActive = (request: MonitorRequest): Action => ({ type: 'command', sources: ['a'], request });

function ui(changes: Partial<Ui> = {}): Ui {
  return { ...initialUi, ...changes };
}

test('c asks the active host for a checkpoint', () => {
  assert.equal(press(ui(), 'c', situation), { ui: ui(), action: toActive({ command: 'checkpoint' }) });
});

test('f asks first: only y moves the VM', () => {
  const asked = press(ui(), 'f', situation);
  assert.equal(asked, { ui: ui({ asking: failover }) });
  assert.equal(press(asked.ui, 'y', situation), { ui: ui(), action: toActive({ command: 'failover' }) });
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
  assert.equal(press(ui({ asking: failover }), 'y', { ...situation, view: moved }).action, { type: 'say', text: 'No failover: the pair has changed since the question.' });
  const gone = viewOf(after(saw.gone('a', 0)), t0, 2000);
  assert.is(press(ui({ asking: failover }), 'y', { ...situation, view: gone }).action?.type, 'say');
});

test('nobody to command: a recording, or no agent', () => {
  for (const key of ['c', 'f', 'p', 's', 'v']) {
    assert.match((press(ui(), key, { ...situation, isReplay: true }).action as { text: string }).text, /recording/);
    const gone = viewOf(after(), t0, 2000);
    assert.match((press(ui(), key, { ...situation, view: gone }).action as { text: string }).text, /No agent answers/);
  }
});

test('p asks before the protection ends, and begins it again at once', () => {
  const asked = press(ui(), 'p', situation);
  assert.equal(asked.ui.asking, { kind: 'pause', target });
  assert.equal(press(asked.ui, 'y', situation), { ui: ui(), action: toActive({ command: 'pause' }) });
  assert.equal(press(asked.ui, 'n', situation).action, { type: 'say', text: 'The protection goes on.' });
  const paused = viewOf(after(saw.status('a', 0, status({ protected: false, phase: 'active-alone', paused: true }))), t0, 2000);
  assert.equal(press(ui(), 'p', { ...situation, view: paused }), { ui: ui(), action: toActive({ command: 'reprotect' }) });
});

test('p also ends a protection that has only begun', () => {
  for (const phase of ['pairing', 'syncing']) {
    const view = viewOf(after(saw.status('a', 0, status({ protected: false, phase }))), t0, 2000);
    const asked = press(ui(), 'p', { ...situation, view });
    assert.is(asked.ui.asking?.kind, 'pause', phase);
    assert.equal(press(asked.ui, 'y', { ...situation, view }).action, toActive({ command: 'pause' }), phase);
  }
  const alone = viewOf(after(saw.status('a', 0, status({ protected: false, phase: 'alone', peer: null }))), t0, 2000);
  assert.equal(press(ui(), 'p', { ...situation, view: alone }).action, toActive({ command: 'reprotect' }), 'look for the other host now');
});

const service = (port: number, preRelease: boolean): Record<string, unknown> => ({
  port, protocol: 'resp', preRelease, prereleasedPackets: 90, controlPackets: 0, heldPackets: { order: 0, unlogged: 2, doubt: 8, standing: 0, off: 0 }, openWrites: 0,
});

test('s switches the pre-release of a service, at all agents that are watched', () => {
  assert.equal(press(ui(), 's', situation).action, { type: 'say', text: 'No service is declared.' });
  const output = { services: [service(6379, true), service(80, false)] };
  const view = viewOf(after(saw.status('a', 0, status({ output })), saw.status('b', 0, secondaryStatus({ output }))), t0, 2000);
  const there = { ...situation, view };
  const asked = press(ui(), 's', there);
  assert.is(questionText(asked.ui.asking!), 'Switch pre-release of 1: port 6379 (on)  2: port 80 (off)');
  assert.equal(press(asked.ui, '1', there).action, { type: 'command', sources: ['a', 'b'], request: { command: 'pre-release', port: 6379, on: false } });
  assert.equal(press(asked.ui, '2', there).action, { type: 'command', sources: ['a', 'b'], request: { command: 'pre-release', port: 80, on: true } });
  for (const key of ['3', '0', 'y', 'escape']) assert.is(press(asked.ui, key, there).action?.type, 'say', key);
});

test('v chooses the active vCPUs of the secondary', () => {
  assert.is(press(ui(), 'v', situation).action?.type, 'say');
  const vcpus = { mode: 'auto', of: 2, active: [1], reason: 'it earns little', load: [] };
  const view = viewOf(after(saw.status('a', 0), saw.status('b', 0, secondaryStatus({ vcpus }))), t0, 2000);
  const there = { ...situation, view };
  const asked = press(ui(), 'v', there);
  assert.is(questionText(asked.ui.asking!), 'Active vCPUs of b (now auto): 0 to 2, or a for auto');
  assert.equal(press(asked.ui, '2', there).action, { type: 'command', sources: ['b'], request: { command: 'active-vcpus', activeVcpus: 2 } });
  assert.equal(press(asked.ui, 'a', there).action, { type: 'command', sources: ['b'], request: { command: 'active-vcpus', activeVcpus: 'auto' } });
  assert.is(press(asked.ui, '3', there).action?.type, 'say');
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
