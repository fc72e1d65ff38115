/** The commands that only read, which is what an optimistic transaction may do before it writes. */
export const READ_COMMANDS = [
  ...(['get', 'mget', 'getrange', 'substr', 'strlen', 'getbit', 'bitcount', 'bitpos', 'lcs'] as const),
  ...(['exists', 'type', 'ttl', 'pttl', 'expiretime', 'pexpiretime', 'dump', 'object', 'keys', 'randomkey'] as const),
  ...(['scan', 'dbsize', 'time', 'echo', 'ping'] as const),
  ...(['hget', 'hmget', 'hgetall', 'hexists', 'hkeys', 'hvals', 'hlen', 'hstrlen', 'hrandfield', 'hscan'] as const),
  ...(['httl', 'hpttl', 'hexpiretime', 'hpexpiretime'] as const),
  ...(['lrange', 'lindex', 'llen', 'lpos'] as const),
  ...(['smembers', 'sismember', 'smismember', 'scard', 'srandmember', 'sscan', 'sinter', 'sintercard'] as const),
  ...(['sunion', 'sdiff'] as const),
  ...(['zrange', 'zrangebyscore', 'zrangebylex', 'zrevrange', 'zrevrangebyscore', 'zrevrangebylex'] as const),
  ...(['zscore', 'zmscore', 'zrank', 'zrevrank', 'zcard', 'zcount', 'zlexcount', 'zrandmember', 'zscan'] as const),
  ...(['zinter', 'zintercard', 'zunion', 'zdiff'] as const),
  ...(['xrange', 'xrevrange', 'xlen', 'xread', 'xpending', 'xinfo'] as const),
  ...(['geopos', 'geodist', 'geohash', 'geosearch', 'pfcount'] as const),
] as const

export type ReadCommand = (typeof READ_COMMANDS)[number]
