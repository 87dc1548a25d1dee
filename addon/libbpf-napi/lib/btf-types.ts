// BTF as plain data: what a code generator walks. One shape per kind of the format
// (Documentation/bpf/btf.rst); ids refer to other types, 0 is void.

interface Common {
  readonly id: number;
  /** Empty when anonymous. */
  readonly name: string;
}

export interface BtfInt extends Common {
  readonly kind: 'int';
  readonly size: number;
  /** Bits in use; fewer than 8 * size only in old-style bitfields. */
  readonly bits: number;
  readonly bitOffset: number;
  readonly signed: boolean;
  readonly char: boolean;
  readonly bool: boolean;
}

export interface BtfFloat extends Common {
  readonly kind: 'float';
  readonly size: number;
}

export interface BtfArray extends Common {
  readonly kind: 'array';
  readonly elementType: number;
  readonly indexType: number;
  readonly length: number;
}

export interface BtfMember {
  readonly name: string;
  readonly type: number;
  /** From the start of the struct. */
  readonly bitOffset: number;
  /** Width of a bitfield; 0 for an ordinary member. */
  readonly bitSize: number;
}

export interface BtfComposite extends Common {
  readonly kind: 'struct' | 'union';
  readonly size: number;
  readonly members: readonly BtfMember[];
}

export interface BtfEnumValue {
  readonly name: string;
  readonly value: bigint;
}

export interface BtfEnum extends Common {
  readonly kind: 'enum' | 'enum64';
  readonly size: number;
  readonly signed: boolean;
  readonly values: readonly BtfEnumValue[];
}

export interface BtfForward extends Common {
  readonly kind: 'fwd';
  readonly of: 'struct' | 'union';
}

/** A type made from another: pointer, qualifier, typedef, type tag (its name is the tag). */
export interface BtfReference extends Common {
  readonly kind: 'ptr' | 'typedef' | 'volatile' | 'const' | 'restrict' | 'type_tag';
  readonly type: number;
}

export interface BtfFunction extends Common {
  readonly kind: 'func';
  /** Its prototype. */
  readonly type: number;
  readonly linkage: 'static' | 'global' | 'extern';
}

export interface BtfParameter {
  readonly name: string;
  /** 0 in the last place: variable arguments. */
  readonly type: number;
}

export interface BtfPrototype extends Common {
  readonly kind: 'func_proto';
  readonly returnType: number;
  readonly parameters: readonly BtfParameter[];
}

export interface BtfVariable extends Common {
  readonly kind: 'var';
  readonly type: number;
  readonly linkage: 'static' | 'global' | 'extern';
}

export interface BtfSectionVariable {
  /** Id of the variable. */
  readonly type: number;
  readonly offset: number;
  readonly size: number;
}

/** Global variables of one ELF section, such as `.bss`. */
export interface BtfSection extends Common {
  readonly kind: 'datasec';
  readonly size: number;
  readonly variables: readonly BtfSectionVariable[];
}

/** `__attribute__((btf_decl_tag("name")))` on a declaration. */
export interface BtfDeclTag extends Common {
  readonly kind: 'decl_tag';
  readonly type: number;
  /** Which member or parameter of it; -1: the declaration itself. */
  readonly component: number;
}

export type BtfType =
  | BtfInt
  | BtfFloat
  | BtfArray
  | BtfComposite
  | BtfEnum
  | BtfForward
  | BtfReference
  | BtfFunction
  | BtfPrototype
  | BtfVariable
  | BtfSection
  | BtfDeclTag
  | (Common & { readonly kind: 'void' });

export type BtfKind = BtfType['kind'];
