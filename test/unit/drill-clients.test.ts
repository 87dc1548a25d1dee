/** What a drill's clients leave in a guest: nothing. */
import { once } from 'node:events';
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { Newcomer, RedisWriter, type Client } from '../../src/drill/clients.js';
import { parseReply } from '../../src/drill/resp.js';

/** As much of Redis as the clients use. */
const keys = new Map<string, string>();
let server: Server;
const at = { host: '127.0.0.1', port: 0 };
const bulk = (text: string | undefined): string => (text === undefined ? '$-1\r\n' : `$${text.length}\r\n${text}\r\n`);

function answer(command: string, names: string[]): string {
  const [key, value] = names as [string, string];
  switch (command) {
    case 'SET': return keys.set(key, value) && '+OK\r\n';
    case 'INCR': return keys.set(key, `${Number(keys.get(key) ?? 0) + 1}`) && `:${keys.get(key)}\r\n`;
    case 'GET': return bulk(keys.get(key));
    case 'MGET': return `*${names.length}\r\n${names.map((name) => bulk(keys.get(name))).join('')}`;
    case 'DEL': return `:${names.filter((name) => keys.delete(name)).length}\r\n`;
    default: return '-ERR unknown command\r\n';
  }
}

function serve(socket: Socket): void {
  let input = Buffer.alloc(0);
  socket.on('error', () => {}).on('data', (chunk) => {
    input = Buffer.concat([input, chunk]);
    for (let parsed = parseReply(input); parsed; parsed = parseReply(input)) {
      input = input.subarray(parsed.end);
      const [command, ...names] = parsed.reply as string[];
      socket.write(answer(command!, names));
      if (input.length === 0) break;
    }
  });
}

test.before(async () => {
  server = createServer(serve).listen(0, at.host);
  await once(server, 'listening');
  at.port = (server.address() as AddressInfo).port;
});
test.after(() => void server.close());

async function load(client: Client): Promise<void> {
  await client.connect();
  const running = client.run();
  while (client.replyTimesNs.length < 50) await sleep(5);
  client.stop();
  await running;
  client.close();
}

test('what clients have written is there until it is read back, and then gone; what others have written stays', async () => {
  keys.set('drill', 'of somebody else');
  const writer = new RedisWriter('r', 0, at);
  const newcomer = new Newcomer('r', 0, at);
  await Promise.all([load(writer), load(newcomer)]);
  assert.is(await writer.countLost(), 0);
  assert.is(keys.size, 1 + 1 + Math.floor(writer.acknowledged / 2) + 1, 'a counter, a key for each other write, that of the newcomer');
  await Promise.all([writer.forget(), newcomer.forget()]);
  assert.equal([...keys.keys()], ['drill']);
});

test('a write that was not acknowledged is forgotten, too', async () => {
  keys.clear();
  const writer = new RedisWriter('r', 1, at);
  await writer.connect();
  const running = writer.run();
  while (keys.size < 20) await sleep(1);
  writer.close();
  await running;
  await writer.forget();
  assert.equal([...keys.keys()], []);
});

test.run();
