/** A gate that the kernel must refuse, to see that the nested tests notice, and say what the verifier says. */
import { cpSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { build } from 'bpf-ts-loader';

const SKELETON = 'dist/src/dataplane/skel/gate.skel.js';
/** A look-up may find nothing; what it returns must not be used unseen. */
const CHECK = 'if (c) {';
const NO_CHECK = '{';
const EMBEDDED = /const objectBase64 = `[^`]*`/;

/** Compiles the gate without a check that the verifier demands. @returns the files of the checkout to replace by it */
export async function breakGate(root: string): Promise<Record<string, string>> {
  const folder = join(root, 'build/nested/broken');
  rmSync(folder, { recursive: true, force: true });
  cpSync(join(root, 'bpf'), folder, { recursive: true });
  const source = join(folder, 'gate.bpf.c');
  const good = readFileSync(source, 'utf8');
  if (!good.includes(CHECK)) throw new Error(`There is no "${CHECK}" in bpf/gate.bpf.c any more: name another check to leave out in break-bpf.ts.`);
  writeFileSync(source, good.replace(CHECK, NO_CHECK));
  const { objects } = await build({ dir: folder });
  const gate = objects.find(({ name }) => name === 'gate');
  if (!gate) throw new Error(`No gate was built in ${folder}.`);
  const base64 = readFileSync(gate.object).toString('base64');
  const skeleton = readFileSync(join(root, SKELETON), 'utf8');
  if (!EMBEDDED.test(skeleton)) throw new Error(`${SKELETON} does not embed its object as it used to.`);
  return { [SKELETON]: skeleton.replace(EMBEDDED, () => `const objectBase64 = \`${base64}\``) };
}
