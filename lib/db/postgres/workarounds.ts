// Works around defects of postgres.js 3.4.9. Each defect has a section. Three more workarounds are in other files:
// `retryUnsafeBegin` and `finish` in transaction.ts, and the loop over rows in text-format.ts.

import { Socket, type SocketConstructorOpts } from 'node:net'
import { DriverError, withEffect } from '../../core/errors.js'
import { E } from '../../core/prelude.cjs'
import { clearTimeout, delay, setTimeout } from '../../core/process.js'
import type { Outcome } from '../database.js'
import { codeOf, driverError, hasBrokenOff, withDeadline } from '../deadline.js'

/** The part of a pool that the workarounds use. */
export interface ObservedPool {
  readonly sql: {
    unsafe(text: string): PromiseLike<unknown>
    readonly options: { readonly target_session_attrs?: unknown }
  }
  /** The health of a pool with several hosts or `target_session_attrs`. It is `undefined` for other pools. */
  readonly health: PoolHealth | undefined
  /** The last time at which a connection reached a server of the wrong role. */
  rejectedAt: number
  search: Search | undefined
}

// Defect: untrusted answers (3.4.9).
// Symptom: A new connection may get an error of an earlier connection. postgres.js then skips the check of the server's
// role, and may use a standby from then on. With several hosts, it also returns an empty result if the first statement
// of a connection is lost.
// Workaround: After the first loss of a connection a pool is suspect. A suspect pool trusts only server processes that
// answered before the loss. A statement to any other server process is neutralised, which means that a statement
// without effect is sent instead. Then a new pool replaces the suspect pool.

/** The server process of a connection. postgres.js reuses this object when the connection reaches another process. */
interface Backend {
  readonly pid: number | null
  readonly secret: number | null
}

export interface PoolHealth {
  suspect: boolean
  /** For each connection, the server process that was trusted before the pool became suspect. */
  readonly trusted: WeakMap<object, Backend>
}

export interface Observation {
  readonly isAnswerTrusted: () => boolean
  readonly isErrorTrusted: (error: unknown) => boolean
  /** Whether a statement without effect was sent instead of this statement. */
  readonly isNeutralised: () => boolean
}

export const newHealth = (): PoolHealth => ({ suspect: false, trusted: new WeakMap() })

const OBSERVED = Symbol('observed by keyrow')

/** What is known of a statement's server process. */
interface Observed {
  readonly health: PoolHealth
  state: Backend | null
  /** A copy of `state` from the time when the statement was sent. */
  sentTo: Backend | null
  isNeutralised: boolean
}

interface ObservedStatement {
  [OBSERVED]: Observed
}

const isTrusted = ({ health, state, sentTo }: Observed): boolean =>
  state !== null && isSame(health.trusted.get(state), sentTo)

// All statements share the accessor. V8 puts an accessor into the old generation, so an accessor of its own would keep
// each statement in memory until the next full collection.
const STATE_ACCESSOR: PropertyDescriptor & ThisType<ObservedStatement> = {
  get() {
    return this[OBSERVED].state
  },
  set(backend: Backend) {
    const observed = this[OBSERVED]
    observed.state = backend
    observed.sentTo = { ...backend }
    if (!observed.health.suspect || isTrusted(observed)) return
    observed.isNeutralised = true
    neutralise(this)
  },
}

/** Observes which server process gets a statement. Call `observe` before the statement is sent. */
export const observe = (pending: object, health: PoolHealth): Observation => {
  const observed: Observed = { health, state: null, sentTo: null, isNeutralised: false }
  Object.assign(pending, { [OBSERVED]: observed })
  Object.defineProperty(pending, 'state', STATE_ACCESSOR)
  return {
    isNeutralised: () => observed.isNeutralised,
    isAnswerTrusted: () => {
      const { state, sentTo } = observed
      if (!isSame(state, sentTo)) health.suspect = true
      if (!health.suspect && state !== null && sentTo !== null) health.trusted.set(state, sentTo)
      return isSame(state, sentTo) && isTrusted(observed)
    },
    isErrorTrusted: (error) => {
      const { state, sentTo } = observed
      const isSent = sentTo !== null
      noteFailure(health, error, isSent)
      if (!isSame(state, sentTo)) health.suspect = true
      return !isAnothers(error, isSent) && !(isStatements(error) && health.suspect && !isTrusted(observed))
    },
  }
}

