/** What the monitor says of a command, over real control sockets. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { ControlServer } from '../../src/agent/control.js';
import { LiveFeed } from '../../src/tui/feed.js';
import type { Observation } from '../../src/tui/observation.js';

const dir = mkdtempSync(join(tmpdir(), 'colopp-feed-'));
test.after(() => rmSync(dir, { recursive: true }));

/** What is said after the pre-release of a service was switched off at the first of these agents. */
async function saidBy(sources: readonly string[]): Promise<string[]> {
  const agents = sources.map((source) => ({ source, socket: join(dir, source) }));
  const servers = await Promise.all(agents.map(({ socket }) => ControlServer.listen(socket, async () => ({}))));
  const said: Observation[] = [];
  const feed = new LiveFeed(agents, 100);
  const end = new AbortController();
  const run = feed.run({ observe: (observation) => { if (observation.kind === 'said') said.push(observation); }, drawn: () => {} }, end.signal);
  await feed.command(sources[0]!, { command: 'pre-release', port: 80, on: false });
  end.abort();
  await run;
  for (const server of servers) server.close();
  return said.map((each) => each.kind === 'said' ? each.text : '');
}

test('a service that is switched at one host of the two is said to be', async () => {
  assert.equal(await saidBy(['a', 'b']), ['The pre-release of port 80 is off.']);
  assert.equal(await saidBy(['a']), ['The pre-release of port 80 is off, on this host only: tell the other, too.']);
});

test.run();
