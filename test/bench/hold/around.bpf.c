/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* What is around the hold thread while it is measured. */
#include "vmlinux.h"
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "wire.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

const volatile __u32 shadow_ifindex;

__u64 arrived = 0;

/* The clients: takes what leaves for them out of the way. */
SEC("tcx/egress")
int clients(struct __sk_buff *skb)
{
	__sync_fetch_and_add(&arrived, 1);
	return 2;
}

/* The tunnel: what comes from a tap goes to another as a shadow output. */
SEC("tcx/ingress")
int secondary(struct __sk_buff *skb)
{
	struct shadow_tag tag = {
		.hold = {
			.ethertype = bpf_htons(HOLD_ETHERTYPE),
			.gso_size = skb->gso_size,
			.time_ns = bpf_ktime_get_ns(),
			.magic = SHADOW_MAGIC,
			.frame_bytes = skb->len,
		},
		.epoch = 1,
	};

	if (bpf_skb_change_head(skb, sizeof(tag), 0) || bpf_skb_store_bytes(skb, 0, &tag, sizeof(tag), 0))
		return 2;
	return bpf_redirect(shadow_ifindex, 0);
}
