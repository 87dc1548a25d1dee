// SPDX-License-Identifier: MIT OR GPL-2.0
/* Operations that the kernel calls: a TCP congestion control that never slows down. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "GPL";

SEC("struct_ops") __u32 BPF_PROG(never_ssthresh, struct sock *sk)
{
	return 100;
}

SEC("struct_ops") __u32 BPF_PROG(never_undo, struct sock *sk)
{
	return 100;
}

SEC("struct_ops") void BPF_PROG(never_avoid, struct sock *sk, __u32 ack, __u32 acked)
{
}

SEC(".struct_ops.link") struct tcp_congestion_ops never = {
	.ssthresh = (void *)never_ssthresh,
	.undo_cwnd = (void *)never_undo,
	.cong_avoid = (void *)never_avoid,
	.name = "colopp_never",
};
