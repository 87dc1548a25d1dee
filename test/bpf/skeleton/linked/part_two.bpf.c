// SPDX-License-Identifier: MIT OR GPL-2.0
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

struct point {
	__u64 latitude;
	char name[4];
};

struct point there = { 3, "abc" };
__u16 small = 2;
extern __u64 shared_total;
static volatile __u32 counter = 7;

SEC("tc") int second(struct __sk_buff *skb)
{
	shared_total += there.latitude + small + counter++;
	return 0;
}
