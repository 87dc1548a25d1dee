// SPDX-License-Identifier: MIT OR GPL-2.0
// Counts what an interface receives, and reports each protocol when it is first seen.
#include "vmlinux.h"
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);   // EtherType
	__type(value, __u64); // packets
} by_protocol SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 * 1024);
} first_seen SEC(".maps");

struct sighting {
	__u64 time_ns;
	__u32 protocol;
	__u32 bytes;
};

__u64 packets;
__u64 bytes;
__u64 lost_sightings SEC(".data.lost");

static void report(struct __sk_buff *skb, __u32 protocol)
{
	struct sighting *sighting = bpf_ringbuf_reserve(&first_seen, sizeof(*sighting), 0);

	if (!sighting) {
		__sync_fetch_and_add(&lost_sightings, 1);
		return;
	}
	sighting->time_ns = bpf_ktime_get_ns();
	sighting->protocol = protocol;
	sighting->bytes = skb->len;
	bpf_ringbuf_submit(sighting, 0);
}

SEC("tcx/ingress")
int count(struct __sk_buff *skb)
{
	__u32 protocol = bpf_ntohs(skb->protocol);
	__u64 *seen = bpf_map_lookup_elem(&by_protocol, &protocol);
	__u64 one = 1;

	__sync_fetch_and_add(&packets, 1);
	__sync_fetch_and_add(&bytes, skb->len);
	if (seen) {
		*seen += 1;
	} else {
		bpf_map_update_elem(&by_protocol, &protocol, &one, BPF_ANY);
		report(skb, protocol);
	}
	return TCX_NEXT;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
