// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * The gate on a VM's tap: decides for each packet of the guest whether the
 * world may see it now, later, or never.
 *
 *   gate_out      tap, tcx/ingress    what the guest sends
 *   gate_in       tap, tcx/egress     what the guest is about to receive
 *   gate_release  hold tap, tcx/ingress  what the hold thread gives back
 *   gate_ack      tunnel, tcx/ingress what the secondary has logged, and says
 *   gate_sweep    nowhere: run at times to forget flows
 *
 * A held packet leaves through the hold tap, waits in the hold thread, is
 * written back without its tag, gets a mark no guest can set, and runs through
 * gate_out once more.
 */
#include "vmlinux.h"
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "flow.h"
#include "mirror.h"
#include "wire.h"

#define ETH_P_ARP 0x0806
#define ETH_P_RARP 0x8035
#define ETH_P_IPV6 0x86dd
#define ARP_BYTES 28 /* of Ethernet and IPv4 */
#define NEXTHDR_ICMP 58
#define ND_ROUTER_SOLICIT 133
#define ND_REDIRECT 137
#define TCX_NEXT -1
#define TCX_DROP 2

char LICENSE[] SEC("license") = "Dual MIT/GPL";

_Static_assert(sizeof(struct hold_tag) == HOLD_TAG_BYTES, "the tag's size is part of the protocol");

/* Set once, before load. */
const volatile __u32 tap_ifindex;
const volatile __u32 hold_ifindex;
const volatile __u32 release_mark;
const volatile bool follow_flows; /* services are declared, or inputs mirrored: see flow.h */
const volatile __u32 log_mark; /* on what the input log gives to the guest; 0: there is none */
const volatile __u32 shadow_ifindex; /* where shadow outputs go; 0: nowhere */

/* Written by the control plane at any time, by plain stores into mapped memory. */
enum gate_mode mode = GATE_PASS;
/* While protected, nothing leaves at or after this CLOCK_MONOTONIC time: a
 * frozen, dead or partitioned control plane is silenced by the kernel. */
__u64 lease_until_ns = 0;
/* Of the packets that leave early, so many of 2^32 are audited. */
__u32 audit_share = 0;
/* Shadow outputs are wanted. */
bool comparing = false;

/* The guest's ports whose output is not to be compared. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_SERVICES);
	__type(key, struct service_port);
	__type(value, __u32);
} uncompared_ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, GATE_COUNTERS);
	__type(key, enum gate_counter);
	__type(value, struct gate_count);
} counters SEC(".maps");

static __always_inline void count(enum gate_counter which, __u32 bytes)
{
	struct gate_count *c = bpf_map_lookup_elem(&counters, &which);

	if (c) {
		c->packets++;
		c->bytes += bytes;
	}
}

static __always_inline int verdict(struct __sk_buff *skb, enum gate_counter which, int code)
{
	count(which, skb->len);
	return code;
}

/*
 * Finding the neighbour says nothing of the guest's state, and losing it would
 * cut connections that output commit can save.  Extension headers are not
 * followed: discovery has none, and what is unusual is held.
 */
static __always_inline bool is_neighbour_discovery(struct __sk_buff *skb)
{
	__u8 next, type;

	switch (bpf_ntohs(skb->protocol)) {
	case ETH_P_ARP:
	case ETH_P_RARP:
		return skb->len >= ETH_HLEN + ARP_BYTES;
	case ETH_P_IPV6:
		if (bpf_skb_load_bytes(skb, ETH_HLEN + 6, &next, 1) || next != NEXTHDR_ICMP)
			return false;
		if (bpf_skb_load_bytes(skb, ETH_HLEN + 40, &type, 1))
			return false;
		return type >= ND_ROUTER_SOLICIT && type <= ND_REDIRECT;
	default:
		return false;
	}
}

