import { integer, text, wrongType } from './check.js';
import { native } from './native.js';
import './error.js';

/** The index of a network interface, by name, in the network namespace of the calling process. */
export function ifIndex(name: string): number {
  return native.ifIndex(text(name, 'interface name'));
}

/** An interface, by index or by name. */
export interface InterfaceOption {
  ifindex?: number;
  ifname?: string;
}

/** The index that `options` mean; exactly one of the two must be given. */
export function interfaceOf(options: InterfaceOption): number {
  if ((options.ifindex === undefined) === (options.ifname === undefined)) {
    throw wrongType('interface', 'given by either ifindex or ifname', options.ifindex ?? options.ifname);
  }
  return options.ifname !== undefined ? ifIndex(options.ifname) : integer(options.ifindex, 'ifindex', 1, 0x7fff_ffff);
}
