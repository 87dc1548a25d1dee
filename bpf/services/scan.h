/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * Walking through a TCP payload, token by token, across packets.
 *
 * A parser sees a stream, not packets: it is called with the bytes at its
 * current place and says how many of them it understood.  What a packet cuts in
 * two is kept in the flow's state and joined with the next packet, so that a
 * parser always sees a token from its first byte.  Contents whose length is
 * known are jumped over without being loaded.
 */
#ifndef COLOPP_SERVICES_SCAN_H
#define COLOPP_SERVICES_SCAN_H

#include "request.h"
#include "words.h"

/* Loaded from the packet at once; a power of two. */
#define WINDOW_BYTES 128
/* Room in front of the window for the pending bytes; a power of two for the verifier. */
#define BUFFER_BYTES 256
/* How far behind the current byte a parser may look, valid or not. */
#define LOOK_BYTES 64
/* Tokens per packet: at most some 100 microseconds.  A packet that needs more
 * makes its stream LOST.  64 KiB of the shortest GETs do not.
 *
 * Each protocol has its own noinline function around bpf_loop(), lest the
 * compiler make one loop of all: the kernel inlines a loop only where it always
 * has the same callback, and a loop that is not inlined takes twice the time. */
#define SCAN_STEPS 16384

/* Phases in every protocol: the boundaries of the stream are unknown; and the
 * request ends with the contents that are being jumped over. */
#define PHASE_LOST 0xff
#define PHASE_CONTENT 0xfe

/* Instead of a number of bytes. */
#define INCOMPLETE (-1) /* the rest of the token is not there yet: fewer than TOKEN_BYTES */
#define LOST (-2)

struct scan {
	__u8 bytes[BUFFER_BYTES + LOOK_BYTES];
	__u32 at;     /* the current byte */
	__u32 filled; /* bytes that are valid */
	__u32 next;   /* offset in the packet of what follows them */
	__u32 end;    /* offset in the packet behind the payload */
	__u32 flags;  /* enum request_flags found so far */
	__u32 done;   /* bool: nothing is left to do in this packet */
};

/* Kept in a map because the verifier does not track its contents: it sees every
 * step of every packet as the same one. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scan);
} request_scan SEC(".maps");

/* What the steps of a scan are called with. */
struct step {
	struct __sk_buff *skb;
	struct parser_state *state;
	struct scan *scan;
};

static __always_inline void found_write(struct step *s)
{
	s->state->writing = true;
	s->scan->flags |= REQUEST_WRITE;
}

static __always_inline void found_end(struct step *s)
{
	s->state->ended++;
	s->scan->flags |= s->state->writing ? REQUEST_WRITE : REQUEST_READ;
	s->state->writing = false;
	s->state->phase = 0;
}

/* Loads what is at scan->next (there is something), behind `kept` bytes that stay. */
static __always_inline bool scan_load(struct step *s, __u32 kept)
{
	struct scan *scan = s->scan;
	__u32 count = scan->end - scan->next;

	kept &= TOKEN_BYTES - 1;
	if (count > WINDOW_BYTES)
		count = WINDOW_BYTES;
	barrier_var(count);
	count = ((count - 1) & (WINDOW_BYTES - 1)) + 1; /* changes nothing, but every verifier sees 1..WINDOW_BYTES */
	if (bpf_skb_load_bytes(s->skb, scan->next, scan->bytes + kept, count))
		return false;
	scan->at = 0;
	scan->filled = kept + count;
	scan->next += count;
	return true;
}

static __always_inline bool scan_begin(struct step *s, __u32 offset, __u32 bytes)
{
	__u32 kept = s->state->pending_bytes;

	s->scan->next = offset;
	s->scan->end = offset + bytes;
	s->scan->flags = s->state->writing ? REQUEST_WRITE : 0;
	s->scan->done = false;
	if (kept)
		__builtin_memcpy(s->scan->bytes, s->state->pending, TOKEN_BYTES);
	s->state->pending_bytes = 0;
	return scan_load(s, kept);
}

static __always_inline void scan_lose(struct step *s)
{
	s->state->phase = PHASE_LOST;
	s->scan->flags |= REQUEST_WRITE | REQUEST_LOST;
	s->scan->done = true;
}

