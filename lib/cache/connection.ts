// Makes a cache from the clients of another library. Each command has a deadline of keyrow, since a client may wait for a
// silent server without a limit. After several failures in a row, keyrow sends nothing for a while, and then makes a new
// client: some clients stay closed after an error, or keep a connection that no longer answers.

import { numberOption } from '../core/options.js'
import { E, O, pipe } from '../core/prelude.cjs'
import { cancelAlarm, neutral, now, setAlarm, setImmediate } from '../core/process.js'
import {
  type Cache,
  CacheError,
  type CacheItem,
  type CacheSwap,
  type CacheValue,
  type Swapped,
} from './contract.js'

export interface CacheOptions {
  /** The beginning of each key on the server: at most 100 printable ASCII characters, without spaces. Default: `keyrow:`. */
  readonly prefix?: string
  /** The deadline of a command in milliseconds, including the time to connect. Default: 50. */
  readonly timeoutMs?: number
  /** The maximum size of a value in bytes. A larger value is not sent. */
  readonly maxValueBytes?: number
  /** Called with the error of each command that was sent, for a log. The error's `cause` is the error of the client. */
  readonly onError?: (error: CacheError) => void
}

/** A client of another library. The keys and values of its commands are valid. */
export interface CacheClient {
  /** Resolves when the client is connected. */
  readonly ready: Promise<unknown>
  /** The last error of the client that belongs to no command. */
  readonly lastError: () => unknown
  /** Whether the client is connected, or connects again by itself. */
  readonly isUsable: () => boolean
  /** Closes the client at once. Its waiting commands fail, or never end. */
  readonly end: () => void
  /** Returns the value of each key, or `undefined`. */
  readonly get: (keys: readonly string[]) => Promise<readonly (CacheValue | undefined)[]>
  readonly set: (items: readonly CacheItem[]) => Promise<unknown>
  readonly swap: (items: readonly CacheSwap[]) => Promise<readonly Swapped[]>
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
  const { onError = () => undefined } = options
  const connection = new Connection(connect, numberOption('timeoutMs', timeoutMs, 1, 60_000), onError)
  const command = commandsOn(connection)
  const stored = <I extends CacheItem>(item: I): E.Either<CacheError, I> =>
    pipe(
      checkItem(item, maxValueBytes),
      E.chain(() => onServer(item.key)),
      E.map((key) => ({ ...item, key })),
    )
  return {
    maxValueBytes,
    get: command('get', onServer, async (client, keys) => (await client.get(keys)).map(O.fromNullable)),
    set: command('set', stored<CacheItem>, async (client, items) => {
      await client.set(items)
    }),
    swap: command('swap', stored<CacheSwap>, (client, items) => client.swap(items)),
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
    const checked: C[] = []
    for (const item of items) {
      const one = check(item)
      if (E.isLeft(one)) return one
      checked.push(one.right)
    }
    return connection.send(operation, (client) => act(client, checked))
  }

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

/** A client that is not connected after this time is replaced. */
const CONNECT_MS = 10_000

class Connection {
  readonly #connect: () => CacheClient
  readonly #timeoutMs: number
  readonly #onError: (error: CacheError) => void
  #client: CacheClient | undefined
  /** The time until which the client may connect, or `undefined` if it is connected. */
  #connectsUntil: number | undefined
  /** The number of failures since the last success, without failures of commands that ran at the same time. */
  #failures = 0
  #failedAt = Number.NEGATIVE_INFINITY
  #pauseMs = SHORTEST_PAUSE_MS
  #pausedUntil = Number.NEGATIVE_INFINITY
  #isClosed = false
  readonly #running = new Set<Outcome<unknown>>()

  constructor(connect: () => CacheClient, timeoutMs: number, onError: (error: CacheError) => void) {
    this.#connect = connect
    this.#timeoutMs = timeoutMs
    this.#onError = onError
  }

  async send<A>(operation: string, act: (client: CacheClient) => Promise<A>): Outcome<A> {
    if (this.#isClosed) return E.left(new CacheError(`${operation}: the cache is closed`, 'closed'))
    const sentAt = now()
    if (sentAt < this.#pausedUntil)
      return E.left(new CacheError(`${operation}: not sent, since the last commands have failed`, 'paused'))
    // A client may connect at its first command, and belongs to no request's async context.
    const running = neutral(() => this.#attempt(operation, act))
    this.#running.add(running)
    const result = await running
    this.#running.delete(running)
    if (E.isLeft(result)) {
      this.#noteFailure(sentAt)
      this.#report(result.left)
    } else {
      this.#failures = 0
      this.#pauseMs = SHORTEST_PAUSE_MS
    }
    return result
  }

  #report(error: CacheError): void {
    try {
      this.#onError(error)
    } catch {
      // An error of the program's log is no error of the cache.
    }
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
        isOver = true
        resolve(result)
      }
      const expire = (): void => {
        if (isOver) return
        const message = `${operation}: no answer within ${String(this.#timeoutMs)} ms`
        settle(E.left(new CacheError(message, 'timeout', this.#client?.lastError())))
      }
      // If the process was busy, the answer may have arrived. Node.js reads it before it calls `expire`.
      const alarm = setAlarm(this.#timeoutMs, () => setImmediate(expire))
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
    if (this.#client === undefined) {
      this.#client = this.#connect()
      this.#connectsUntil = now() + CONNECT_MS
    }
    const client = this.#client
    await client.ready
    if (client === this.#client) this.#connectsUntil = undefined
    return client
  }

  #noteFailure(sentAt: number): void {
    const [time, client] = [now(), this.#client]
    const isConnecting = this.#connectsUntil !== undefined && time < this.#connectsUntil
    if (client?.isUsable() === false) this.#endClient()
    // Commands that run at the same time fail for the same reason.
    if (sentAt < this.#failedAt) return
    this.#failedAt = time
    this.#failures += 1
    if (this.#failures < FAILURES_BEFORE_PAUSE) return
    this.#pausedUntil = time + this.#pauseMs
    this.#pauseMs = Math.min(2 * this.#pauseMs, LONGEST_PAUSE_MS)
    if (!isConnecting) this.#endClient()
  }

  #endClient(): void {
    const client = this.#client
    this.#client = undefined
    this.#connectsUntil = undefined
    if (client === undefined) return
    const end = (): void => {
      try {
        client.end()
      } catch {
        // A client that is closed already may throw an error.
      }
    }
    end()
    // A client that is still connecting may stay connected, so it is ended again.
    client.ready.then(end, () => undefined)
  }
}
