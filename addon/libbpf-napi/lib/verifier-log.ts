// Reading what libbpf prints when a program does not load.

/** One program's verifier log, taken out of libbpf's output. */
export interface VerifierLog {
  program?: string;
  text: string;
}

const begin = /^(?:libbpf: )?prog '([^']*)': -- BEGIN PROG LOAD LOG --$/;
const end = /^(?:libbpf: )?-- END PROG LOAD LOG --$/;

/** All verifier logs in `output`, in order. */
export function verifierLogs(output: string): VerifierLog[] {
  const logs: VerifierLog[] = [];
  let current: { program: string; lines: string[] } | undefined;
  for (const line of output.split('\n')) {
    const start = begin.exec(line);
    if (start !== null) {
      current = { program: start[1] ?? '', lines: [] };
    } else if (end.test(line) && current !== undefined) {
      logs.push({ program: current.program, text: current.lines.join('\n') });
      current = undefined;
    } else {
      current?.lines.push(line);
    }
  }
  return logs;
}

/** The log of the program that failed: libbpf stops there, so it is the last one. */
export function verifierLog(output: string): VerifierLog | undefined {
  return verifierLogs(output).at(-1);
}

// What the verifier prints while it walks the program: instructions, register states, source lines,
// its own bookkeeping, and the statistics at the end. An error is none of these. It is not always
// the last line: hints may follow it, and kernels differ in what they print after it.
const walk = [
  /^\s*$/,
  /^\d+: /, // an instruction, or the state before one
  /^\d+: *$/,
  /^;/, // a source line
  /^(?:from|to) \d+ to \d+/,
  /^from \d+ /,
  /^\s*R\d+(?:_\w+)?=/,
  /^\s*frame\d+:/,
  /^func#\d+ @\d+/,
  /^mark_precise:/,
  /^last_idx \d+/,
  /^regs=/,
  /^parent (?:already|didn't)/,
  /^(?:caller|callee|returning from callee|to caller at)\b/,
  /^propagating /,
  /^Func#\d+ .*is safe/,
  /^Validating .* func#\d+/,
  /^(?:reg type|live regs before insn|Live regs before insn)/i,
];
const statistics = [
  /^processed \d+ insns/,
  /^verification time \d+ usec/,
  /^stack depth /,
  /^(?:max_states_per_insn|total_states|peak_states|mark_read)/,
  /^insn stack depth/,
];

const isWalk = (line: string): boolean => walk.some((pattern) => pattern.test(line));
const isStatistics = (line: string): boolean => statistics.some((pattern) => pattern.test(line));

const MESSAGE_LINES_MAX = 6;
const LINE_CHARACTERS_MAX = 400; // a source line may be a whole expanded macro

/**
 * The lines of a verifier log that say what is wrong: the last run of messages, and before it the
 * instruction and the source line they are about.
 */
export function excerpt(log: string): string {
  const lines = log.split('\n').map((line) => line.trimEnd());
  let last = lines.length - 1;
  const says = (line: string | undefined): boolean => line !== undefined && !isWalk(line) && !isStatistics(line);
  while (last >= 0 && !says(lines[last])) last--;
  if (last < 0) return lines.filter((line) => line !== '').slice(-3).join('\n');

  let first = last;
  while (first > 0 && last - first + 1 < MESSAGE_LINES_MAX && says(lines[first - 1])) first--;
  const about: string[] = [];
  for (let i = first - 1; i >= 0 && about.length < 2; i--) {
    const line = lines[i] ?? '';
    const isInstruction = /^\d+: \(/.test(line);
    if (isInstruction && about.length === 0) about.unshift(line);
    if (line.startsWith(';')) {
      about.unshift(line);
      break;
    }
  }
  return [...about, ...lines.slice(first, last + 1)].map((line) => `  ${line.slice(0, LINE_CHARACTERS_MAX)}`).join('\n');
}
