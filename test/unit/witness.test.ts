/** The witness: what it decides, remembers, and says to hosts, sound ones and others. */

import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pino from 'pino';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { WitnessClient } from '../../src/agent/witness/client.js';
import type { Verdict } from '../../src/agent/witness/messages.js';
import { Witness } from '../../src/agent/witness/server.js';
import { judge } from '../../src/protocol/witness.js';

const log = pino({ level: 'silent' });
const secret = Buffer.from('a secret of 24 bytes ...');
const listen = { host: '127.0.0.1', port: 0 };
const stateDir = mkdtempSync(join(tmpdir(), 'colopp-witness-'));
let witness: Witness;

test.before.each(async () => { witness = await Witness.listen({ listen, stateDir, secret, log }); });
test.after.each(async () => {
  await witness.close();
  rmSync(stateDir, { recursive: true, force: true });
});

/** What a host's claim comes to; undefined if it comes to nothing. */
async function claim(hostName: string, term: number, { vm = 'shop', known = secret as Buffer | null } = {}): Promise<Verdict | undefined> {
  return new Promise((resolve) => {
    const client = new WitnessClient({
      host: '127.0.0.1', port: witness.port, hostName, vm, secret: known ?? undefined,
      onVerdict: (_, verdict) => end(verdict), onReach: (reachable) => { if (!reachable) end(undefined); },
    });
    const end = (verdict: Verdict | undefined): void => {
      client.close();
      resolve(verdict);
    };
    client.claim(term);
  });
}

test('of a term the first goes on, and of no older one', () => {
  const a = { term: 3, host: 'a' };
  assert.equal(judge(undefined, a), { held: a, granted: true });
  assert.equal(judge(a, a), { held: a, granted: true }, 'the answer may have been lost');
  assert.equal(judge(a, { term: 3, host: 'b' }), { held: a, granted: false });
  assert.equal(judge(a, { term: 2, host: 'a' }), { held: a, granted: false });
  assert.equal(judge(a, { term: 4, host: 'b' }), { held: { term: 4, host: 'b' }, granted: true });
});

test('property: whatever is asked in whatever order, no term has two holders', () => {
  let random = 1;
  const below = (n: number): number => (random = (random * 48271) % 2147483647) % n;
  for (let run = 0; run < 500; run++) {
    let held: ReturnType<typeof judge>['held'] | undefined;
    const holders = new Map<number, string>();
    for (let i = 0; i < 40; i++) {
      const asked = { term: below(6), host: below(2) === 0 ? 'a' : 'b' };
      const verdict = judge(held, asked);
      held = verdict.held;
      if (!verdict.granted) continue;
      assert.is(holders.get(asked.term) ?? asked.host, asked.host);
      holders.set(asked.term, asked.host);
    }
  }
});

test('hosts ask over the network; one of two that ask at once goes on', async () => {
  const verdicts = await Promise.all([claim('a', 1), claim('b', 1)]);
  assert.is(verdicts.filter((verdict) => verdict?.granted).length, 1);
  assert.is(verdicts[0]!.holder, verdicts[1]!.holder);
  assert.equal(await claim('b', 1, { vm: 'other' }), { type: 'verdict', granted: true, holder: 'b' }, 'another VM is another matter');
});

test('what it has decided outlives it', async () => {
  await claim('a', 7);
  await witness.close();
  witness = await Witness.listen({ listen, stateDir, secret, log });
  assert.is((await claim('b', 7))?.granted, false);
  assert.is((await claim('a', 7))?.granted, true);
  assert.is((await claim('b', 8))?.granted, true);
  assert.is(statSync(join(stateDir, 'claims.json')).mode & 0o777, 0o600);
});

test('a claim that cannot be remembered is not granted', async () => {
  rmSync(stateDir, { recursive: true, force: true });
  writeFileSync(stateDir, ''); // no folder any more
  const asked = await Promise.race([claim('a', 1), sleep(300)]);
  assert.is(asked, undefined);
  rmSync(stateDir);
  assert.is((await claim('b', 1))?.granted, true, 'nor was it remembered in memory only');
});

test('a damaged memory is refused, not forgotten', async () => {
  await claim('a', 1);
  const path = join(stateDir, 'claims.json');
  const sound = readFileSync(path, 'utf8');
  for (const text of ['', '{', '[]', sound.replace('1', '-1'), sound.replace('"a"', '5'), '{"../x":{"term":1,"host":"a"}}']) {
    writeFileSync(path, text);
    const error = await Witness.listen({ listen, stateDir, secret, log }).then(() => undefined, (e: unknown) => e as Error & { code: string });
    assert.is(error?.code, 'WITNESS', JSON.stringify(text));
    assert.match(error!.message, /claims\.json cannot be used/);
  }
});

test('who does not know the secret decides nothing', async () => {
  assert.is(await claim('a', 1, { known: null }), undefined);
  assert.is(await claim('a', 1, { known: Buffer.from('some other secret, long enough') }), undefined);
  assert.is((await claim('b', 1))?.granted, true);
});

test('garbage, and claims beyond measure, end the connection and nothing else', async () => {
  assert.is(await Promise.race([claim('a', 1.5), sleep(300)]), undefined);
  await new Promise<void>((resolve) => {
    const socket = createConnection({ host: '127.0.0.1', port: witness.port }, () => socket.write(Buffer.alloc(100_000, 7)));
    socket.on('error', () => {}).on('close', () => resolve()).resume();
  });
  assert.is((await claim('b', 1))?.granted, true);
});

test('a host is told when the witness comes and goes', async () => {
  const { port } = witness;
  const news: boolean[] = [];
  const client = new WitnessClient({ host: '127.0.0.1', port, hostName: 'a', vm: 'shop', secret, onVerdict: () => {}, onReach: (reachable) => news.push(reachable) });
  try {
    const until = async (length: number): Promise<void> => { while (news.length < length) await sleep(10); };
    client.start();
    await until(1);
    assert.is(client.reachable, true);
    await witness.close();
    client.claim(1);
    await until(2);
    assert.is(client.reachable, false);
    assert.equal(news, [true, false]);
  } finally {
    client.close();
  }
});

test.run();
