// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * The secondary's half of input replication, and what keeps clients and guest
 * together after a takeover.
 *
 *   shadow_log    vxlan device, tcx/ingress  mirrored input: tagged, to the log thread
 *   shadow_write  log tap, tcx/ingress       what the log thread writes: acknowledgements to
 *                                            the primary, logged input to the guest
 *   shadow_in     tap, tcx/egress            what the guest is about to receive
 *   shadow_out    tap, tcx/ingress           what the guest sends
 *   shadow_sweep  on demand                  forgets flows that have ended
 *
 * On the tap these come after the gate's: what the gate holds is not yet
 * translated, and is when it passes the gate for the second time.
 */
#include "vmlinux.h"
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "shadow_flow.h"
#include "wire.h"

#define TCX_NEXT -1
#define TCX_DROP 2

char LICENSE[] SEC("license") = "Dual MIT/GPL";

_Static_assert(sizeof(struct log_tag) == LOG_TAG_BYTES, "the tag's size is part of the protocol");

/* Set once, before load. */
const volatile __u32 tap_ifindex;
const volatile __u32 log_ifindex;
const volatile __u32 tunnel_ifindex;
const volatile bool tunnel_ipv6;
/* The primary's address; IPv4 in the first word, in host order, IPv6 as on the wire. */
const volatile __u32 tunnel_peer[4];
/* On what the log thread gives to the guest; not 0. */
const volatile __u32 replay_mark;

/* Written by the control plane at any time, by plain stores into mapped memory. */
enum shadow_mode mode = SHADOW_STANDBY;
/* How far the guest's timestamps are behind those that clients have seen, at
 * most.  Of all flows, because one is as good as another: who never saw the
 * primary sees them moved from the beginning. */
__u32 ts_offset = 0;
/* Rises whenever a secondary of ours must be told anew how flows are translated. */
__u64 flow_changes = 0;
/* Flows of another generation are void: each checkpoint that an active
 * secondary's guest loads begins one. */
__u32 generation = 0;
/* While SHADOW_ACTIVE. */
enum shadow_forward forward = FORWARD_NONE;
/* With FORWARD_DIRTY: what came before has been settled. */
__u64 clean_ns = 0;

/* When the newest input came that may be a write. */
__u64 write_ns = 0;

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SHADOW_COUNTERS);
	__type(key, enum shadow_counter);
	__type(value, __u64);
} counters SEC(".maps");

static __always_inline void count(enum shadow_counter which)
{
	__u64 *packets = bpf_map_lookup_elem(&counters, &which);

	if (packets)
		(*packets)++;
}

static __always_inline int verdict(enum shadow_counter which, int code)
{
	count(which);
	return code;
}

static __always_inline bool is_ip(struct __sk_buff *skb)
{
	__u32 protocol = skb->protocol;

	barrier_var(protocol); /* the compiler must not compute its address: the verifier forbids it */
	return protocol == bpf_htons(ETH_P_IP) || protocol == bpf_htons(ETH_P_IPV6);
}

/* ---- input ---- */

static __always_inline int to_log(struct __sk_buff *skb, __u32 iseq24, __u16 segments, __u32 flags,
				  enum shadow_counter which)
{
	struct log_tag tag = {
		.hold = {
			.ethertype = bpf_htons(HOLD_ETHERTYPE),
			.gso_size = skb->gso_size,
			.time_ns = bpf_ktime_get_ns(),
			.magic = LOG_MAGIC,
			.frame_bytes = skb->len,
		},
		.iseq24 = iseq24,
		.flags = flags,
		.segments = segments,
		.arrived = skb->gso_segs ? skb->gso_segs : 1,
	};

	if (bpf_skb_change_head(skb, sizeof(tag), 0) ||
	    bpf_skb_store_bytes(skb, 0, &tag, sizeof(tag), 0))
		return verdict(SHADOW_UNTAGGABLE, TCX_DROP);
	count(which);
	return bpf_redirect(log_ifindex, 0);
}

static __always_inline bool from_peer(const struct bpf_tunnel_key *key)
{
	if (!tunnel_ipv6)
		return key->remote_ipv4 == tunnel_peer[0];
	return key->remote_ipv6[0] == tunnel_peer[0] && key->remote_ipv6[1] == tunnel_peer[1] &&
	       key->remote_ipv6[2] == tunnel_peer[2] && key->remote_ipv6[3] == tunnel_peer[3];
}

