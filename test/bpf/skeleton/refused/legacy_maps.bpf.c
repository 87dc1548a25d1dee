// SPDX-License-Identifier: MIT OR GPL-2.0
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

struct {
	unsigned int type, key_size, value_size, max_entries;
} old SEC("maps") = { BPF_MAP_TYPE_HASH, 4, 8, 16 };

SEC("tc") int uses(struct __sk_buff *skb)
{
	return bpf_map_lookup_elem(&old, skb) != 0;
}
