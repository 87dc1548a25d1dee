import { randomUUID } from 'node:crypto';
import type { Logger } from 'pino';
import { ControlChannel, PeerServer, type PeerConnection } from '../../peer/index.js';
import { ClaimsFile } from './claims-file.js';
import { claimSchema, witnessPairId, type ClaimMessage, type Verdict } from './messages.js';

export interface WitnessOptions {
  /** The address and port to listen on. */
  listen: { host: string; port: number };
  /** Where the granted claims are remembered. */
  stateDir: string;
  /** Known to the witness and to every host that asks it; undefined: whoever can connect can claim. */
  secret: Buffer | undefined;
  log: Logger;
}

/** A host has one question, and asks it at once. */
const longestTalkMs = 5000;
const mostTalks = 256;

/**
 * The third opinion: says which of two hosts that have lost each other goes on.
 * It runs on a machine that fails independently of both, and serves any number
 * of pairs; their VMs must have different names.
 */
export class Witness {
  readonly #claims: ClaimsFile;
  readonly #log: Logger;
  #server!: PeerServer;

  /** @throws WitnessError, PeerError `PEER_LISTEN` */
  static async listen({ listen, stateDir, secret, log }: WitnessOptions): Promise<Witness> {
    const witness = new Witness(new ClaimsFile(stateDir), log);
    witness.#server = await PeerServer.listen({
      pairId: witnessPairId, hostName: 'witness', incarnation: randomUUID(), secret,
      address: listen.host, port: listen.port, maxConnections: mostTalks,
      onConnection: (connection) => witness.#talk(connection),
      onRefused: (error) => log.warn({ code: error.code }, error.message),
    });
    return witness;
  }

  private constructor(claims: ClaimsFile, log: Logger) {
    this.#claims = claims;
    this.#log = log;
  }

  get port(): number {
    return this.#server.port;
  }

  async close(): Promise<void> {
    await this.#server.close();
  }

  #talk(connection: PeerConnection): void {
    const patience = setTimeout(() => channel.close('it took too long'), longestTalkMs);
    const channel: ControlChannel<ClaimMessage, Verdict> = new ControlChannel({
      connection,
      parse: (value) => claimSchema.parse(value),
      onMessage: ({ vm, term }) => {
        const { hostName: host } = connection;
        try {
          const { held, granted } = this.#claims.decide(vm, { term, host });
          this.#log.info({ vm, term, host }, granted ? `${host} goes on with ${vm}.` : `${host} must not go on with ${vm}: ${held.host} does.`);
          channel.send({ type: 'verdict', granted, holder: held.host });
        } catch (error) {
          // A claim that cannot be remembered is not granted; the host asks again.
          this.#log.error({ err: error, vm, term, host }, 'A claim could not be decided.');
          channel.close('the claim could not be decided');
        }
      },
      onClose: () => clearTimeout(patience),
    });
  }
}
