/** What comes of the policy's decisions when the gate does not do as it is told. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { CompareEvent } from 'tap-hold';
import { CompareControl } from '../../src/agent/compare-control.js';
import { parseConfig } from '../../src/agent/config.js';
import type { Gate } from '../../src/dataplane/gate.js';

const config = parseConfig(`{host: a, role: primary, runDir: /r, stateDir: /s, vm: {name: web, memoryMiB: 64, kernel: /k, mac: "52:54:00:00:00:01"},
  network: {bridge: b, tap: t, holdTap: h}, peer: {listen: "127.0.0.1:1", address: "127.0.0.1:2"}, mode: compare, compare: {auditMismatches: 1},
  services: [{port: 6379, protocol: resp}, {port: 80, protocol: never}]}`, 'test');

const none = { packets: 0, waitedMs: 0 };
const said = { bytes: 1, digest: '00' };
const mismatch = {
  finding: 'auditMismatch', difference: 'payload', flow: { guest: '10.0.0.1', guestPort: 6379, client: '10.0.0.2', clientPort: 5000, protocol: 6 },
  seq: 1, offset: 0, ageNs: 0, primary: said, shadow: said,
} as unknown as CompareEvent;

test('what the gate refuses is told, and ends neither the agent nor what else was decided', () => {
  const did: string[] = [];
  const gate = {
    outputCounts: () => ({ early: 0, matched: none, committed: none, uncompared: none, writes: 0, doubtPackets: 0 }),
    writtenMsAgo: () => undefined,
    compare: () => void did.push('compare'),
    compareNothing: () => void did.push('compareNothing'),
    setPreRelease: () => { throw new Error('the map is full'); },
  };
  const notes: string[] = [];
  const wishes: object[] = [];
  const control = new CompareControl(config, gate as unknown as Gate, {
    onWish: (wish) => void wishes.push(wish), onCheckpoint: () => void did.push('checkpoint'), onNote: (_level, code, text) => void notes.push(`${code}: ${text}`),
  });
  control.begin();
  assert.equal(wishes.shift(), { active: false, forward: 'none', caught: [] }, 'nothing of an earlier protection is still wanted');
  try {
    control.onFound([mismatch]);
  } finally {
    control.end();
  }
  assert.equal(did.slice(0, 2), ['compare', 'checkpoint']);
  assert.ok(notes.some((note) => /^FAILED: .*the map is full/.test(note)), notes.join('\n'));
  assert.equal(control.status().caught, [], 'what did not happen is not claimed');
});

test('a service that was caught is so on both hosts, until an operator lets it off', () => {
  const switched: string[] = [];
  const gate = {
    outputCounts: () => ({ early: 0, matched: none, committed: none, uncompared: none, writes: 0, doubtPackets: 0 }),
    writtenMsAgo: () => undefined,
    compare: () => {},
    compareNothing: () => {},
    setPreRelease: (port: number, on: boolean) => void switched.push(`${port} ${on ? 'on' : 'off'}`),
  } as unknown as Gate;
  const wishes: { caught: number[] }[] = [];
  const open = () => new CompareControl(config, gate, { onWish: (wish) => void wishes.push(wish), onCheckpoint: () => {}, onNote: () => {} });
  const [primary, secondary] = [open(), open()];
  primary.begin();
  try {
    primary.onFound([mismatch]);
    secondary.adopt(wishes.at(-1)!.caught);
    secondary.adopt(wishes.at(-1)!.caught);
    assert.equal([primary.status().caught, secondary.status().caught], [[6379], [6379]]);
    assert.equal(switched, ['6379 off', '6379 off'], 'once on each host');
    primary.forgive(6379);
    secondary.adopt(wishes.at(-1)!.caught);
    assert.equal([primary.status().caught, secondary.status().caught], [[], []]);
    assert.is(switched.at(-1), '6379 on');
    secondary.adopt([53, 80]);
    assert.equal(switched.slice(3), ['80 off'], 'what is not declared is not switched');
    secondary.adopt([]);
    assert.equal(switched.slice(4), ['80 off'], 'nor what is declared as "never" switched on');
  } finally {
    primary.end();
  }
});

test.run();
