import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { sentPagesBytes } from '../../src/agent/vm.js';

test('every page of a guest has a place of its own among those that were sent, up to a limit', () => {
  const mib = 2 ** 20;
  assert.equal([32, 192, 256, 300, 512, 65_536].map((memoryMiB) => sentPagesBytes(memoryMiB) / mib), [32, 256, 256, 512, 512, 512]);
});

test.run();
