import type { Btf } from '../btf.js';

const MAX_DEPTH = 8;
const MAX_PARAMS = 12;

/** The C declaration of `name` with type `id`, as in `const struct event *(*name[4])(int)`. */
export function cDeclaration(btf: Btf, id: number, name = ''): string {
  return declare(btf, id, name, 0, false).trimEnd();
}

/** `isParam`: inside a function's parameters, where functions are shown without their own. */
function declare(btf: Btf, id: number, inner: string, depth: number, isParam: boolean): string {
  if (depth > MAX_DEPTH) return `... ${inner}`;
  const type = btf.get(id);
  switch (type.kind) {
    case 'void':
      return `void ${inner}`;
    case 'int':
    case 'float':
    case 'typedef':
      return `${type.name} ${inner}`;
    case 'struct':
    case 'union':
    case 'enum':
      return `${type.kind} ${type.name || '{...}'} ${inner}`;
    case 'fwd':
      return `${type.union ? 'union' : 'struct'} ${type.name} ${inner}`;
    case 'ptr':
      return declare(btf, type.type, `*${inner}`, depth + 1, isParam);
    case 'array': {
      const bracketed = inner.startsWith('*') ? `(${inner})` : inner;
      return declare(btf, type.type, `${bracketed}[${type.length}]`, depth + 1, isParam);
    }
    case 'func_proto': {
      const bracketed = inner.startsWith('*') ? `(${inner})` : inner;
      return declare(
        btf,
        type.returns,
        `${bracketed}(${isParam ? '...' : params(btf, type.params, depth)})`,
        depth + 1,
        isParam,
      );
    }
    case 'const':
    case 'volatile':
    case 'restrict': {
      // A qualifier of a pointer stands after the star, of anything else before the type.
      const target = btf.get(type.type);
      if (target.kind === 'ptr') return declare(btf, target.type, `*${type.kind} ${inner}`, depth + 1, isParam);
      return `${type.kind} ${declare(btf, type.type, inner, depth + 1, isParam)}`;
    }
    case 'type_tag':
      return declare(btf, type.type, inner, depth + 1, isParam);
    default:
      return `${type.name} ${inner}`;
  }
}

function params(btf: Btf, all: readonly { type: number }[], depth: number): string {
  const shown = all
    .slice(0, MAX_PARAMS)
    .map(({ type }) => (type === 0 ? '...' : declare(btf, type, '', depth + 2, true).trimEnd()));
  return [...shown, ...(all.length > MAX_PARAMS ? ['...'] : [])].join(', ') || 'void';
}
