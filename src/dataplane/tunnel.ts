/**
 * The tunnel that carries inputs to the secondary's log: a kernel vxlan device in
 * metadata mode, so that BPF programs say where each frame goes and which number
 * it has. It is not reliable; acknowledgements are.
 */

import { isIPv6 } from 'node:net';
import { ip, ipBatch } from './ip.js';

/** Both hosts use it; the other end's port is the same. */
export const tunnelPort = 7750;

/** Makes the device, in place of one that a dead agent left. */
export async function createTunnel(ifname: string): Promise<void> {
  await removeTunnel(ifname);
  await ipBatch(undefined, [
    // "external" is metadata mode; the group policy header carries what the number does not.
    `link add ${ifname} type vxlan external gbp nolearning noudpcsum udp6zerocsumtx udp6zerocsumrx dstport ${tunnelPort}`,
    `link set ${ifname} addrgenmode none txqueuelen 10000 up`,
  ]);
}

export async function removeTunnel(ifname: string): Promise<void> {
  await ip('link', 'del', ifname).catch(() => {});
}

/** An address as the BPF programs take it: four words, IPv4 in the first in host order. */
export function tunnelAddress(address: string): { ipv6: boolean; words: number[] } {
  if (!isIPv6(address)) {
    const word = address.split('.').reduce((sum, part) => sum * 256 + Number(part), 0);
    return { ipv6: false, words: [word, 0, 0, 0] };
  }
  const [head = '', tail] = address.split('::');
  const groups = (text: string): number[] => (text === '' ? [] : text.split(':').map((group) => Number.parseInt(group, 16)));
  const [left, right] = [groups(head), groups(tail ?? '')];
  const middle = tail === undefined ? [] : Array<number>(8 - left.length - right.length).fill(0);
  const bytes = Buffer.alloc(16);
  [...left, ...middle, ...right].forEach((group, i) => bytes.writeUInt16BE(group, 2 * i));
  // The kernel takes the bytes as they are on the wire.
  return { ipv6: true, words: [0, 4, 8, 12].map((at) => bytes.readUInt32LE(at)) };
}
