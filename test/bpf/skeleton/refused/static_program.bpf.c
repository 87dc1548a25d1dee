// SPDX-License-Identifier: MIT OR GPL-2.0
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

SEC("tc") __attribute__((used)) static int forgotten(struct __sk_buff *skb)
{
	return 0;
}
