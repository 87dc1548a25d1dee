/** What can be wrong with an object, a build or a value; stable, for programs to test. */
export type LoaderErrorCode =
  | 'NOT_AN_OBJECT'
  | 'MALFORMED_ELF'
  | 'MALFORMED_BTF'
  | 'LEGACY_MAPS'
  | 'STATIC_PROGRAM'
  | 'STATIC_MAP'
  | 'UNSUPPORTED'
  | 'NO_COMPILER'
  | 'COMPILE_FAILED'
  | 'NO_VMLINUX'
  | 'BAD_USAGE'
  | 'IO'
  | 'MISMATCH'
  | 'READ_ONLY'
  | 'BAD_VALUE'
  | 'SHORT_RECORD';

/** An error of bpf-ts-loader. The message is a sentence: what was tried, on what, why it failed. */
export class LoaderError extends Error {
  override readonly name = 'LoaderError';
  readonly code: LoaderErrorCode;

  constructor(code: LoaderErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}
