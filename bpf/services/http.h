/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * Requests of HTTP/1.1 (RFC 9110, RFC 9112).
 *
 * A read is GET, HEAD or OPTIONS (safe methods, RFC 9110 section 9.2.1) without
 * content.  POST, PUT, PATCH and DELETE are writes whose content is jumped over
 * by its Content-Length, so that the requests behind them are read again.  A
 * DELETE may go without Content-Length; the others must say how long they are.
 *
 * A safe method with content (Content-Length above 0) or with a header that
 * may turn it into another (any whose name begins with X-HTTP-M or X-Method) is a
 * write.
 *
 * Servers differ in what else they accept, and a difference in where a request
 * ends is all it takes to hide a write (request smuggling).  So the stream is
 * LOST at everything that is not plainly spelled:
 *   - other methods (CONNECT and TRACE among them), other versions, HTTP/2's
 *     preface, the absolute, authority and asterisk forms of a target, lines in
 *     front of the request line
 *   - bare CR or LF, every other control character (tab included), folded lines,
 *     space around a header's name, names with anything but letters, digits and
 *     hyphens, characters above ASCII in a target
 *   - Transfer-Encoding, Expect, Upgrade
 *   - Connection, unless it is just `keep-alive` or `close`
 *   - Content-Length twice, as a list, with more than eight digits, a sign or
 *     leading zeros
 *   - a header block of more than 16 KiB, its request line included
 *
 * What a service declared HTTP must not do, beyond what request.h says: change
 * anything on GET, HEAD or OPTIONS (counters of visits, sessions made at the
 * first look, "delete" links), answer them by chance or by the clock, or push
 * (server-sent events, long polling).  The Date header does depend on the clock;
 * after a takeover it may step back by the age of the last checkpoint.
 */
#ifndef COLOPP_SERVICES_HTTP_H
#define COLOPP_SERVICES_HTTP_H

#include "scan.h"

#define HTTP_HEADERS_MAX_BYTES 16384

enum http_phase {
	HTTP_METHOD = 0,
	HTTP_TARGET_BEGIN,
	HTTP_TARGET,
	HTTP_VERSION,
	HTTP_NAME,	     /* of a header, or the empty line that ends them */
	HTTP_LONG_NAME,	     /* the rest of a name that means nothing here */
	HTTP_VALUE,	     /* of a header that means nothing here */
	HTTP_CONTENT_LENGTH, /* its value */
	HTTP_CONNECTION,     /* its value */
};

enum http_mark {
	HTTP_HAS_LENGTH = 1,   /* a Content-Length was there */
	HTTP_NEEDS_LENGTH = 2, /* without one nobody knows where the request ends */
};

/* What cannot be in a request target. */
static __always_inline __u64 no_target(__u64 word)
{
	return up_to(word, ' ') | (word & TOPS);
}

/* What cannot be in a header's value. */
static __always_inline __u64 no_value(__u64 word)
{
	return up_to(word, 0x1f);
}

/* What cannot be in a header's name. */
static __always_inline __u64 no_name(__u64 word)
{
	return ~(in_range(lower_case(word), 'a', 'z') | in_range(word, '0', '9') | equal_to(word, '-')) & TOPS;
}

/* What is no capital letter. */
static __always_inline __u64 no_capital(__u64 word)
{
	return ~in_range(word, 'A', 'Z') & TOPS;
}

static __always_inline int http_method(struct step *s, const __u8 *token, __u32 seen)
{
	struct parser_state *state = s->state;
	__u64 word = load_word(token);
	__u32 letters = bytes_before(no_capital(word));

	if (letters >= seen)
		return seen < 8 ? INCOMPLETE : LOST;
	if (letters == 8 || token[letters & 7] != ' ')
		return LOST;
	state->marks = 0;
	switch (first_bytes(word, letters)) {
	case WORD("GET"): case WORD("HEAD"): case WORD("OPTIONS"):
		break;
	case WORD("POST"): case WORD("PUT"): case WORD("PATCH"):
		state->marks = HTTP_NEEDS_LENGTH;
		found_write(s);
		break;
	case WORD("DELETE"):
		found_write(s);
		break;
	default:
		return LOST;
	}
	state->line_bytes = 0;
	state->body_bytes = 0;
	state->phase = HTTP_TARGET_BEGIN;
	return letters + 1;
}

static __always_inline int http_target(struct step *s, const __u8 *token, __u32 seen)
{
	__u32 before = FIRST_OF_32(token, no_target);

	if (s->state->phase == HTTP_TARGET_BEGIN && token[0] != '/')
		return LOST;
	s->state->phase = HTTP_TARGET;
	if (before >= seen)
		return seen;
	if (before < 32) {
		if (token[before & 31] != ' ')
			return LOST;
		s->state->phase = HTTP_VERSION;
	}
	return before;
}

static __always_inline int http_version(struct step *s, const __u8 *token, __u32 seen)
{
	int taken = LITERAL(" HTTP/1.1\r\n", load_word(token), load_word(token + 8), seen);

	if (taken > 0)
		s->state->phase = HTTP_NAME;
	return taken;
}

