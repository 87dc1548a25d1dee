const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/**
 * Runs something that Ctrl-C, a wish to end, or the end of its terminal may cut short: `signal` aborts, and what was
 * begun is undone by `run` itself. The exit code is then 130.
 */
export async function interruptible(run: (signal: AbortSignal) => Promise<void>): Promise<void> {
  const interrupt = new AbortController();
  const onSignal = (): void => interrupt.abort(new Error('interrupted'));
  for (const signal of signals) process.on(signal, onSignal);
  // That nobody reads any more is no reason to leave anything behind; it is told of late, even of the last words.
  for (const output of [process.stdout, process.stderr]) output.on('error', () => {});
  try {
    await run(interrupt.signal);
  } catch (error) {
    if (!interrupt.signal.aborted) throw error;
    process.stdout.write('Interrupted; everything is cleaned up.\n');
    process.exitCode = 130;
  } finally {
    for (const signal of signals) process.off(signal, onSignal);
  }
}
