// Makes the cache of a child process: {"server": "Redis" or "memcached", "port", "timeoutMs"}.

import { memcachedCache } from 'keyrow/memcached'
import { redisCache } from 'keyrow/redis'
import { MemcacheClient } from 'memcache-client'
import { createClient } from 'redis'

export const openedCache = ({ server, port, timeoutMs = 500 }) =>
  server === 'Redis'
    ? redisCache(() => createClient({ url: `redis://127.0.0.1:${String(port)}` }), { timeoutMs })
    : memcachedCache(() => new MemcacheClient({ server: `127.0.0.1:${String(port)}` }), { timeoutMs })
