/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * What differs between the connections that clients have and those that the
 * guest has after a takeover, and how to translate between them.
 *
 * Initial sequence number.  The guest was set back to its last checkpoint.  A
 * connection opened after that it opens anew, from the SYN in the input log,
 * with another initial sequence number than the one the client got from the
 * primary.  The client's next segment acknowledges that one, so the difference
 * is known from then on.
 *
 * Acknowledgements.  Clients have seen bytes that this guest has still to send
 * again.  Linux drops a segment that acknowledges what was never sent, with its
 * data, so the acknowledgement is taken back to what the guest has sent.  How
 * much that is, is known once it has spoken: of a connection that is as old as
 * the checkpoint the first segment goes in as an old duplicate, which every
 * receiver answers with its current numbers (RFC 9293, 3.10.7.4), and is then
 * given in once more.
 *
 * Timestamps (RFC 7323).  The guest's clock was set back, too: clients would
 * drop segments whose timestamps are older than those they have seen.  So the
 * guest's timestamps are moved forward for all to see, and back in the echoes.
 *
 * A host that has taken over goes on translating once it is protected itself,
 * and hands what it knows to its secondary: see Shadow.translations.
 */
#ifndef COLOPP_SHADOW_FLOW_H
#define COLOPP_SHADOW_FLOW_H

#include "tcp_rewrite.h"

#define MAX_SHADOW_FLOWS 65536
/* Takes a segment out of any window, into the past. */
#define PROBE_SHIFT (1u << 29)

#define CLIENT_FIN 1
#define GUEST_FIN 2

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_SHADOW_FLOWS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct shadow_key);
	__type(value, struct shadow_flow);
} shadow_flows SEC(".maps");

/* How a segment is to be changed.  Numbers to add. */
struct edit {
	__u32 seq;
	__u32 ack;
	__u32 sack;
	__u32 tsval;
	__u32 tsecr;
	bool probe;
	bool clamped;
	bool learned;
	bool changed; /* what a secondary must know: a flow's seq_delta */
};

/* The connection begins: the client's SYN goes in. */
static __always_inline void flow_begin(struct shadow_flow *f, __u32 ts_offset, struct edit *e)
{
	e->changed = f->seq_delta != 0;
	f->handed_delta = 0;
	f->state = SHADOW_SYN;
	f->seq_delta = 0;
	f->ts_delta = ts_offset;
	f->acked = 0;
	f->stamped = 0;
	f->fins = 0;
	f->replies = 0;
	f->ended_ns = 0;
}

/* The client acknowledges a SYN-ACK: the guest's, or the one that the primary sent. */
static __always_inline void flow_learn(struct shadow_flow *f, const struct segment *s, __u32 ts_offset)
{
	__u32 ahead = s->tsecr - f->tsval_first;

	f->seq_delta = s->ack - (f->guest_isn + 1);
	f->state = SHADOW_KNOWN;
	/* Guests that count timestamps from the same zero in every connection, or
	 * derive it from the addresses, are behind by ts_offset at most.  Others
	 * draw it anew: theirs are as far off as these two are, and the primary's
	 * has gone on since. */
	if (f->seq_delta && s->timestamps_at && f->stamped && ahead > ts_offset)
		f->ts_delta = ahead + ts_offset;
}

/*
 * What the guest is to see echoed.  A client may echo what the primary has sent,
 * which this guest never has; then it is told its newest: Linux refuses to open
 * a connection with an echo of what it did not send.
 */
static __always_inline __u32 echo_of(const struct shadow_flow *f, const struct segment *s)
{
	__u32 echo = s->tsecr - f->ts_delta;

	if (f->stamped && echo - f->tsval_first > f->tsval_last - f->tsval_first)
		return f->tsval_last;
	return echo;
}

/* What a segment from the log may be turned into, to make the guest speak. */
enum probing {
	PROBE_NEVER = 0,
	PROBE_FIRST, /* a probe at once: the guest was set back by much */
	PROBE_LATER, /* if it has not answered: most likely it knows all of this */
};

