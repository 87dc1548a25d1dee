import { type Btf, type BtfType, parseBtf, VAR_GLOBAL } from './btf.js';
import {
  type ElfFile,
  type ElfSymbol,
  parseElf,
  type Section,
  SHF_EXECINSTR,
  SHN_UNDEF,
  SHT_NOBITS,
  SHT_PROGBITS,
  STB_GLOBAL,
  STB_LOCAL,
  STB_WEAK,
  STT_FUNC,
  STT_NOTYPE,
  STV_HIDDEN,
  STV_INTERNAL,
} from './elf.js';
import { LoaderError } from './errors.js';
import { type MapDefinition, mapDefinition } from './map-definition.js';
import { mapTypeName } from './map-types.js';
import { StringTable } from './strings.js';

/** A map of the object, as libbpf will create it. */
export interface ObjectMap extends MapDefinition {
  /** Identifier in the skeleton: the C name, or `rodata`, `data_custom`, ... for a section's map. */
  readonly name: string;
  /** Of a map of global data: the section, as libbpf calls it. */
  readonly section: string | undefined;
}

export interface ObjectProgram {
  readonly name: string;
  /** Section name: says how libbpf attaches it, as in `tp_btf/sched_switch`. */
  readonly section: string;
}

/** A global variable. `offset` counts from the start of its section. */
export interface ObjectVariable {
  readonly name: string;
  readonly type: number;
  readonly offset: number;
  readonly bytes: number;
}

/** A section of global variables, which at run time is the value of one map. */
export interface ObjectSection {
  /** Identifier in the skeleton: `rodata`, `data_custom`, ... */
  readonly name: string;
  readonly section: string;
  /** The map (an identifier out of `maps`) that holds the section. */
  readonly map: string;
  readonly bytes: number;
  /** Cannot be set in a loaded object: constants, and an arena, which is read through libbpf. */
  readonly readOnly: boolean;
  readonly variables: readonly ObjectVariable[];
}

/** What libbpf would find in an object: everything a skeleton is made of. */
export interface ObjectModel {
  readonly license: string;
  readonly maps: readonly ObjectMap[];
  readonly programs: readonly ObjectProgram[];
  readonly sections: readonly ObjectSection[];
  readonly btf: Btf | undefined;
}

const ARENA_SECTION = '.addr_space.1';
const STRUCT_OPS_SECTION = /^\??\.struct_ops(\.link)?$/;
const MAX_MAP_NAME = 15;
const MAP_TYPE_ARRAY = 2;
const MAP_TYPE_ARENA = 33;
const MAP_TYPE_STRUCT_OPS = 26;
const BPF_F_RDONLY_PROG = 1 << 7;
const BPF_F_MMAPABLE = 1 << 10;

type Datasec = BtfType & { kind: 'datasec' };

/**
 * Reads a compiled BPF object with libbpf's own rules (bpf_object__open in libbpf.c), so that maps,
 * programs and the places of variables are those that will exist at run time.
 */
export function parseObject(bytes: Uint8Array): ObjectModel {
  return new ObjectReader(parseElf(bytes)).read();
}

class ObjectReader {
  readonly #elf: ElfFile;
  readonly #btf: Btf | undefined;
  readonly #symbols = new Map<string, ElfSymbol>();
  readonly #maps: ObjectMap[] = [];
  readonly #sections: ObjectSection[] = [];
  readonly #seen = new Set<string>();

  constructor(elf: ElfFile) {
    this.#elf = elf;
    const section = elf.sections.find((candidate) => candidate.name === '.BTF');
    this.#btf = section && parseBtf(section.bytes);
    for (const symbol of elf.symbols) {
      if (symbol.binding !== STB_LOCAL && symbol.name !== '') this.#symbols.set(symbol.name, symbol);
    }
  }

  read(): ObjectModel {
    const legacy = this.#elf.sections.find((section) => section.name === 'maps');
    if (legacy !== undefined) {
      throw new LoaderError(
        'LEGACY_MAPS',
        'The object defines maps in the legacy section "maps" (struct bpf_map_def), which libbpf no longer reads: define them in section ".maps" with __uint() and __type().',
      );
    }
    const programs = this.#programs();
    this.#declaredMaps();
    this.#dataSections();
    this.#kconfig();
    this.#structOps();
    const places = new Map(this.#maps.map((map, place) => [map.name, place]));
    const place = (section: ObjectSection): number => places.get(section.map) ?? 0;
    this.#sections.sort((a, b) => place(a) - place(b));
    const license = this.#elf.sections.find((section) => section.name === 'license');
    return {
      license: license === undefined ? '' : (new StringTable(license.bytes).at(0) ?? ''),
      maps: this.#maps,
      programs,
      sections: this.#sections,
      btf: this.#btf,
    };
  }

  #programs(): ObjectProgram[] {
    const found: { name: string; section: Section; offset: number }[] = [];
    for (const symbol of this.#elf.symbols) {
      if (symbol.type !== STT_FUNC) continue;
      const section = this.#elf.sections[symbol.section];
      // Functions in .text are subprograms.
      if (section === undefined || section.name === '.text' || section.type !== SHT_PROGBITS || section.size === 0)
        continue;
      if ((section.flags & SHF_EXECINSTR) === 0) continue;
      if (symbol.binding === STB_LOCAL) {
        throw new LoaderError(
          'STATIC_PROGRAM',
          `The program "${symbol.name}" in section "${section.name}" is static, which libbpf refuses: drop "static", or drop SEC() if it is a subprogram.`,
        );
      }
      found.push({ name: symbol.name, section, offset: symbol.value });
    }
    found.sort((a, b) => a.section.index - b.section.index || a.offset - b.offset);
    return found.map((program) => ({ name: program.name, section: program.section.name }));
  }

