/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * What a request classifier says, and what it remembers of a flow.
 *
 * A classifier reads the bytes a client sends to a declared service and answers
 * one question: could these bytes change anything that a later reply shows?  A
 * request counts as a read only if the protocol itself proves that it cannot.
 * Everything else is a write: what is unknown, malformed, oversized, or read
 * differently by different servers.
 *
 * What a declared service promises (and a classifier cannot see): its replies
 * to reads depend on nothing but its state and the request, its state changes
 * only through requests, and it speaks its protocol as published.  Each
 * protocol's file says what that rules out.
 */
#ifndef COLOPP_SERVICES_REQUEST_H
#define COLOPP_SERVICES_REQUEST_H

/* How the requests to a service are read.  Zero is the safe one. */
enum service_protocol {
	SERVICE_NEVER = 0,     /* every byte is a write */
	SERVICE_READ_ONLY = 1, /* every byte is a read: the service has no state of its own */
	SERVICE_RESP = 2,      /* Redis and its relatives */
	SERVICE_HTTP = 3,      /* HTTP/1.1 */
	SERVICE_MEMCACHED = 4, /* text and meta commands */
	SERVICE_DNS = 5,       /* over UDP */
	SERVICE_PROTOCOLS,
};

/* What was found in the bytes of one packet. */
enum request_flags {
	/* A provably read-only request ended in them. */
	REQUEST_READ = 1,
	/* Some of them belong to a request that is not provably read-only.
	 * Set for every packet of such a request, from the first that shows it. */
	REQUEST_WRITE = 2,
	/* The boundaries between requests are no longer known.  It comes with
	 * REQUEST_WRITE, in this packet and in all that follow. */
	REQUEST_LOST = 4,
	/* They end inside a request, whose nature may still be unknown. */
	REQUEST_PARTIAL = 8,
};

/* The longest piece that is only understood whole: longer ones are followed,
 * not kept, or make the stream LOST. */
#define TOKEN_BYTES 32

/*
 * Where the parser of one flow stands.  All zeros is the start of a stream.
 * Belongs to one direction of one TCP connection; whoever keeps it sees to it
 * that only one CPU at a time classifies for it.
 */
struct parser_state {
	__u8 phase;	    /* what is expected next; each protocol has its own, 0 begins a request */
	__u8 writing;	    /* bool: the current request is a write */
	__u8 marks;	    /* what else a protocol remembers, as bits */
	__u8 pending_bytes; /* of `pending` */
	__u32 skip_bytes;   /* contents still to come that nobody looks at */
	__u32 left;	    /* parts of the current request still to come */
	__u32 line_bytes;   /* of what has a bound: a header block, a line, a key */
	__u32 body_bytes;   /* announced by a header that is not over yet */
	__u32 ended;	    /* out: requests that ended in the newest packet; 0 where none are told apart */
	__u8 pending[TOKEN_BYTES]; /* beginning of a token whose end has not come */
};

_Static_assert(sizeof(struct parser_state) <= 64, "one cache line per flow");

#endif
