/**
 * What travels between clients and the VM: TCP segments of a tiny service. One
 * unit of a request or a reply takes up one sequence number, as SYN and FIN do;
 * numbers do not wrap (that is test/bpf's business).
 */

/** One request to a service: its registers hold whole numbers, zero at first. */
export interface Request {
  /** Counts all requests of a run. */
  id: number;
  key: string;
  /** `raise` adds one, and is answered with the sum; `write` is answered with what it wrote. */
  op: 'read' | 'write' | 'raise';
  /** What is written. */
  value: number;
  /** How long the guest takes for it, if that is long. */
  slowUs: number;
  /** How many units the reply takes at most. */
  mostUnits: number;
  /** Its length; what makes it a write is seen in the first unit. */
  units: number;
}

/** One unit of a request, or of the reply to it. */
export interface Unit {
  request: Request;
  part: number;
  /** Units of the request, or of the reply. */
  parts: number;
  /** Of a reply: the register's value. */
  value: number;
}

export interface Segment {
  /** Which connection: stands for addresses and ports, and is used once. */
  conn: number;
  fromGuest: boolean;
  seq: number;
  /** Valid in everything but a client's SYN. */
  ack: number;
  syn: boolean;
  fin: boolean;
  rst: boolean;
  data: readonly Unit[];
}

/** Segments carry no more units than this. */
export const segmentUnits = 2;
const noData: readonly Unit[] = [];

export function segment(conn: number, fromGuest: boolean, seq: number, ack: number, what: Partial<Pick<Segment, 'syn' | 'fin' | 'rst' | 'data'>> = {}): Segment {
  const { syn = false, fin = false, rst = false, data = noData } = what;
  return { conn, fromGuest, seq, ack, syn, fin, rst, data };
}

/** Sequence numbers that it takes up. */
export function span({ syn, fin, data }: Segment): number {
  return data.length + Number(syn) + Number(fin);
}

/** The first segment of a connection. */
export function opens({ syn, fromGuest }: Segment): boolean {
  return syn && !fromGuest;
}

/** The connections of a client, in the order of their opening. */
export const connOf = (client: number, count: number): number => client * 1000 + count;
export const clientOf = (conn: number): number => Math.floor(conn / 1000);
/** Index of the service that a connection is for. Each has registers of its own. */
export const serviceOf = (conn: number): number => clientOf(conn) % 2;

/** A register of the service that a connection is for. */
export const keyOf = (conn: number, which: number): string => `${'ab'[serviceOf(conn)]}${which}`;

/** How many units the reply takes: so many that an answer from another state is out of step with the stream. */
export const replyUnits = ({ op, mostUnits }: Request, value: number): number => op === 'read' ? 1 + value % mostUnits : 1;

export function describeSegment({ conn, seq, ack, syn, fin, rst, data, fromGuest }: Segment): string {
  const flags = `${syn ? ' SYN' : ''}${fin ? ' FIN' : ''}${rst ? ' RST' : ''}`;
  const units = data.map(({ request: { id, op, key }, part, parts, value }) => ` ${op} #${id} ${key}${fromGuest ? `=${value}` : ''} ${part + 1}/${parts}`);
  return `${conn}:${flags} seq ${seq} ack ${ack}${units.join(',')}`;
}
