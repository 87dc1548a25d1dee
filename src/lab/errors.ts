/** A lab that cannot be made or used. */
export class LabError extends Error {
  readonly code = 'LAB';

  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'LabError';
  }
}
