/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * What packets that are neither TCP nor UDP may hide.
 *
 * The gate puts services in doubt by it, and the secondary's replay, in native
 * code, lets nothing overtake such an input: they must agree.
 */
#ifndef COLOPP_IP_PROTOCOLS_H
#define COLOPP_IP_PROTOCOLS_H

#define PROTOCOL_HOP_BY_HOP 0
#define PROTOCOL_ICMP 1
#define PROTOCOL_IGMP 2
#define PROTOCOL_ICMPV6 58
#define PROTOCOL_OSPF 89
#define PROTOCOL_VRRP 112
#define PROTOCOL_SCTP 132

/* True if it carries neither another packet nor a request to a declared service,
 * over IPv4.  Not so tunnels, and what nobody knows. */
static inline __attribute__((always_inline)) bool ipv4_hides_nothing(__u8 protocol)
{
	switch (protocol) {
	case PROTOCOL_ICMP:
	case PROTOCOL_IGMP:
	case PROTOCOL_OSPF:
	case PROTOCOL_VRRP:
	case PROTOCOL_SCTP:
		return true;
	default:
		return false;
	}
}

/* Likewise over IPv6, where groups are reported behind hop-by-hop options (RFC
 * 3810): `behind` is the header after these, if `next` is they. */
static inline __attribute__((always_inline)) bool ipv6_hides_nothing(__u8 next, __u8 behind)
{
	return (next == PROTOCOL_HOP_BY_HOP ? behind : next) == PROTOCOL_ICMPV6;
}

#endif
