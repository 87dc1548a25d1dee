/**
 * Skeletons against those of bpftool, which stands on libbpf itself: the same maps, programs and
 * globals, of the same sizes, at the same places. And what bpftool refuses is refused.
 */
import { copyFileSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { build, generate, LoaderError, parseObject, type ObjectModel } from 'bpf-ts-loader';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { bpftool } from './bpftool.js';
import { compileStrictly, fixtures, scratch } from './skeleton-support.js';

const directory = scratch('skeleton-bpftool');

/** What a C skeleton declares: the members of its struct, in order. */
function cSkeleton(object: string): { maps: string[]; programs: string[]; globals: string[] } {
  const text = bpftool('gen', 'skeleton', object, 'name', 'skel');
  const pointers = (name: string): string[] => {
    const block = new RegExp(`\\tstruct \\{\\n([^}]*)\\n\\t\\} ${name};`).exec(text)?.[1] ?? '';
    return [...block.matchAll(/\*([^;]+);/g)].map(([, member]) => member as string);
  };
  const globals = [...text.matchAll(/sizeof\(s->(\w+)->(\w+)\) == (\d+)/g)].map(
    ([, section, name, bytes]) => `${section}.${name}: ${bytes} bytes`,
  );
  return { maps: pointers('maps'), programs: pointers('progs'), globals };
}

interface BtfDump {
  types: { id: number; kind: string; name: string; linkage?: string; vars?: { type_id: number; offset: number }[] }[];
}

/** Offsets of globals as libbpf's static linker lays them down. */
function linkedOffsets(object: string): Map<string, number> {
  const linked = `${object}.linked`;
  bpftool('gen', 'object', linked, object);
  const { types } = JSON.parse(bpftool('-j', 'btf', 'dump', 'file', linked)) as BtfDump;
  const offsets = new Map<string, number>();
  for (const section of types.filter(({ kind }) => kind === 'DATASEC')) {
    for (const { type_id, offset } of section.vars ?? []) {
      const variable = types.find(({ id }) => id === type_id);
      if (variable?.linkage === 'global') offsets.set(`${section.name} ${variable.name}`, offset);
    }
  }
  return offsets;
}

function ours(model: ObjectModel): { maps: string[]; programs: string[]; globals: string[] } {
  return {
    maps: model.maps.map(({ name }) => name),
    programs: model.programs.map(({ name }) => name),
    globals: model.sections.flatMap(({ name, variables }) =>
      variables.map((variable) => `${name}.${variable.name}: ${variable.bytes} bytes`),
    ),
  };
}

function agree(object: string): void {
  const model = parseObject(readFileSync(object));
  const theirs = cSkeleton(object);
  assert.ok(theirs.programs.length > 0, 'bpftool shows programs');
  assert.equal(ours(model), theirs);
  const offsets = linkedOffsets(object);
  for (const { section, variables } of model.sections) {
    // libbpf itself lays out .kconfig when it opens the object: see skeleton-runtime.test.ts.
    if (section === '.kconfig') continue;
    for (const { name, offset } of variables)
      assert.is(offset, offsets.get(`${section} ${name}`), `${section} ${name}`);
  }
}

for (const file of readdirSync(fixtures))
  if (file.endsWith('.bpf.c')) copyFileSync(join(fixtures, file), join(directory, file));
await build({ dir: directory });
const parts = scratch('skeleton-bpftool-parts');
/** part_two refers to a variable of part_one, and so opens only once they are linked. */
await build({ dir: join(fixtures, 'linked'), outObj: parts, outTs: parts });
const linked = join(directory, 'linked.bpf.o');
bpftool('gen', 'object', linked, join(parts, 'part_one.bpf.o'), join(parts, 'part_two.bpf.o'));
writeFileSync(join(directory, 'linked.skel.ts'), generate(readFileSync(linked), { file: linked }));

for (const name of ['shapes', 'globals', 'maps', 'kernel', 'arena', 'ops', 'linked']) {
  test(`${name}: maps, programs and globals are those of bpftool's skeleton`, () =>
    agree(join(directory, `${name}.bpf.o`)));
}

test('all skeletons compile under --strict, and fit their objects', async () => {
  const load = compileStrictly(directory);
  for (const [name, open] of [
    ['shapes', 'openShapes'],
    ['globals', 'openGlobals'],
    ['maps', 'openMaps'],
    ['kernel', 'openKernel'],
    ['arena', 'openArena'],
    ['ops', 'openOps'],
    ['linked', 'openLinked'],
  ] as const) {
    const specs = (await load(`${name}.skel.js`))[open]();
    assert.is(Object.keys(specs.maps).length, specs.object.maps.size, name);
    assert.is(Object.keys(specs.programs).length, specs.object.programs.size, name);
    for (const section of Object.values(specs.globals)) {
      for (const variable of Object.values(section as object)) {
        // Whatever the type, its codec takes what it gives.
        const value = variable.get();
        if (variable.set !== undefined && section !== specs.globals.kconfig) variable.set(value);
      }
    }
    specs.close();
  }
});

test('two types of one name both have theirs', async () => {
  const text = readFileSync(join(directory, 'linked.skel.ts'), 'utf8');
  assert.match(text, /export interface Point \{/);
  assert.match(text, /export interface Point_2 \{/);
  assert.match(text, /there: this\.variable\('\.data', Point_2, 24\)/);
});

for (const [name, code, message] of [
  ['static_program', 'STATIC_PROGRAM', /"forgotten" in section "tc" is static.*drop "static"/],
  ['static_map', 'STATIC_MAP', /"counts\.local" is static.*outside of functions/],
  ['legacy_maps', 'LEGACY_MAPS', /legacy section "maps".*define them in section "\.maps"/],
] as const) {
  test(`${name}: refused, with what to do`, async () => {
    const refused = scratch(`skeleton-${name}`);
    copyFileSync(join(fixtures, 'refused', `${name}.bpf.c`), join(refused, `${name}.bpf.c`));
    try {
      await build({ dir: refused });
      assert.unreachable('it was built');
    } catch (error) {
      assert.instance(error, LoaderError);
      assert.is((error as LoaderError).code, code);
      assert.match((error as LoaderError).message, message);
    }
    assert.throws(() => bpftool('gen', 'skeleton', join(refused, `${name}.bpf.o`)), /not supported/, 'so does libbpf');
  });
}

test.run();
