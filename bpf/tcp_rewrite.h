/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * Taking a TCP segment apart, changing its header, and putting it back with a
 * checksum that is right.
 *
 * Only plain segments are understood: no fragments, no IP options or extension
 * headers, no second VLAN tag.  Neither are those that carry a signature, which
 * covers what we would change (RFC 2385, RFC 5925).
 */
#ifndef COLOPP_TCP_REWRITE_H
#define COLOPP_TCP_REWRITE_H

#include "wire.h"

#define ETH_HLEN 14
#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd
#define IPV4_BYTES 20
#define IPV6_BYTES 40
#define IPV4_FRAGMENT 0x3fff /* more fragments, or not the first */
#define PROTOCOL_TCP 6

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_PSH 0x08
#define TCP_ACK 0x10
#define TCP_URG 0x20

#define TCP_BYTES 20
#define TCP_HEADER_BYTES_MAX 60
#define TCP_SEQ_AT 4
#define TCP_ACK_AT 8
#define TCP_OFFSET_AT 12
#define TCP_FLAGS_AT 13
#define TCP_CHECKSUM_AT 16

#define TCP_OPTION_END 0
#define TCP_OPTION_NOP 1
#define TCP_OPTION_SACK 5
#define TCP_OPTION_TIMESTAMPS 8
#define TCP_OPTION_MD5 19
#define TCP_OPTION_AO 29
#define TCP_OPTIONS_MAX 40
#define SACK_BLOCK_BYTES 8
#define SACK_BLOCKS_MAX 4
#define TIMESTAMPS_BYTES 10

struct segment {
	struct shadow_key key;
	__u32 seq; /* in host order, as all numbers here */
	__u32 ack;
	__u32 span; /* sequence numbers that it takes up */
	__u32 payload_bytes;
	__u32 flags;
	__u32 tcp_at;	    /* offset of its header in the frame */
	__u32 header_bytes; /* with options */
	/* Offsets in the header; 0: there are none. */
	__u32 timestamps_at;
	__u32 sack_at;
	__u32 sack_end;
	__u32 tsval;
	__u32 tsecr;
};

/* The header as it came, and as it is going to be.  Not on the stack, because
 * options are found at offsets that only the packet knows. */
struct tcp_header {
	__u8 was[64];
	__u8 is[64];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tcp_header);
} tcp_headers SEC(".maps");

/* Sequence numbers and timestamps wrap (RFC 9293, 3.4). */
static __always_inline bool tcp_after(__u32 a, __u32 b)
{
	return (__s32)(a - b) > 0;
}

static __always_inline __u32 get32(const __u8 *header, __u32 at)
{
	const __u8 *p = header + (at & 63);

	if (at > TCP_HEADER_BYTES_MAX - 4)
		return 0;
	return (__u32)p[0] << 24 | (__u32)p[1] << 16 | (__u32)p[2] << 8 | p[3];
}

static __always_inline void put32(__u8 *header, __u32 at, __u32 value)
{
	__u8 *p = header + (at & 63);

	if (at > TCP_HEADER_BYTES_MAX - 4)
		return;
	p[0] = value >> 24;
	p[1] = value >> 16;
	p[2] = value >> 8;
	p[3] = value;
}

/* What the steps of the walk through the options are called with. */
struct option_walk {
	const __u8 *header;
	struct segment *s;
	__u32 at;
	bool authenticated;
};

/* One option; as for the receiver, what is malformed ends them.  Returns as bpf_loop() expects. */
static long option_step(__u64 step, struct option_walk *w)
{
	const __u8 *header = w->header;
	__u32 at = w->at, bytes;
	__u8 kind;

	if (at >= TCP_HEADER_BYTES_MAX || at >= w->s->header_bytes)
		return 1;
	kind = header[at];
	if (kind == TCP_OPTION_END)
		return 1;
	if (kind == TCP_OPTION_NOP) {
		w->at = at + 1;
		return 0;
	}
	if (at + 1 >= TCP_HEADER_BYTES_MAX || at + 1 >= w->s->header_bytes)
		return 1;
	bytes = header[at + 1];
	if (bytes < 2 || at + bytes > w->s->header_bytes)
		return 1;
	switch (kind) {
	case TCP_OPTION_TIMESTAMPS:
		if (bytes == TIMESTAMPS_BYTES)
			w->s->timestamps_at = at + 2;
		break;
	case TCP_OPTION_SACK:
		if (bytes > 2 && (bytes - 2) % SACK_BLOCK_BYTES == 0) {
			w->s->sack_at = at + 2;
			w->s->sack_end = at + bytes;
		}
		break;
	case TCP_OPTION_MD5:
	case TCP_OPTION_AO:
		w->authenticated = true;
	}
	w->at = at + bytes;
	return 0;
}

/* True if a header may be so long.  The barriers keep the compiler from proving
 * it in a way that the verifier does not follow. */
static __always_inline bool header_fits(__u64 *bytes)
{
	barrier_var(*bytes);
	if (*bytes < TCP_BYTES)
		return false;
	barrier_var(*bytes);
	return *bytes <= TCP_HEADER_BYTES_MAX;
}

