import { LoaderError } from './errors.js';
import { StringTable } from './strings.js';

/** One section of an ELF file. `bytes` is a view into the file; empty where the file holds none. */
export interface Section {
  readonly index: number;
  readonly name: string;
  readonly type: number;
  readonly flags: number;
  /** Size in memory; for `.bss` the file holds no bytes of it. */
  readonly size: number;
  readonly bytes: Uint8Array;
}

/** One symbol. `section` is the index of its section, or one of the SHN_* values. */
export interface ElfSymbol {
  readonly name: string;
  readonly binding: number;
  readonly type: number;
  readonly visibility: number;
  readonly section: number;
  readonly value: number;
  readonly size: number;
}

export interface ElfFile {
  readonly sections: readonly Section[];
  readonly symbols: readonly ElfSymbol[];
}

export const SHT_PROGBITS = 1;
export const SHT_SYMTAB = 2;
export const SHT_NOBITS = 8;
export const SHF_EXECINSTR = 4;
export const SHN_UNDEF = 0;
export const STB_LOCAL = 0;
export const STB_GLOBAL = 1;
export const STB_WEAK = 2;
export const STT_NOTYPE = 0;
export const STT_FUNC = 2;
export const STV_INTERNAL = 1;
export const STV_HIDDEN = 2;

const SHN_XINDEX = 0xffff;
const EM_BPF = 247;
const HEADER_BYTES = 64;
const SECTION_HEADER_BYTES = 64;
const SYMBOL_BYTES = 24;
const MAX_FILE_BYTES = 256 * 1024 * 1024;

function malformed(why: string): LoaderError {
  return new LoaderError('MALFORMED_ELF', `The object is not a well-formed ELF file: ${why}.`);
}

/** A 64-bit field as a number; what does not fit is out of any file's bounds anyway. */
function size64(view: DataView, offset: number): number {
  const value = view.getBigUint64(offset, true);
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw malformed(`a 64-bit field holds ${value}`);
  return Number(value);
}

/**
 * Parses a relocatable BPF object (ELF64, little endian). Every offset is checked against the
 * file: a damaged or hostile file gives an error.
 */
export function parseElf(file: Uint8Array): ElfFile {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  if (file.length < 4 || view.getUint32(0) !== 0x7f454c46) {
    throw new LoaderError('NOT_AN_OBJECT', 'The file is not an ELF object (it does not begin with 7f 45 4c 46).');
  }
  if (file.length > MAX_FILE_BYTES) throw malformed(`it has ${file.length} bytes, more than ${MAX_FILE_BYTES}`);
  if (file.length < HEADER_BYTES) throw malformed('it ends within its header');
  if (file[4] !== 2 || file[5] !== 1) {
    throw new LoaderError(
      'UNSUPPORTED',
      'Only 64-bit little-endian objects are supported: compile with -target bpfel.',
    );
  }
  const machine = view.getUint16(18, true);
  if (machine !== EM_BPF) {
    throw new LoaderError(
      'NOT_AN_OBJECT',
      `The ELF file is for machine ${machine}, not for BPF (${EM_BPF}): compile with -target bpf.`,
    );
  }

  const tableOffset = size64(view, 40);
  const entryBytes = view.getUint16(58, true);
  let count = view.getUint16(60, true);
  let namesIndex = view.getUint16(62, true);
  if (tableOffset === 0) return { sections: [], symbols: [] };
  if (entryBytes !== SECTION_HEADER_BYTES) throw malformed(`its section headers have ${entryBytes} bytes`);
  if (tableOffset + SECTION_HEADER_BYTES > file.length) throw malformed('its section table lies outside the file');
  // More sections than fit 16 bits: the real numbers are in the first header.
  if (count === 0) count = size64(view, tableOffset + 32);
  if (namesIndex === SHN_XINDEX) namesIndex = view.getUint32(tableOffset + 40, true);
  if (tableOffset + count * SECTION_HEADER_BYTES > file.length)
    throw malformed('its section table lies outside the file');

  const headers = Array.from({ length: count }, (_, index) => {
    const at = tableOffset + index * SECTION_HEADER_BYTES;
    const type = view.getUint32(at + 4, true);
    const offset = size64(view, at + 24);
    const size = size64(view, at + 32);
    const inFile = type !== 0 && type !== SHT_NOBITS;
    if (inFile && offset + size > file.length) throw malformed(`section ${index} lies outside the file`);
    return {
      nameOffset: view.getUint32(at, true),
      type,
      flags: size64(view, at + 8),
      size,
      link: view.getUint32(at + 40, true),
      bytes: inFile ? file.subarray(offset, offset + size) : file.subarray(0, 0),
    };
  });
  const namesHeader = headers[namesIndex];
  if (namesHeader === undefined)
    throw malformed(`its section names are in section ${namesIndex}, which does not exist`);
  const names = new StringTable(namesHeader.bytes);

  const sections = headers.map((header, index): Section => {
    const name = index === 0 ? '' : names.at(header.nameOffset);
    if (name === undefined) throw malformed(`section ${index} has no name`);
    return { index, name, type: header.type, flags: header.flags, size: header.size, bytes: header.bytes };
  });

  const [table, second] = headers.filter((header) => header.type === SHT_SYMTAB);
  if (second !== undefined) throw malformed('it has more than one symbol table');
  if (table === undefined) return { sections, symbols: [] };
  const strings = headers[table.link]?.bytes;
  if (strings === undefined) throw malformed(`its symbol names are in section ${table.link}, which does not exist`);
  return { sections, symbols: readSymbols(table.bytes, new StringTable(strings)) };
}

function readSymbols(bytes: Uint8Array, strings: StringTable): ElfSymbol[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Array.from({ length: Math.floor(bytes.length / SYMBOL_BYTES) }, (_, index) => {
    const at = index * SYMBOL_BYTES;
    const name = strings.at(view.getUint32(at, true));
    if (name === undefined) throw malformed(`symbol ${index} has no name`);
    const info = view.getUint8(at + 4);
    return {
      name,
      binding: info >> 4,
      type: info & 15,
      visibility: view.getUint8(at + 5) & 3,
      section: view.getUint16(at + 6, true),
      value: size64(view, at + 8),
      size: size64(view, at + 16),
    };
  });
}
