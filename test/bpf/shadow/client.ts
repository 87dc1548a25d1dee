/** A client of the service: see server-main.ts. */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { servicePort } from './rig.js';

export class Client {
  static readonly #open = new Set<Client>();
  readonly socket: Socket;
  readonly #waiting: (() => void)[] = [];
  #received: Buffer[] = [];
  #bytes = 0;
  #failed: Error | undefined;

  static async connect(host: string, port = servicePort): Promise<Client> {
    const socket = connect({ host, port, noDelay: true });
    const client = new Client(socket);
    await once(socket, 'connect');
    return client;
  }

  /** Of a test that failed, too: a connection to nobody would keep the process for minutes. */
  static closeAll(): void {
    for (const client of Client.#open) client.socket.destroy();
    Client.#open.clear();
  }

  private constructor(socket: Socket) {
    this.socket = socket;
    Client.#open.add(this);
    socket.on('data', (data: Buffer) => {
      this.#received.push(data);
      this.#bytes += data.length;
      this.#wake();
    });
    for (const event of ['error', 'close'] as const) {
      socket.on(event, (error: unknown) => {
        this.#failed ??= error instanceof Error ? error : new Error('the connection ended');
        this.#wake();
      });
    }
  }

  get receivedBytes(): number {
    return this.#bytes;
  }

  send(text: string | Uint8Array): void {
    this.socket.write(text);
  }

  /** Sends a line, and gives the line that comes back. */
  async ask(line: string, limitMs = 10_000): Promise<string> {
    this.send(`${line}\n`);
    return this.line(limitMs);
  }

  /** Asks for a number. */
  async count(verb: 'get' | 'inc', limitMs = 10_000): Promise<number> {
    return Number(await this.ask(verb, limitMs));
  }

  async line(limitMs = 10_000): Promise<string> {
    for (;;) {
      const all = this.#all();
      const end = all.indexOf(10);
      if (end >= 0) return this.#take(end + 1).toString('latin1', 0, end);
      await this.#more('a line', limitMs);
    }
  }

  async bytes(count: number, limitMs = 10_000): Promise<Buffer> {
    while (this.#bytes < count) await this.#more(`${count} bytes`, limitMs);
    return this.#take(count);
  }

  close(): void {
    this.socket.destroy();
  }

  #all(): Buffer {
    if (this.#received.length !== 1) this.#received = [Buffer.concat(this.#received)];
    return this.#received[0]!;
  }

  #take(count: number): Buffer {
    const all = this.#all();
    this.#received = [all.subarray(count)];
    this.#bytes -= count;
    return all.subarray(0, count);
  }

  #wake(): void {
    for (const wake of this.#waiting.splice(0)) wake();
  }

  async #more(wish: string, limitMs: number): Promise<void> {
    if (this.#failed !== undefined) throw this.#failed;
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error(`no ${wish} within ${limitMs} ms; ${this.#bytes} bytes have come`)), limitMs);
    });
    try {
      await Promise.race([new Promise<void>((resolve) => { this.#waiting.push(resolve); }), late]);
    } finally {
      clearTimeout(timer);
    }
  }
}