/* The empty line behind the headers: here the request's nature and its end are known. */
static __always_inline int http_headers_end(struct step *s, const __u8 *token, __u32 seen)
{
	struct parser_state *state = s->state;
	int taken = line_end(token, seen);

	if (taken < 0)
		return taken;
	if (state->line_bytes + taken > HTTP_HEADERS_MAX_BYTES ||
	    state->marks == HTTP_NEEDS_LENGTH)
		return LOST;
	if (state->body_bytes > 0) {
		state->skip_bytes = state->body_bytes;
		state->phase = PHASE_CONTENT;
	} else {
		found_end(s);
	}
	return taken;
}

static __always_inline int http_name(struct step *s, const __u8 *token, __u32 seen)
{
	struct parser_state *state = s->state;
	__u32 bytes = FIRST_OF_32(token, no_name);
	__u64 head, tail;

	if (token[0] == '\r')
		return http_headers_end(s, token, seen);
	if (bytes >= seen && seen < 32)
		return INCOMPLETE;
	head = lower_case(first_bytes(load_word(token), bytes));
	if (head == WORD_AT("x-http-method", 0) || head == WORD_AT("x-method-override", 0))
		found_write(s);
	if (bytes == 32) {
		state->phase = HTTP_LONG_NAME;
		return bytes;
	}
	if (bytes == 0 || token[bytes & 31] != ':')
		return LOST;
	tail = bytes > 8 ? lower_case(first_bytes(load_word(token + 8), bytes - 8)) : 0;
	state->phase = HTTP_VALUE;
	switch (head) {
	case WORD_AT("content-length", 0):
		if (tail == WORD_AT("content-length", 8))
			state->phase = HTTP_CONTENT_LENGTH;
		break;
	case WORD_AT("connection", 0):
		if (tail == WORD_AT("connection", 8))
			state->phase = HTTP_CONNECTION;
		break;
	case WORD_AT("transfer-encoding", 0):
		if (bytes == 17 && tail == WORD_AT("transfer-encoding", 8) && (token[16] | 0x20) == 'g')
			return LOST;
		break;
	case WORD("upgrade"): case WORD("expect"):
		return LOST;
	}
	return bytes + 1;
}

static __always_inline int http_long_name(struct step *s, const __u8 *token, __u32 seen)
{
	__u32 before = FIRST_OF_32(token, no_name);

	if (before >= seen)
		return seen;
	if (before == 32)
		return before;
	if (token[before & 31] != ':')
		return LOST;
	s->state->phase = HTTP_VALUE;
	return before + 1;
}

static __always_inline int http_value(struct step *s, const __u8 *token, __u32 seen)
{
	__u32 before = FIRST_OF_32(token, no_value);
	int taken;

	if (before >= seen)
		return seen;
	if (before == 32)
		return before;
	taken = line_end(token + (before & 31), seen - before);
	if (taken == INCOMPLETE && before > 0)
		return before;
	if (taken < 0)
		return taken;
	s->state->phase = HTTP_NAME;
	return before + taken;
}

static __always_inline int http_content_length(struct step *s, const __u8 *token, __u32 seen)
{
	struct parser_state *state = s->state;
	__u32 space = token[0] == ' ';
	int taken = number_line(token + space, seen - space, &state->body_bytes);

	if (taken < 0)
		return taken;
	if (state->marks & HTTP_HAS_LENGTH)
		return LOST;
	state->marks |= HTTP_HAS_LENGTH;
	if (state->body_bytes > 0)
		found_write(s);
	state->phase = HTTP_NAME;
	return space + taken;
}

static __always_inline int http_connection(struct step *s, const __u8 *token, __u32 seen)
{
	__u32 space = token[0] == ' ';
	__u64 head = lower_case(load_word(token + space));
	__u64 tail = lower_case(load_word(token + space + 8));
	int taken = LITERAL("keep-alive\r\n", head, tail, seen - space);

	if (taken == LOST)
		taken = LITERAL("close\r\n", head, tail, seen - space);
	if (taken < 0)
		return taken;
	s->state->phase = HTTP_NAME;
	return space + taken;
}

static long http_step(__u32 index, struct step *s)
{
	__u32 seen = scan_bytes(s);
	const __u8 *token = scan_token(s);
	int taken;

	if (!seen)
		return 1;
	switch (s->state->phase) {
	case HTTP_METHOD:
		taken = http_method(s, token, seen);
		break;
	case HTTP_TARGET_BEGIN:
	case HTTP_TARGET:
		taken = http_target(s, token, seen);
		break;
	case HTTP_VERSION:
		taken = http_version(s, token, seen);
		break;
	case HTTP_NAME:
		taken = http_name(s, token, seen);
		break;
	case HTTP_LONG_NAME:
		taken = http_long_name(s, token, seen);
		break;
	case HTTP_VALUE:
		taken = http_value(s, token, seen);
		break;
	case HTTP_CONTENT_LENGTH:
		taken = http_content_length(s, token, seen);
		break;
	case HTTP_CONNECTION:
		taken = http_connection(s, token, seen);
		break;
	default:
		taken = LOST;
	}
	if (taken > 0) {
		s->state->line_bytes += taken;
		if (s->state->phase && s->state->line_bytes > HTTP_HEADERS_MAX_BYTES)
			taken = LOST;
	}
	return scan_took(s, seen, taken);
}

/* Why this is a function of its own: see SCAN_STEPS. */
static __noinline void http_scan(struct step *s)
{
	bpf_loop(SCAN_STEPS, http_step, s, 0);
}

#endif