/* Whose packet it is, and where its TCP header and its end are.  False if it is no plain TCP. */
static __always_inline bool segment_find(struct __sk_buff *skb, bool from_guest, struct segment *s, __u32 *end)
{
	__u8 *src = from_guest ? s->key.guest : s->key.client;
	__u8 *dst = from_guest ? s->key.client : s->key.guest;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr ip;

		if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)) || ip.protocol != PROTOCOL_TCP ||
		    *(__u8 *)&ip != 0x45 || (ip.frag_off & bpf_htons(IPV4_FRAGMENT)))
			return false;
		src[10] = src[11] = dst[10] = dst[11] = 0xff;
		__builtin_memcpy(src + 12, &ip.saddr, 4);
		__builtin_memcpy(dst + 12, &ip.daddr, 4);
		s->tcp_at = ETH_HLEN + IPV4_BYTES;
		*end = ETH_HLEN + bpf_ntohs(ip.tot_len);
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr ip;

		if (bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)) || ip.nexthdr != PROTOCOL_TCP ||
		    *(__u8 *)&ip >> 4 != 6)
			return false;
		__builtin_memcpy(src, &ip.saddr, 16);
		__builtin_memcpy(dst, &ip.daddr, 16);
		s->tcp_at = ETH_HLEN + IPV6_BYTES;
		*end = s->tcp_at + bpf_ntohs(ip.payload_len);
	} else {
		return false;
	}
	return *end <= skb->len;
}

/*
 * Takes a segment apart.  `from_guest` says which of its addresses is the
 * guest's.  Returns its header, twice, or NULL if it is not one to change.
 */
static __always_inline struct tcp_header *segment_parse(struct __sk_buff *skb, bool from_guest, struct segment *s)
{
	struct tcp_header *header;
	struct option_walk walk = { .s = s, .at = TCP_BYTES };
	__u32 zero = 0, end;
	__u64 bytes;
	__u16 *ports;

	__builtin_memset(s, 0, sizeof(*s));
	if (!segment_find(skb, from_guest, s, &end))
		return NULL;
	header = bpf_map_lookup_elem(&tcp_headers, &zero);
	if (!header || bpf_skb_load_bytes(skb, s->tcp_at, header->was, TCP_BYTES))
		return NULL;
	bytes = (header->was[TCP_OFFSET_AT] >> 4) * 4;
	if (!header_fits(&bytes) || s->tcp_at + bytes > end ||
	    bpf_skb_load_bytes(skb, s->tcp_at, header->was, bytes))
		return NULL;
	__builtin_memcpy(header->is, header->was, sizeof(header->is));

	ports = (__u16 *)header->was;
	s->key.client_port = ports[from_guest];
	s->key.guest_port = ports[!from_guest];
	if (skb->vlan_present)
		s->key.vlan = (skb->vlan_tci & 0xfff) | 0x1000;
	s->seq = get32(header->was, TCP_SEQ_AT);
	s->ack = get32(header->was, TCP_ACK_AT);
	s->flags = header->was[TCP_FLAGS_AT];
	s->header_bytes = bytes;
	s->payload_bytes = end - s->tcp_at - bytes;
	s->span = s->payload_bytes + !!(s->flags & TCP_SYN) + !!(s->flags & TCP_FIN);
	if (bytes == TCP_BYTES)
		return header;

	walk.header = header->was;
	bpf_loop(TCP_OPTIONS_MAX, option_step, &walk, 0);
	if (walk.authenticated)
		return NULL;
	if (s->timestamps_at) {
		s->tsval = get32(header->was, s->timestamps_at);
		s->tsecr = get32(header->was, s->timestamps_at + 4);
	}
	return header;
}

/* Moves both ends of each block that a receiver reports (RFC 2018). */
static __always_inline void segment_shift_sacks(struct tcp_header *header, const struct segment *s, __u32 shift)
{
	__u32 i, at = s->sack_at;

	for (i = 0; i < 2 * SACK_BLOCKS_MAX; i++, at += 4) {
		if (!s->sack_at || at + 4 > s->sack_end)
			break;
		put32(header->is, at, get32(header->was, at) + shift);
	}
}

/*
 * Puts the header back.  False if the packet could not be written to.
 *
 * The checksum changes by the difference of the headers.  Where the sender has
 * left it to the device it holds the sum of the addresses only, and the kernel
 * knows not to touch it (no BPF_F_PSEUDO_HDR); of a packet that will be
 * segmented, each segment gets this header.
 */
static __always_inline bool segment_store(struct __sk_buff *skb, struct tcp_header *header, const struct segment *s)
{
	__u64 bytes = s->header_bytes;
	__s64 difference;

	if (!header_fits(&bytes))
		return false;
	difference = bpf_csum_diff((__be32 *)header->was, bytes, (__be32 *)header->is, bytes, 0);
	if (difference < 0)
		return false;
	return !bpf_skb_store_bytes(skb, s->tcp_at, header->is, bytes, 0) &&
	       !bpf_l4_csum_replace(skb, s->tcp_at + TCP_CHECKSUM_AT, 0, difference, 0);
}

#endif
