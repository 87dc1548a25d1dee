// SPDX-License-Identifier: MIT OR GPL-2.0
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

SEC("tc") int counts(struct __sk_buff *skb)
{
	static struct {
		__uint(type, BPF_MAP_TYPE_ARRAY);
		__uint(max_entries, 1);
		__type(key, __u32);
		__type(value, __u64);
	} local SEC(".maps");
	__u32 zero = 0;
	__u64 *count = bpf_map_lookup_elem(&local, &zero);

	if (count)
		++*count;
	return 0;
}
