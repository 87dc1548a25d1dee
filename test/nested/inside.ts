/** Runs in the outer VM, started by its first process: takes the order from the virtio port, and tells there how it goes. */
import { closeSync, mkdirSync, openSync, readFileSync, readSync, readdirSync, writeFileSync, writeSync } from 'node:fs';
import { release } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { EMULATED_TRIES, emulationFault, stopCollapsingPages } from './emulation.js';
import { PORT_NAME, type News, type Order } from './messages.js';
import { runNode, steps, type Step } from './steps.js';

const root = fileURLToPath(new URL('../../../', import.meta.url));

/** The port's device, found by its name. */
function openPort(): number {
  const home = '/sys/class/virtio-ports';
  const port = readdirSync(home).find((name) => readFileSync(join(home, name, 'name'), 'utf8').trim() === PORT_NAME);
  if (port === undefined) throw new Error(`There is no virtio port ${PORT_NAME}.`);
  return openSync(join('/dev', port), 'r+');
}

/** Blocks until the whole line is there: there is nothing else to do. */
function readLine(fd: number): string {
  const chunk = Buffer.alloc(65_536);
  const parts: Buffer[] = [];
  for (;;) {
    const bytes = readSync(fd, chunk, 0, chunk.length, null);
    parts.push(Buffer.from(chunk.subarray(0, bytes)));
    if (bytes > 0 && chunk[bytes - 1] === 0x0a) return Buffer.concat(parts).toString('utf8');
  }
}

const port = openPort();

function tell(news: News): void {
  const bytes = Buffer.from(`${JSON.stringify(news)}\n`);
  for (let at = 0; at < bytes.length;) at += writeSync(port, bytes, at);
}

/** Of all steps under emulation one may fail once for no known fault of the CPU. */
let secondTryUsed = false;

async function runStep(step: Step, emulated: boolean): Promise<void> {
  tell({ type: 'step', name: step.name, limitMs: step.limitMs });
  const startedMs = performance.now();
  const limit = new AbortController();
  const timer = setTimeout(() => limit.abort(new Error(`It took longer than ${step.limitMs / 1000} s.`)), step.limitMs);
  let detail: string | undefined;
  for (let tries = 1; ; tries++) {
    let said = '';
    detail = await tryStep(step, limit.signal, (text) => {
      said += text;
      tell({ type: 'output', text });
    });
    if (detail === undefined || limit.signal.aborted || !emulated || tries === EMULATED_TRIES) break;
    let fault = emulationFault(said);
    if (fault === undefined) {
      if (!step.realTime || secondTryUsed) break;
      secondTryUsed = true;
      fault = 'it may have lost a race on its one emulated CPU';
    }
    tell({ type: 'fact', name: 'tried again', value: `${step.name}, since ${fault}` });
    tell({ type: 'output', text: `\n---- tried again, since ${fault}; it had failed: ${detail} ----\n\n` });
  }
  clearTimeout(timer);
  tell({ type: 'verdict', verdict: detail === undefined ? 'passed' : 'failed', tookMs: performance.now() - startedMs, detail: detail ?? '' });
}

/** @returns why it failed */
async function tryStep(step: Step, signal: AbortSignal, say: (text: string) => void): Promise<string | undefined> {
  let detail: string | undefined;
  try {
    await step.run({
      say,
      node: (script, ...args) => runNode(script, args, signal, say),
      fact: (name, value) => tell({ type: 'fact', name, value }),
    });
  } catch (error) {
    detail = (error as Error).message;
  }
  if (!signal.aborted) return detail;
  return `${(signal.reason as Error).message}${detail === undefined ? '' : ` ${detail}`}`;
}

const order = JSON.parse(readLine(port)) as Order;
process.env['COLOPP_SLOWDOWN'] = String(order.slowdown);
if (order.emulated) stopCollapsingPages();
for (const [path, text] of Object.entries(order.replace)) {
  mkdirSync(dirname(join(root, path)), { recursive: true });
  writeFileSync(join(root, path), text);
}
const wanted = steps.filter(({ name, onDemand }) => order.only.length === 0 ? !onDemand : order.only.some((word) => name.includes(word)));
tell({ type: 'begin', kernel: `Linux ${release()}`, node: process.version, steps: wanted.map(({ name }) => name) });
for (const step of wanted) await runStep(step, order.emulated);
tell({ type: 'end' });
closeSync(port);
