// Makes the cache of a child process: {"server": "Redis" or "memcached", "port"}.

import { memcachedCache } from 'keyrow/memcached'
import { redisCache } from 'keyrow/redis'
import { MemcacheClient } from 'memcache-client'
import { createClient } from 'redis'

export const openedCache = ({ server, port }) =>
  server === 'Redis'
    ? redisCache(() => createClient({ url: `redis://127.0.0.1:${String(port)}` }), { timeoutMs: 500 })
    : memcachedCache(() => new MemcacheClient({ server: `127.0.0.1:${String(port)}` }), { timeoutMs: 500 })
