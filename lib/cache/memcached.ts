// Makes a cache in memcached, with clients of the package `memcache-client`.

import { type CacheClient, type CacheOptions, cacheOver } from './connection.js'
import type { Cache, CacheItem } from './contract.js'

export type { CacheOptions } from './connection.js'
export { type Cache, CacheError, type CacheErrorKind, type CacheItem } from './contract.js'

/** The members of a client of the package `memcache-client` that keyrow uses. */
export interface MemcacheClient {
  get(keys: string[]): Promise<unknown>
  set(key: string, value: Buffer, options: { readonly lifetime: number }): Promise<unknown>
  delete(key: string): Promise<unknown>
  shutdown(): void
}

// By default memcached stores no item of more than a mebibyte, with its key and its header.
const LIMITS = { defaultValueBytes: 1_000_000, largestValueBytes: 1024 * 1024 * 1024 }

// A larger number of seconds would be a date.
const LONGEST_LIFETIME_S = 30 * 24 * 60 * 60

/** Returns whole seconds. With 0 memcached would keep the value without a limit. */
const lifetimeOf = ({ ttlMs }: CacheItem): number => Math.min(Math.ceil(ttlMs / 1_000), LONGEST_LIFETIME_S)

const isNotFound = (error: unknown): boolean => error instanceof Error && error.message === 'NOT_FOUND'

/** The values that the server has, by key. */
type Found = Readonly<Record<string, { readonly value: unknown } | undefined>>

const connected = (client: MemcacheClient): CacheClient => {
  const set = (item: CacheItem): Promise<unknown> => {
    const { key, value } = item
    const bytes = Buffer.from(value.buffer, value.byteOffset, value.length)
    return client.set(key, bytes, { lifetime: lifetimeOf(item) })
  }
  const drop = (key: string): Promise<unknown> =>
    client.delete(key).catch((error: unknown) => {
      if (!isNotFound(error)) throw error
    })
  return {
    // The client connects when it sends a command, and again after a connection was lost.
    ready: Promise.resolve(),
    isUsable: () => true,
    end: () => client.shutdown(),
    get: async (keys) => {
      if (keys.length === 0) return []
      const found = (await client.get([...keys])) as Found
      return keys.map((key) => found[key]?.value)
    },
    set: (items) => Promise.all(items.map(set)),
    drop: (keys) => Promise.all(keys.map(drop)),
  }
}

/**
 * Makes a cache in memcached. `makeClient` returns a new client of the package `memcache-client`. keyrow calls
 * `makeClient` again to replace a client that has failed. If the server runs with a larger item size (`-I`), set
 * `maxValueBytes`.
 *
 * @throws `RangeError` for an option that is out of range
 *
 * @example
 * ```ts
 * import { MemcacheClient } from 'memcache-client'
 * import { memcachedCache } from 'keyrow/memcached'
 *
 * const cache = memcachedCache(() => new MemcacheClient({ server: process.env['MEMCACHED'] ?? 'localhost:11211' }))
 * console.log(cache.maxValueBytes) // 1000000
 * await cache.close()
 * ```
 */
export const memcachedCache = (makeClient: () => MemcacheClient, options: CacheOptions = {}): Cache =>
  cacheOver(() => connected(makeClient()), options, LIMITS)
