/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * Where does the answer to a request end?
 *
 * Only who knows that can tell which answer is a write's: a service may say one
 * answer in many pieces, and its client may ask on before it has the last one.
 * What is not understood here counts as an answer without a known end.
 *
 *   RESP       all replies but pushes and attributes; of arrays, also nested ones,
 *              the last string must begin in the first packet
 *   HTTP       with a Content-Length, or 204 or 304, and the whole head in the first packet
 *   memcached  one line, or one value
 */
#ifndef COLOPP_SERVICES_ANSWER_H
#define COLOPP_SERVICES_ANSWER_H

#include "request.h"
#include "scan.h"

/* Of an answer in many parts, so many are looked at. */
#define ANSWER_PARTS_MAX 64
/* Of a head or a first line, so much. */
#define ANSWER_HEAD_BYTES 1024
#define ANSWER_LOOK_BYTES 32

struct answer {
	__u8 bytes[ANSWER_HEAD_BYTES + 64];
	__u32 at;    /* offset in the packet of what comes next */
	__u32 end;   /* offset in the packet behind the payload */
	__u32 left;  /* RESP: parts to come; memcached: blanks before the length */
	__u32 known; /* bool: the answer's length is */
	__u32 head;  /* bytes of the head or line, once its end was found */
	__u32 body;  /* the length that it tells */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct answer);
} answers SEC(".maps");

struct answer_step {
	struct __sk_buff *skb;
	struct answer *answer;
};

/* How many bytes could be loaded from a->at on: of the rest of the packet, at most `most`, a power of two. */
static __always_inline __u32 answer_load(struct __sk_buff *skb, struct answer *a, __u32 most)
{
	__u32 count = a->end - a->at;

	if (a->at >= a->end)
		return 0;
	if (count > most)
		count = most;
	barrier_var(count);
	count = ((count - 1) & (most - 1)) + 1; /* changes nothing, but every verifier sees 1..most */
	return bpf_skb_load_bytes(skb, a->at, a->bytes, count) ? 0 : count;
}

/* A whole line, whatever it says, ends the packet. */
static __always_inline __u32 answer_line(struct __sk_buff *skb, const struct answer *a)
{
	__u16 last;

	if (a->end - a->at < 2 || bpf_skb_load_bytes(skb, a->end - 2, &last, sizeof(last)) || last != ('\r' | '\n' << 8))
		return 0;
	return a->end - a->at;
}

static __always_inline __u64 newlines(__u64 word)
{
	return in_range(word, '\n', '\n') & TOPS;
}

/* One part of a RESP reply: an array's head, or anything in it. */
static __always_inline long resp_answer_part(struct __sk_buff *skb, struct answer *a)
{
	__u32 seen = answer_load(skb, a, ANSWER_LOOK_BYTES), number = 0, line;
	const __u8 *token = a->bytes;
	int digits;

	if (seen < 3)
		return 1;
	line = FIRST_OF_32(token, newlines) + 1;
	if (line > seen)
		return 1;
	switch (token[0]) {
	case '+':
	case '-':
	case ':':
	case '_':
	case '#':
	case ',':
	case '(':
		break;
	case '$':
	case '=':
	case '!':
	case '*':
	case '~':
	case '%':
		if (token[1] == '-')
			break; /* null */
		digits = number_line(token + 1, seen - 1, &number);
		if (digits < 0)
			return 1;
		if (token[0] == '%')
			number *= 2;
		if (token[0] == '*' || token[0] == '~' || token[0] == '%')
			a->left += number;
		else
			line += number + 2;
		break;
	default:
		return 1;
	}
	a->at += line;
	a->left--;
	a->known = a->left == 0;
	return a->known;
}

static long resp_answer_step(__u32 index, struct answer_step *s)
{
	return resp_answer_part(s->skb, s->answer);
}

