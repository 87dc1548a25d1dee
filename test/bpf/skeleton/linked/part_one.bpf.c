// SPDX-License-Identifier: MIT OR GPL-2.0
/* One half of a linked object; the other has its own idea of a point, and variables beside these. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

struct point {
	__u32 x;
	__u32 y;
};

struct point here = { 1, 2 };
__u8 lonely = 1;
__u64 shared_total;
static volatile __u32 counter = 5;
__attribute__((visibility("hidden"))) __u32 inside = 6;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, struct point);
} points SEC(".maps");

SEC("tc") int first(struct __sk_buff *skb)
{
	shared_total += here.x + lonely + counter++ + inside;
	return 0;
}
