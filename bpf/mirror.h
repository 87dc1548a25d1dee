/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * The input mirror: each frame the guest is about to receive, of whatever
 * protocol, gets the next number, and a clone of it travels to the secondary's input log.
 *
 * The clone goes through a vxlan device in metadata mode. Number and size ride
 * in the tunnel header, so the packet itself is not touched:
 *   VNI                 the low 24 bits of the number
 *   GBP policy id       bits 0..14: packets the kernel may split it into,
 *                       bit 15: it may be a write
 */
#ifndef COLOPP_MIRROR_H
#define COLOPP_MIRROR_H

#include "flow.h"
#include "wire.h"

/* Set once, before load. */
const volatile __u32 mirror_ifindex; /* the vxlan device; 0: no mirror */
const volatile bool mirror_ipv6;
const volatile __u32 mirror_peer[4]; /* the secondary's address; IPv4 in the first, in host order */

/* Number of the newest input. */
__u64 input_iseq = 0;
/* Inputs that had no number, as the VM was neither protected nor about to be. */
__u64 unnumbered_inputs = 0;
/* Of the protection that is or is about to be, whose acknowledgements count; 0: none. */
__u64 log_epoch = 0;

struct mirror_gbp {
	__u32 policy;
};

/*
 * An acknowledgement from the secondary.  True if the packet was one.
 * It may be lost, doubled or late: the newest number counts.
 */
static __always_inline bool mirror_acked(struct __sk_buff *skb)
{
	struct input_ack ack;

	if (skb->protocol != bpf_htons(INPUT_ACK_ETHERTYPE))
		return false;
	if (!bpf_skb_load_bytes(skb, ETH_HLEN, &ack, sizeof(ack)) && ack.magic == INPUT_ACK_MAGIC &&
	    log_epoch && ack.epoch == log_epoch && ack.iseq <= input_iseq && ack.iseq > logged_iseq)
		logged_iseq = ack.iseq;
	return true;
}

static __always_inline bool mirror_is_peer(const struct bpf_tunnel_key *key)
{
	if (!mirror_ipv6)
		return key->remote_ipv4 == mirror_peer[0];
	return key->remote_ipv6[0] == mirror_peer[0] && key->remote_ipv6[1] == mirror_peer[1] &&
	       key->remote_ipv6[2] == mirror_peer[2] && key->remote_ipv6[3] == mirror_peer[3];
}

static __always_inline __u64 mirror_number(void)
{
	return __sync_fetch_and_add(&input_iseq, 1) + 1;
}

/* True if a clone is on its way. */
static __always_inline bool mirror_send(struct __sk_buff *skb, __u64 iseq, __u32 payload_bytes, bool write)
{
	struct bpf_tunnel_key key = {};
	struct mirror_gbp gbp;
	__u32 segments = skb->gso_segs, size = skb->gso_size;
	__u64 flags = BPF_F_ZERO_CSUM_TX;

	if (!mirror_ifindex)
		return false;
	/* A packet from a tap is not counted before it is split. */
	if (!segments)
		segments = size && payload_bytes > size ? (payload_bytes + size - 1) / size : 1;
	key.tunnel_id = iseq & ((1u << MIRROR_ISEQ_BITS) - 1);
	key.tunnel_ttl = 64;
	if (mirror_ipv6) {
		__builtin_memcpy(key.remote_ipv6, (const void *)mirror_peer, sizeof(key.remote_ipv6));
		flags |= BPF_F_TUNINFO_IPV6;
	} else {
		key.remote_ipv4 = mirror_peer[0];
	}
	gbp.policy = (segments & MIRROR_SEGMENTS) | (write ? MIRROR_WRITE : 0);
	if (bpf_skb_set_tunnel_key(skb, &key, sizeof(key), flags) ||
	    bpf_skb_set_tunnel_opt(skb, &gbp, sizeof(gbp)))
		return false;
	return !bpf_clone_redirect(skb, mirror_ifindex, 0);
}

#endif
