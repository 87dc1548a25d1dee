import { writeFileSync } from 'node:fs';

/** Keeps the kernel itself from saying anything on an interface, such as looking for IPv6 routers. */
export function silenceIpv6(ifname: string): void {
  try {
    writeFileSync(`/proc/sys/net/ipv6/conf/${ifname}/disable_ipv6`, '1');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error; // a kernel without IPv6 is silent
  }
}
