import { randomUUID } from 'node:crypto';
import { ControlChannel, PeerClient, place, type PeerConnection } from '../../peer/index.js';
import { verdictSchema, witnessPairId, type ClaimMessage, type Verdict } from './messages.js';

export interface WitnessClientOptions {
  /** Where the witness listens: an address and a port. */
  host: string;
  port: number;
  /** What this host is called, and the VM it asks for. */
  hostName: string;
  vm: string;
  secret: Buffer | undefined;
  onVerdict: (term: number, verdict: Verdict) => void;
  /** Told when the witness can be reached again, or no longer: then `reason` says why. */
  onReach: (reachable: boolean, reason: string) => void;
}

const timeoutMs = 1000;
/** A witness that is needed only in need is looked after before that. */
const lookMs = 5000;

/** A host's way to its witness. */
export class WitnessClient {
  readonly #options: WitnessClientOptions;
  readonly #ended = new AbortController();
  readonly #incarnation = randomUUID();
  #timer: NodeJS.Timeout | undefined;
  #asking = false;
  #reachable: boolean | undefined;

  constructor(options: WitnessClientOptions) {
    this.#options = options;
  }

  /** Looks after the witness from now on. */
  start(): void {
    this.#timer = setInterval(() => void this.#look(), lookMs);
    void this.#look();
  }

  get address(): string {
    return place(this.#options.host, this.#options.port);
  }

  /** Whether the witness could be reached when last tried; undefined: not tried yet. */
  get reachable(): boolean | undefined {
    return this.#reachable;
  }

  /** Asks for the VM; ends in `onVerdict`, or in nothing. While one claim is on its way, another is not sent. */
  claim(term: number): void {
    if (this.#asking || this.#ended.signal.aborted) return;
    this.#asking = true;
    void this.#connect()
      .then((connection) => this.#ask(connection, term))
      .then((verdict) => this.#options.onVerdict(term, verdict), () => {}) // `onReach` has told, and the claim is made again
      .finally(() => { this.#asking = false; });
  }

  close(): void {
    clearInterval(this.#timer);
    this.#ended.abort();
  }

  async #look(): Promise<void> {
    await this.#connect().then(({ socket }) => socket.destroy(), () => {});
  }

  async #connect(): Promise<PeerConnection> {
    const { host, port, hostName, secret } = this.#options;
    try {
      const connection = await PeerClient.connect({
        pairId: witnessPairId, hostName, incarnation: this.#incarnation, secret,
        address: host, port, kind: 'control', timeoutMs, signal: this.#ended.signal,
      });
      this.#note(true, '');
      return connection;
    } catch (error) {
      this.#note(false, (error as Error).message);
      throw error;
    }
  }

  #ask(connection: PeerConnection, term: number): Promise<Verdict> {
    return new Promise((resolve, reject) => {
      const patience = setTimeout(() => channel.close('it did not answer in time'), timeoutMs);
      const channel: ControlChannel<Verdict, ClaimMessage> = new ControlChannel({
        connection,
        parse: (value) => verdictSchema.parse(value),
        onMessage: (verdict) => {
          resolve(verdict);
          channel.close();
        },
        onClose: (reason) => {
          clearTimeout(patience);
          reject(reason); // nothing new after a verdict
        },
      });
      channel.send({ type: 'claim', vm: this.#options.vm, term });
    });
  }

  #note(reachable: boolean, reason: string): void {
    if (this.#ended.signal.aborted || reachable === this.#reachable) return;
    this.#reachable = reachable;
    this.#options.onReach(reachable, reason);
  }
}
