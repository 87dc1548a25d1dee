/** A service manager's end of sd_notify(3): Node.js has no unix datagram sockets, so another language listens. */
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';

const script = `
import socket, sys
receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
receiver.bind(sys.argv[1].replace("@", "\\0", 1))
print("bound", flush=True)
while True: print(receiver.recv(8192).decode(), flush=True)
`;

export interface NotifyReceiver {
  /** Each message that came, the oldest first. */
  readonly messages: readonly string[];
  close(): void;
}

/** @param path of the socket to make; with a leading `@` in the abstract namespace */
export async function receiveNotifications(path: string): Promise<NotifyReceiver> {
  const child = spawn('python3', ['-c', script, path], { stdio: ['ignore', 'pipe', 'inherit'] });
  const messages: string[] = [];
  await new Promise<void>((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code) => reject(new Error(`The receiver ended with ${code}.`)));
    createInterface(child.stdout).on('line', (line) => line === 'bound' ? resolve() : messages.push(line));
  });
  return { messages, close: () => void child.kill('SIGKILL') };
}
