/** What passes through the virtio port between the runner on the host and the tests in the outer VM: a line of JSON each. */

/** Name of the port, on both sides. */
export const PORT_NAME = 'colopp.tests';

/** The runner's one message: what to do. */
export interface Order {
  /** Steps whose names hold one of these words; none: all. */
  only: readonly string[];
  /** See COLOPP_SLOWDOWN. */
  slowdown: number;
  /** The outer VM's CPU is emulated. */
  emulated: boolean;
  /** Files of the project to replace before anything runs: text by path below its root. */
  replace: Readonly<Record<string, string>>;
}

/** How a step ended. */
export type Verdict = 'passed' | 'failed';

export type News =
  /** The first of all; `steps` are what will be done. */
  | { type: 'begin'; kernel: string; node: string; steps: readonly string[] }
  | { type: 'step'; name: string; limitMs: number }
  /** What the running step prints. */
  | { type: 'output'; text: string }
  /** One figure or fact for the head of the report. */
  | { type: 'fact'; name: string; value: string }
  /** The running step has ended; `detail` says why it failed. */
  | { type: 'verdict'; verdict: Verdict; tookMs: number; detail: string }
  | { type: 'end' };

const TYPES: readonly string[] = ['begin', 'step', 'output', 'fact', 'verdict', 'end'] satisfies News['type'][];
const LINE_LIMIT_BYTES = 4 * 1024 * 1024;

/** Cuts a stream into messages. What is no message is handed to `onNoise`. */
export class NewsReader {
  #rest = '';

  constructor(
    private readonly onNews: (news: News) => void,
    private readonly onNoise: (line: string) => void,
  ) {}

  feed(text: string): void {
    const lines = (this.#rest + text).split('\n');
    this.#rest = lines.pop() ?? '';
    if (this.#rest.length > LINE_LIMIT_BYTES) lines.push(this.#rest.slice(0, 200));
    if (this.#rest.length > LINE_LIMIT_BYTES) this.#rest = '';
    for (const line of lines) {
      const news = parse(line);
      if (news === undefined) this.onNoise(line);
      else this.onNews(news);
    }
  }
}

function parse(line: string): News | undefined {
  try {
    const value = JSON.parse(line) as { type?: unknown };
    return TYPES.includes(String(value.type)) ? value as News : undefined;
  } catch {
    return undefined;
  }
}
