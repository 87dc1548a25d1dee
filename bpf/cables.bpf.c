// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * The cables of a lab, seen from its switches: what drills do to them, and who
 * is seen to speak for the guest.
 *
 *   cable_from  a switch's port, tcx/ingress  what a host sends
 *   cable_to    a switch's port, tcx/egress   what a host is about to receive
 *
 * Nothing here is part of a pair: the hosts know as little of it as of a real
 * cable.
 */
#include "vmlinux.h"
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "packet.h"
#include "wire.h"

#define TCX_NEXT -1
#define TCX_DROP 2
#define MIRROR_PORT 7750   /* src/dataplane/tunnel.ts */
#define FRAME_TYPE_AT 4	   /* src/peer/frame.ts: length, type, payload */
#define FRAME_TYPE_NONE 0xee
#define MOST_REIGNS 64

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* Set once, before load. */
enum cable {
	CABLE_A_CLIENTS,
	CABLE_B_CLIENTS,
	CABLE_A_REPLICATION,
	CABLE_B_REPLICATION,
	CABLE_A_MANAGEMENT,
	CABLE_B_MANAGEMENT,
	CABLES,
};
const volatile __u32 cable_ifindex[CABLES];
const volatile __u8 guest_mac[6];
const volatile __u32 delay_ifindex; /* the tap where late frames wait */

enum fault_of {
	FAULT_OF_ALL = 0,
	FAULT_OF_MIRROR, /* only what the input mirror sends, and its acknowledgements */
};

/* What happens to the frames of one cable, in one direction. */
struct fault {
	__u32 drop_ppm;	 /* so many of a million are lost */
	__u32 delay_ppm; /* of the others, so many come late; only on replication cables, from a host */
	enum fault_of of;
	__u32 corrupt_type; /* the next peer frame of this type becomes one that does not exist; 0: none */
};

struct fault faults_from[CABLES];
struct fault faults_to[CABLES];
__u64 dropped = 0, delayed = 0, corrupted = 0;

/* A time in which one host, and no other, was seen to speak for the guest. */
struct reign {
	__u32 host; /* 0: a, 1: b */
	__u32 reserved;
	__u64 frames;
	__u64 first_ns; /* CLOCK_MONOTONIC */
	__u64 last_ns;
};

struct reigns {
	struct bpf_spin_lock lock;
	__u32 count; /* all there were; beyond MOST_REIGNS they are only counted */
	__u32 speaker;
	__u32 reserved;
	struct reign list[MOST_REIGNS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct reigns);
} speech SEC(".maps");

static __always_inline __u32 cable_of(struct __sk_buff *skb)
{
	for (__u32 i = 0; i < CABLES; i++)
		if (cable_ifindex[i] == skb->ifindex)
			return i;
	return CABLES;
}

static __always_inline void note_speech(struct __sk_buff *skb, __u32 host)
{
	__u32 zero = 0, at;
	struct reigns *r = bpf_map_lookup_elem(&speech, &zero);
	__u64 now_ns = bpf_ktime_get_ns();
	__u8 mac[6];

	if (!r || bpf_skb_load_bytes(skb, 6, mac, sizeof(mac)))
		return;
	for (int i = 0; i < 6; i++)
		if (mac[i] != guest_mac[i])
			return;

	bpf_spin_lock(&r->lock);
	if (!r->count || r->speaker != host) {
		at = r->count++;
		r->speaker = host;
		if (at < MOST_REIGNS) {
			r->list[at].host = host;
			r->list[at].first_ns = now_ns;
		}
	}
	at = r->count - 1;
	if (at < MOST_REIGNS) {
		r->list[at].frames++;
		r->list[at].last_ns = now_ns;
	}
	bpf_spin_unlock(&r->lock);
}

static __always_inline bool is_mirror(struct __sk_buff *skb)
{
	struct packet_ipv4 ip;
	struct packet_udp udp;

	return skb->protocol == bpf_htons(PACKET_ETH_P_IP) &&
	       !bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)) && ip.protocol == PACKET_UDP &&
	       !bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(ip), &udp, sizeof(udp)) &&
	       udp.dst == bpf_htons(MIRROR_PORT);
}

