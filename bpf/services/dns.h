/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * Queries of the DNS over UDP (RFC 1035, RFC 6891).
 *
 * A read is a datagram that is exactly one standard query: not a response,
 * OPCODE 0, not truncated, no error code, one question of class IN, and behind
 * it nothing or one EDNS(0) record.  The name is spelled out (no compression),
 * and the question with the fixed part of the EDNS record ends within the first
 * 256 bytes.
 *
 * Everything else is a write: updates and notifications (they have OPCODEs of
 * their own), zone transfers and other questions of meta types (128 to 254),
 * signed requests (TSIG: the signature holds the time), other classes (CHAOS
 * asks the server about itself), several datagrams in one packet.
 *
 * What a service declared DNS must not be, beyond what request.h says: a
 * resolver.  One that asks others and caches answers changes its state with
 * every query, and counts lifetimes down by the clock.  Rotating the order of
 * answers, and EDNS cookies with a time in them, are harmless: neither is
 * compared with an earlier reply.
 */
#ifndef COLOPP_SERVICES_DNS_H
#define COLOPP_SERVICES_DNS_H

#include "scan.h"

#define DNS_HEADER_BYTES 12
#define DNS_LOOK_BYTES 256
#define DNS_LABELS_MAX 128
#define DNS_LABEL_MAX_BYTES 63
#define DNS_OPT_BYTES 11
#define DNS_TYPE_OPT 41
#define DNS_CLASS_IN 1

static __always_inline __u16 dns_u16(const __u8 *bytes)
{
	return bytes[0] << 8 | bytes[1];
}

/* A question's type that asks for records, and no more than that. */
static __always_inline bool dns_plain_type(__u16 type)
{
	return type != 0 && type != DNS_TYPE_OPT && (type < 128 || type > 254);
}

/* Goes behind the name at scan->at; false if it is none.  What fits DNS_LOOK_BYTES
 * with a header is no longer than a name may be. */
static __always_inline bool dns_name(struct scan *scan)
{
	for (int i = 0; i < DNS_LABELS_MAX; i++) {
		__u32 at = scan->at;
		__u8 label;

		if (at >= scan->filled)
			return false;
		label = scan->bytes[at & (DNS_LOOK_BYTES - 1)];
		scan->at = at + 1 + label;
		if (label > DNS_LABEL_MAX_BYTES)
			return false;
		if (label == 0)
			return true;
	}
	return false;
}

/* Whether the `bytes` at `offset` are a query that changes nothing. */
static __noinline bool dns_is_read(struct __sk_buff *skb, struct scan *scan, __u32 offset, __u32 bytes)
{
	__u32 count = bytes < DNS_LOOK_BYTES ? bytes : DNS_LOOK_BYTES;
	const __u8 *token = scan->bytes;
	__u16 more;

	if (bytes < DNS_HEADER_BYTES)
		return false;
	barrier_var(count);
	count = ((count - 1) & (DNS_LOOK_BYTES - 1)) + 1; /* changes nothing, but every verifier sees its bounds */
	if (bpf_skb_load_bytes(skb, offset, scan->bytes, count))
		return false;
	/* Of the flags only RD, AD and CD may be set. */
	if ((token[2] & ~0x01) || (token[3] & ~0x30))
		return false;
	more = dns_u16(token + 10);
	if (dns_u16(token + 4) != 1 || dns_u16(token + 6) || dns_u16(token + 8) || more > 1)
		return false;

	scan->at = DNS_HEADER_BYTES;
	scan->filled = count;
	if (!dns_name(scan) || scan->at + 4 > count)
		return false;
	token = scan->bytes + (scan->at & (DNS_LOOK_BYTES - 1));
	if (!dns_plain_type(dns_u16(token)) || dns_u16(token + 2) != DNS_CLASS_IN)
		return false;
	scan->at += 4;
	if (!more)
		return scan->at == bytes;

	if (scan->at + DNS_OPT_BYTES > count)
		return false;
	token += 4;
	/* No name; then type, size, extended error code and version, flags, length. */
	return token[0] == 0 && dns_u16(token + 1) == DNS_TYPE_OPT && token[5] == 0 && token[6] == 0 &&
	       scan->at + DNS_OPT_BYTES + dns_u16(token + 9) == bytes;
}

#endif
