// Defines the contract of a shared cache: a server, such as Redis or memcached, that keeps values for a limited time. A
// cache may lose a value at any time, or return an older one. So keyrow checks each value that it reads from a cache.

import type { Option } from 'fp-ts/lib/Option.js'
import type { TaskEither } from 'fp-ts/lib/TaskEither.js'

/**
 * Why a command of a cache has no result. `timeout`: there was no answer before the deadline. `unavailable`: the server or
 * the client has failed. `paused`: the last commands have failed, so this command was not sent. `invalid`: the key or the
 * value cannot be stored, so the command was not sent. `closed`: the cache was closed.
 */
export type CacheErrorKind = 'timeout' | 'unavailable' | 'paused' | 'invalid' | 'closed'

/** The error of a command of a cache. The message contains no value. */
export class CacheError extends Error {
  readonly _tag = 'CacheError'
  readonly kind: CacheErrorKind
  constructor(message: string, kind: CacheErrorKind, cause?: unknown) {
    super(message, cause === undefined ? {} : { cause })
    this.kind = kind
  }
  override get name(): string {
    return this._tag
  }
}

export interface CacheItem {
  readonly key: string
  readonly value: Uint8Array
  /** The time in milliseconds after which the cache may forget the value. It is at least 1. */
  readonly ttlMs: number
}

/** A value, with the version that the cache gave to this write of the value. */
export interface CacheValue {
  readonly value: Uint8Array
  readonly version: string
}

/** An item that is stored only if the key still has the value of this version, or no value. */
export interface CacheSwap extends CacheItem {
  readonly version: Option<string>
}

/** The result of a swap. */
export interface Swapped {
  /** Whether the value was stored. */
  readonly isStored: boolean
  /** The version of the new value, if the cache tells it. */
  readonly version?: string
}

/** A shared cache. Each command ends within a limited time, and rejects for no reason. */
export interface Cache {
  /** The maximum size of a value in bytes. */
  readonly maxValueBytes: number
  /** Whether the cache always deletes values when it is full. Redis does so only if it is configured for it. */
  readonly mayEvict?: boolean
  /** Returns the values of the keys, in the order of the keys. */
  readonly get: (keys: readonly string[]) => TaskEither<CacheError, readonly Option<CacheValue>[]>
  /** Stores values. After an error the cache may have some of the new values. */
  readonly set: (items: readonly CacheItem[]) => TaskEither<CacheError, void>
  /**
   * Stores each value if its key still has the value of this version, or no value if the version is `None`. The results
   * say which values were stored. After an error the cache may have some of the new values.
   */
  readonly swap: (items: readonly CacheSwap[]) => TaskEither<CacheError, readonly Swapped[]>
  /** Deletes values. It is no error if a key has none. */
  readonly drop: (keys: readonly string[]) => TaskEither<CacheError, void>
  /** Waits for the commands that were sent, and closes the connections. A second call has no effect. */
  readonly close: TaskEither<CacheError, void>
}
