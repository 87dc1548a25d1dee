/**
 * Requests of the Redis protocol, read as its specification says
 * (https://redis.io/docs/latest/develop/reference/protocol-spec/).
 */
import { readRequests, unreadable, type Reading, type StreamReader } from './stream-reader.js';

const list = (text: string): Set<string> => new Set(text.trim().split(/\s+/));

/** Redis' commands of the category @read, without those that resp_commands.h gives a reason for. */
const readCommands = list(`
  PING ECHO DBSIZE KEYS EXISTS TYPE EXPIRETIME PEXPIRETIME SORT_RO
  GET MGET STRLEN GETRANGE SUBSTR LCS GETBIT BITCOUNT BITPOS BITFIELD_RO
  HGET HMGET HGETALL HKEYS HVALS HLEN HEXISTS HSTRLEN
  LRANGE LLEN LINDEX LPOS
  SMEMBERS SISMEMBER SMISMEMBER SCARD SINTER SINTERCARD SUNION SDIFF
  ZRANGE ZREVRANGE ZRANGEBYSCORE ZREVRANGEBYSCORE ZRANGEBYLEX ZREVRANGEBYLEX ZSCORE ZMSCORE
  ZRANK ZREVRANK ZCARD ZCOUNT ZLEXCOUNT ZINTER ZINTERCARD ZUNION ZDIFF
  GEODIST GEOHASH GEOPOS GEOSEARCH GEORADIUS_RO XLEN XRANGE XREVRANGE
`);

/** Afterwards the connection speaks without being asked, or blocks until something happens. */
const takeOverCommands = list(`
  SUBSCRIBE PSUBSCRIBE SSUBSCRIBE MONITOR SYNC PSYNC REPLCONF
  BLPOP BRPOP BRPOPLPUSH BLMOVE BLMPOP BZPOPMIN BZPOPMAX BZMPOP XREAD XREADGROUP WAIT WAITAOF
`);
const harmlessClientCommands = list('SETINFO SETNAME GETNAME ID INFO LIST NO-EVICT NO-TOUCH');

/** Redis folds ASCII letters only. */
const upper = (name: string): string => name.replace(/[a-z]/g, (letter) => letter.toUpperCase());

function bulkString(from: StreamReader, shortest = 0, longest = Infinity): string {
  from.expect('$');
  const bytes = from.number();
  from.expect('\r\n');
  if (bytes < shortest || bytes > longest) unreadable();
  const content = from.take(bytes);
  from.expect('\r\n');
  return content;
}

export const resp = (text: string): Reading => {
  let queuing = false;
  return readRequests(text, (from) => {
    from.expect('*');
    const strings = from.number();
    from.expect('\r\n');
    if (strings < 1 || strings > 1024 * 1024) unreadable();
    const command = upper(bulkString(from));
    if (takeOverCommands.has(command)) unreadable();
    const subcommand = (command === 'CLIENT' || command === 'CONFIG') && strings > 1 ? upper(bulkString(from, 1, 16)) : undefined;
    if (command === 'CLIENT' && subcommand !== undefined && !harmlessClientCommands.has(subcommand)) unreadable();
    for (let i = subcommand === undefined ? 1 : 2; i < strings; i++) bulkString(from);
    if (queuing) {
      if (command === 'EXEC' && strings === 1) queuing = false;
      return 'write';
    }
    if (command === 'MULTI') queuing = true;
    return readCommands.has(command) || (command === 'CONFIG' && subcommand === 'GET') ? 'read' : 'write';
  });
};

export const respCommands = { read: readCommands, takeOver: takeOverCommands };
