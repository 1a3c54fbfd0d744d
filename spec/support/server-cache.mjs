// Makes the cache of a child process, {"server": "Redis" or "memcached", "port", "timeoutMs"}, and the layers of its store.

import { memcachedCache } from 'keyrow/memcached'
import { redisCache } from 'keyrow/redis'
import { batched, cached, writeBehind, writeThrough } from 'keyrow/store'
import { MemcacheClient } from 'memcache-client'
import { createClient } from 'redis'

export const openedCache = ({ server, port, timeoutMs = 500 }) =>
  server === 'Redis'
    ? redisCache(() => createClient({ url: `redis://127.0.0.1:${String(port)}` }), { timeoutMs })
    : memcachedCache(() => new MemcacheClient({ server: `127.0.0.1:${String(port)}` }), { timeoutMs })

const secrets = [Buffer.alloc(32, 1)]

/** Returns a store with the layers of the mode: `plain`, `through` or `behind`. `fast` adds batches and the cache of the process. */
export const withLayers = (store, { mode = 'plain', fast = true, cache, flushMs }) => {
  const own = fast ? cached(store) : store
  if (mode === 'behind') {
    const late = writeBehind(own, cache, { secrets, flushMs, allowEviction: true })
    return fast ? { ...batched(late), drain: late.drain } : late
  }
  const all = fast ? batched(own) : own
  return mode === 'through' ? writeThrough(all, cache, { secrets, minBytes: 0 }) : all
}
