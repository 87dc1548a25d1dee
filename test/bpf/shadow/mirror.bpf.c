/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * Stands in for the primary: numbers a VM's input, and sends clones of it into
 * the tunnel as the gate does.  It loses and doubles as many as the test wants.
 * Also a lossy link, and a guest whose clock is behind.  Notes how far both
 * guests have come in what they say to each client.
 */
#include <bpf/bpf_endian.h>
#include "tcp_rewrite.h"

#define NEXT -1
#define DROP 2

/* One record each, so that the test knows where everything is. */
const volatile struct {
	__u32 tunnel_ifindex;
	__u32 ipv6;
	__u32 peer[4];
} setup = {};

struct {
	__u64 input_iseq;
	__u64 lost, doubled;
	__u64 acked_iseq, acked_epoch, acks;
	__u64 link_lost;
	__u32 lost_per_mille, doubled_per_mille;
	__u32 link_lost_per_mille;
	__u32 clock_behind_ms;
	__u64 shadow_outputs;
	__u32 shadow_generation;
	__u32 mirroring;
} state = {};

/* By the client's port: the sequence number behind the last of what each has said. */
struct said {
	__u32 end[2];
	__u32 packets[2];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct said);
} said SEC(".maps");

static __always_inline void note_said(struct __sk_buff *skb, __u32 who)
{
	struct said fresh = {}, *f;
	struct segment s;
	__u32 port;

	if (!segment_parse(skb, true, &s) || !s.payload_bytes)
		return;
	port = bpf_ntohs(s.key.client_port);
	bpf_map_update_elem(&said, &port, &fresh, BPF_NOEXIST);
	f = bpf_map_lookup_elem(&said, &port);
	if (!f)
		return;
	if (!f->packets[who & 1] || tcp_after(s.seq + s.span, f->end[who & 1]))
		f->end[who & 1] = s.seq + s.span;
	f->packets[who & 1]++;
}

static __always_inline bool happens(__u32 per_mille)
{
	return per_mille && bpf_get_prandom_u32() % 1000 < per_mille;
}

SEC("tcx/egress")
int mirror(struct __sk_buff *skb)
{
	struct bpf_tunnel_key key = { .tunnel_ttl = 64 };
	__u64 flags = BPF_F_ZERO_CSUM_TX;
	__u32 policy = skb->gso_segs ? skb->gso_segs : 1;
	struct segment s;
	__u8 word[3];

	if (!state.mirroring || (skb->protocol != bpf_htons(ETH_P_IP) && skb->protocol != bpf_htons(ETH_P_IPV6)))
		return NEXT;
	key.tunnel_id = (__sync_fetch_and_add(&state.input_iseq, 1) + 1) & 0xffffff;
	if (segment_parse(skb, false, &s) && s.payload_bytes > 3 &&
	    !bpf_skb_load_bytes(skb, s.tcp_at + s.header_bytes, word, 3) && word[0] == 'i' && word[1] == 'n' && word[2] == 'c')
		policy |= MIRROR_WRITE;
	if (setup.ipv6) {
		flags |= BPF_F_TUNINFO_IPV6;
		for (int i = 0; i < 4; i++)
			key.remote_ipv6[i] = setup.peer[i];
	} else {
		key.remote_ipv4 = setup.peer[0];
	}
	if (bpf_skb_set_tunnel_key(skb, &key, sizeof(key), flags) ||
	    bpf_skb_set_tunnel_opt(skb, &policy, sizeof(policy)))
		return NEXT;
	if (happens(state.lost_per_mille)) {
		state.lost++;
		return NEXT;
	}
	if (happens(state.doubled_per_mille)) {
		state.doubled++;
		bpf_clone_redirect(skb, setup.tunnel_ifindex, 0);
	}
	bpf_clone_redirect(skb, setup.tunnel_ifindex, 0);
	return NEXT;
}

SEC("tcx/ingress")
int primary_says(struct __sk_buff *skb)
{
	note_said(skb, 0);
	return NEXT;
}

SEC("tcx/ingress")
int acknowledged(struct __sk_buff *skb)
{
	struct bpf_tunnel_key key = {};
	struct input_ack ack;
	__u32 policy = 0;

	if (!bpf_skb_get_tunnel_key(skb, &key, sizeof(key), setup.ipv6 ? BPF_F_TUNINFO_IPV6 : 0) &&
	    bpf_skb_get_tunnel_opt(skb, &policy, sizeof(policy)) == sizeof(policy) && policy == SHADOW_OUTPUT_POLICY) {
		state.shadow_outputs++;
		state.shadow_generation = key.tunnel_id;
		note_said(skb, 1);
		return DROP;
	}
	if (skb->protocol != bpf_htons(INPUT_ACK_ETHERTYPE))
		return NEXT;
	if (!bpf_skb_load_bytes(skb, ETH_HLEN, &ack, sizeof(ack)) && ack.magic == INPUT_ACK_MAGIC) {
		state.acked_iseq = ack.iseq;
		state.acked_epoch = ack.epoch;
		state.acks++;
	}
	return DROP;
}

static __always_inline int lossy_link(void)
{
	if (!happens(state.link_lost_per_mille))
		return NEXT;
	state.link_lost++;
	return DROP;
}

SEC("tcx/ingress")
int link_in(struct __sk_buff *skb)
{
	return lossy_link();
}

SEC("tcx/egress")
int link_out(struct __sk_buff *skb)
{
	return lossy_link();
}

static __always_inline int behind(struct __sk_buff *skb, bool from_guest)
{
	struct tcp_header *header;
	struct segment s;

	header = state.clock_behind_ms ? segment_parse(skb, from_guest, &s) : NULL;
	if (header && s.timestamps_at) {
		if (from_guest)
			put32(header->is, s.timestamps_at, s.tsval - state.clock_behind_ms);
		else if (s.tsecr)
			put32(header->is, s.timestamps_at + 4, s.tsecr + state.clock_behind_ms);
		segment_store(skb, header, &s);
	}
	return NEXT;
}

SEC("tcx/egress")
int behind_in(struct __sk_buff *skb)
{
	return behind(skb, false);
}

SEC("tcx/ingress")
int behind_out(struct __sk_buff *skb)
{
	return behind(skb, true);
}
