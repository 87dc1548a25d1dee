/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * Requests to memcached: text and meta commands over TCP (memcached's
 * doc/protocol.txt).  The binary protocol is LOST at its first byte.
 *
 * Reads: `get` and `gets` of any number of keys, `version`, `mn`, and `mg` with
 * no other flags than
 *     b c f k q s v O    the key's form, what to return, an opaque token
 * Its other flags make it a write: E, N, R and T change the item, h, l and t
 * return what depends on the clock and on earlier reads, u and unknown ones are
 * for a later edition of this file.
 *
 * Writes whose end is known: set, add, replace, append, prepend, cas and ms,
 * whose data block is jumped over by its length; delete, incr, decr, touch, gat,
 * gats, md, ma, me and stats, which are one line.  (gat and touch set the time
 * of expiry; me and stats depend on the clock.)
 *
 * memcached reads the data block behind a storage command only if it accepts the
 * command line, and takes it for commands otherwise.  So the line must be one
 * that every edition accepts: a key of 1 to 250 bytes, numbers without sign that
 * fit their types, the right count of them, at most `noreply` behind; for ms at
 * most eight flags.
 *
 * LOST: every other command (quit, watch, flush_all, verbosity, the proxy's, ...),
 * bare LF, other control characters, more than one space where it would matter, a
 * line of more than 8 KiB, and everything else about a storage command's line.
 *
 * What a service declared memcached must not do, beyond what request.h says:
 *   - let items expire, or evict, while somebody relies on a miss staying a miss
 *     (an item seen as expired may come back for as long as the last checkpoint
 *     was old when the host died)
 *   - mark items as stale (`I` flag of md and ms): the first mg that finds such
 *     an item is told so and changes it, whatever its flags
 */
#ifndef COLOPP_SERVICES_MEMCACHED_H
#define COLOPP_SERVICES_MEMCACHED_H

#include "scan.h"

#define MEMCACHED_KEY_MAX_BYTES 250
#define MEMCACHED_LINE_MAX_BYTES 8192
#define MEMCACHED_SET_FLAGS_MAX 8

enum memcached_phase {
	MEMCACHED_VERB = 0,
	MEMCACHED_LINE,		 /* whatever it says, to its end */
	MEMCACHED_LINE_END,	 /* nothing more may come */
	MEMCACHED_GET_WORD,	 /* of mg: its key, or the rest of a flag */
	MEMCACHED_GET_FLAG,	 /* of mg: the letter of a flag */
	MEMCACHED_KEY,		 /* of a storage command, as what follows */
	MEMCACHED_NUMBERS,	 /* client flags and time of expiry */
	MEMCACHED_LENGTH,	 /* of the data block */
	MEMCACHED_CAS,		 /* ` ` and a number */
	MEMCACHED_MORE,		 /* ` `, or the end of the line */
	MEMCACHED_NOREPLY,
	MEMCACHED_SET_FLAG,	 /* of ms: the letter of a flag */
	MEMCACHED_SET_FLAG_REST,
	MEMCACHED_DATA_END,	 /* the CR LF behind the data block */
};

enum memcached_mark {
	MEMCACHED_IS_CAS = 1,
	MEMCACHED_IS_META = 2,
};

/* What cannot be in a word. */
static __always_inline __u64 no_word(__u64 word)
{
	return up_to(word, ' ');
}

/* What is no small letter. */
static __always_inline __u64 no_small(__u64 word)
{
	return ~in_range(word, 'a', 'z') & TOPS;
}

static __always_inline __u64 no_digit(__u64 word)
{
	return ~in_range(word, '0', '9') & TOPS;
}

static __always_inline int memcached_verb(struct step *s, const __u8 *token, __u32 seen)
{
	struct parser_state *state = s->state;
	__u64 word = load_word(token);
	__u32 letters = bytes_before(no_small(word));
	__u8 behind, first;

	if (letters >= seen)
		return seen < 8 ? INCOMPLETE : LOST;
	if (letters == 8)
		return LOST;
	behind = token[letters & 7];
	word = first_bytes(word, letters);
	state->line_bytes = 0;
	state->marks = 0;
	switch (word) {
	case WORD("version"): case WORD("mn"):
		state->phase = MEMCACHED_LINE_END;
		return letters;
	case WORD("stats"):
		if (behind != ' ' && behind != '\r')
			return LOST;
		found_write(s);
		state->phase = MEMCACHED_LINE;
		return letters;
	}
	if (behind != ' ')
		return LOST;
	if (letters + 1 >= seen)
		return INCOMPLETE;
	first = token[(letters & 7) + 1];
	if (first <= ' ' || first == 0x7f)
		return LOST;
	switch (word) {
	case WORD("get"): case WORD("gets"):
		state->phase = MEMCACHED_LINE;
		break;
	case WORD("mg"):
		state->phase = MEMCACHED_GET_WORD;
		break;
	case WORD("delete"): case WORD("incr"): case WORD("decr"): case WORD("touch"):
	case WORD("gat"): case WORD("gats"): case WORD("md"): case WORD("ma"): case WORD("me"):
		found_write(s);
		state->phase = MEMCACHED_LINE;
		break;
	case WORD("set"): case WORD("add"): case WORD("replace"): case WORD("append"):
	case WORD("prepend"): case WORD("cas"): case WORD("ms"):
		found_write(s);
		state->phase = MEMCACHED_KEY;
		state->left = MEMCACHED_KEY_MAX_BYTES;
		state->marks = word == WORD("cas") ? MEMCACHED_IS_CAS :
			       word == WORD("ms")  ? MEMCACHED_IS_META :
						     0;
		break;
	default:
		return LOST;
	}
	return letters + 1;
}

/* The end of a command line, `before` bytes behind the current one. */
static __always_inline int memcached_line_end(struct step *s, const __u8 *token, __u32 seen, __u32 before)
{
	int taken = line_end(token + (before & 31), seen - before);

	if (taken == INCOMPLETE && before > 0)
		return before;
	if (taken < 0)
		return taken;
	if (s->state->line_bytes + before + taken > MEMCACHED_LINE_MAX_BYTES)
		return LOST;
	return before + taken;
}

static __always_inline int memcached_line(struct step *s, const __u8 *token, __u32 seen)
{
	__u32 before = FIRST_OF_32(token, no_value);
	int taken;

	if (before >= seen)
		return seen;
	if (before == 32)
		return before;
	taken = memcached_line_end(s, token, seen, before);
	if (taken > (int)before)
		found_end(s);
	return taken;
}

static __always_inline int memcached_bare_end(struct step *s, const __u8 *token, __u32 seen)
{
	int taken = memcached_line_end(s, token, seen, 0);

	if (taken > 0)
		found_end(s);
	return taken;
}

static __always_inline int memcached_get_word(struct step *s, const __u8 *token, __u32 seen)
{
	__u32 before = FIRST_OF_32(token, no_word);

	if (before >= seen)
		return seen;
	if (before == 32)
		return before;
	if (token[before & 31] == ' ') {
		s->state->phase = MEMCACHED_GET_FLAG;
		return before + 1;
	}
	s->state->phase = MEMCACHED_LINE_END;
	return before;
}

static __always_inline int memcached_get_flag(struct step *s, const __u8 *token)
{
	switch (token[0]) {
	case 'b': case 'c': case 'f': case 'k': case 'q': case 's': case 'v': case 'O':
		s->state->phase = MEMCACHED_GET_WORD;
		return 1;
	case 0 ... ' ': case 0x7f:
		return LOST;
	}
	found_write(s);
	s->state->phase = MEMCACHED_LINE;
	return 1;
}

static __always_inline int memcached_key(struct step *s, const __u8 *token, __u32 seen)
{
	struct parser_state *state = s->state;
	__u32 before = FIRST_OF_32(token, no_word);

	if (before > seen)
		before = seen;
	if (before > state->left)
		return LOST;
	state->left -= before;
	if (before == seen || before == 32)
		return before;
	if (token[before & 31] != ' ')
		return LOST;
	if (state->marks & MEMCACHED_IS_META) {
		state->left = MEMCACHED_SET_FLAGS_MAX;
		state->phase = MEMCACHED_LENGTH;
	} else {
		state->left = 2;
		state->phase = MEMCACHED_NUMBERS;
	}
	return before + 1;
}

/* Two numbers, each with a space behind: at most nine digits, or ten that fit 31 bits. */
static __always_inline int memcached_number(struct step *s, const __u8 *token, __u32 seen)
{
	struct parser_state *state = s->state;
	__u32 digits = FIRST_OF_32(token, no_digit);

	if (digits > seen)
		digits = seen;
	if (digits > 10 || (digits == 10 && token[0] > '1'))
		return LOST;
	if (digits == seen)
		return INCOMPLETE;
	if (digits == 0 || token[digits & 15] != ' ')
		return LOST;
	if (--state->left == 0)
		state->phase = MEMCACHED_LENGTH;
	return digits + 1;
}

static __always_inline int memcached_length(struct step *s, const __u8 *token, __u32 seen)
{
	struct parser_state *state = s->state;
	__u64 word = load_word(token);
	__u32 digits = bytes_before(no_digit(word));

	if (digits > seen)
		digits = seen;
	if (digits > 1 && token[0] == '0')
		return LOST;
	if (digits == seen)
		return INCOMPLETE;
	if (digits == 0)
		return LOST;
	state->body_bytes = decimal(word, digits);
	state->phase = state->marks & MEMCACHED_IS_CAS ? MEMCACHED_CAS : MEMCACHED_MORE;
	return digits;
}

/* At most 19 digits: what fits 64 bits. */
static __always_inline int memcached_cas(struct step *s, const __u8 *token, __u32 seen)
{
	__u32 digits = FIRST_OF_32(token + 1, no_digit);

	if (token[0] != ' ')
		return LOST;
	if (digits > seen - 1)
		digits = seen - 1;
	if (digits > 19)
		return LOST;
	if (digits == seen - 1)
		return INCOMPLETE;
	if (digits == 0)
		return LOST;
	s->state->phase = MEMCACHED_MORE;
	return 1 + digits;
}

static __always_inline void memcached_data(struct step *s)
{
	s->state->skip_bytes = s->state->body_bytes;
	s->state->phase = MEMCACHED_DATA_END;
}

static __always_inline int memcached_more(struct step *s, const __u8 *token, __u32 seen)
{
	struct parser_state *state = s->state;
	int taken;

	if (token[0] != ' ') {
		taken = memcached_line_end(s, token, seen, 0);
		if (taken > 0)
			memcached_data(s);
		return taken;
	}
	if (!(state->marks & MEMCACHED_IS_META)) {
		state->phase = MEMCACHED_NOREPLY;
		return 1;
	}
	if (state->left == 0)
		return LOST;
	state->left--;
	state->phase = MEMCACHED_SET_FLAG;
	return 1;
}

static __always_inline int memcached_noreply(struct step *s, const __u8 *token, __u32 seen)
{
	int taken = LITERAL("noreply\r\n", load_word(token), load_word(token + 8), seen);

	if (taken > 0)
		memcached_data(s);
	return taken;
}

static __always_inline int memcached_set_flag(struct step *s, const __u8 *token)
{
	if (token[0] <= ' ' || token[0] == 0x7f)
		return LOST;
	s->state->phase = MEMCACHED_SET_FLAG_REST;
	return 1;
}

static __always_inline int memcached_set_flag_rest(struct step *s, const __u8 *token, __u32 seen)
{
	__u32 before = FIRST_OF_32(token, no_word);

	if (before >= seen)
		return seen;
	if (before < 32)
		s->state->phase = MEMCACHED_MORE;
	return before;
}

static __always_inline int memcached_data_end(struct step *s, const __u8 *token, __u32 seen)
{
	int taken = line_end(token, seen);

	if (taken > 0)
		found_end(s);
	return taken;
}

static long memcached_step(__u32 index, struct step *s)
{
	__u32 seen = scan_bytes(s);
	const __u8 *token = scan_token(s);
	int taken;

	if (!seen)
		return 1;
	switch (s->state->phase) {
	case MEMCACHED_VERB:
		taken = memcached_verb(s, token, seen);
		break;
	case MEMCACHED_LINE:
		taken = memcached_line(s, token, seen);
		break;
	case MEMCACHED_LINE_END:
		taken = memcached_bare_end(s, token, seen);
		break;
	case MEMCACHED_GET_WORD:
		taken = memcached_get_word(s, token, seen);
		break;
	case MEMCACHED_GET_FLAG:
		taken = memcached_get_flag(s, token);
		break;
	case MEMCACHED_KEY:
		taken = memcached_key(s, token, seen);
		break;
	case MEMCACHED_NUMBERS:
		taken = memcached_number(s, token, seen);
		break;
	case MEMCACHED_LENGTH:
		taken = memcached_length(s, token, seen);
		break;
	case MEMCACHED_CAS:
		taken = memcached_cas(s, token, seen);
		break;
	case MEMCACHED_MORE:
		taken = memcached_more(s, token, seen);
		break;
	case MEMCACHED_NOREPLY:
		taken = memcached_noreply(s, token, seen);
		break;
	case MEMCACHED_SET_FLAG:
		taken = memcached_set_flag(s, token);
		break;
	case MEMCACHED_SET_FLAG_REST:
		taken = memcached_set_flag_rest(s, token, seen);
		break;
	case MEMCACHED_DATA_END:
		taken = memcached_data_end(s, token, seen);
		break;
	default:
		taken = LOST;
	}
	if (taken > 0) {
		s->state->line_bytes += taken;
		if (s->state->phase && s->state->phase != MEMCACHED_DATA_END &&
		    s->state->line_bytes > MEMCACHED_LINE_MAX_BYTES)
			taken = LOST;
	}
	return scan_took(s, seen, taken);
}

/* Why this is a function of its own: see SCAN_STEPS. */
static __noinline void memcached_scan(struct step *s)
{
	bpf_loop(SCAN_STEPS, memcached_step, s, 0);
}

#endif