/*
 * Jumps over what nobody looks at, and sees to it that a whole token can be
 * seen if the packet has one.  Returns how many bytes can be seen; 0 at the end
 * of the packet.
 */
static __always_inline __u32 scan_bytes(struct step *s)
{
	struct scan *scan = s->scan;
	__u32 skip = s->state->skip_bytes, seen = scan->filled - scan->at;

	if (skip) {
		__u32 there = seen + (scan->end - scan->next);
		__u32 jump = skip < there ? skip : there;

		s->state->skip_bytes = skip - jump;
		if (jump <= seen) {
			scan->at += jump;
			seen -= jump;
		} else {
			scan->next += jump - seen;
			scan->at = scan->filled = seen = 0;
		}
		if (jump == skip && s->state->phase == PHASE_CONTENT)
			found_end(s);
	}
	if (seen < LOOK_BYTES && scan->next < scan->end) {
		/* A token kept from earlier packets is longer than what was kept,
		 * so whatever is still to be seen lies in this packet. */
		scan->next -= seen;
		if (!scan_load(s, 0)) {
			scan_lose(s);
			return 0;
		}
		seen = scan->filled;
	}
	if (!seen)
		scan->done = true;
	return seen;
}

/* The current byte and LOOK_BYTES - 1 behind it. */
static __always_inline const __u8 *scan_token(struct step *s)
{
	return s->scan->bytes + (s->scan->at & (BUFFER_BYTES - 1));
}

/* Goes on behind `taken` bytes, or deals with INCOMPLETE or LOST.  Returns as bpf_loop() expects. */
static __always_inline long scan_took(struct step *s, __u32 seen, int taken)
{
	if (taken >= 0) {
		s->scan->at += taken;
		return 0;
	}
	if (taken == INCOMPLETE && seen < TOKEN_BYTES) {
		__builtin_memcpy(s->state->pending, scan_token(s), TOKEN_BYTES);
		s->state->pending_bytes = seen;
		s->scan->done = true;
	} else {
		scan_lose(s);
	}
	return 1;
}

static __always_inline __u32 scan_end(struct step *s)
{
	const struct parser_state *state = s->state;

	if (!s->scan->done)
		scan_lose(s);
	if (state->phase != PHASE_LOST && (state->phase || state->pending_bytes || state->skip_bytes))
		s->scan->flags |= REQUEST_PARTIAL;
	return s->scan->flags;
}

/*
 * A decimal number and its CR LF at the beginning of `count` bytes: one to eight
 * digits, no sign, no leading zeros.  Returns the length, INCOMPLETE or LOST.
 */
static __always_inline int number_line(const __u8 *token, __u32 count, __u32 *value)
{
	__u64 word = load_word(token);
	__u32 digits = bytes_before(~in_range(word, '0', '9') & TOPS);

	if (digits > count)
		digits = count;
	barrier_var(digits);
	if (digits > 8)
		return LOST;
	if (digits > 1 && (word & 0xff) == '0')
		return LOST;
	if (digits == count)
		return INCOMPLETE;
	if (digits == 0 || token[digits] != '\r')
		return LOST;
	if (digits + 1 == count)
		return INCOMPLETE;
	if (token[digits + 1] != '\n')
		return LOST;
	*value = decimal(word, digits);
	return digits + 2;
}

/* Whether the two words in front of `count` bytes begin with a text of at most 16.
 * Returns its length, INCOMPLETE or LOST. */
static __always_inline int literal(__u64 head, __u64 tail, __u32 count, __u64 wanted_head,
				   __u64 wanted_tail, __u32 bytes)
{
	__u32 common = count < bytes ? count : bytes;
	__u64 difference = first_bytes(head ^ wanted_head, common);

	if (common > 8)
		difference |= first_bytes(tail ^ wanted_tail, common - 8);
	if (difference)
		return LOST;
	return count < bytes ? INCOMPLETE : (int)bytes;
}
#define LITERAL(text, head, tail, count) \
	literal(head, tail, count, WORD_AT(text, 0), WORD_AT(text, 8), sizeof(text) - 1)

/* CR LF at the beginning of `count` (at least 1) bytes. */
static __always_inline int line_end(const __u8 *token, __u32 count)
{
	if (token[0] != '\r')
		return LOST;
	if (count < 2)
		return INCOMPLETE;
	return token[1] == '\n' ? 2 : LOST;
}

#endif
