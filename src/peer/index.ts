/** The TCP link to the other host: greeting, control messages, heartbeats, checkpoint stream. */
export * from './checkpoint-stream.js';
export * from './control.js';
export * from './errors.js';
export { PROTOCOL_VERSION } from './frame.js';
export * from './heartbeat.js';
export { PEER_KINDS, type Hello, type PeerIdentity, type PeerKind } from './handshake.js';
export * from './link.js';
export { place } from './socket.js';
