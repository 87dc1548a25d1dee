/** What an agent remembers: whole or not at all. */

import { spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { writeDurably } from '../../src/agent/durable-file.js';
import { StateFile } from '../../src/agent/state-file.js';

let folder: string;
test.before.each(() => { folder = mkdtempSync(join(tmpdir(), 'colopp-state-')); });
test.after.each(() => rmSync(folder, { recursive: true }));

const remembered = { role: 'primary', generation: 3, term: 2, mayRunAlone: false } as const;

test('nothing is remembered at first', () => {
  assert.is(new StateFile(folder).read(), undefined);
  assert.is(new StateFile(join(folder, 'none')).read(), undefined);
});

test('what was written is read, by another agent too', () => {
  const file = new StateFile(join(folder, 'deep', 'er'));
  file.write(remembered);
  assert.equal(new StateFile(join(folder, 'deep', 'er')).read(), remembered);
  file.write({ role: 'secondary', generation: 4, term: 2, mayRunAlone: true });
  assert.equal(file.read(), { role: 'secondary', generation: 4, term: 2, mayRunAlone: true });
  assert.is(statSync(file.path).mode & 0o777, 0o600);
  assert.is(statSync(join(folder, 'deep', 'er')).mode & 0o777, 0o700);
});

test('a write leaves one file, and replaces the old one whole', () => {
  const file = new StateFile(folder);
  file.write(remembered);
  const before = statSync(file.path).ino;
  file.write(remembered);
  assert.is.not(statSync(file.path).ino, before, 'renamed into place, not written over');
  assert.equal(readdirSync(folder), ['pair.json']);
});

test('what a crash left half written does not count', () => {
  const file = new StateFile(folder);
  file.write(remembered);
  writeFileSync(`${file.path}.new`, '{"role":"prim');
  assert.equal(file.read(), remembered);
  file.write({ ...remembered, generation: 4 });
  assert.is(file.read()!.generation, 4);
});

test('a damaged file is no empty one: it names itself and the remedy', () => {
  const file = new StateFile(folder);
  const damaged = ['', '{', 'null', '[]', '{}', JSON.stringify({ ...remembered, generation: -1 }), JSON.stringify({ ...remembered, generation: 1.5 }),
    JSON.stringify({ ...remembered, role: 'king' }), JSON.stringify({ ...remembered, mayRunAlone: 'yes' }), JSON.stringify({ ...remembered, more: 1 }), '\0'.repeat(64)];
  for (const text of damaged) {
    writeFileSync(file.path, text);
    assert.throws(() => file.read(), (error: Error) => error.message.includes(file.path) && error.message.includes('remove it'), text);
  }
});

test('a file that cannot be read is not taken for none', () => {
  const file = new StateFile(folder);
  mkdirSync(file.path);
  assert.throws(() => file.read(), /cannot be read: EISDIR/);
});

test('a write that fails says so and keeps what was there', () => {
  const file = new StateFile(folder);
  file.write(remembered);
  mkdirSync(`${file.path}.new`); // stands in the way, for root too
  assert.throws(() => file.write({ ...remembered, generation: 9 }), /EISDIR/);
  assert.equal(file.read(), remembered);
  const blocked = join(folder, 'file');
  writeFileSync(blocked, '');
  assert.throws(() => new StateFile(blocked).write(remembered), /ENOTDIR|EEXIST/);
});

test('a full disk is an error, not a loss', () => {
  const file = new StateFile(folder);
  file.write(remembered);
  symlinkSync('/dev/full', `${file.path}.new`);
  assert.throws(() => file.write({ ...remembered, generation: 9 }), /ENOSPC|EINVAL|ELOOP/);
  assert.is(JSON.parse(readFileSync(file.path, 'utf8')).generation, 3);
  assert.equal(readdirSync(folder), ['pair.json'], 'what there is no room for takes none');
  chmodSync(folder, 0o700);
});

test('a disk that takes only a part takes nothing', () => {
  const path = join(folder, 'file');
  writeDurably(path, 'old');
  // The longest file that may be written is shorter than the text, and longer than nothing.
  const script = `
    import { writeDurably } from ${JSON.stringify(new URL('../../src/agent/durable-file.js', import.meta.url).href)};
    writeDurably(${JSON.stringify(path)}, 'x'.repeat(100_000));`;
  const { status, stderr } = spawnSync('sh', ['-c', 'ulimit -f 8 && exec "$0" --input-type=module -e "$1"', process.execPath, script], { encoding: 'utf8' });
  assert.is(statSync(path).size, 'old'.length);
  assert.is(status, 1);
  assert.match(stderr, /EFBIG/);
  assert.equal(readdirSync(folder), ['file']);
});

test.run();