// Makes the pool suspect after the loss of a connection. This function ignores a loss before the statement was sent. It
// also ignores a server's rejection of a new connection, since this rejection concerns no earlier statement.
export const noteFailure = (
  health: PoolHealth | undefined,
  error: unknown,
  isSent: boolean,
  isUnsent = !isSent,
): void => {
  const isLoss = !isUnsent && hasBrokenOff(error)
  const isStale = isSent ? isFatal(error) : isOfServer(error) && !isOfConnecting(error)
  if (health !== undefined && (isLoss || isStale)) health.suspect = true
}

/** Whether the server's error belongs to another statement. It does if this statement was not sent. */
export const isAnothers = (error: unknown, isSent: boolean): boolean => !isSent && isStatements(error)

export const lost = (name: string, cause?: unknown): DriverError =>
  new DriverError(`${name}: the connection was lost`, { kind: 'unavailable', retryable: true, cause })

const isSame = (one: Backend | null | undefined, other: Backend | null): boolean =>
  one?.pid === other?.pid && one?.secret === other?.secret

const severityOf = (error: unknown): unknown =>
  (error as { readonly severity?: unknown } | undefined)?.severity

const isOfServer = (error: unknown): boolean => severityOf(error) !== undefined

/** Whether the error says that the server is starting, stopping or full, or rejects the password, role or database. */
const isOfConnecting = (error: unknown): boolean => /^(57P03|53300|28|3D)/.test(String(codeOf(error)))

/** Whether the error ended a connection or prevented a new one. */
const isFatal = (error: unknown): boolean => /^(FATAL|PANIC)$/.test(String(severityOf(error)))

const isStatements = (error: unknown): boolean => isOfServer(error) && !isFatal(error)

// Defect: cancelled statements (3.4.9).
// Symptom: If a statement is cancelled while its connection is being made, the pool loses that connection for good.
// Workaround: keyrow never cancels a statement, and replaces an unsent statement with `select`, which has no effect. A
// cancel request names only a connection, so it could end another statement.

/** Replaces an unsent statement with `select`, which has no effect. */
export const neutralise = (pending: unknown): void => {
  Object.assign(pending as object, { strings: ['select'], args: [] })
}

// Defect: retries of prepared statements (3.4.9).
// Symptom: postgres.js sends a stale prepared statement again on a connection that may have other statements under way.
// postgres.js then assigns answers to the wrong statements, and all statements on the connection hang.
// Workaround: postgres.js sets the member `prepared` of a statement, and reads it again after a failure. keyrow has set
// `prepared` to false by then, so only keyrow repeats the statement.

const PREPARED = Symbol('prepared, by keyrow')

interface Prepared {
  [PREPARED]?: unknown
}

// All statements share the accessor, like `STATE_ACCESSOR`.
const PREPARED_ACCESSOR: PropertyDescriptor & ThisType<Prepared> = {
  get() {
    return this[PREPARED] ?? false
  },
  set(value: unknown) {
    this[PREPARED] = value
    queueMicrotask(() => {
      this[PREPARED] = false
    })
  },
}

export const withoutRetry = (pending: object): void => {
  Object.defineProperty(pending, 'prepared', PREPARED_ACCESSOR)
}

// Defect: sockets (3.4.9).
// Symptom: The pool's method `end` only sends a message, so a connection to a dead server keeps the process alive. An
// ended pool still reconnects. A pool whose hosts are down reconnects without a pause. On a full socket, BEGIN is sent
// without reserving the connection (see `retryUnsafeBegin`).
// Workaround: keyrow makes the sockets through the option `socket`. It destroys the sockets after `end`, and limits the
// rate of new sockets. Without TLS these sockets do not report that they are full.

