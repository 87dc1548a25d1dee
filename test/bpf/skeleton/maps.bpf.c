// SPDX-License-Identifier: MIT OR GPL-2.0
/* A map of every type that a skeleton treats in its own way, and a ring of typed events. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

struct flow {
	__u8 proto;
	__u32 port;
};

struct stats {
	__u64 packets;
	__u32 bytes;
};

struct prefix {
	__u32 bits;
	__u8 address[4];
};

enum slot { SLOT_FIRST, SLOT_SECOND, SLOTS };

#define MAP(TYPE, ENTRIES, KEY, VALUE, ...)        \
	__uint(type, BPF_MAP_TYPE_##TYPE);         \
	__uint(max_entries, ENTRIES);              \
	__type(key, KEY);                          \
	__type(value, VALUE);                      \
	__VA_ARGS__

struct { MAP(HASH, 64, struct flow, struct stats) } flows SEC(".maps");
struct { MAP(LRU_HASH, 64, struct flow, __u64) } recent SEC(".maps");
struct { MAP(ARRAY, SLOTS, enum slot, struct stats, __uint(map_flags, BPF_F_MMAPABLE);) } slots SEC(".maps");
struct { MAP(PERCPU_ARRAY, 2, __u32, struct stats) } per_cpu SEC(".maps");
struct { MAP(PERCPU_HASH, 8, struct flow, __u32) } per_cpu_flows SEC(".maps");
struct { MAP(LPM_TRIE, 8, struct prefix, __u32, __uint(map_flags, BPF_F_NO_PREALLOC);) } routes SEC(".maps");

/* neither key nor value types: bytes, or numbers where the kernel has indexes */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4);
	__uint(key_size, 3);
	__uint(value_size, 5);
} untyped SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} perf SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 4);
	__type(value, struct stats);
} queue SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_STACK);
	__uint(max_entries, 4);
	__uint(value_size, 4);
} stack SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_USER_RINGBUF);
	__uint(max_entries, 4096);
} commands SEC(".maps");

struct inner {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} inner_a SEC(".maps"), inner_b SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 2);
	__type(key, __u32);
	__array(values, struct inner);
} outer SEC(".maps") = { .values = { &inner_a, &inner_b } };

struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, 2);
	__type(key, __u64);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_HASH);
		__uint(max_entries, 8);
		__type(key, struct flow);
		__type(value, __u64);
	});
} nested SEC(".maps");

SEC("tc") int called(struct __sk_buff *skb)
{
	return 7;
}

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 2);
	__uint(key_size, sizeof(__u32));
	__array(values, int(struct __sk_buff *));
} calls SEC(".maps") = { .values = { [1] = (void *)&called } };

struct event {
	__u64 time_ns;
	__u32 number;
	enum slot slot;
	char text[16];
};
const struct event *unused_event __attribute__((unused));

__u32 sent;

SEC("tc") int send(struct __sk_buff *skb)
{
	struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event)
		return 1;
	event->time_ns = bpf_ktime_get_ns();
	event->number = sent++;
	event->slot = SLOT_SECOND;
	__builtin_memcpy(event->text, "event\0\xff\xff\xff\xff\xff\xff\xff\xff\xff", 16);
	bpf_ringbuf_submit(event, 0);
	return 0;
}

struct command {
	__u8 urgent;
	__u32 amount;
};
const struct command *unused_command __attribute__((unused));

__u64 received;

static long on_command(struct bpf_dynptr *record, void *context)
{
	const struct command *command = bpf_dynptr_data(record, 0, sizeof(*command));

	if (command)
		received += command->urgent ? command->amount * 1000 : command->amount;
	return 0;
}

SEC("tc") int drain(struct __sk_buff *skb)
{
	return bpf_user_ringbuf_drain(&commands, on_command, NULL, 0);
}

SEC("tc") int count(struct __sk_buff *skb)
{
	struct flow flow;
	struct stats *stats;
	__u32 zero = 0;

	/* padding is part of a key, so it must be zero */
	__builtin_memset(&flow, 0, sizeof(flow));
	flow.proto = 6;
	flow.port = 443;
	stats = bpf_map_lookup_elem(&flows, &flow);
	if (!stats)
		return 1;
	stats->packets++;
	stats->bytes += skb->len;
	stats = bpf_map_lookup_elem(&per_cpu, &zero);
	if (stats)
		stats->packets++;
	stats = bpf_map_lookup_elem(&slots, &zero);
	if (stats)
		stats->packets++;
	return 0;
}

SEC("tc") int tail(struct __sk_buff *skb)
{
	bpf_tail_call(skb, &calls, 1);
	return 0;
}