SEC("tcx/ingress")
int shadow_log(struct __sk_buff *skb)
{
	struct bpf_tunnel_key key = {};
	__u64 flags = tunnel_ipv6 ? BPF_F_TUNINFO_IPV6 : 0;
	__u32 policy = 0;

	if (bpf_skb_get_tunnel_key(skb, &key, sizeof(key), flags) || !from_peer(&key))
		return verdict(SHADOW_FOREIGN, TCX_DROP);
	if (bpf_skb_get_tunnel_opt(skb, &policy, sizeof(policy)) != sizeof(policy) || !(policy & MIRROR_SEGMENTS)) {
		/* The peer's log acknowledges through the same tunnel when we are its
		 * primary: that is the gate's business. */
		if (skb->protocol == bpf_htons(INPUT_ACK_ETHERTYPE))
			return TCX_NEXT;
		return verdict(SHADOW_MALFORMED, TCX_DROP);
	}
	if (policy & MIRROR_WRITE)
		write_ns = bpf_ktime_get_ns();
	return to_log(skb, key.tunnel_id & ((1u << MIRROR_ISEQ_BITS) - 1), policy & MIRROR_SEGMENTS,
		      policy & MIRROR_WRITE ? LOG_WRITE : 0, SHADOW_LOGGED);
}

/* Sends a packet through the tunnel to the primary.  The policy is set even if it
 * is none: where there is no option, the kernel takes one from its stack. */
static __always_inline int to_primary(struct __sk_buff *skb, __u32 vni, __u32 policy, enum shadow_counter which)
{
	struct bpf_tunnel_key key = { .tunnel_id = vni, .tunnel_ttl = 64 };
	__u64 flags = BPF_F_ZERO_CSUM_TX;

	if (tunnel_ipv6) {
		flags |= BPF_F_TUNINFO_IPV6;
		for (int i = 0; i < 4; i++)
			key.remote_ipv6[i] = tunnel_peer[i];
	} else {
		key.remote_ipv4 = tunnel_peer[0];
	}
	if (bpf_skb_set_tunnel_key(skb, &key, sizeof(key), flags) ||
	    bpf_skb_set_tunnel_opt(skb, &policy, sizeof(policy)))
		return TCX_DROP;
	count(which);
	return bpf_redirect(tunnel_ifindex, 0);
}

SEC("tcx/ingress")
int shadow_write(struct __sk_buff *skb)
{
	if (skb->protocol == bpf_htons(INPUT_ACK_ETHERTYPE))
		return to_primary(skb, 0, 0, SHADOW_ACKS);
	count(SHADOW_INJECTED);
	skb->mark = replay_mark;
	return bpf_redirect(tap_ifindex, 0);
}

/* ---- translation ---- */

/* The flow of a segment; made if `make`.  NULL: there is none. */
static __always_inline struct shadow_flow *flow_of(const struct shadow_key *key, bool make)
{
	struct shadow_flow *f = bpf_map_lookup_elem(&shadow_flows, key);
	bool stale = f && f->generation != generation;

	if (stale)
		f = NULL;
	if (!f && make) {
		struct shadow_flow fresh = { .ts_delta = ts_offset, .generation = generation };

		bpf_map_update_elem(&shadow_flows, key, &fresh, stale ? BPF_ANY : BPF_NOEXIST);
		f = bpf_map_lookup_elem(&shadow_flows, key);
		if (!f)
			count(SHADOW_FLOWS_FULL);
	}
	return f;
}

/*
 * Flows begin to exist here while the log goes in only, because only those that
 * are as old as the takeover differ in more than their timestamps.
 */
static __always_inline void translate(struct __sk_buff *skb, bool from_guest, bool replay)
{
	enum shadow_mode now = mode; /* read once: it may change meanwhile */
	bool from_log = replay && (now == SHADOW_REPLAY || now == SHADOW_ACTIVE);
	enum probing probing = !from_log ? PROBE_NEVER : now == SHADOW_REPLAY ? PROBE_FIRST : PROBE_LATER;
	bool make = from_log || (from_guest && (now == SHADOW_REPLAY || now == SHADOW_ACTIVE));
	struct edit e = {};
	struct tcp_header *header;
	struct shadow_flow *f;
	struct segment s;
	__u64 now_ns;

	header = segment_parse(skb, from_guest, &s);
	if (!header) {
		count(SHADOW_OPAQUE);
		return;
	}
	f = flow_of(&s.key, make && !(s.flags & TCP_RST));
	now_ns = bpf_ktime_get_ns();
	if (f) {
		bpf_spin_lock(&f->lock);
		if (from_guest)
			flow_output(f, &s, ts_offset, now_ns, &e);
		else
			flow_input(f, &s, probing, ts_offset, now_ns, &e);
		if (from_guest && now == SHADOW_ACTIVE)
			e.seq -= f->handed_delta; /* the primary compares before it adds that */
		bpf_spin_unlock(&f->lock);
	} else if (from_guest) {
		e.tsval = ts_offset;
	} else {
		e.tsecr = -ts_offset;
	}
	if (e.probe)
		count(SHADOW_PROBES);
	if (e.clamped)
		count(SHADOW_CLAMPED);
	if (e.learned)
		count(SHADOW_LEARNED);
	if (e.changed)
		__sync_fetch_and_add(&flow_changes, 1);
	if (edit_apply(&e, header, &s) && segment_store(skb, header, &s))
		count(from_guest ? SHADOW_OUT_REWRITTEN : SHADOW_IN_REWRITTEN);
}