/** The address of a pool, as postgres.js parses it. */
export interface PoolAddress {
  readonly host: readonly string[]
  readonly port: readonly number[]
  readonly path?: string | false | undefined
}

interface PoolSockets {
  readonly open: Set<Socket>
  times: readonly number[]
  closed: boolean
}

const pools = new WeakMap<object, PoolSockets>()

const socketsOf = (pool: object): PoolSockets => {
  const sockets = pools.get(pool) ?? { open: new Set(), times: [], closed: false }
  pools.set(pool, sockets)
  return sockets
}

/** The maximum number of new sockets of a pool within a second. Each further socket waits 100 ms. */
const BURST = 50

/** A socket with this many unsent bytes reports that it is full. Unsent bytes are kept in memory in any case. */
const HIGH_WATER_MARK = 2 ** 30

/** Makes a socket to one of the pool's hosts. postgres.js calls this function with the pool's options. */
export const openSocket = async (pool: PoolAddress): Promise<Socket> => {
  const sockets = socketsOf(pool)
  const now = performance.now()
  sockets.times = [...sockets.times.filter((time) => time > now - 1_000), now]
  if (sockets.times.length > BURST) await delay(100)
  if (sockets.closed) return new Promise<never>(() => undefined)
  const socket = new Socket({ writableHighWaterMark: HIGH_WATER_MARK } as SocketConstructorOpts)
  // Destroyed sockets are removed here and not by a listener, since postgres.js removes all listeners when TLS begins.
  for (const other of sockets.open) if (other.destroyed) sockets.open.delete(other)
  sockets.open.add(socket)
  return connected(socket, pool)
}

const connected = (socket: Socket, { host, port, path }: PoolAddress): Socket => {
  if (typeof path === 'string') return socket.connect(path)
  // The host is chosen at random. If it is down or is not the primary, the next attempt may reach another host.
  const index = Math.floor(Math.random() * host.length)
  const address = { host: host[index] ?? 'localhost', port: port[index] ?? 5432 }
  // postgres.js reads the address from the socket, for TLS and for its errors.
  return Object.assign(socket.connect(address), address)
}

/** Destroys the sockets of an ended pool, and prevents new ones. */
export const closeSockets = (pool: object): void => {
  const sockets = socketsOf(pool)
  sockets.closed = true
  for (const socket of sockets.open) socket.destroy()
}

// Defect: no further search for a primary (3.4.9).
// Symptom: With `target_session_attrs`, a statement fails with CONNECTION_DESTROYED if its connection reached a server
// of the wrong role. This statement was never sent.
// Workaround: One connection at a time searches for a server of the wanted role. After the search each statement is
// sent again, unless its deadline has passed.

/** A search for a server of the wanted role. Until the search ends, nothing else is sent through the pool. */
interface Search {
  readonly cause: DriverError
  readonly end: Promise<void>
  /** The latest deadline of the waiting statements. */
  until: number
  found: boolean
}

/** The minimum time between two replacements of a pool, in milliseconds. */
export const RENEWAL_MS = 100

export const notSent = (name: string, pool: ObservedPool, cause: unknown): DriverError => {
  const { target_session_attrs: wanted } = pool.sql.options
  if (typeof wanted !== 'string' || codeOf(cause) !== 'CONNECTION_DESTROYED')
    return withEffect(driverError(name, cause), 'none')
  pool.rejectedAt = performance.now()
  return new DriverError(`${name}: the server that was reached is not ${wanted}`, {
    kind: 'unavailable',
    retryable: true,
    effect: 'none',
    cause,
  })
}

interface Sending<L, A> {
  readonly name: string
  readonly timeoutMs: number
  readonly pool: () => ObservedPool
  /** Makes one attempt. `spentMs` is the time of earlier attempts. An attempt that sends nothing calls `unsent`. */
  readonly attempt: (own: {
    readonly spentMs: number
    readonly unsent: (error: DriverError) => void
  }) => Outcome<A, L>
}

