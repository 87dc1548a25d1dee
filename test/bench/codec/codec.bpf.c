// SPDX-License-Identifier: MIT OR GPL-2.0
/* What the codec benchmark decodes: an event as tracing tools send them, and a value of counters. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

struct event {
	__u64 time_ns;
	__u64 wait_ns;
	__u32 pid;
	__u32 tid;
	__s32 priority;
	__u16 cpu;
	__u8 state;
	_Bool preempted;
	char comm[16];
	__u64 cookie;
	__u32 flags;
};
_Static_assert(sizeof(struct event) == 64, "the benchmark is of 64 bytes");
const struct event *unused_event __attribute__((unused));

struct counters {
	__u64 packets;
	__u64 bytes;
	struct {
		__u32 low;
		__u32 high;
	} range;
	__u32 buckets[8];
	__s64 last_error;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct counters);
} counters SEC(".maps");

SEC("tc") int nothing(void *skb)
{
	return 0;
}
