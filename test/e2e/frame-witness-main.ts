/**
 * Runs inside the namespace of a lab's switches and looks at the client network's ports with a
 * program of its own: it asks nobody who has spoken, it sees it.
 */
import { BpfObject } from 'libbpf-napi';
import { compile } from '../bpf/libbpf-support.js';
import type { Sighting, WitnessOrder } from './frame-witness.js';

const path = compile(
  `
  struct sighting { __u64 frames, first_ns, last_ns; };
  struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 2);
    __type(key, __u32);
    __type(value, struct sighting);
  } seen SEC(".maps");
  volatile __u64 guest_mac;

  static __always_inline int look(struct __sk_buff *skb, __u32 port)
  {
    struct sighting *s = bpf_map_lookup_elem(&seen, &port);
    __u64 source = 0;

    if (s && !bpf_skb_load_bytes(skb, 6, &source, 6) && source == guest_mac) {
      s->last_ns = bpf_ktime_get_ns();
      if (!__sync_fetch_and_add(&s->frames, 1))
        s->first_ns = s->last_ns;
    }
    return -1; /* on to whatever comes next */
  }
  SEC("tcx/ingress") int from_a(struct __sk_buff *skb) { return look(skb, 0); }
  SEC("tcx/ingress") int from_b(struct __sk_buff *skb) { return look(skb, 1); }
  `,
  'witness',
);

const mac = Buffer.alloc(8);
Buffer.from(process.argv[2]!.replaceAll(':', ''), 'hex').copy(mac);
const object = BpfObject.open(path);
object.load();
object.map('.bss').mmap().set(mac);
const seen = object.map('seen');
for (const host of ['a', 'b']) object.program(`from_${host}`).attachTcx({ ifname: `${host}-up`, direction: 'ingress' });

const key = (port: number): Buffer => Buffer.from([port, 0, 0, 0]);

function read(port: number): Sighting {
  const value = Buffer.from(seen.lookup(key(port))!);
  return { frames: Number(value.readBigUInt64LE(0)), firstMs: Number(value.readBigUInt64LE(8)) / 1e6, lastMs: Number(value.readBigUInt64LE(16)) / 1e6 };
}

process.on('message', (order: WitnessOrder) => {
  if (order === 'forget') for (const port of [0, 1]) seen.update(key(port), Buffer.alloc(24));
  process.send!({ a: read(0), b: read(1) });
});
process.on('disconnect', () => process.exit(0));
process.send!('ready');