/* Makes a peer frame of `type` one that does not exist.  The checksum stays
 * right: what TCP would repair needs no drill. */
static __always_inline bool corrupt(struct __sk_buff *skb, __u8 type)
{
	__u32 tcp_at, at;
	struct packet_ipv4 ip;
	struct packet_tcp tcp;
	__u8 head[6];
	__be16 before, after;

	if (skb->protocol != bpf_htons(PACKET_ETH_P_IP) || bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)) ||
	    ip.protocol != PACKET_TCP)
		return false;
	tcp_at = ETH_HLEN + (ip.version_ihl & 15) * 4;
	if (bpf_skb_load_bytes(skb, tcp_at, &tcp, sizeof(tcp)))
		return false;
	at = tcp_at + (tcp.offset >> 4) * 4;
	if (bpf_skb_load_bytes(skb, at, head, sizeof(head)) || head[0] || head[1] || head[FRAME_TYPE_AT] != type)
		return false;
	__builtin_memcpy(&before, head + FRAME_TYPE_AT, 2);
	head[FRAME_TYPE_AT] = FRAME_TYPE_NONE;
	__builtin_memcpy(&after, head + FRAME_TYPE_AT, 2);
	return !bpf_skb_store_bytes(skb, at + FRAME_TYPE_AT, &after, 2, 0) &&
	       !bpf_l4_csum_replace(skb, tcp_at + 16, before, after, 2);
}

/* Tagged like a held packet, so that a hold thread can keep it for a while. */
static __always_inline int delay(struct __sk_buff *skb)
{
	struct hold_tag tag = {
		.ethertype = bpf_htons(HOLD_ETHERTYPE),
		.gso_size = skb->gso_size,
		.time_ns = bpf_ktime_get_ns(),
		.magic = HOLD_MAGIC,
		.frame_bytes = skb->len,
	};

	if (bpf_skb_change_head(skb, sizeof(tag), 0) || bpf_skb_store_bytes(skb, 0, &tag, sizeof(tag), 0))
		return TCX_DROP;
	__sync_fetch_and_add(&delayed, 1);
	return bpf_redirect(delay_ifindex, 0);
}

static __always_inline bool happens(__u32 ppm)
{
	return ppm && bpf_get_prandom_u32() % 1000000 < ppm;
}

static __always_inline bool is_dropped(struct __sk_buff *skb, const struct fault *f)
{
	if (f->of == FAULT_OF_MIRROR && !is_mirror(skb))
		return false;
	if (!happens(f->drop_ppm))
		return false;
	__sync_fetch_and_add(&dropped, 1);
	return true;
}

SEC("tcx/ingress")
int cable_from(struct __sk_buff *skb)
{
	__u32 cable = cable_of(skb);
	struct fault *f;
	__u32 type;

	if (cable >= CABLES)
		return TCX_NEXT;
	f = &faults_from[cable];
	if (is_dropped(skb, f))
		return TCX_DROP;
	/* What a broken cable has swallowed, nobody has heard. */
	if (cable <= CABLE_B_CLIENTS)
		note_speech(skb, cable - CABLE_A_CLIENTS);
	type = f->corrupt_type;
	if (type && corrupt(skb, type)) {
		f->corrupt_type = 0;
		__sync_fetch_and_add(&corrupted, 1);
	}
	if ((cable == CABLE_A_REPLICATION || cable == CABLE_B_REPLICATION) && f->delay_ppm && (f->of == FAULT_OF_ALL || is_mirror(skb)) &&
	    happens(f->delay_ppm))
		return delay(skb);
	return TCX_NEXT;
}

SEC("tcx/egress")
int cable_to(struct __sk_buff *skb)
{
	__u32 cable = cable_of(skb);

	if (cable >= CABLES)
		return TCX_NEXT;
	return is_dropped(skb, &faults_to[cable]) ? TCX_DROP : TCX_NEXT;
}
