import { CheckpointRelay, PeerClient, PeerServer } from '../../src/peer/index.js';

/**
 * One end of the checkpoint relay in a process of its own, as an agent is:
 *
 *     relay-end.js secondary QEMU-SOCKET          reports the port it listens on
 *     relay-end.js primary QEMU-SOCKET PORT       reports once QEMU may connect
 */
const identity = { pairId: 'bench', incarnation: '1' };
const [side, socketPath = '', port] = process.argv.slice(2);

process.on('disconnect', () => process.exit(0)); // whoever measures is gone

if (side === 'secondary') {
  const server = await PeerServer.listen({
    ...identity,
    hostName: 'secondary',
    address: '127.0.0.1',
    port: 0,
    onConnection: ({ socket: peer }) => void CheckpointRelay.connect({ socketPath, peer }),
  });
  process.send?.(server.port);
} else {
  const { socket: peer } = await PeerClient.connect({
    ...identity,
    hostName: 'primary',
    address: '127.0.0.1',
    port: Number(port),
    kind: 'checkpoint',
  });
  await CheckpointRelay.listen({ socketPath, peer });
  process.send?.(0);
}