/* A segment for the guest. */
static __always_inline void flow_input(struct shadow_flow *f, const struct segment *s, enum probing probing,
				       __u32 ts_offset, __u64 now_ns, struct edit *e)
{
	__u32 ack;

	f->used_ns = now_ns;
	if ((s->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN) {
		/* Repeated, or a new connection of the same addresses. */
		if (f->ended_ns || f->state == SHADOW_SILENT)
			flow_begin(f, ts_offset, e);
		return;
	}
	if (s->flags & TCP_RST)
		f->ended_ns = now_ns;
	else if (f->state == SHADOW_SYN_ACK && (s->flags & TCP_ACK)) {
		flow_learn(f, s, ts_offset);
		e->changed = e->learned = f->seq_delta != 0;
	} else if (f->state == SHADOW_SILENT && (probing == PROBE_FIRST || (probing == PROBE_LATER && f->tried))) {
		e->probe = true;
		e->seq = -PROBE_SHIFT;
	}
	if (s->span)
		f->tried = 1;
	if (s->flags & TCP_FIN) {
		f->fins |= CLIENT_FIN;
		if (f->fins == (CLIENT_FIN | GUEST_FIN))
			f->ended_ns = now_ns;
	}
	e->tsecr = echo_of(f, s) - s->tsecr;
	if ((f->state != SHADOW_KNOWN && f->state != SHADOW_SILENT) || !(s->flags & TCP_ACK))
		return;
	ack = s->ack - f->seq_delta;
	/* How much a silent guest has sent is not known. */
	if (f->state == SHADOW_KNOWN && tcp_after(ack, f->snd_max)) {
		ack = f->snd_max;
		e->clamped = true;
	}
	e->ack = ack - s->ack;
	e->sack = -f->seq_delta;
}

/* A segment that the guest sends. */
static __always_inline void flow_output(struct shadow_flow *f, const struct segment *s, __u32 ts_offset,
					__u64 now_ns, struct edit *e)
{
	__u32 end = s->seq + s->span;

	f->used_ns = now_ns;
	if ((s->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN) {
		/* The guest opens one itself: all that we knew is void. */
		flow_begin(f, ts_offset, e);
		f->state = SHADOW_KNOWN;
		f->snd_max = end;
	} else if ((s->flags & TCP_SYN) && f->state <= SHADOW_SYN_ACK) {
		f->guest_isn = s->seq;
		f->stamped = 0;
		f->snd_max = end;
		f->state = SHADOW_SYN_ACK;
	} else if (f->state == SHADOW_SYN || f->state == SHADOW_SILENT) {
		/* It had the connection before: a checkpoint brought it. */
		f->snd_max = end;
		f->state = SHADOW_KNOWN;
	} else if (tcp_after(end, f->snd_max)) {
		f->snd_max = end;
		/* The last packet of what an application sends at once carries PSH. */
		if (s->payload_bytes && (s->flags & TCP_PSH))
			f->replies++;
	}
	if (s->timestamps_at) {
		if (!f->stamped)
			f->tsval_first = f->tsval_last = s->tsval;
		else if (tcp_after(s->tsval, f->tsval_last))
			f->tsval_last = s->tsval;
		f->stamped = 1;
	}
	if ((s->flags & TCP_ACK) && (!f->acked || tcp_after(s->ack, f->rcv_ack))) {
		f->rcv_ack = s->ack;
		f->acked = 1;
	}
	if (s->flags & TCP_RST)
		f->ended_ns = now_ns;
	if (s->flags & TCP_FIN) {
		f->fins |= GUEST_FIN;
		if (f->fins == (CLIENT_FIN | GUEST_FIN))
			f->ended_ns = now_ns;
	}
	if (f->state == SHADOW_KNOWN)
		e->seq = f->seq_delta;
	e->tsval = f->ts_delta;
}

/* Changes the header as the edit says.  True if anything changed. */
static __always_inline bool edit_apply(const struct edit *e, struct tcp_header *header, const struct segment *s)
{
	if (!e->seq && !e->ack && !(e->sack && s->sack_at) && !((e->tsval || e->tsecr) && s->timestamps_at))
		return false;
	put32(header->is, TCP_SEQ_AT, s->seq + e->seq);
	put32(header->is, TCP_ACK_AT, s->ack + e->ack);
	if (e->probe)
		header->is[TCP_FLAGS_AT] &= ~(TCP_FIN | TCP_PSH | TCP_URG);
	if (e->sack)
		segment_shift_sacks(header, s, e->sack);
	if (s->timestamps_at) {
		put32(header->is, s->timestamps_at, s->tsval + e->tsval);
		/* Without an echo it is zero, and stays so. */
		if (s->tsecr)
			put32(header->is, s->timestamps_at + 4, s->tsecr + e->tsecr);
	}
	return true;
}

#endif
