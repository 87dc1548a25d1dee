/**
 * A set-up failure a person can act on: `message` says what was tried and why it failed, `remedy` what to do about it.
 *
 * `exitCode` is 2 when a precondition of the machine is missing (nothing was started), 1 when a step failed.
 */
export class SetupError extends Error {
  /**
   * @param {string} code stable identifier, e.g. `EPACKAGES`
   * @param {string} message
   * @param {{ remedy?: string, exitCode?: 1 | 2, cause?: unknown }} [options]
   */
  constructor(code, message, { remedy = '', exitCode = 1, cause } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = 'SetupError';
    this.code = code;
    this.remedy = remedy;
    this.exitCode = exitCode;
  }
}
