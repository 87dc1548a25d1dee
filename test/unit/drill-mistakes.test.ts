/** Mistakes in drill files: each is told with its line, its column and what to write instead. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { isMap, isPair, parseDocument, visit, type Pair, type Scalar } from 'yaml';
import { DrillFileError, parseDrill, type Problem } from '../../src/drill/read.js';
import { scriptJsonSchema } from '../../src/drill/script.js';
import { loadDrills } from '../../src/drill/shipped.js';

const header = 'drill: x\nproves: That mistakes are told.\n';

function problemsOf(text: string): readonly Problem[] {
  try {
    parseDrill(text, 'x.yaml');
  } catch (error) {
    assert.instance(error, DrillFileError);
    return (error as DrillFileError).problems;
  }
  throw new Error(`No mistake was found in:\n${text}`);
}

/** The mistake is told at the `^` below the line that has it. */
function marked(text: string, what: RegExp, suggestion: RegExp, before = header): void {
  const lines = text.split('\n');
  const mark = lines.findIndex((line) => /^ *\^$/.test(line));
  const column = lines[mark]!.indexOf('^') + 1;
  lines.splice(mark, 1);
  const [problem] = problemsOf(before + lines.join('\n'));
  assert.match(problem!.what, what);
  assert.match(problem!.suggestion, suggestion);
  assert.equal([problem!.line, problem!.column], [before.split('\n').length - 1 + mark, column], problem!.what);
}

