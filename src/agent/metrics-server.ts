/** `GET /metrics` over HTTP, for Prometheus. Whoever asks, and however often, costs the agent little. */

import { createServer, type Server } from 'node:http';
import { NetworkError } from '../dataplane/ip.js';

const mostConnections = 16;
/** Who asks again within this time gets the same answer: heartbeats share the thread with it. */
const freshMs = 200;
const requestMs = 5000;
const largestHeaderBytes = 8192;

export interface MetricsText {
  readonly contentType: string;
  text(): Promise<string>;
}

export class MetricsServer {
  readonly #server: Server;

  private constructor(server: Server) {
    this.#server = server;
  }

  /** @throws NetworkError if it cannot listen there */
  static async listen(metrics: MetricsText, { host, port }: { host: string; port: number }): Promise<MetricsServer> {
    let latest: { text: Promise<string>; atMs: number } | undefined;
    const text = (): Promise<string> => {
      if (!latest || performance.now() - latest.atMs > freshMs) latest = { text: metrics.text(), atMs: performance.now() };
      return latest.text;
    };
    const server = createServer({ maxHeaderSize: largestHeaderBytes, requestTimeout: requestMs, headersTimeout: requestMs, keepAliveTimeout: requestMs }, (request, response) => {
      request.resume(); // a body is read, and thrown away
      const refuse = (status: number, why: string): void => void response.writeHead(status, { 'content-type': 'text/plain' }).end(`${why}\n`);
      if (request.method !== 'GET' && request.method !== 'HEAD') return refuse(405, 'Only GET is answered here.');
      if (request.url?.split('?')[0] !== '/metrics') return refuse(404, 'There is only /metrics.');
      text().then(
        (body) => response.writeHead(200, { 'content-type': metrics.contentType, 'cache-control': 'no-store' }).end(body),
        (error: unknown) => refuse(500, `The metrics could not be read: ${(error as Error).message}`),
      );
    });
    server.maxConnections = mostConnections;
    server.setTimeout(requestMs);
    await new Promise<void>((resolve, reject) => {
      server.once('error', (cause) => reject(new NetworkError(`The agent cannot offer its metrics at ${host} port ${port} (metrics.listen): ${cause.message}.`, { cause })));
      server.listen(port, host, resolve);
    });
    // A failing accept (no file descriptors left, say) concerns that connection only.
    server.on('error', () => {});
    return new MetricsServer(server);
  }

  /** Where it listens; of interest if the port was 0. */
  get port(): number {
    const address = this.#server.address();
    return typeof address === 'object' && address ? address.port : 0;
  }

  close(): void {
    this.#server.close();
    this.#server.closeAllConnections();
  }
}