SEC("tcx/egress")
int shadow_in(struct __sk_buff *skb)
{
	bool replay = skb->mark == replay_mark, ip = is_ip(skb);

	if (replay)
		skb->mark = 0;
	switch (mode) {
	case SHADOW_OFF:
		return verdict(SHADOW_IN_PASSED, TCX_NEXT);
	case SHADOW_REPLAY:
		/* What is no IP, like finding a neighbour, disturbs no order. */
		if (ip && !replay)
			return to_log(skb, 0, 1, LOG_LIVE, SHADOW_LIVE_LOGGED);
		break;
	case SHADOW_LIVE:
		break;
	case SHADOW_ACTIVE:
		/* The log is all that this guest may know of the world. */
		if (!replay)
			return verdict(SHADOW_IN_DROPPED, TCX_DROP);
		break;
	default:
		return verdict(SHADOW_IN_DROPPED, TCX_DROP);
	}
	if (ip)
		translate(skb, false, replay);
	return verdict(SHADOW_IN_PASSED, TCX_NEXT);
}

static __always_inline bool wanted_by_primary(void)
{
	return forward == FORWARD_ALL || (forward == FORWARD_DIRTY && write_ns > clean_ns);
}

/* What an active secondary's guest says is for the primary's hold thread only. */
static __always_inline int shadow_output(struct __sk_buff *skb)
{
	if (!is_ip(skb))
		return verdict(SHADOW_OUT_DROPPED, TCX_DROP);
	/* Not only what is sent on: the numbers are needed for what goes in. */
	translate(skb, true, false);
	if (!wanted_by_primary())
		return verdict(SHADOW_OUT_DROPPED, TCX_DROP);
	return to_primary(skb, generation, SHADOW_OUTPUT_POLICY, SHADOW_FORWARDED);
}

SEC("tcx/ingress")
int shadow_out(struct __sk_buff *skb)
{
	switch (mode) {
	case SHADOW_OFF:
		return verdict(SHADOW_OUT_PASSED, TCX_NEXT);
	case SHADOW_REPLAY:
	case SHADOW_LIVE:
		break;
	case SHADOW_ACTIVE:
		return shadow_output(skb);
	default:
		return verdict(SHADOW_OUT_DROPPED, TCX_DROP);
	}
	if (is_ip(skb))
		translate(skb, true, false);
	return verdict(SHADOW_OUT_PASSED, TCX_NEXT);
}

/* ---- forgetting ---- */

/* Flows that ended before the one time, or were last used before the other, are
 * forgotten by the next shadow_sweep; and all but those of `generation` and this
 * one: a takeover in the middle of a checkpoint goes back to that of the guest. */
__u64 sweep_ended_ns = 0;
__u64 sweep_used_ns = 0;
__u32 guest_generation = 0;

static long sweep_flow(void *map, const struct shadow_key *key, struct shadow_flow *f, __u32 *kept)
{
	bool stale = f->generation != generation && f->generation != guest_generation;

	if (stale || (f->ended_ns && f->ended_ns < sweep_ended_ns) || f->used_ns < sweep_used_ns)
		bpf_map_delete_elem(map, key);
	else
		(*kept)++;
	return 0;
}

/* Returns how many are left.
 * Of a type that never sleeps: Linux 6.1 lets no other use a map with locks. The frame is nobody's. */
SEC("tc")
int shadow_sweep(struct __sk_buff *unused)
{
	__u32 kept = 0;

	bpf_for_each_map_elem(&shadow_flows, sweep_flow, &kept, 0);
	return kept;
}
