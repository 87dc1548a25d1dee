/** Runs the monitor in a terminal, from its first picture until somebody leaves. */

import { render } from 'ink';
import { App, type Setting } from './app.js';
import type { Feed } from './feed.js';
import { parseObservation } from './observation.js';
import { Recorder } from './recording.js';
import { Screen } from './screen.js';
import { Store } from './store.js';
import type { Action } from './ui.js';

export interface MonitorOptions {
  feed: Feed;
  setting: Omit<Setting, 'hasKeys' | 'isReplay' | 'staleMs'>;
  ascii: boolean;
  /** Write what is observed into this file, which must not exist. */
  recordPath?: string;
}

/**
 * Shows `feed` until q, Ctrl-C or a signal.
 * @throws RecordingError, or what kept the picture from being drawn; the terminal is as it was before
 */
export async function runMonitor({ feed, setting, ascii, recordPath }: MonitorOptions): Promise<void> {
  const recorder = recordPath === undefined ? undefined : await Recorder.create(recordPath, feed, (text) => {
    store.observe(parseObservation({ kind: 'said', atMs: feed.nowMs(), source: 'recording', level: 'error', text }));
  });
  const store: Store = new Store(feed.sources, () => feed.nowMs(), (observation) => recorder?.write(observation));
  const screen = new Screen(process.stdout, ascii);
  const end = new AbortController();
  const quit = (): void => end.abort();
  const onAction = (action: Exclude<Action, { type: 'say' }>): void => {
    if (action.type === 'quit') quit();
    else if (action.type === 'repaint') screen.repaint();
    else for (const source of action.sources) void feed.command?.(source, action.request);
  };
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, quit);
  // The terminal may be closed under us.
  process.stdout.on('error', quit);
  const hasKeys = process.stdin.isTTY === true; // it is undefined elsewhere, which ink takes for yes
  screen.open();
  // With `debug` ink hands over each picture as it is: what to write of it is the screen's business.
  const app = render(
    <App store={store} screen={screen} setting={{ ...setting, hasKeys, isReplay: feed.command === undefined, staleMs: feed.staleMs }} onAction={onAction} />,
    { stdout: screen as unknown as NodeJS.WriteStream, debug: true, exitOnCtrlC: true, patchConsole: false },
  );
  const left = app.waitUntilExit().finally(quit);
  left.catch(() => {}); // told at the end
  try {
    await feed.run(store, end.signal);
  } finally {
    end.abort();
    app.unmount();
    screen.close();
    store.close();
    await recorder?.close();
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.off(signal, quit);
    process.stdout.off('error', quit);
  }
  await left;
}
