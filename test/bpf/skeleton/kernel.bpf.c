// SPDX-License-Identifier: MIT OR GPL-2.0
/* What real programs for today's kernels hold: kernel types, operations, arenas, odd sections. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define __kptr __attribute__((btf_type_tag("kptr")))
#define __percpu_kptr __attribute__((btf_type_tag("percpu_kptr")))
#define __arena __attribute__((address_space(1)))

char LICENSE[] SEC("license") = "GPL";

/* a value with everything that only programs may touch */
struct tracked {
	struct bpf_spin_lock lock;
	struct bpf_timer timer;
	struct task_struct __kptr *task;
	struct bpf_cpumask __kptr *mask;
	struct bpf_list_head list;
	struct bpf_rb_root tree;
	__u64 seen;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, struct { __u32 pid; __u32 cpu; });
	__type(value, struct tracked);
} tracked SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, union { struct cpumask *mask; struct sk_buff head; });
} per_task SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_STACK_TRACE);
	__uint(max_entries, 8);
	__uint(key_size, sizeof(__u32));
} traces SEC(".maps"); /* the size of a value is set before load */

/* the kernel's own structs by value: hundreds of types */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct task_struct);
} snapshots SEC(".maps");

struct net_device device;
struct inode nodes[2] SEC(".data.nodes") = {};
const struct file_operations operations = {};
struct task_struct __kptr *kept;

struct {
	__uint(type, BPF_MAP_TYPE_ARENA);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 10);
	__ulong(map_extra, 0x1ull << 44);
} arena SEC(".maps");

struct arena_node {
	struct arena_node __arena *next;
	__u64 value;
};
struct arena_node __arena *head;
__u64 __arena arena_total = 5;
int __arena arena_list[4];

/* operations, as of a scheduler or a congestion control */
SEC("struct_ops/ssthresh") __u32 BPF_PROG(reno_ssthresh, struct sock *sk)
{
	return 10;
}

SEC("struct_ops") __u32 BPF_PROG(reno_undo, struct sock *sk)
{
	return 10;
}

SEC("struct_ops") void BPF_PROG(reno_avoid, struct sock *sk, __u32 ack, __u32 acked)
{
}

SEC(".struct_ops") struct tcp_congestion_ops colopp_reno = {
	.ssthresh = (void *)reno_ssthresh,
	.undo_cwnd = (void *)reno_undo,
	.cong_avoid = (void *)reno_avoid,
	.name = "bpf_reno",
};

SEC(".struct_ops.link") struct tcp_congestion_ops colopp_linked = {
	.ssthresh = (void *)reno_ssthresh,
	.undo_cwnd = (void *)reno_undo,
	.cong_avoid = (void *)reno_avoid,
	.name = "bpf_linked",
};

/* programs whose sections nobody here attaches */
SEC("?kprobe/no_such_function") int BPF_KPROBE(probed)
{
	return 0;
}

SEC("sk_reuseport") int reuse(struct sk_reuseport_md *md)
{
	return 1;
}

SEC("iter/task") int each_task(struct bpf_iter__task *ctx)
{
	return 0;
}

SEC("lsm/file_open") int BPF_PROG(opened, struct file *file)
{
	return 0;
}

SEC("fentry/do_nanosleep") int BPF_PROG(sleeping)
{
	return 0;
}

SEC("uprobe//bin/sh:main") int BPF_UPROBE(entered)
{
	return 0;
}

SEC("syscall") int on_demand(void *ctx)
{
	arena_total += 1;
	arena_list[1] = 3;
	return head != 0;
}

/* a global subprogram, and a static one, in .text */
__attribute__((noinline)) int helper(int value)
{
	return value * 2;
}

SEC("tp_btf/sched_switch") int BPF_PROG(switched, bool preempt, struct task_struct *prev, struct task_struct *next)
{
	return helper(device.ifindex) + nodes[0].i_ino + (operations.open != 0) + (kept != 0);
}
