/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * What the gate needs to know of a packet: whose it is, and what it carries.
 *
 * Only plain packets are understood.  A fragment, an IP option, an extension
 * header, a second VLAN tag or a length that contradicts itself makes a packet
 * opaque, and what is opaque gets the slow and safe treatment.  The secondary
 * could not translate it either: see tcp_rewrite.h.
 */
#ifndef COLOPP_PACKET_H
#define COLOPP_PACKET_H

#include "ip_protocols.h"

#ifndef ETH_HLEN
#define ETH_HLEN 14
#endif
#define PACKET_ETH_P_IP 0x0800
#define PACKET_ETH_P_IPV6 0x86dd
#define PACKET_ETH_P_8021Q 0x8100
#define PACKET_ETH_P_8021AD 0x88a8
#define PACKET_TCP 6
#define PACKET_UDP 17

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_PSH 0x08
#define TCP_ACK 0x10
#define TCP_URG 0x20

#define TCP_BYTES 20
#define TCP_OPTION_END 0
#define TCP_OPTION_NOP 1
#define TCP_OPTION_MD5 19
#define TCP_OPTION_AO 29
#define TCP_OPTIONS_MAX 40

/* One conversation.  IPv4 addresses are mapped into IPv6. */
struct flow_key {
	__u32 client[4];
	__u32 guest[4];
	__u16 client_port; /* big endian, as the guest's */
	__u16 guest_port;
	__u32 protocol; /* PACKET_TCP or PACKET_UDP */
};

enum packet_kind {
	PACKET_OTHER = 0, /* certainly neither TCP nor UDP */
	PACKET_OPAQUE,	  /* may be TCP or UDP, but is not understood */
	PACKET_PLAIN,	  /* TCP or UDP: struct packet is valid */
};

struct packet {
	struct flow_key key;
	__u32 seq; /* TCP only, in host order, like the next two */
	__u32 ack;
	__u32 flags;
	__u32 option_bytes;   /* in front of the payload */
	__u32 payload_offset; /* from the Ethernet header */
	__u32 payload_bytes;
};

struct packet_ipv4 {
	__u8 version_ihl, tos;
	__be16 total_bytes, id, fragment;
	__u8 ttl, protocol;
	__be16 checksum;
	__be32 src, dst;
} __attribute__((packed));

struct packet_ipv6 {
	__be32 version;
	__be16 payload_bytes;
	__u8 next, hop_limit;
	__be32 src[4], dst[4];
} __attribute__((packed));

struct packet_tcp {
	__be16 src, dst;
	__be32 seq, ack;
	__u8 offset, flags;
	__be16 window;
} __attribute__((packed));

struct packet_udp {
	__be16 src, dst, bytes, checksum;
} __attribute__((packed));

static __always_inline void packet_ports(struct packet *p, __be16 src, __be16 dst, bool from_guest)
{
	p->key.client_port = from_guest ? dst : src;
	p->key.guest_port = from_guest ? src : dst;
}

/*
 * Takes a packet apart.  `from_guest` says which of its addresses is the guest's.
 * Fills all of `p` only for PACKET_PLAIN.
 */
