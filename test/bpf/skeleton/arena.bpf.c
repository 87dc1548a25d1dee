// SPDX-License-Identifier: MIT OR GPL-2.0
/* Variables in memory shared by the program and its user: an arena (Linux 6.9). */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

#define __arena __attribute__((address_space(1)))

char LICENSE[] SEC("license") = "Dual MIT/GPL";

struct {
	__uint(type, BPF_MAP_TYPE_ARENA);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 4);
} arena SEC(".maps");

__u64 __arena total = 5;
int __arena list[4];

SEC("syscall") int add(void *ctx)
{
	total += 2;
	list[1] = 3;
	return total;
}
