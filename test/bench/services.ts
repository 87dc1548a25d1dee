import { bytesOf, Classifier, frame, type Protocol } from '../bpf/services-support.js';

const REPEAT = 200_000;
const ROUNDS = 15;

/** What clients of a protocol typically send. */
const requests: Record<string, { protocol: Protocol; payload: Uint8Array; udp?: true }> = {
  resp: { protocol: 'resp', payload: bytesOf(`*2\r\n$3\r\nGET\r\n$64\r\n${'k'.repeat(64)}\r\n`) },
  http: { protocol: 'http', payload: bytesOf('GET /index.html HTTP/1.1\r\nHost: 10.0.0.1\r\nUser-Agent: curl/8.14.1\r\nAccept: */*\r\n\r\n') },
  memcached: { protocol: 'memcached', payload: bytesOf(`get ${'k'.repeat(64)}\r\n`) },
  dns: { protocol: 'dns', payload: bytesOf('\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\x03org\0\0\x01\0\x01'), udp: true },
  readOnly: { protocol: 'readOnly', payload: bytesOf('?'.repeat(100)) },
  never: { protocol: 'never', payload: bytesOf('?'.repeat(100)) },
};

/**
 * What it costs to classify one request of each protocol, in nanoseconds above a program that finds
 * the payload and does nothing with it. By kernel test runs; the best of several rounds, which take
 * turns so that whatever else the machine does falls on all alike.
 */
export async function measureServices(): Promise<Record<string, number>> {
  using classifier = await Classifier.load();
  const best: Record<string, number> = {};
  const timed = (name: string, program: Parameters<Classifier['program']>[0], packet: Uint8Array): void => {
    const { durationNs } = classifier.program(program).testRun({ data: packet, repeat: REPEAT });
    best[name] = Math.min(best[name] ?? Infinity, durationNs);
  };
  for (let round = 0; round < ROUNDS; round++) {
    timed('nothing', 'feed_nothing', frame(requests['resp']!.payload));
    for (const [name, { protocol, payload, udp }] of Object.entries(requests)) {
      classifier.begin(protocol);
      timed(name, udp ? 'feed_datagram' : 'feed_frame', frame(payload, udp ? 'udp' : 'tcp'));
    }
  }
  return Object.fromEntries(Object.keys(requests).map((name) => [name, Math.max(0, best[name]! - best['nothing']!)]));
}