static __always_inline enum packet_kind packet_parse(struct __sk_buff *skb, bool from_guest, struct packet *p)
{
	union {
		struct packet_ipv4 v4;
		struct packet_ipv6 v6;
		struct packet_tcp tcp;
		struct packet_udp udp;
	} h;
	__u32 l4, end, protocol, header;

	__builtin_memset(p, 0, sizeof(*p));
	switch (bpf_ntohs(skb->protocol)) {
	case PACKET_ETH_P_IP:
		if (bpf_skb_load_bytes(skb, ETH_HLEN, &h.v4, sizeof(h.v4)))
			return PACKET_OPAQUE;
		protocol = h.v4.protocol;
		if (protocol != PACKET_TCP && protocol != PACKET_UDP)
			return ipv4_hides_nothing(protocol) ? PACKET_OTHER : PACKET_OPAQUE;
		if (h.v4.version_ihl != 0x45 || (h.v4.fragment & bpf_htons(0x3fff)))
			return PACKET_OPAQUE;
		l4 = ETH_HLEN + sizeof(h.v4);
		end = ETH_HLEN + bpf_ntohs(h.v4.total_bytes);
		p->key.client[2] = p->key.guest[2] = bpf_htonl(0xffff);
		p->key.client[3] = from_guest ? h.v4.dst : h.v4.src;
		p->key.guest[3] = from_guest ? h.v4.src : h.v4.dst;
		break;
	case PACKET_ETH_P_IPV6:
		if (bpf_skb_load_bytes(skb, ETH_HLEN, &h.v6, sizeof(h.v6)) ||
		    (bpf_ntohl(h.v6.version) >> 28) != 6)
			return PACKET_OPAQUE;
		protocol = h.v6.next;
		l4 = ETH_HLEN + sizeof(h.v6);
		if (protocol != PACKET_TCP && protocol != PACKET_UDP) {
			__u8 behind;

			if (bpf_skb_load_bytes(skb, l4, &behind, sizeof(behind)))
				return PACKET_OPAQUE;
			return ipv6_hides_nothing(protocol, behind) ? PACKET_OTHER : PACKET_OPAQUE;
		}
		end = l4 + bpf_ntohs(h.v6.payload_bytes);
		__builtin_memcpy(p->key.client, from_guest ? h.v6.dst : h.v6.src, 16);
		__builtin_memcpy(p->key.guest, from_guest ? h.v6.src : h.v6.dst, 16);
		break;
	case PACKET_ETH_P_8021Q:
	case PACKET_ETH_P_8021AD:
		return PACKET_OPAQUE;
	default:
		return PACKET_OTHER;
	}
	if (end > skb->len)
		return PACKET_OPAQUE;
	p->key.protocol = protocol;
	if (protocol == PACKET_TCP) {
		if (bpf_skb_load_bytes(skb, l4, &h.tcp, sizeof(h.tcp)))
			return PACKET_OPAQUE;
		header = (h.tcp.offset >> 4) * 4;
		packet_ports(p, h.tcp.src, h.tcp.dst, from_guest);
		p->seq = bpf_ntohl(h.tcp.seq);
		p->ack = bpf_ntohl(h.tcp.ack);
		p->flags = h.tcp.flags;
		if (header < TCP_BYTES)
			return PACKET_OPAQUE;
		p->option_bytes = header - TCP_BYTES;
	} else {
		if (bpf_skb_load_bytes(skb, l4, &h.udp, sizeof(h.udp)))
			return PACKET_OPAQUE;
		header = sizeof(h.udp);
		packet_ports(p, h.udp.src, h.udp.dst, from_guest);
		p->flags = TCP_PSH; /* a datagram is all of what is said */
	}
	p->payload_offset = l4 + header;
	if (p->payload_offset > end)
		return PACKET_OPAQUE;
	p->payload_bytes = end - p->payload_offset;
	return PACKET_PLAIN;
}

struct option_search {
	struct __sk_buff *skb;
	__u32 at, end;
	bool found;
};

/* Returns as bpf_loop() expects; as for the receiver, what is malformed ends the options. */
static long option_search_step(__u64 step, struct option_search *w)
{
	__u8 option[2]; /* kind and length */

	if (w->at >= w->end || bpf_skb_load_bytes(w->skb, w->at, option, sizeof(option)) ||
	    option[0] == TCP_OPTION_END)
		return 1;
	if (option[0] == TCP_OPTION_NOP) {
		w->at++;
		return 0;
	}
	w->found = option[0] == TCP_OPTION_MD5 || option[0] == TCP_OPTION_AO;
	w->at += option[1];
	return w->found || option[1] < sizeof(option);
}

/* Whether a TCP segment is signed (RFC 2385, RFC 5925): all of its connection are, or none. */
static __always_inline bool packet_is_signed(struct __sk_buff *skb, const struct packet *p)
{
	struct option_search search = {
		.skb = skb,
		.at = p->payload_offset - p->option_bytes,
		.end = p->payload_offset,
	};

	if (p->option_bytes)
		bpf_loop(TCP_OPTIONS_MAX, option_search_step, &search, 0);
	return search.found;
}

#endif
