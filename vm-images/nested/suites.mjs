/**
 * The kernels that the nested tests run on, by the Debian suite that carries them.
 * @typedef {'bookworm' | 'trixie' | 'forky'} Suite
 */

/** Newest first: the first is what CI runs. @type {readonly Suite[]} */
export const SUITES = ['forky', 'trixie', 'bookworm'];

/** The suite of the outer VM's programs. The newest: what was compiled on any older Debian runs on it. */
export const ROOT_SUITE = SUITES[0] ?? 'forky';