static __always_inline int hold(struct __sk_buff *skb, __u64 now_ns, __u64 needs_iseq, enum hold_flags flags)
{
	struct hold_tag tag = {
		.flags = flags,
		.ethertype = bpf_htons(HOLD_ETHERTYPE),
		.gso_size = skb->gso_size,
		.time_ns = now_ns,
		.magic = HOLD_MAGIC,
		.frame_bytes = skb->len,
		.needs_iseq = needs_iseq,
	};

	if (bpf_skb_change_head(skb, sizeof(tag), 0) ||
	    bpf_skb_store_bytes(skb, 0, &tag, sizeof(tag), 0)) {
		count(GATE_OUT_UNTAGGABLE, tag.frame_bytes);
		return TCX_DROP;
	}
	count(flags & HOLD_AUDIT ? GATE_OUT_AUDITED : GATE_OUT_HELD, tag.frame_bytes);
	/* With the hold thread gone, its tap is gone too and the packet is
	 * dropped here: a packet lost like any lost packet, never one leaked. */
	return bpf_redirect(hold_ifindex, 0);
}

static __always_inline bool sampled(void)
{
	return audit_share && bpf_get_prandom_u32() < audit_share;
}

/*
 * A packet leaves before a checkpoint.  Of those that are to be audited the
 * clone leaves, by the way of what is released, because the packet itself gets
 * the tag.
 */
static __always_inline int early(struct __sk_buff *skb, __u64 now_ns)
{
	if (!sampled())
		return verdict(skb, GATE_OUT_EARLY, TCX_NEXT);
	skb->mark = release_mark;
	if (bpf_clone_redirect(skb, tap_ifindex, BPF_F_INGRESS)) {
		skb->mark = 0;
		return verdict(skb, GATE_OUT_EARLY, TCX_NEXT);
	}
	skb->mark = 0;
	return hold(skb, now_ns, 0, HOLD_AUDIT);
}

static __always_inline enum hold_flags hold_flags_of(struct __sk_buff *skb)
{
	struct service_port port = {};
	struct packet p;

	/* Also while nothing is compared: how much there would be to compare is known by it. */
	if (!shadow_ifindex || packet_parse(skb, true, &p) != PACKET_PLAIN)
		return 0;
	port.port = p.key.guest_port;
	port.protocol = p.key.protocol;
	return bpf_map_lookup_elem(&uncompared_ports, &port) ? HOLD_UNCOMPARED : 0;
}

SEC("tcx/ingress")
int gate_out(struct __sk_buff *skb)
{
	bool released = release_mark && skb->mark == release_mark;
	__u64 now_ns, needs_iseq = 0;
	enum hold_flags flags;

	if (released)
		skb->mark = 0;

	switch (mode) {
	case GATE_PASS:
		if (follow_flows && !released)
			flow_output(skb, false, bpf_ktime_get_ns(), &needs_iseq);
		return verdict(skb, released ? GATE_OUT_RELEASED : GATE_OUT_PASSED, TCX_NEXT);
	case GATE_PROTECTED:
		break;
	case GATE_SHADOWED:
		return verdict(skb, GATE_OUT_SHADOW, TCX_NEXT);
	default:
		return verdict(skb, GATE_OUT_CLOSED, TCX_DROP);
	}

	now_ns = bpf_ktime_get_ns();
	if (now_ns >= lease_until_ns)
		return verdict(skb, GATE_OUT_LEASE_EXPIRED, TCX_DROP);
	if (released)
		return verdict(skb, GATE_OUT_RELEASED, TCX_NEXT);
	if (is_neighbour_discovery(skb))
		return verdict(skb, GATE_OUT_NEIGHBOUR, TCX_NEXT);
	if (follow_flows && flow_output(skb, true, now_ns, &needs_iseq))
		return early(skb, now_ns);
	flags = hold_flags_of(skb);
	/* With the secondary's word that it has the inputs, it leaves early as well. */
	if (needs_iseq && sampled())
		flags |= HOLD_SAMPLED;
	return hold(skb, now_ns, needs_iseq, flags);
}

/* What the guest is about to read: followed, and mirrored to the input log while
 * protected and before, while the guest is being copied: what waits in the tap
 * when the first checkpoint stops it is in no state, and must be in the log.
 * Everything has a number or is counted, whatever it is, because the tap counts
 * what the guest has read in the same way. */