  #declaredMaps(): void {
    if (!this.#elf.sections.some((section) => section.name === '.maps')) return;
    if (this.#btf === undefined) {
      throw new LoaderError('MALFORMED_BTF', 'The object declares maps but has no BTF: compile with -g.');
    }
    const datasec = this.#btf.section('.maps');
    if (datasec === undefined) {
      throw new LoaderError(
        'MALFORMED_BTF',
        'The object has a section ".maps" of which its BTF says nothing: compile with -g.',
      );
    }
    for (const entry of datasec.vars) {
      const variable = this.#variable(datasec, entry.type);
      if (variable.linkage !== VAR_GLOBAL) {
        throw new LoaderError(
          'STATIC_MAP',
          `The map "${variable.name}" is static, which libbpf refuses: declare it outside of functions, without "static".`,
        );
      }
      const definition = this.#btf.get(this.#btf.resolve(variable.type));
      if (definition.kind !== 'struct') {
        throw new LoaderError(
          'MALFORMED_BTF',
          `The map "${variable.name}" is declared as a ${definition.kind}, not as a struct.`,
        );
      }
      this.#maps.push({
        ...mapDefinition(this.#btf, variable.name, definition),
        name: variable.name,
        section: undefined,
      });
    }
  }

  #variable(datasec: Datasec, id: number): BtfType & { kind: 'var' } {
    const variable = this.#btf?.get(id);
    if (variable?.kind !== 'var') {
      throw new LoaderError('MALFORMED_BTF', `Section "${datasec.name}" of the BTF lists a type that is no variable.`);
    }
    return variable;
  }

  #dataSections(): void {
    for (const section of this.#elf.sections) {
      const { name } = section;
      if (section.size === 0) continue;
      if (section.type === SHT_PROGBITS && (section.flags & SHF_EXECINSTR) === 0) {
        if (name === ARENA_SECTION) this.#arena(section);
        else if (isSection(name, '.rodata')) this.#dataMap(section, true);
        else if (isSection(name, '.data')) this.#dataMap(section, false);
      } else if (section.type === SHT_NOBITS && isSection(name, '.bss')) {
        this.#dataMap(section, false);
      }
    }
  }

  #dataMap(section: Section, readOnly: boolean): void {
    // BTF knows sections by their names; a second one of a name has no variables of its own.
    const datasec = this.#seen.has(section.name) ? undefined : this.#btf?.section(section.name);
    this.#seen.add(section.name);
    const variables = datasec === undefined ? [] : this.#globals(datasec);
    this.#sectionMap(section.name, section.size, readOnly, variables);
  }

  #sectionMap(section: string, bytes: number, readOnly: boolean, variables: ObjectVariable[]): void {
    const known = mapNameOf(section);
    const name = identifier(known.slice(1));
    this.#maps.push({
      name,
      type: mapTypeName(MAP_TYPE_ARRAY),
      typeNumber: MAP_TYPE_ARRAY,
      keyBytes: 4,
      valueBytes: bytes,
      maxEntries: 1,
      // libbpf maps only sections that have a variable to show.
      flags: (readOnly ? BPF_F_RDONLY_PROG : 0) | (variables.length > 0 ? BPF_F_MMAPABLE : 0),
      keyType: 0,
      valueType: 0,
      section: known,
    });
    if (variables.length > 0) this.#sections.push({ name, section, map: name, bytes, readOnly, variables });
  }

  /** Variables in the arena's address space live at the start of the (one) arena map. */
  #arena(section: Section): void {
    const arena = this.#maps.find((map) => map.typeNumber === MAP_TYPE_ARENA);
    const datasec = this.#btf?.section(section.name);
    if (arena === undefined || datasec === undefined) return;
    const variables = this.#globals(datasec);
    if (variables.length === 0) return;
    this.#sections.push({
      name: 'arena',
      section: section.name,
      map: arena.name,
      bytes: section.size,
      readOnly: true,
      variables,
    });
  }

  /**
   * The section's variables that other files may name, by offset. clang leaves offsets zero and
   * the static linker fills them in, so they come from the symbols (btf_fixup_datasec in libbpf).
   */
  #globals(datasec: Datasec): ObjectVariable[] {
    const btf = this.#btf as Btf;
    const found: ObjectVariable[] = [];
    for (const entry of datasec.vars) {
      const variable = this.#variable(datasec, entry.type);
      if (variable.linkage !== VAR_GLOBAL) continue;
      const symbol = this.#symbols.get(variable.name);
      if (symbol === undefined) {
        throw new LoaderError(
          'MALFORMED_BTF',
          `The variable "${variable.name}" of section "${datasec.name}" has no symbol.`,
        );
      }
      if (symbol.visibility === STV_HIDDEN || symbol.visibility === STV_INTERNAL) continue;
      found.push({
        name: variable.name,
        type: variable.type,
        offset: datasec.size === 0 ? symbol.value : entry.offset,
        bytes: btf.sizeOf(variable.type),
      });
    }
    return found.sort((a, b) => a.offset - b.offset);
  }

  /** Values out of the kernel's configuration: libbpf lays them out itself and fills them in. */
  #kconfig(): void {
    const btf = this.#btf;
    const datasec = btf?.section('.kconfig');
    if (btf === undefined || datasec === undefined) return;
    const externs = datasec.vars.map((entry) => {
      const variable = this.#variable(datasec, entry.type);
      return {
        name: variable.name,
        type: variable.type,
        bytes: btf.sizeOf(variable.type),
        align: alignOf(btf, variable.name, variable.type),
      };
    });
    const undefinedNames = new Set<string>();
    for (const symbol of this.#elf.symbols) {
      const bound = symbol.binding === STB_GLOBAL || symbol.binding === STB_WEAK;
      if (symbol.section === SHN_UNDEF && symbol.type === STT_NOTYPE && bound) undefinedNames.add(symbol.name);
    }
    const used = externs.filter((variable) => undefinedNames.has(variable.name));
    // Largest alignment first, then by size, then by name (cmp_externs in libbpf).
    used.sort((a, b) => b.align - a.align || a.bytes - b.bytes || (a.name < b.name ? -1 : 1));
    let end = 0;
    const variables = used.map(({ name, type, bytes, align }): ObjectVariable => {
      const offset = Math.ceil(end / align) * align;
      end = offset + bytes;
      return { name, type, offset, bytes };
    });
    if (variables.length > 0) this.#sectionMap('.kconfig', end, true, variables);
  }

  #structOps(): void {
    const btf = this.#btf;
    if (btf === undefined) return;
    for (const section of this.#elf.sections) {
      if (!STRUCT_OPS_SECTION.test(section.name) || section.type !== SHT_PROGBITS || section.size === 0) continue;
      const datasec = btf.section(section.name);
      if (datasec === undefined) continue;
      for (const entry of datasec.vars) {
        const variable = this.#variable(datasec, entry.type);
        const type = btf.resolve(variable.type);
        this.#maps.push({
          name: variable.name,
          type: mapTypeName(MAP_TYPE_STRUCT_OPS),
          typeNumber: MAP_TYPE_STRUCT_OPS,
          keyBytes: 4,
          valueBytes: btf.sizeOf(type),
          maxEntries: 1,
          flags: 0,
          keyType: 0,
          valueType: type,
          section: undefined,
        });
      }
    }
  }
}

/**
 * What libbpf calls the map of a section. It keeps names of the `.bss.NAME` kind as short as the
 * kernel's, but not those of `.data.NAME` and `.rodata.NAME` (map_uses_real_name in libbpf.c).
 */
function mapNameOf(section: string): string {
  return section.startsWith('.bss.') ? section.slice(0, MAX_MAP_NAME).replace(/[^A-Za-z0-9_.]/g, '_') : section;
}

function isSection(name: string, base: string): boolean {
  return name === base || name.startsWith(`${base}.`);
}

function identifier(name: string): string {
  return name.replace(/[^A-Za-z0-9_]/g, '_');
}

/** Alignment of a value out of the kernel's configuration: a number, a bool, an enum or text. */
function alignOf(btf: Btf, name: string, id: number): number {
  let type = btf.get(btf.resolve(id));
  if (type.kind === 'array') type = btf.get(btf.resolve(type.type));
  if (type.kind !== 'int' && type.kind !== 'enum') {
    throw new LoaderError(
      'UNSUPPORTED',
      `The configuration value "${name}" is declared as a ${type.kind}: declare it as a number, a bool, an enum libbpf_tristate or an array of char.`,
    );
  }
  return Math.max(1, type.size);
}
