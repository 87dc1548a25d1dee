/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * What each Redis command may do.
 *
 * A read is a command whose reply follows from the keys and its arguments alone
 * and that leaves nothing behind a later reply could show.  Not reads:
 *
 *   random            SRANDMEMBER, HRANDFIELD, ZRANDMEMBER, RANDOMKEY: asked
 *                     again of the backup, they answer something else
 *   the clock         TIME, TTL, PTTL, HTTL, OBJECT (IDLETIME), INFO, LASTSAVE,
 *                     XPENDING, XINFO.  EXPIRETIME and PEXPIRETIME give the
 *                     stored time and are reads
 *   cursors           SCAN, SSCAN, HSCAN, ZSCAN: a cursor means something only
 *                     to the table that gave it, which may have been resized
 *   the connection    SELECT, AUTH, HELLO, CLIENT, WATCH, READONLY, ASKING, ...:
 *                     later replies depend on it, so it must be committed first
 *   options           that write, in commands that otherwise read: GETEX, SORT
 *                     and GEORADIUS (STORE), BITFIELD (SET).  Their _RO forms
 *                     are reads
 *   side effects      TOUCH, PFCOUNT (it stores what it counted), GETDEL, GETSET,
 *                     OBJECT FREQ
 *   scripts           EVAL, FCALL and their _RO forms, which may ask for the time
 *   the server        COMMAND, CONFIG, MEMORY, DEBUG, ...: nobody serves from them.
 *                     CONFIG GET is a read: some clients begin with it
 *
 * What is in no list, modules' commands among them, is a write.  So is
 * GEORADIUSBYMEMBER_RO, whose name is longer than two words.
 *
 * The order of SMEMBERS, HGETALL or KEYS is a table's own, and may change while
 * it is being resized: these are sets, and their order promises nothing.
 *
 * Some commands give the connection a life of its own: afterwards it says
 * something when time passes or when another client writes, not only when it is
 * asked.  No reply on it can be tied to its requests any more, so the stream
 * counts as LOST: publish/subscribe, MONITOR, replication, CLIENT TRACKING and
 * CLIENT REPLY, and everything that can block (BLPOP, XREAD, WAIT, ...), with or
 * without the option that makes it.
 */
#ifndef COLOPP_SERVICES_RESP_COMMANDS_H
#define COLOPP_SERVICES_RESP_COMMANDS_H

#include "words.h"

/* Names of commands are compared as two words. */
#define COMMAND_NAME_BYTES 16

enum command_class {
	COMMAND_READ,
	COMMAND_WRITE,
	COMMAND_MULTI,	/* from here on requests are queued */
	COMMAND_EXEC,	/* and here they are executed */
	COMMAND_CLIENT, /* its subcommand decides */
	COMMAND_CONFIG, /* likewise */
	COMMAND_TAKES_OVER,
};

/* The lower-case name, padded with zeros. */
struct command_name {
	__u64 head, tail;
};

/* For names of nine to sixteen characters. */
#define IS(name, s) ((name).head == WORD_AT(s, 0) && (name).tail == WORD_AT(s, 8))

static __always_inline enum command_class short_command(__u64 name)
{
	switch (name) {
	/* strings and bits */
	case WORD("get"): case WORD("mget"): case WORD("strlen"): case WORD("getrange"):
	case WORD("substr"): case WORD("lcs"): case WORD("getbit"): case WORD("bitcount"):
	case WORD("bitpos"):
	/* keys */
	case WORD("exists"): case WORD("type"): case WORD("keys"): case WORD("dbsize"):
	case WORD("sort_ro"):
	/* hashes */
	case WORD("hget"): case WORD("hmget"): case WORD("hgetall"): case WORD("hkeys"):
	case WORD("hvals"): case WORD("hlen"): case WORD("hexists"): case WORD("hstrlen"):
	/* lists */
	case WORD("lrange"): case WORD("llen"): case WORD("lindex"): case WORD("lpos"):
	/* sets */
	case WORD("smembers"): case WORD("scard"): case WORD("sinter"): case WORD("sunion"):
	case WORD("sdiff"):
	/* sorted sets */
	case WORD("zrange"): case WORD("zscore"): case WORD("zmscore"): case WORD("zrank"):
	case WORD("zrevrank"): case WORD("zcard"): case WORD("zcount"): case WORD("zinter"):
	case WORD("zunion"): case WORD("zdiff"):
	/* places and streams */
	case WORD("geodist"): case WORD("geohash"): case WORD("geopos"): case WORD("xlen"):
	case WORD("xrange"):
	/* nothing at all */
	case WORD("ping"): case WORD("echo"):
		return COMMAND_READ;

	case WORD("multi"):
		return COMMAND_MULTI;
	case WORD("exec"):
		return COMMAND_EXEC;
	case WORD("client"):
		return COMMAND_CLIENT;
	case WORD("config"):
		return COMMAND_CONFIG;

	case WORD("monitor"): case WORD("sync"): case WORD("psync"): case WORD("replconf"):
	case WORD("blpop"): case WORD("brpop"): case WORD("blmove"): case WORD("blmpop"):
	case WORD("bzpopmin"): case WORD("bzpopmax"): case WORD("bzmpop"): case WORD("xread"):
	case WORD("wait"): case WORD("waitaof"):
		return COMMAND_TAKES_OVER;
	}
	return COMMAND_WRITE;
}

static __always_inline enum command_class long_command(struct command_name name)
{
	if (IS(name, "sismember") || IS(name, "smismember") || IS(name, "sintercard") ||
	    IS(name, "zrevrange") || IS(name, "zrangebyscore") || IS(name, "zrevrangebyscore") ||
	    IS(name, "zrangebylex") || IS(name, "zrevrangebylex") || IS(name, "zlexcount") ||
	    IS(name, "zintercard") || IS(name, "expiretime") || IS(name, "pexpiretime") ||
	    IS(name, "bitfield_ro") || IS(name, "geosearch") || IS(name, "georadius_ro") ||
	    IS(name, "xrevrange"))
		return COMMAND_READ;
	if (IS(name, "subscribe") || IS(name, "psubscribe") || IS(name, "ssubscribe") ||
	    IS(name, "brpoplpush") || IS(name, "xreadgroup"))
		return COMMAND_TAKES_OVER;
	return COMMAND_WRITE;
}

static __always_inline enum command_class command_class(struct command_name name)
{
	return name.tail ? long_command(name) : short_command(name.head);
}

/* What clients send when they connect changes the connection, but takes nothing over. */
static __always_inline enum command_class client_command(struct command_name name)
{
	if (name.tail)
		return COMMAND_TAKES_OVER;
	switch (name.head) {
	case WORD("setinfo"): case WORD("setname"): case WORD("getname"): case WORD("id"):
	case WORD("info"): case WORD("list"): case WORD("no-evict"): case WORD("no-touch"):
		return COMMAND_WRITE;
	}
	return COMMAND_TAKES_OVER;
}

static __always_inline enum command_class config_command(struct command_name name)
{
	return name.head == WORD("get") && !name.tail ? COMMAND_READ : COMMAND_WRITE;
}

#endif