static __always_inline void input(struct __sk_buff *skb, bool protected_now)
{
	bool numbered = protected_now || log_epoch;
	__u64 iseq = 0, now_ns = bpf_ktime_get_ns();
	struct packet p;
	bool write = true;

	if (numbered)
		iseq = mirror_number();
	else
		__sync_fetch_and_add(&unnumbered_inputs, 1);

	switch (packet_parse(skb, false, &p)) {
	case PACKET_PLAIN:
		write = flow_input(skb, &p, iseq, now_ns);
		break;
	case PACKET_OPAQUE:
		opaque_input(iseq, now_ns);
		break;
	default:
		break;
	}
	if (numbered && mirror_ifindex && !mirror_send(skb, iseq, p.payload_bytes, write))
		count(GATE_IN_UNMIRRORED, skb->len);
}

SEC("tcx/egress")
int gate_in(struct __sk_buff *skb)
{
	enum gate_mode now = mode; /* read once: it may change meanwhile */

	switch (now) {
	case GATE_PASS:
	case GATE_PROTECTED:
		if (follow_flows)
			input(skb, now == GATE_PROTECTED);
		return verdict(skb, GATE_IN_PASSED, TCX_NEXT);
	case GATE_SHADOWED:
		if (!log_mark || skb->mark != log_mark)
			return verdict(skb, GATE_IN_CLOSED, TCX_DROP);
		/* The tap counts it as read, like any other. */
		__sync_fetch_and_add(&unnumbered_inputs, 1);
		return verdict(skb, GATE_IN_PASSED, TCX_NEXT);
	default:
		return verdict(skb, GATE_IN_CLOSED, TCX_DROP);
	}
}

SEC("tcx/ingress")
int gate_release(struct __sk_buff *skb)
{
	skb->mark = release_mark;
	return bpf_redirect(tap_ifindex, BPF_F_INGRESS);
}

/*
 * What the secondary's guest says.  True if the packet was such; then `*code` is
 * what becomes of it.  Whether it belongs to the checkpoint that counts, the hold
 * thread knows.
 */
static __always_inline bool shadow_output(struct __sk_buff *skb, int *code)
{
	struct shadow_tag tag = {
		.hold = {
			.ethertype = bpf_htons(HOLD_ETHERTYPE),
			.gso_size = skb->gso_size,
			.time_ns = bpf_ktime_get_ns(),
			.magic = SHADOW_MAGIC,
			.frame_bytes = skb->len,
		},
	};
	struct bpf_tunnel_key key = {};
	__u32 policy = 0;

	if (bpf_skb_get_tunnel_key(skb, &key, sizeof(key), mirror_ipv6 ? BPF_F_TUNINFO_IPV6 : 0) ||
	    bpf_skb_get_tunnel_opt(skb, &policy, sizeof(policy)) != sizeof(policy) ||
	    policy != SHADOW_OUTPUT_POLICY)
		return false;
	tag.epoch = key.tunnel_id;
	if (!mirror_is_peer(&key) || !comparing || mode != GATE_PROTECTED || !shadow_ifindex ||
	    bpf_skb_change_head(skb, sizeof(tag), 0) || bpf_skb_store_bytes(skb, 0, &tag, sizeof(tag), 0)) {
		*code = verdict(skb, GATE_SHADOW_DROPPED, TCX_DROP);
	} else {
		count(GATE_SHADOW_OUTPUTS, tag.hold.frame_bytes);
		*code = bpf_redirect(shadow_ifindex, 0);
	}
	return true;
}

/* From the tunnel: tells what the secondary has in its input log, and what its
 * guest says.  The former goes on to the hold thread if packets wait for it. */
SEC("tcx/ingress")
int gate_ack(struct __sk_buff *skb)
{
	__u64 before = logged_iseq;
	int code;

	if (mirror_acked(skb))
		return before < needed_iseq && before < logged_iseq ? bpf_redirect(hold_ifindex, 0) : TCX_DROP;
	return shadow_output(skb, &code) ? code : TCX_NEXT;
}

/* Of a type that never sleeps, like shadow_sweep. The frame is nobody's. */
SEC("tc")
int gate_sweep(struct __sk_buff *unused)
{
	flow_sweep();
	return 0;
}
