/** What goes wrong with one call (the kernel has no memory for it, say) is no reason to end for who is called. */
import { mkdtempSync, rmSync } from 'node:fs';
import { Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { ControlServer } from '../../src/agent/control.js';
import { MetricsServer } from '../../src/agent/metrics-server.js';

const folder = mkdtempSync(join(tmpdir(), 'colopp-accept-'));
test.after(() => rmSync(folder, { recursive: true }));

/** The server that `open` makes, as Node.js tells it of calls that it could not take. */
async function serverOf(open: () => Promise<{ close: () => void }>): Promise<{ server: Server; close: () => void }> {
  const { listen } = Server.prototype;
  let server: Server | undefined;
  Server.prototype.listen = function (this: Server, ...args: unknown[]) {
    server = this;
    return Reflect.apply(listen, this, args) as Server;
  } as typeof listen;
  try {
    const opened = await open();
    return { server: server!, close: () => opened.close() };
  } finally {
    Server.prototype.listen = listen;
  }
}

for (const [name, open] of [
  ['control socket', () => ControlServer.listen(join(folder, 'socket'), async () => ({}))],
  ['metrics port', () => MetricsServer.listen({ contentType: '', text: async () => '' }, { host: '127.0.0.1', port: 0 })],
] as const) {
  test(`${name}: calls that cannot be taken, one after the other`, async () => {
    const { server, close } = await serverOf(open);
    try {
      for (let call = 0; call < 3; call++) server.emit('error', new Error('accept ENOMEM'));
      assert.ok(server.listening);
    } finally {
      close();
    }
  });
}

test.run();
