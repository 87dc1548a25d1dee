/** What `colopp status` says of a status. */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import type { AgentStatus } from '../../src/agent/agent.js';
import { statusText } from '../../src/cli/status-text.js';
import { status } from './tui-support.js';

test('mirrored input is told wherever input is replicated, for services or not', () => {
  const text = (inputLog: unknown): string => statusText(status({
    inputLog, vcpus: { active: null },
    output: { inputSeq: 100, loggedSeq: 97, services: [], releasedBy: { commit: 3, logged: 2, match: 1 } },
  }) as unknown as AgentStatus);
  assert.match(text({ log: { loggedPackets: 0, loggedBytes: 0, gaps: 0 } }), /^inputs +100 mirrored, 3 not yet in the other host's log$/m);
  assert.not.match(text(null), 'mirrored');
});

test.run();