const cases: Record<string, [string, RegExp, RegExp]> = {
  'an unknown step': ['steps:\n  - startLaod\n    ^', /there is no "startLaod"/, /Did you mean "startLoad"\?/],
  'an unknown step with something behind it': ['steps:\n  - slep: 1s\n    ^', /unknown key "slep"/, /Did you mean "sleep"\?/],
  'a step unlike any other': ['steps:\n  - dance: now\n    ^', /unknown key "dance"/, /There are: sleep, waitUntil, .*startLoad/],
  'a step that needs more': ['steps:\n  - kill\n    ^', /"kill" needs more/, /kill: \{ host: primary, what: host \}/],
  'a step that needs nothing more': ['steps:\n  - heal: {}\n    ^', /"heal" needs nothing more/, /Write only: heal/],
  'a step with nothing behind it': ['steps:\n  - sleep:\n          ^', /must be a time/, /sleep: 1s\.\.2s/],
  'an empty step': ['steps:\n  -\n   ^', /nothing stands here/, /startLoad, .*sleep/],
  'two steps in one': ['steps:\n  - sleep: 1s\n    heal:\n    ^', /"heal" does not belong|unknown key "heal"/, /- heal|There are: sleep/],
  'a missing part': ['steps:\n  - kill: { host: a }\n          ^', /"what" is missing/, /what: host/],
  'a misspelt part': ['steps:\n  - kill: { host: a, what: agent, hots: b }\n                                  ^', /unknown key "hots"/, /Did you mean "host"\?/],
  'a misspelt value': ['steps:\n  - kill: { host: a, what: agnet }\n                           ^', /there is no "agnet"/, /Did you mean "agent"\?/],
  'an unknown host': ['steps:\n  - kill: { host: c, what: agent }\n                  ^', /there is no "c"/, /Did you mean "a"\?/],
  'a time without a unit': ['steps:\n  - sleep: 3\n           ^', /must be a time with its unit/, /sleep: 1s\.\.2s/],
  'a time with a strange unit': ['steps:\n  - sleep: 3 weeks\n           ^', /must be a time with its unit/, /sleep: 1s\.\.2s/],
  'a time beyond all bounds': ['steps:\n  - sleep: 100min\n           ^', /10 min at most/, /sleep:/],
  'a span that ends before it begins': ['steps:\n  - sleep: 2s..1s\n           ^', /ends before it begins/, /sleep: 1s\.\.2s/],
  'a share above all': ['lab: { preRelease: true }\nsteps:\n  - impair: { traffic: mirror, host: a, drop: 200% }\n                                              ^', /percentage from 0% to 100%/, /drop: 10%/],
  'an unknown metric': ['steps:\n  - waitUntil: { metric: checkpoints.commit, host: a, atLeast: 1, within: 1s }\n                         ^', /there is no "checkpoints.commit"/, /Did you mean "checkpoints.commits"\?/],
  'a metric without bounds': ['steps:\n  - waitUntil: { metric: generation, host: a, within: 1s }\n               ^', /needs atLeast, atMost or both/, /Write for example/],
  'too large a number': ['lab: { vcpus: 99 }\n              ^\nsteps: [sleep: 1s]', /at most 8/, /vcpus: 2/],
  'a word for a number': ['load: { writers: many }\n                 ^\nsteps: [startLoad]', /must be a number, not "many"/, /writers: 4/],
  'a word for true': ['quick: maybe\n       ^\nsteps: [sleep: 1s]', /must be true or false/, /quick: true/],
  'a text for a list': ['steps: sleep\n       ^', /must be a list/, /steps: \[startLoad, sleep: 1s\]/],
  'no steps at all': ['steps: []\n       ^', /at least 1 entries/, /Write for example/],
  'a file of something else': ['vm: { memoryMiB: 4 }\n^\nsteps: [sleep: 1s]', /unknown key "vm"/, /There are: drill, proves/],
  'a mistake in the configuration': ['lab: { agent: { heartbeat: { interval: 5 } } }\n                             ^\nsteps: [sleep: 1s]', /unknown key "interval"/, /Did you mean "intervalMs"|There are: intervalMs/],
  'a step that undoes nothing': ['steps:\n  - thaw\n    ^', /"thaw" has nothing to do here/, /"freeze" before it/],
  'a return of a host that was not lost': ['steps:\n  - kill: { host: a, what: host }\n  - bringBack: { host: b }\n    ^', /"bringBack" has nothing to do here/, /"kill".*"stop", about host b before it/],
  'a second return of the same host': ['steps:\n  - stop: { host: b }\n  - bringBack: { host: b }\n  - bringBack\n    ^', /"bringBack" has nothing to do here/, /"kill"/],
  'a return after the loss of QEMU alone': ['steps:\n  - kill: { host: a, what: qemu }\n  - bringBack\n    ^', /"bringBack" has nothing to do here/, /"kill" of an agent or a host/],
  'a list for a step': ['steps:\n  - [sleep, 1s]\n    ^', /cannot be \["sleep","1s"\]/, /Write for example: sleep: 1s\.\.2s/],
  'a number for a step': ['steps:\n  - 5\n    ^', /cannot be 5/, /There are: startLoad, .*sleep/],
  'a host of a pair that nobody can ask': ['pair: { agents: { a: /x } }\nsteps: [{ failover: { askedAt: b } }]\n        ^', /"b" cannot be asked/, /b: \/run\/colopp\/agent-b\.sock/],
  'a secondary of a pair that nobody can ask': ['pair: { agents: { a: /x } }\nsteps: [{ waitUntil: { host: secondary, state: silent, within: 1s } }]\n        ^', /"secondary" cannot be asked/, /b: \/run/],
  'a metric of a host that nobody can ask': ['pair: { agents: { a: /x } }\nsteps: [checkpoint]\nexpect:\n  metrics:\n    - { host: b, metric: generation, atLeast: 1 }\n      ^', /"b" cannot be asked/, /b: \/run/],
  'a second load': ['steps: [startLoad, startLoad]\n                   ^', /the load runs already/, /stopLoad/],
  'a load of nobody': ['load: { writers: 0, readers: 0 }\nsteps: [startLoad]\n        ^', /a load of no clients/, /writers: 2/],
  'a mirror that is none': ['steps:\n  - impair: { traffic: mirror, host: a, drop: 1% }\n            ^', /nothing is mirrored/, /preRelease: true/],
  'a bad cable that is a good one': ['steps:\n  - impair: { traffic: client, host: a }\n            ^', /a good one/, /drop: 10%/],
  'a delay where there can be none': ['steps:\n  - impair: { traffic: client, host: a, delay: 5ms }\n            ^', /can be late/, /direction: from/],
  'a disk that is not ours to fill': ['steps:\n  - fillDisk: { host: a }\n    ^', /disk is that of this machine/, /diskMiB: 16/],
  'a state of one host': ['steps:\n  - waitUntil: { state: fenced, within: 1s }\n               ^', /a state of one host/, /host: b/],
  'a lab and a pair': ['lab: {}\npair: { agents: { a: /x } }\n^\nsteps: [checkpoint]', /a lab or a pair/, /Remove one/],
  'a pair that is to be killed': ['pair: { agents: { a: /x } }\nsteps: [{ kill: { host: a, what: host } }]\n        ^', /in a lab only/, /Remove "pair"/],
  'a load nobody can place': ['pair: { agents: { a: /x } }\nsteps: [startLoad]\n        ^', /nobody knows where/, /service: \{ address/],
  'a relative path': ['pair: { agents: { a: agent.sock } }\n                     ^\nsteps: [checkpoint]', /must be an absolute path/, /a: \/run/],
  'an address that is none': ['pair: { agents: { a: /x }, service: { address: here } }\n                                               ^\nsteps: [startLoad]', /must be an IP address/, /address: 10\.0\.0\.5/],
  'a takeover that nothing causes': ['steps: [startLoad]\nexpect:\n  takeovers: 1\n  ^', /nothing in this drill can cause/, /kill:/],
  'a silence that nobody hears': ['steps: [sleep: 1s]\nexpect:\n  longestSilence: 1s\n  ^', /without clients/, /startLoad/],
  'connections that are never made': ['steps: [sleep: 1s]\nexpect:\n  connectionsSurvive: true\n  ^', /without clients "connectionsSurvive"/, /startLoad/],
  'writes that nobody does': ['steps: [sleep: 1s]\nexpect:\n  writesKept: true\n  ^', /without clients "writesKept"/, /startLoad/],
  'writes of readers': ['load: { writers: 0 }\nsteps: [startLoad]\nexpect:\n  writesKept: true\n  ^', /nobody writes/, /writers: 2/],
  'one active host of a pair': ['pair: { agents: { a: /x } }\nsteps: [checkpoint]\nexpect: { oneActive: true }\n          ^', /only a lab's is watched/, /Remove it/],
  'expectations that contradict each other': ['steps: [failover]\nexpect: { takeovers: 0, takeoverWithin: 1s }\n                        ^', /contradicts/, /Remove one/],
  'a wire that nobody watches': ['pair: { agents: { a: /x } }\nsteps: [failover]\nexpect: { takeovers: 1 }\n          ^', /only a lab's is watched/, /Remove it/],
  'a key twice': ['steps: [sleep: 1s]\nsteps: []\n^', /unique/, /Keep one/],
  'a tab': ['steps:\n\t- sleep: 1s\n^', /[Tt]ab/, /spaces/],
  'an open bracket': ['steps: [startLoad\n\n^', /not valid YAML/, /bracket/],
  'an alias of nothing': ['steps: *there\n       ^', /Unresolved alias/, /quotes/],
};

for (const [name, [text, what, suggestion]] of Object.entries(cases)) test(name, () => marked(text, what, suggestion));

test('drills that are right although they look like mistakes', () => {
  for (const text of [
    'steps:\n  - kill: { host: primary, what: host }\n  - bringBack: { host: a }\n',
    'steps:\n  - kill: { host: a, what: agent }\n  - kill: { host: b, what: host }\n  - bringBack: { host: b }\n  - bringBack\n',
    'lab: { agent: { mode: auto } }\nsteps:\n  - impair: { traffic: mirror, host: a, drop: 1% }\n',
    'lab: { agent: { secondary: active } }\nsteps:\n  - impair: { traffic: mirror, host: a, drop: 1% }\n',
    'pair: { agents: { a: /x } }\nsteps: [failover, { waitUntil: { host: a, state: silent, within: 1s } }]\nexpect: { oneActive: false, writesKept: false }\n',
  ]) parseDrill(header + text, 'x.yaml');
});

test('a missing step list, and a missing name', () => {
  assert.equal(problemsOf('load: {}\n').map(({ line, column, what }) => ({ line, column, what })), ['drill', 'proves', 'steps'].map((key) => ({ line: 1, column: 1, what: `"${key}" is missing` })));
});

test('an empty file', () => {
  assert.match(problemsOf('')[0]!.what, /empty/);
  assert.match(problemsOf('just words')[0]!.what, /must be a map/);
});

test('all mistakes are told, in the order of the file', () => {
  const problems = problemsOf(`${header}steps:\n  - slep: 1s\n  - kill: { host: x }\nexpect: { oneActiv: true }\n`);
  assert.equal(problems.map(({ line }) => line), [4, 5, 5, 6]);
});

test('control characters and huge values do not get into messages', () => {
  const [problem] = problemsOf(`${header}steps:\n  - sleep: "${'x'.repeat(10_000)}"\n`);
  assert.ok(problem!.what.length < 200);
});

// ---- every word of every drill that comes with colopp, misspelt --------------------

const folder = fileURLToPath(new URL('../../../src/drill/drills/', import.meta.url));
const shipped = readdirSync(folder).map((name) => ({ name, text: readFileSync(`${folder}${name}`, 'utf8') }));

/** Keys and words of a file, with their place. */
function wordsOf(text: string): { value: string; at: number; isKey: boolean }[] {
  const words: { value: string; at: number; isKey: boolean }[] = [];
  visit(parseDocument(text), {
    Scalar(key, node: Scalar, path) {
      const parent = path.at(-1);
      const isKey = key === 'key';
      const name = !isKey && isPair(parent) ? String(((parent as Pair).key as Scalar).value) : '';
      if (!['proves', 'drill'].includes(name)) words.push({ value: String(node.value), at: node.range![0], isKey });
    },
  });
  return words;
}

for (const { name, text } of shipped) {
  test(`${name}: each word misspelt is found where it stands`, () => {
    for (const { value, at, isKey } of wordsOf(text)) {
      const wrong = `${text.slice(0, at)}${value}qq${text.slice(at + value.length)}`;
      const place = { line: text.slice(0, at).split('\n').length, column: at - text.lastIndexOf('\n', at - 1) };
      const problems = problemsOf(wrong);
      const found = problems.find(({ line, column }) => line === place.line && column === place.column);
      assert.ok(found, `${name}: ${isKey ? 'the key' : 'the value'} ${value}qq at ${place.line}:${place.column}, told: ${JSON.stringify(problems)}`);
      for (const problem of problems) assert.ok(problem.suggestion.length > 5);
    }
  });

  test(`${name}: each key left out that must be there is missed`, () => {
    const document = parseDocument(text);
    visit(document, {
      Pair(_key, pair, path) {
        const map = path.at(-1);
        const key = String((pair.key as Scalar).value);
        if (!isMap(map) || !['drill', 'proves', 'steps', 'host', 'what', 'state', 'within', 'metric', 'network', 'traffic', 'frame'].includes(key)) return;
        if (key === 'host' && map.has('state')) return; // there it may be left out
        const { items } = map;
        map.items = items.filter((item) => item !== pair);
        const problems = problemsOf(String(document));
        map.items = items;
        assert.ok(problems.some(({ what, suggestion }) => /missing|needs|cannot be|has nothing|is a state/.test(what) && suggestion !== ''), `${key}: ${JSON.stringify(problems)}`);
        return undefined;
      },
    });
  });
}

test('those that come with colopp are right, have different names, and cover much', () => {
  const drills = shipped.map(({ name, text }) => parseDrill(text, name));
  assert.ok(drills.length >= 12);
  assert.equal(shipped.map(({ name }) => name), drills.map(({ drill }) => `${drill}.yaml`));
  assert.is(new Set(drills.map(({ proves }) => proves)).size, drills.length);
  for (const { proves } of drills) assert.match(proves, /^[A-Z].*\.$/);
  assert.ok(drills.some(({ quick }) => quick));
});

test('the schema for editors knows every key', () => {
  const schema = JSON.stringify(scriptJsonSchema());
  for (const { text } of shipped) {
    for (const { value, isKey } of wordsOf(text)) if (isKey) assert.ok(schema.includes(`"${value}"`), value);
  }
});

// ---- files and folders ---------------------------------------------------------

function inFolder(files: Record<string, string>, check: (folder: string) => void): void {
  const folder = mkdtempSync(join(tmpdir(), 'colopp-drills-'));
  try {
    for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text);
    check(folder);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

const right = `${header}steps: [sleep: 1s]\n`;
const wrong = `${header}steps: [slep: 1s]\n`;

test('of a folder every wrong file is told, and of several words every one', () => {
  inFolder({ '1.yaml': wrong, '2.yaml': right, '3.yml': wrong, 'notes.txt': 'none' }, (folder) => {
    assert.throws(() => loadDrills([folder, 'no-such-drill', 'host-lost']), (error: Error & { code: string }) => {
      assert.equal(error.message.split('\n').map((line) => line.slice(0, line.indexOf(': '))), [`${join(folder, '1.yaml')}:3:9`, `${join(folder, '3.yml')}:3:9`, 'no-such-drill:1:1']);
      return error.code === 'DRILL_FILE';
    });
  });
});

test('a folder is read in the order of its names, and one without a drill is told', () => {
  inFolder({ 'b.yaml': right, 'a.yml': right }, (folder) => {
    assert.equal(loadDrills([folder, 'host-lost']).map(({ file }) => file.slice(file.lastIndexOf('/') + 1)), ['a.yml', 'b.yaml', 'host-lost.yaml']);
  });
  inFolder({ 'notes.txt': right }, (folder) => {
    assert.throws(() => loadDrills([folder]), new RegExp(`${folder}:1:1: no file in this folder is a drill\\. `));
  });
});

test.run();
