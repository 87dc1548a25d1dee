/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * Request classifiers: are these bytes to a service reads or writes?  And where
 * does what it answers end (answer.h)?
 *
 * To be included after vmlinux.h and bpf_helpers.h by exactly one program of an
 * object; it brings small per-CPU maps.  Each function is verified once, by
 * itself, and costs the caller's verification nothing.  Linux 6.1.
 */
#ifndef COLOPP_SERVICES_CLASSIFY_H
#define COLOPP_SERVICES_CLASSIFY_H

#include "answer.h"
#include "dns.h"
#include "http.h"
#include "memcached.h"
#include "request.h"
#include "resp.h"
#include "scan.h"

#define UNKNOWN_REQUEST (REQUEST_WRITE | REQUEST_LOST)

/*
 * Classifies the next bytes of one TCP stream from client to service.
 *
 * @payload_offset  in the packet, from its Ethernet header
 * @payload_bytes   what is new in this segment: the caller delivers every byte of
 *                  the stream once and in order, leaves out what was sent before,
 *                  and gives a flow up as LOST (PHASE_LOST) when it cannot.
 * @state           zeros at the start of the stream; then only this function's.
 *                  `ended` tells how many requests these bytes end: reads and
 *                  writes, also those that no reply follows (`noreply`)
 *
 * Returns enum request_flags.  Nothing is ever looked at twice: what a flag says
 * holds for this packet alone, except that LOST stays.
 */
__noinline __u32 classify_stream(struct __sk_buff *skb, __u32 payload_offset, __u32 payload_bytes,
				 enum service_protocol protocol, struct parser_state *state)
{
	__u32 zero = 0;
	struct scan *scan = bpf_map_lookup_elem(&request_scan, &zero);
	struct step s = { .skb = skb, .state = state, .scan = scan };

	if (!scan || !state)
		return UNKNOWN_REQUEST;
	state->ended = 0;
	if (payload_bytes == 0)
		return state->phase == PHASE_LOST ? UNKNOWN_REQUEST : 0;
	if (protocol == SERVICE_READ_ONLY)
		return REQUEST_READ;
	if (protocol == SERVICE_NEVER)
		return REQUEST_WRITE;
	if (state->phase == PHASE_LOST || !scan_begin(&s, payload_offset, payload_bytes)) {
		state->phase = PHASE_LOST;
		return UNKNOWN_REQUEST;
	}
	switch (protocol) {
	case SERVICE_RESP:
		resp_scan(&s);
		break;
	case SERVICE_HTTP:
		http_scan(&s);
		break;
	case SERVICE_MEMCACHED:
		memcached_scan(&s);
		break;
	default:
		scan_lose(&s);
	}
	return scan_end(&s);
}

/*
 * Classifies one UDP datagram to a service.  Protocols over TCP are writes here.
 * Returns REQUEST_READ or REQUEST_WRITE, and nothing else.
 */
__noinline __u32 classify_datagram(struct __sk_buff *skb, __u32 payload_offset, __u32 payload_bytes,
				   enum service_protocol protocol)
{
	__u32 zero = 0;
	struct scan *scan = bpf_map_lookup_elem(&request_scan, &zero);

	if (protocol == SERVICE_READ_ONLY)
		return REQUEST_READ;
	/* A packet that is to be cut into datagrams is read as none of them. */
	if (protocol == SERVICE_DNS && scan && !skb->gso_size &&
	    dns_is_read(skb, scan, payload_offset, payload_bytes))
		return REQUEST_READ;
	return REQUEST_WRITE;
}

#endif
