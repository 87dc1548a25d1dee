/**
 * bpf-ts-loader: compiled BPF objects as typed TypeScript modules.
 *
 * This is the library behind the command line; what generated modules need is in
 * `bpf-ts-loader/runtime`.
 */
export { build, type BuildOptions, type BuildResult, type BuiltObject } from './build/build.js';
export { LoaderError, type LoaderErrorCode } from './errors.js';
export { generate, type GenerateOptions, objectName, VERSION } from './generate.js';
export {
  type ObjectMap,
  type ObjectModel,
  type ObjectProgram,
  type ObjectSection,
  type ObjectVariable,
  parseObject,
} from './object.js';
