/** What the tests of generated skeletons share: building fixtures, compiling and importing them. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

/** The project's root, seen from the compiled test. */
export const root = fileURLToPath(new URL('../../../', import.meta.url));
export const fixtures = join(root, 'test/bpf/skeleton');

/** Skeletons are made while the tests run: no type of theirs is known here. */
export type Skeleton = Record<string, any>;

/** An empty directory of this test, in which modules of the workspace resolve. */
export function scratch(name: string): string {
  const directory = join(root, 'build/test', name);
  rmSync(directory, { recursive: true, force: true });
  mkdirSync(directory, { recursive: true });
  return directory;
}

/**
 * Compiles the TypeScript in `directory` as a demanding user would, and fails with what the
 * compiler says. Returns a function that imports a module of it.
 */
export function compileStrictly(directory: string): (name: string) => Promise<Skeleton> {
  writeFileSync(join(directory, 'package.json'), '{ "type": "module" }\n');
  const compilerOptions = {
    target: 'ES2023',
    module: 'NodeNext',
    moduleResolution: 'NodeNext',
    lib: ['ES2023'],
    types: ['node'],
    strict: true,
    noUncheckedIndexedAccess: true,
    exactOptionalPropertyTypes: true,
    noImplicitOverride: true,
    noPropertyAccessFromIndexSignature: true,
    noUnusedLocals: true,
    noUnusedParameters: true,
    verbatimModuleSyntax: true,
    isolatedModules: true,
    declaration: true,
    skipLibCheck: true,
    rootDir: '.',
    outDir: 'out',
  };
  writeFileSync(join(directory, 'tsconfig.json'), JSON.stringify({ compilerOptions, include: ['*.ts'] }));
  const tsc = createRequire(import.meta.url).resolve('typescript/bin/tsc');
  try {
    execFileSync(process.execPath, [tsc, '-p', directory], { encoding: 'utf8' });
  } catch (error) {
    throw new Error(`tsc --strict: ${(error as { stdout: string }).stdout.slice(0, 4000)}`);
  }
  return (name) => import(pathToFileURL(join(directory, 'out', name)).href);
}
