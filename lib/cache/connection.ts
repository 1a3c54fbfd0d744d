// Makes a cache from the clients of another library. Each command has a deadline of keyrow, since a client may wait for a
// silent server without a limit. After several failures in a row, keyrow sends nothing for a while, and then makes a new
// client: some clients stay closed after an error, or keep a connection that no longer answers.

import { numberOption } from '../core/errors.js'
import { E, O, pipe } from '../core/prelude.cjs'
import { cancelAlarm, neutral, setAlarm } from '../core/process.js'
import { type Cache, CacheError, type CacheItem } from './contract.js'

export interface CacheOptions {
  /** The beginning of each key on the server: at most 100 printable ASCII characters, without spaces. Default: `keyrow:`. */
  readonly prefix?: string
  /** The deadline of a command in milliseconds, including the time to connect. Default: 50. */
  readonly timeoutMs?: number
  /** The maximum size of a value in bytes. A larger value is not sent. */
  readonly maxValueBytes?: number
}

/** A client of another library. The keys and values of its commands are valid. */
export interface CacheClient {
  /** Resolves when the client is connected. */
  readonly ready: Promise<unknown>
  /** Whether the client is connected, or connects again by itself. */
  readonly isUsable: () => boolean
  /** Closes the client at once. Its waiting commands fail, or never end. */
  readonly end: () => void
  /** Returns a value for each key. If it is no `Uint8Array`, the key has no value. */
  readonly get: (keys: readonly string[]) => Promise<readonly unknown[]>
  readonly set: (items: readonly CacheItem[]) => Promise<unknown>
  readonly drop: (keys: readonly string[]) => Promise<unknown>
}

interface Limits {
  readonly defaultValueBytes: number
  readonly largestValueBytes: number
}

/** Makes a cache. `connect` makes a client, which begins to connect. */
export const cacheOver = (connect: () => CacheClient, options: CacheOptions, limits: Limits): Cache => {
  const { prefix = 'keyrow:', timeoutMs = 50, maxValueBytes = limits.defaultValueBytes } = options
  const onServer = keysWith(prefix)
  numberOption('maxValueBytes', maxValueBytes, 1, limits.largestValueBytes, 'integer')
  const connection = new Connection(connect, numberOption('timeoutMs', timeoutMs, 1, 60_000))
  const command = commandsOn(connection)
  const stored = (item: CacheItem): E.Either<CacheError, CacheItem> =>
    pipe(
      checkItem(item, maxValueBytes),
      E.chain(() => onServer(item.key)),
      E.map((key) => ({ ...item, key })),
    )
  return {
    maxValueBytes,
    get: command('get', onServer, async (client, keys) => (await client.get(keys)).map(optionOf)),
    set: command('set', stored, async (client, items) => {
      await client.set(items)
    }),
    drop: command('drop', onServer, async (client, keys) => {
      await client.drop(keys)
    }),
    close: () => connection.close(),
  }
}

/** Makes a command of a cache. Nothing is sent if the check of an item fails. */
const commandsOn =
  (connection: Connection) =>
  <I, C, A>(
    operation: string,
    check: (item: I) => E.Either<CacheError, C>,
    act: (client: CacheClient, items: readonly C[]) => Promise<A>,
  ) =>
  (items: readonly I[]) =>
  async (): Outcome<A> => {
    const checked = E.traverseArray(check)(items)
    return E.isLeft(checked) ? checked : connection.send(operation, (client) => act(client, checked.right))
  }

const optionOf = (value: unknown): O.Option<Uint8Array> =>
  value instanceof Uint8Array ? O.some(value) : O.none

const invalid = (message: string): E.Either<CacheError, never> => E.left(new CacheError(message, 'invalid'))

/** Returns a function that makes the key on the server. A memcached server would misread a message with other keys. */
const keysWith = (prefix: unknown): ((key: string) => E.Either<CacheError, string>) => {
  if (typeof prefix !== 'string' || !/^[!-~]{0,100}$/.test(prefix))
    throw new RangeError(
      `prefix is ${JSON.stringify(prefix)}; it must have at most 100 printable ASCII characters, without spaces`,
    )
  return (key) =>
    /^[!-~]{1,100}$/.test(key)
      ? E.right(prefix + key)
      : invalid('a key must have 1 to 100 printable ASCII characters, without spaces')
}

