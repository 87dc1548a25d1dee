// What the running kernel can do. Three answers: a probe that could not be made is not a no.
import { accessSync, constants, readFileSync } from 'node:fs';
import { helperOf, mapTypeOf, programTypeOf } from './names.js';
import { kernelConfigValue } from './kernel-config.js';
import { native } from './native.js';

export type Answer = 'yes' | 'no' | 'unknown';

/** `value` is what the configuration says, such as `y`, `m` or `250`, when the answer is yes. */
export interface KernelConfigAnswer {
  answer: Answer;
  value?: string;
}

const CAP_NET_ADMIN = 12n;
const CAP_SYS_ADMIN = 21n;
const CAP_PERFMON = 38n;
const CAP_BPF = 39n;

// Only what is certain is remembered: an unprivileged process may gain rights, a module may appear.
const certain = new Map<string, Answer>();

function remembered(key: string, find: () => Answer): Answer {
  const known = certain.get(key);
  if (known !== undefined) return known;
  const answer = find();
  if (answer !== 'unknown') certain.set(key, answer);
  return answer;
}

// Without rights every load fails, which says nothing about the kernel.
function isPrivileged(): boolean {
  const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '0';
  const has = (capability: bigint): boolean => ((BigInt(`0x${effective}`) >> capability) & 1n) === 1n;
  return has(CAP_SYS_ADMIN) || (has(CAP_BPF) && has(CAP_NET_ADMIN) && has(CAP_PERFMON));
}

function answerOf(result: number): Answer {
  if (result === 1) return 'yes';
  return result === 0 && isPrivileged() ? 'no' : 'unknown';
}

export const probe = {
  /** Whether programs of this type load: `xdp`, `sched_cls`, `lsm`, ... */
  programType(type: string | number): Answer {
    const number = programTypeOf(type);
    return remembered(`program ${number}`, () => answerOf(native.probeProgramType(number)));
  },

  /** Whether maps of this type can be created: `ringbuf`, `lpm_trie`, ... */
  mapType(type: string | number): Answer {
    const number = mapTypeOf(type);
    return remembered(`map ${number}`, () => answerOf(native.probeMapType(number)));
  },

  /** Whether programs of a type may call a helper: `helper('xdp', 'bpf_redirect_map')`. */
  helper(programType: string | number, helper: string | number): Answer {
    const program = programTypeOf(programType);
    const number = helperOf(helper);
    return remembered(`helper ${program} ${number}`, () => answerOf(native.probeHelper(program, number)));
  },

  /** Whether the kernel describes its own types, which CO-RE, fentry and tp_btf need. */
  btf(): Answer {
    try {
      accessSync('/sys/kernel/btf/vmlinux', constants.R_OK);
      return 'yes';
    } catch (error) {
      return (error as NodeJS.ErrnoException).code === 'ENOENT' ? 'no' : 'unknown';
    }
  },

  /** Whether programs can be attached to an interface by tcx. */
  tcx(): Answer {
    return native.tcxSupported() ? 'yes' : isPrivileged() ? 'no' : 'unknown';
  },

  /** An option of the kernel's configuration: `CONFIG_KPROBES`; unknown where the kernel does not tell. */
  kernelConfig(name: string): KernelConfigAnswer {
    const value = kernelConfigValue(name);
    if (value === undefined) return { answer: 'unknown' };
    return value === 'n' ? { answer: 'no' } : { answer: 'yes', value };
  },
} as const;
