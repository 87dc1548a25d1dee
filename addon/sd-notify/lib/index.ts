/**
 * The protocol of sd_notify(3): a service tells its manager that it is ready, that it lives, how it
 * is, and that it stops. Without libsystemd, and without doing anything where there is no manager.
 */

import { createRequire } from 'node:module';

const { send } = createRequire(import.meta.url)('../build/Release/sd_notify.node') as { send(path: string, message: string): number };

const longestStatus = 500;

/** What the environment says of the service manager. */
export type NotifyEnvironment = Readonly<Record<string, string | undefined>>;

export class ServiceManager {
  readonly #socket: string | undefined;
  /** Without a sign of life within this time the manager ends the service; undefined: it does not watch. */
  readonly watchdogMs: number | undefined;
  #watchdog: NodeJS.Timeout | undefined;

  /** @param pid of the process that the manager watches, if it names one */
  constructor(environment: NotifyEnvironment = process.env, pid = process.pid) {
    const { NOTIFY_SOCKET: socket, WATCHDOG_USEC: usec, WATCHDOG_PID: watched } = environment;
    this.#socket = socket !== undefined && /^[/@]/.test(socket) ? socket : undefined;
    const forUs = watched === undefined || watched === String(pid);
    this.watchdogMs = this.#socket !== undefined && forUs && /^[1-9]\d{0,15}$/.test(usec ?? '') ? Number(usec) / 1000 : undefined;
  }

  /** Whether there is a service manager that listens. */
  get present(): boolean {
    return this.#socket !== undefined;
  }

  /** The service has started. From now on its event loop gives signs of life, if the manager wants any. */
  ready(): void {
    this.#tell('READY=1');
    if (this.watchdogMs === undefined || this.#watchdog) return;
    this.#watchdog = setInterval(() => this.#tell('WATCHDOG=1'), Math.max(1, this.watchdogMs / 3));
    this.#watchdog.unref();
  }

  /** One line for people: `systemctl status` shows it. */
  status(text: string): void {
    this.#tell(`STATUS=${text.replace(/[\x00-\x1f\x7f]+/g, ' ').slice(0, longestStatus)}`);
  }

  /** The service is about to end. It still gives signs of life. */
  stopping(): void {
    this.#tell('STOPPING=1');
  }

  close(): void {
    clearInterval(this.#watchdog);
    this.#watchdog = undefined;
  }

  /** A manager that is gone or busy is no reason to fail: the next sign of life may reach it. */
  #tell(message: string): void {
    if (this.#socket !== undefined) send(this.#socket, message);
  }
}
