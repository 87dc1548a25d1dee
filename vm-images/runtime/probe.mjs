import { spawn } from 'node:child_process';
import { SetupError } from '../../src/setup/errors.mjs';

const PROBE_TIMEOUT_MS = 20_000;
const OUTPUT_LIMIT_BYTES = 1024 * 1024;

/**
 * See that a QEMU starts a machine of the given type under TCG, with the network card the guests use, and that its
 * monitor answers; then end it.
 *
 * @param {import('./build.mjs').Runtime} runtime
 * @param {string} machine `q35` or `pc`
 * @param {import('../../src/setup/process.mjs').Runner} runner
 * @throws {SetupError} `EQEMU`
 */
export async function probeQemu(runtime, machine, runner) {
  runner.signal.throwIfAborted();
  const [program = '', ...prefix] = runtime.argvPrefix;
  const args = [...prefix, '-nodefaults', '-display', 'none', '-S', '-M', machine, '-accel', 'tcg', '-m', '32', '-device', 'virtio-net-pci', '-qmp', 'stdio'];
  runner.log(`$ ${[program, ...args].join(' ')}\n`);
  const child = spawn(program, args, { env: { ...process.env, ...runtime.env }, stdio: ['pipe', 'pipe', 'pipe'] });
  let output = '';
  const keep = (/** @type {string} */ text) => {
    output = (output + text).slice(0, OUTPUT_LIMIT_BYTES);
    runner.log(text);
  };
  child.stdout.setEncoding('utf8').on('data', keep);
  child.stderr.setEncoding('utf8').on('data', keep);
  child.stdin.on('error', () => {}); // EPIPE: reported by its end, below
  for (const execute of ['qmp_capabilities', 'query-status', 'quit']) child.stdin.write(`${JSON.stringify({ execute, id: execute })}\n`);
  const status = await new Promise((resolve) => {
    const timer = setTimeout(() => child.kill('SIGKILL'), PROBE_TIMEOUT_MS);
    const onAbort = () => child.kill('SIGKILL');
    runner.signal.addEventListener('abort', onAbort, { once: true });
    const settle = (/** @type {unknown} */ result) => {
      clearTimeout(timer);
      runner.signal.removeEventListener('abort', onAbort);
      resolve(result);
    };
    child.once('error', (error) => settle(error.message));
    child.once('close', settle);
  });
  runner.signal.throwIfAborted();
  if (status !== 0 || !output.includes('"id": "query-status"') || !output.includes('prelaunch')) {
    throw new SetupError('EQEMU', `QEMU ${runtime.version} did not start a ${machine} machine under TCG (${status}): ${output.trim().split('\n').at(-1) ?? ''}`);
  }
}
