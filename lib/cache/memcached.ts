// Makes a cache in memcached, with clients of the package `memcache-client`.

import { O } from '../core/prelude.cjs'
import { type CacheClient, type CacheOptions, cacheOver } from './connection.js'
import type { Cache, CacheItem, CacheSwap, CacheValue, Swapped } from './contract.js'

export type { CacheOptions } from './connection.js'
export {
  type Cache,
  CacheError,
  type CacheErrorKind,
  type CacheItem,
  type CacheSwap,
  type CacheValue,
} from './contract.js'

/** The members of a client of the package `memcache-client` that keyrow uses. */
export interface MemcacheClient {
  gets(keys: string[]): Promise<unknown>
  set(key: string, value: Buffer, options: { readonly lifetime: number }): Promise<unknown>
  add(key: string, value: Buffer, options: { readonly lifetime: number }): Promise<unknown>
  cas(
    key: string,
    value: Buffer,
    options: { readonly lifetime: number; readonly casUniq: string },
  ): Promise<unknown>
  delete(key: string): Promise<unknown>
  shutdown(): void
}

// By default memcached stores no item of more than a mebibyte, with its key and its header.
const LIMITS = { defaultValueBytes: 1_000_000, largestValueBytes: 1024 * 1024 * 1024 }

// A larger number of seconds would be a date.
const LONGEST_LIFETIME_S = 30 * 24 * 60 * 60

/** Returns whole seconds. With 0 memcached would keep the value without a limit. */
const lifetimeOf = ({ ttlMs }: CacheItem): number => Math.min(Math.ceil(ttlMs / 1_000), LONGEST_LIFETIME_S)

const bytesOf = ({ value }: CacheItem): Buffer => Buffer.from(value.buffer, value.byteOffset, value.length)

const isAnswer =
  (...answers: readonly string[]) =>
  (error: unknown): boolean =>
    error instanceof Error && answers.includes(error.message)

const isMissing = isAnswer('NOT_FOUND')
const isRefusal = isAnswer('EXISTS', 'NOT_FOUND', 'NOT_STORED')

/** Returns true, or false if the command fails with one of the expected answers of the server. */
const succeeds = (command: Promise<unknown>, isExpected: (error: unknown) => boolean): Promise<boolean> =>
  command.then(
    () => true,
    (error: unknown) => {
      if (isExpected(error)) return false
      throw error
    },
  )

/** The values that the server has, by key. `casUniq` is the number that the server gave to the write of the value. */
type Found = Readonly<Record<string, { readonly value: unknown; readonly casUniq: unknown } | undefined>>

const cacheValue = (found: Found[string]): CacheValue | undefined =>
  found !== undefined && Buffer.isBuffer(found.value)
    ? { value: found.value, version: String(found.casUniq) }
    : undefined

const connected = (client: MemcacheClient): CacheClient => {
  const set = (item: CacheItem): Promise<unknown> =>
    client.set(item.key, bytesOf(item), { lifetime: lifetimeOf(item) })
  const swap = async (item: CacheSwap): Promise<Swapped> => {
    const [{ key, version }, lifetime] = [item, lifetimeOf(item)]
    const isStored = await succeeds(
      O.isNone(version)
        ? client.add(key, bytesOf(item), { lifetime })
        : client.cas(key, bytesOf(item), { lifetime, casUniq: version.value }),
      isRefusal,
    )
    return { isStored }
  }
  return {
    // The client connects when it sends a command, and again after a connection was lost.
    ready: Promise.resolve(),
    lastError: () => undefined,
    isUsable: () => true,
    end: () => client.shutdown(),
    get: async (keys) => {
      if (keys.length === 0) return []
      const found = (await client.gets([...keys])) as Found
      return keys.map((key) => cacheValue(found[key]))
    },
    set: (items) => Promise.all(items.map(set)),
    swap: (items) => Promise.all(items.map(swap)),
    drop: (keys) => Promise.all(keys.map((key) => succeeds(client.delete(key), isMissing))),
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
export const memcachedCache = (makeClient: () => MemcacheClient, options: CacheOptions = {}): Cache => ({
  ...cacheOver(() => connected(makeClient()), options, LIMITS),
  mayEvict: true,
})
