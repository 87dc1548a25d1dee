/** QEMU: find it, probe it, build its command line, run it, talk to it. */
export * from './command-line.js';
export * from './errors.js';
export * from './failover.js';
export * from './nested.js';
export * from './plugins.js';
export * from './probe.js';
export * from './process.js';
export * from './qmp.js';
export * from './runtime.js';
export * from './self-check.js';