/** Repeats a statement, or the start of a transaction, until it is sent or its deadline has passed. */
export const untilSent = async <L, A>(sending: Sending<L, A>): Outcome<A, L> => {
  const { name, timeoutMs, attempt } = sending
  const start = performance.now()
  const spent = (): number => performance.now() - start
  let cause: DriverError | undefined
  for (;;) {
    const pool = await renewedPool(sending.pool, timeoutMs)
    const search = searchIn(pool, cause, start + timeoutMs)
    if (search !== undefined) {
      await waitAtMost(timeoutMs - spent(), search.end)
      cause = search.cause
      if (!search.found || spent() >= timeoutMs) return E.left(neverSent(name, timeoutMs, cause))
    }
    // The body of a transaction may return the error of another unsent statement. So the errors are compared below.
    let unsent: DriverError | undefined
    const record = (error: DriverError): void => {
      unsent = error
    }
    const result = await attempt({ spentMs: spent(), unsent: record })
    if (unsent?.retryable !== true || E.isRight(result) || result.left !== unsent) return result
    if (spent() >= timeoutMs) return cause === undefined ? result : E.left(neverSent(name, timeoutMs, cause))
    cause = unsent
  }
}

/** Returns the pool in use. Waits for the replacement of a suspect pool, at most `2 * RENEWAL_MS`. */
const renewedPool = async (poolInUse: () => ObservedPool, timeoutMs: number): Promise<ObservedPool> => {
  const deadline = performance.now() + Math.min(timeoutMs, 2 * RENEWAL_MS)
  for (;;) {
    const pool = poolInUse()
    if (pool.health?.suspect !== true || performance.now() > deadline) return pool
    await delay(10)
  }
}

const neverSent = (name: string, timeoutMs: number, why: DriverError): DriverError => {
  const reason = why.message.replace(/^[^:]*: /, '')
  const message = `${name}: not sent within ${String(timeoutMs)} ms: ${reason}`
  const cause = why.cause ?? why
  return new DriverError(message, { kind: 'timeout', retryable: true, effect: 'none', cause })
}

const waitAtMost = async (ms: number, end: Promise<void>): Promise<void> => {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<void>((resolve) => (timer = setTimeout(resolve, ms)))
  await Promise.race([end, late])
  clearTimeout(timer)
}

const searchIn = (pool: ObservedPool, cause: DriverError | undefined, until: number): Search | undefined => {
  if (pool.search !== undefined) pool.search.until = Math.max(pool.search.until, until)
  else if (cause !== undefined) pool.search = startSearch(pool, cause, until)
  return pool.search
}

const SHORTEST_PAUSE_MS = 5
const LONGEST_PAUSE_MS = 250

const startSearch = (pool: ObservedPool, cause: DriverError, until: number): Search => {
  const run = async (): Promise<void> => {
    for (let delayMs = SHORTEST_PAUSE_MS; ; delayMs = Math.min(2 * delayMs, LONGEST_PAUSE_MS)) {
      await delay(delayMs)
      const left = search.until - performance.now()
      if (left <= 0) break
      const answer = await withDeadline('search', left, () => sendProbe(pool))
      // A suspect pool cannot find a server. So the search ends, and a new pool replaces the suspect pool.
      search.found =
        pool.health?.suspect === true || E.isRight(answer) || !searchError(pool, answer.left).retryable
      if (search.found) break
    }
    pool.search = undefined
  }
  const search: Search = { cause, until, found: false, end: Promise.resolve().then(run) }
  return search
}

const sendProbe = (pool: ObservedPool): PromiseLike<unknown> => {
  const pending = pool.sql.unsafe('select')
  const observed = pool.health && observe(pending, pool.health)
  return pending.then(
    (result) => {
      if (observed?.isAnswerTrusted() === false) throw lost('search')
      return result
    },
    (error: unknown) => {
      throw observed?.isErrorTrusted(error) === false ? lost('search', error) : error
    },
  )
}

/** Returns the error of a probe. An error without a cause means that the probe missed its deadline. */
const searchError = (pool: ObservedPool, error: DriverError): DriverError =>
  error.cause === undefined ? error : notSent('search', pool, error.cause)
