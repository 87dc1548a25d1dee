import type { Btf, BtfType } from './btf.js';
import { LoaderError } from './errors.js';
import { mapTypeName } from './map-types.js';

/** What the declaration of a map says. */
export interface MapDefinition {
  readonly type: string;
  readonly typeNumber: number;
  readonly keyBytes: number;
  readonly valueBytes: number;
  readonly maxEntries: number;
  readonly flags: number;
  /** BTF types of key and value; 0 where the declaration gives none. */
  readonly keyType: number;
  readonly valueType: number;
}

type Struct = BtfType & { kind: 'struct' | 'union' };

/** The declaration of a BTF-defined map: each member's *type* carries a number or a type. */
export function mapDefinition(btf: Btf, mapName: string, struct: Struct): MapDefinition {
  let typeNumber = 0;
  let keyBytes = 0;
  let valueBytes = 0;
  let keyType = 0;
  let valueType = 0;
  let maxEntries = 0;
  let flags = 0;
  for (const member of struct.members) {
    switch (member.name) {
      case 'type':
        typeNumber = numberIn(btf, mapName, member.name, member.type);
        break;
      case 'max_entries':
        maxEntries = numberIn(btf, mapName, member.name, member.type);
        break;
      case 'map_flags':
        flags = numberIn(btf, mapName, member.name, member.type);
        break;
      case 'key_size':
        keyBytes = numberIn(btf, mapName, member.name, member.type);
        break;
      case 'value_size':
        valueBytes = numberIn(btf, mapName, member.name, member.type);
        break;
      case 'key':
        keyType = pointeeOf(btf, mapName, member.name, member.type);
        keyBytes = btf.sizeOf(keyType);
        break;
      case 'value':
        valueType = pointeeOf(btf, mapName, member.name, member.type);
        valueBytes = btf.sizeOf(valueType);
        break;
      case 'values':
        // Maps in a map or programs in a map: the value is a descriptor.
        valueBytes = 4;
        break;
      default:
        break;
    }
  }
  return { type: mapTypeName(typeNumber), typeNumber, keyBytes, valueBytes, maxEntries, flags, keyType, valueType };
}

function badMap(mapName: string, field: string): LoaderError {
  return new LoaderError(
    'MALFORMED_BTF',
    `The map "${mapName}" declares "${field}" in a form that is not known: use __uint(), __ulong() or __type().`,
  );
}

/** `int (*name)[VALUE]` (__uint) or `enum { x = VALUE } name` (__ulong). */
function numberIn(btf: Btf, mapName: string, field: string, id: number): number {
  const type = btf.get(btf.resolve(id));
  if (type.kind === 'enum' && type.values.length === 1) return Number(type.values[0]?.value);
  const array = type.kind === 'ptr' ? btf.get(btf.resolve(type.type)) : undefined;
  if (array?.kind !== 'array') throw badMap(mapName, field);
  return array.length;
}

function pointeeOf(btf: Btf, mapName: string, field: string, id: number): number {
  const type = btf.get(btf.resolve(id));
  if (type.kind !== 'ptr') throw badMap(mapName, field);
  return type.type;
}