/* Words of an HTTP head: at the end of each line, what does the next one begin with? */
static long http_answer_step(__u32 index, struct answer_step *s)
{
	struct answer *a = s->answer;
	__u32 at = index * 8 & (ANSWER_HEAD_BYTES - 1);
	__u64 mask = newlines(load_word(a->bytes + at));

	/* No line is shorter than four bytes: two of them end in one word at most. */
	for (int i = 0; i < 2; i++) {
		const __u8 *line;
		__u32 begins;
		__u64 word;

		if (!mask)
			return 0;
		begins = (at + bytes_before(mask) + 1) & (ANSWER_HEAD_BYTES - 1);
		line = a->bytes + begins;
		mask &= mask - 1;
		word = load_word(line);
		if ((word & 0xffff) == ('\r' | '\n' << 8)) {
			a->head = begins + 2;
			return 1;
		}
		word |= EACH(0x20);
		if (word == WORD("transfer"))
			return 1; /* in chunks */
		if (word == WORD("content-") && (load_word(line + 8) | EACH(0x20)) == WORD("length: ")) {
			if (a->known || number_line(line + 16, 16, &a->body) < 0)
				return 1;
			a->known = true;
		}
	}
	return mask ? 1 : 0;
}

/* The line before a memcached value: its length is behind a->left blanks. */
static long memcached_answer_step(__u32 index, struct answer_step *s)
{
	struct answer *a = s->answer;
	__u8 byte = a->bytes[index & (ANSWER_HEAD_BYTES - 1)];

	if (byte == '\n') {
		a->head = index + 1;
		return 1;
	}
	if (byte == ' ')
		a->left--;
	else if (a->left == 0 && byte >= '0' && byte <= '9')
		a->body = a->body * 10 + (byte - '0');
	return a->body > 64 * 1024 * 1024;
}

/* Functions of their own: see SCAN_STEPS. */
static __noinline void resp_answer(struct answer_step *s)
{
	bpf_loop(ANSWER_PARTS_MAX, resp_answer_step, s, 0);
}

static __noinline void http_answer(struct answer_step *s)
{
	bpf_loop(ANSWER_HEAD_BYTES / 8, http_answer_step, s, 0);
}

static __noinline void memcached_answer(struct answer_step *s)
{
	bpf_loop(ANSWER_HEAD_BYTES / 2, memcached_answer_step, s, 0);
}

/* The length of the answer that begins at `offset`, with so many bytes of it in
 * this packet; 0: not known. */
__noinline __u32 answer_bytes(struct __sk_buff *skb, __u32 offset, __u32 bytes, enum service_protocol protocol)
{
	__u32 zero = 0, seen;
	struct answer *a = bpf_map_lookup_elem(&answers, &zero);
	struct answer_step s = { .skb = skb, .answer = a };
	__u64 word;

	if (!a)
		return 0;
	a->at = offset;
	a->end = offset + bytes;
	a->known = a->head = a->body = 0;
	switch (protocol) {
	case SERVICE_RESP:
		a->left = 1;
		/* Nearly all have one part: no loop for them. */
		if (!resp_answer_part(skb, a))
			resp_answer(&s);
		if (a->known)
			return a->at - offset;
		/* Lines may be longer than what was looked at. */
		return a->at == offset && (a->bytes[0] == '-' || a->bytes[0] == '+') ? answer_line(skb, a) : 0;
	case SERVICE_HTTP:
		seen = answer_load(skb, a, ANSWER_HEAD_BYTES);
		if (seen < 16 || first_bytes(load_word(a->bytes), 7) != WORD("HTTP/1."))
			return 0;
		word = load_word(a->bytes + 8);
		http_answer(&s);
		if (!a->head || a->head > seen)
			return 0;
		/* An interim answer is none. */
		if ((word >> 8 & 0xff) == '1')
			return 0;
		word = word >> 8 & 0xffffff;
		if (word == WORD("204") || word == WORD("304"))
			return a->head;
		return a->known ? a->head + a->body : 0;
	case SERVICE_MEMCACHED:
		seen = answer_load(skb, a, ANSWER_HEAD_BYTES);
		if (seen < 4)
			return 0;
		word = load_word(a->bytes) & 0xffffffff;
		if (word == WORD("STAT") || word == WORD("ITEM") || word == WORD("CONF"))
			return 0;
		a->left = word == WORD("VALU") ? 3 : 1;
		if (word != WORD("VALU") && (word & 0xffffff) != WORD("VA "))
			return answer_line(skb, a);
		zero = a->left;
		memcached_answer(&s);
		if (!a->head || a->head > seen)
			return 0;
		seen = a->head + a->body + 2;
		if (zero == 1)
			return seen;
		/* Another value may follow. */
		if (bytes < seen + 5 || bpf_skb_load_bytes(skb, offset + seen, a->bytes, 3) ||
		    a->bytes[0] != 'E' || a->bytes[1] != 'N' || a->bytes[2] != 'D')
			return 0;
		return seen + 5;
	default:
		return 0;
	}
}

#endif
