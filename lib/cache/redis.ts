// Makes a cache in Redis, with clients of the package `redis`.

import { O } from '../core/prelude.cjs'
import { pooledBytes } from '../core/token.js'
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

/** The members of a client of the package `redis` that keyrow uses. A cluster and a sentinel have them too. */
export interface RedisClient {
  connect(): Promise<unknown>
  destroy(): void
  readonly isOpen: boolean
  on(event: 'error' | 'connect', listener: (error: unknown) => void): unknown
  withCommandOptions(options: {
    readonly typeMapping: { readonly 36: typeof Buffer }
    readonly timeout: 0
  }): RedisCommands
}

interface RedisCommands {
  get(key: string): Promise<unknown>
  set(key: string, value: Buffer, options: { readonly PX: number }): Promise<unknown>
  del(key: string): Promise<unknown>
  eval(script: string, options: { readonly keys: string[]; readonly arguments: Buffer[] }): Promise<unknown>
}

// Redis returns values as bulk strings. The package `redis` has the code 36 for them, and returns a `Buffer` for each. Its
// own timeout ends when a command is written, and takes a fifth of the time of a command. keyrow has a deadline of its own.
const COMMAND_OPTIONS = { typeMapping: { 36: Buffer }, timeout: 0 } as const

// If a value is larger than Redis's memory, Redis evicts all other values. So the default is far below this size.
const LIMITS = { defaultValueBytes: 4 * 1024 * 1024, largestValueBytes: 512 * 1024 * 1024 }

// Each value in Redis begins with random bytes, which are its version. A counter would begin again after a restart, and an
// old version could then be the version of another value.
const VERSION_BYTES = 16

const withVersion = ({ value }: CacheItem): Buffer => Buffer.concat([pooledBytes(VERSION_BYTES), value])

const versionIn = (stored: Buffer): string => stored.toString('hex', 0, VERSION_BYTES)

const cacheValue = (stored: unknown): CacheValue | undefined =>
  Buffer.isBuffer(stored) && stored.length >= VERSION_BYTES
    ? { value: stored.subarray(VERSION_BYTES), version: versionIn(stored) }
    : undefined

// ARGV: the expected version, the new value, and its lifetime in milliseconds. A missing value has the version ''.
const SWAP = `
if redis.call('getrange', KEYS[1], 0, ${String(VERSION_BYTES - 1)}) ~= ARGV[1] then return 0 end
redis.call('set', KEYS[1], ARGV[2], 'px', ARGV[3])
return 1`

/** Listens to the events of a client. Returns its last error, and the function that ends it. */
const followed = (client: RedisClient) => {
  let lastError: unknown
  let hasEnded = false
  // Without a listener, an error of the connection would end the process.
  client.on('error', (error) => {
    lastError = error
  })
  // A client that is destroyed while it connects again opens the connection all the same.
  client.on('connect', () => {
    if (hasEnded) client.destroy()
  })
  const end = (): void => {
    hasEnded = true
    client.destroy()
  }
  return { lastError: () => lastError, end }
}

const connected = (client: RedisClient): CacheClient => {
  const { lastError, end } = followed(client)
  const commands = client.withCommandOptions(COMMAND_OPTIONS)
  const ttlOf = ({ ttlMs }: CacheItem): number => Math.ceil(ttlMs)
  const swap = async (item: CacheSwap): Promise<Swapped> => {
    const expected = Buffer.from(O.getOrElse(() => '')(item.version), 'hex')
    const value = withVersion(item)
    const args = [expected, value, Buffer.from(String(ttlOf(item)))]
    const isStored = (await commands.eval(SWAP, { keys: [item.key], arguments: args })) === 1
    return { isStored, version: versionIn(value) }
  }
  return {
    ready: client.connect(),
    lastError,
    isUsable: () => client.isOpen,
    end,
    // Each command has one key, since the keys of a cluster are on different servers. The client sends all at once.
    get: (keys) => Promise.all(keys.map(async (key) => cacheValue(await commands.get(key)))),
    set: (items) =>
      Promise.all(items.map((item) => commands.set(item.key, withVersion(item), { PX: ttlOf(item) }))),
    swap: (items) => Promise.all(items.map(swap)),
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