const checkItem = ({ value, ttlMs }: CacheItem, maxValueBytes: number): E.Either<CacheError, void> => {
  if (value.length > maxValueBytes)
    return invalid(`a value has ${String(value.length)} bytes, and maxValueBytes is ${String(maxValueBytes)}`)
  return ttlMs >= 1 ? E.right(undefined) : invalid(`ttlMs is ${String(ttlMs)}; it must be at least 1`)
}

type Outcome<A> = Promise<E.Either<CacheError, A>>

const FAILURES_BEFORE_PAUSE = 5
const SHORTEST_PAUSE_MS = 1_000
const LONGEST_PAUSE_MS = 30_000

class Connection {
  readonly #connect: () => CacheClient
  readonly #timeoutMs: number
  #client: CacheClient | undefined
  /** The number of failures since the last success. */
  #failures = 0
  #pauseMs = SHORTEST_PAUSE_MS
  #pausedUntil = 0
  #isClosed = false
  readonly #running = new Set<Outcome<unknown>>()

  constructor(connect: () => CacheClient, timeoutMs: number) {
    this.#connect = connect
    this.#timeoutMs = timeoutMs
  }

  async send<A>(operation: string, act: (client: CacheClient) => Promise<A>): Outcome<A> {
    if (this.#isClosed) return E.left(new CacheError(`${operation}: the cache is closed`, 'closed'))
    if (performance.now() < this.#pausedUntil)
      return E.left(new CacheError(`${operation}: not sent, since the last commands have failed`, 'paused'))
    const running = this.#attempt(operation, act)
    this.#running.add(running)
    const result = await running
    this.#running.delete(running)
    if (E.isLeft(result)) this.#noteFailure()
    else {
      this.#failures = 0
      this.#pauseMs = SHORTEST_PAUSE_MS
    }
    return result
  }

  async close(): Outcome<void> {
    this.#isClosed = true
    await Promise.all(this.#running)
    this.#endClient()
    return E.right(undefined)
  }

  #attempt<A>(operation: string, act: (client: CacheClient) => Promise<A>): Outcome<A> {
    return new Promise((resolve) => {
      let isOver = false
      const settle = (result: E.Either<CacheError, A>): void => {
        cancelAlarm(alarm)
        resolve(result)
      }
      const alarm = setAlarm(this.#timeoutMs, () => {
        isOver = true
        const message = `${operation}: no answer within ${String(this.#timeoutMs)} ms`
        resolve(E.left(new CacheError(message, 'timeout')))
      })
      const run = async (): Promise<void> => {
        const client = await this.#connected()
        if (!isOver) settle(E.right(await act(client)))
      }
      run().catch((cause: unknown) =>
        settle(E.left(new CacheError(`${operation}: the cache has failed`, 'unavailable', cause))),
      )
    })
  }

  async #connected(): Promise<CacheClient> {
    // A client lives longer than the request that needs it first, so it belongs to no request's async context.
    this.#client ??= neutral(this.#connect)
    const client = this.#client
    await client.ready
    return client
  }

  #noteFailure(): void {
    this.#failures += 1
    const now = performance.now()
    const isToPause = this.#failures >= FAILURES_BEFORE_PAUSE && now >= this.#pausedUntil
    if (isToPause || this.#client?.isUsable() === false) this.#endClient()
    if (!isToPause) return
    this.#pausedUntil = now + this.#pauseMs
    this.#pauseMs = Math.min(2 * this.#pauseMs, LONGEST_PAUSE_MS)
  }

  #endClient(): void {
    const client = this.#client
    this.#client = undefined
    if (client === undefined) return
    client.ready.catch(() => undefined)
    try {
      client.end()
    } catch {
      // A client that is closed already may throw an error.
    }
  }
}
