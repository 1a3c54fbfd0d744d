// Makes a cache in Redis, with clients of the package `redis`.

import { type CacheClient, type CacheOptions, cacheOver } from './connection.js'
import type { Cache, CacheItem } from './contract.js'

export type { CacheOptions } from './connection.js'
export { type Cache, CacheError, type CacheErrorKind, type CacheItem } from './contract.js'

/** The members of a client of the package `redis` that keyrow uses. A cluster and a sentinel have them too. */
export interface RedisClient {
  connect(): Promise<unknown>
  destroy(): void
  readonly isOpen: boolean
  on(event: 'error', listener: () => void): unknown
  withTypeMapping(mapping: { readonly 36: typeof Buffer }): RedisCommands
}

interface RedisCommands {
  get(key: string): Promise<unknown>
  set(key: string, value: Buffer, options: { readonly PX: number }): Promise<unknown>
  del(key: string): Promise<unknown>
}

/** Redis returns values as bulk strings. The package `redis` has this code for them, and returns a `Buffer` for each. */
const BULK_STRINGS_AS_BUFFERS = { 36: Buffer } as const

// If a value is larger than Redis's memory, Redis evicts all other values. So the default is far below this size.
const LIMITS = { defaultValueBytes: 4 * 1024 * 1024, largestValueBytes: 512 * 1024 * 1024 }

const connected = (client: RedisClient): CacheClient => {
  // Without a listener, an error of the connection would end the process. The command gets the error, too.
  client.on('error', () => undefined)
  const commands = client.withTypeMapping(BULK_STRINGS_AS_BUFFERS)
  const set = ({ key, value, ttlMs }: CacheItem): Promise<unknown> =>
    commands.set(key, Buffer.from(value.buffer, value.byteOffset, value.length), { PX: Math.ceil(ttlMs) })
  return {
    ready: client.connect(),
    isUsable: () => client.isOpen,
    end: () => client.destroy(),
    // Each command has one key, since the keys of a cluster are on different servers. The client sends all at once.
    get: (keys) => Promise.all(keys.map((key) => commands.get(key))),
    set: (items) => Promise.all(items.map(set)),
    drop: (keys) => Promise.all(keys.map((key) => commands.del(key))),
  }
}

/**
 * Makes a cache in Redis 7. `makeClient` returns a new client of the package `redis`, version 6, that is not connected.
 * keyrow calls `makeClient` again to replace a client that has failed.
 *
 * @throws `RangeError` for an option that is out of range
 *
 * @example
 * ```ts
 * import { createClient } from 'redis'
 * import { redisCache } from 'keyrow/redis'
 *
 * const cache = redisCache(() => createClient({ url: process.env['REDIS_URL'] ?? '' }), { timeoutMs: 100 })
 * console.log(cache.maxValueBytes) // 4194304
 * await cache.close()
 * ```
 */
export const redisCache = (makeClient: () => RedisClient, options: CacheOptions = {}): Cache =>
  cacheOver(() => connected(makeClient()), options, LIMITS)
