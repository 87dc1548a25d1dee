/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * Requests to Redis and its relatives (RESP2 and RESP3; both send requests as
 * arrays of bulk strings):
 *
 *     *2 CR LF  $3 CR LF  GET CR LF  $5 CR LF  hello CR LF
 *
 * A read is an array whose first string is, in any case of letters, a command
 * that resp_commands.h lists as a read.  Arguments are never looked at: no
 * listed command has one that writes, but for the subcommand of CONFIG.  They are jumped over by their length, so
 * a SET of a megabyte costs no more than one of a byte.
 *
 * From MULTI on requests are only queued.  All of them are writes until an EXEC
 * without arguments has gone by, whether or not the server accepted the MULTI.
 * DISCARD does not end it: a server may refuse that.
 *
 * LOST: inline commands (anything that does not begin with `*`), empty and
 * negative lengths, signs, leading zeros, more than 1048576 strings, strings of
 * 10^8 bytes and more, a missing CR LF (Redis does not even look at the one
 * behind a string), and commands that take the connection over.
 *
 * What a service declared RESP must not do, beyond what request.h says:
 *   - let keys expire (or accept that a key seen as expired may come back for as
 *     long as the last checkpoint was old when the host died: GET depends on the
 *     clock for such keys)
 *   - rename commands (`rename-command`), or load modules that replace them, or
 *     whose commands block or push
 */
#ifndef COLOPP_SERVICES_RESP_H
#define COLOPP_SERVICES_RESP_H

#include "resp_commands.h"
#include "scan.h"

/* Redis' own limit for requests. */
#define RESP_STRINGS_MAX (1024 * 1024)

enum resp_phase {
	RESP_ARRAY = 0, /* `*2 CR LF` */
	RESP_NAME_LENGTH,
	RESP_NAME,
	RESP_SUBCOMMAND_LENGTH,
	RESP_SUBCOMMAND,
	RESP_LENGTH,	/* `$5 CR LF` */
	RESP_STRING_END /* the CR LF behind a string */
};

enum resp_mark {
	RESP_QUEUING = 1, /* between MULTI and EXEC */
	RESP_EXEC = 2,	  /* the current request is an EXEC that ends it */
	RESP_CONFIG = 4,  /* the subcommand to come is one of CONFIG */
};

static __always_inline bool resp_judge(struct step *s, enum command_class class)
{
	switch (class) {
	case COMMAND_READ:
		return true;
	case COMMAND_MULTI:
		s->state->marks |= RESP_QUEUING;
		break;
	case COMMAND_EXEC:
		if (s->state->left == 0)
			s->state->marks |= RESP_EXEC;
		break;
	case COMMAND_TAKES_OVER:
		return false;
	default:
		break;
	}
	found_write(s);
	return true;
}

/* Goes on behind a string of the request. */
static __always_inline void resp_next_string(struct step *s)
{
	struct parser_state *state = s->state;

	if (state->left > 0) {
		state->phase = RESP_LENGTH;
		return;
	}
	if (state->marks & RESP_EXEC)
		state->marks = 0;
	found_end(s);
}

static __always_inline int resp_array(struct step *s, const __u8 *token, __u32 seen)
{
	struct parser_state *state = s->state;
	__u32 strings;
	int line;

	if (token[0] != '*')
		return LOST;
	line = number_line(token + 1, seen - 1, &strings);
	if (line < 0)
		return line;
	if (strings == 0 || strings > RESP_STRINGS_MAX)
		return LOST;
	state->left = strings;
	state->phase = RESP_NAME_LENGTH;
	if (state->marks & RESP_QUEUING)
		found_write(s);
	return 1 + line;
}

static __always_inline int resp_length(struct step *s, const __u8 *token, __u32 seen)
{
	struct parser_state *state = s->state;
	__u32 bytes;
	int line;

	if (token[0] != '$')
		return LOST;
	line = number_line(token + 1, seen - 1, &bytes);
	if (line < 0)
		return line;
	state->left--;
	if (state->phase == RESP_LENGTH) {
		state->skip_bytes = bytes;
		state->phase = RESP_STRING_END;
	} else if (bytes > 0 && bytes <= COMMAND_NAME_BYTES) {
		state->line_bytes = bytes;
		state->phase++; /* to the name or the subcommand itself */
	} else if (state->phase == RESP_NAME_LENGTH) {
		/* A name no table has. */
		found_write(s);
		state->skip_bytes = bytes;
		state->phase = RESP_STRING_END;
	} else {
		return LOST; /* CLIENT or CONFIG with a subcommand nobody knows */
	}
	return 1 + line;
}

static __always_inline int resp_name(struct step *s, const __u8 *token, __u32 seen)
{
	struct parser_state *state = s->state;
	__u32 bytes = state->line_bytes & (TOKEN_BYTES - 1), last = bytes - 1;
	enum command_class class;
	struct command_name name;

	if (seen < bytes + 2)
		return INCOMPLETE;
	if (token[bytes] != '\r' || token[bytes + 1] != '\n')
		return LOST;
	name.head = lower_case(first_bytes(load_word(token), bytes));
	name.tail = bytes > 8 ? lower_case(first_bytes(load_word(token + 8), bytes - 8)) : 0;
	barrier_var(last);
	if (!token[last & (TOKEN_BYTES - 1)])
		name.head = 0; /* a zero at the end would look like padding: no name */
	if (state->phase == RESP_SUBCOMMAND) {
		class = state->marks & RESP_CONFIG ? config_command(name) : client_command(name);
		state->marks &= ~RESP_CONFIG;
	} else {
		class = command_class(name);
	}
	if (class == COMMAND_CONFIG && state->left > 0)
		state->marks |= RESP_CONFIG;
	else if (!resp_judge(s, class))
		return LOST;
	if ((class == COMMAND_CLIENT || class == COMMAND_CONFIG) && state->left > 0)
		state->phase = RESP_SUBCOMMAND_LENGTH;
	else
		resp_next_string(s);
	return bytes + 2;
}

static __always_inline int resp_string_end(struct step *s, const __u8 *token, __u32 seen)
{
	int line = line_end(token, seen);

	if (line > 0)
		resp_next_string(s);
	return line;
}

static long resp_step(__u32 index, struct step *s)
{
	__u32 seen = scan_bytes(s);
	const __u8 *token = scan_token(s);
	int taken;

	if (!seen)
		return 1;
	switch (s->state->phase) {
	case RESP_ARRAY:
		taken = resp_array(s, token, seen);
		break;
	case RESP_NAME_LENGTH:
	case RESP_SUBCOMMAND_LENGTH:
	case RESP_LENGTH:
		taken = resp_length(s, token, seen);
		break;
	case RESP_NAME:
	case RESP_SUBCOMMAND:
		taken = resp_name(s, token, seen);
		break;
	case RESP_STRING_END:
		taken = resp_string_end(s, token, seen);
		break;
	default:
		taken = LOST;
	}
	return scan_took(s, seen, taken);
}

/* Why this is a function of its own: see SCAN_STEPS. */
static __noinline void resp_scan(struct step *s)
{
	bpf_loop(SCAN_STEPS, resp_step, s, 0);
}

#endif
