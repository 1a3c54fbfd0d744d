// Makes a `Database` on a pool of node-postgres (`pg`), or on a pool of the same shape. Each statement and each
// transaction takes a client from the pool, and gives it back afterwards.

import { setTimeout as delay } from 'node:timers/promises'
import type { TaskEither } from 'fp-ts/lib/TaskEither.js'
import { DriverError, type Effect, withEffect } from '../core/errors.js'
import { E } from '../core/prelude.cjs'
import { clearTimeout, setTimeout } from '../core/process.js'
import {
  type Database,
  type DriverTransaction,
  ON_PRIMARY,
  type Outcome,
  type Param,
  type Query,
  type Row,
} from './database.js'
import { closedError, timeoutOf, withDeadline } from './deadline.js'
import {
  type ClientState,
  isFatal,
  type PgClient,
  type Result,
  sendOn,
  stateOf,
  unconnected,
} from './pg-statement.js'
import {
  newPlans,
  type OnColumns,
  type Plans,
  type SendOnce,
  type SettingsCheck,
  sendQuery,
  settingsCheck,
} from './sending.js'
import { decodedRows } from './text-format.js'
import { savepoints, scopedDatabase } from './transaction.js'

/** The members of a pool of node-postgres that keyrow uses. */
export interface PgPool {
  connect(
    callback: (
      error: Error | undefined,
      client: PgClient | undefined,
      release: (destroy?: boolean) => void,
    ) => void,
  ): void
  end(): Promise<void>
  /** The number of clients. This member distinguishes a pool from a single client. */
  readonly totalCount: number
  readonly ending?: boolean
  readonly options?: { readonly pipeline?: unknown }
}

export interface PgOptions {
  /** The maximum time of one statement, including its wait for a client, in milliseconds. Default: 5,000. */
  readonly timeoutMs?: number
  /** Whether statements are prepared. A pooler in transaction mode may need `false`. Default: true. */
  readonly prepare?: boolean
  /**
   * Whether each new client must be connected to a primary. Set it if the pool's address may lead to a standby. A
   * statement then waits for a primary until its deadline. Default: false.
   */
  readonly primary?: boolean
}

type Params = readonly Param[]
type Rows = Outcome<readonly Row[]>

interface Link {
  readonly pool: PgPool
  readonly timeoutMs: number
  readonly prepare: boolean
  readonly primary: boolean
  readonly plans: Plans
  readonly settings: SettingsCheck
  readonly leases: Set<Lease>
  /** The latest time at which keyrow sent a statement that then missed its deadline. */
  silentSince: number
}

/** A client that is taken from the pool. */
interface Lease {
  readonly client: PgClient
  readonly state: ClientState
  /** Gives the client back, unless a transaction is open on it. The second call has no effect. */
  readonly release: () => void
  /** Closes the client's connection. */
  readonly destroy: () => void
}

/**
 * Makes a database on a pool of node-postgres. Closing the database ends the pool. keyrow sends and reads all values as
 * text, so type parsers have no effect, whether they belong to the pool or to the whole process.
 *
 * keyrow closes a client whose statement missed its deadline. When keyrow takes another client from the pool, it closes
 * this client too if the client's last answer is older than that statement. So connections that no longer answer do not
 * stay in the pool. Set `connectionTimeoutMillis` of the pool, since node-postgres has no limit by default.
 *
 * If a setting of the role or database would silently give wrong values (`DateStyle` other than ISO,
 * `extra_float_digits` below 1, `array_nulls` off), the affected statements fail with a `DriverError` of the kind
 * `setting`.
 *
 * @throws `TypeError` for a single client in place of a pool
 * @throws `RangeError` for a timeout out of range, and for a pool with the option `pipeline`
 *
 * @example
 * ```ts
 * import pg from 'pg'
 * import { sessionStore } from 'keyrow/store'
 * import { pgDatabase } from 'keyrow/pg'
 *
 * const pool = new pg.Pool({ connectionString: process.env['DATABASE_URL'], connectionTimeoutMillis: 5_000 })
 * const database = pgDatabase(pool, { timeoutMs: 3_000 })
 * const store = sessionStore(database)
 * console.log((await store.prepare())._tag) // Right
 * await database.close()
 * ```
 */
export const pgDatabase = (pool: PgPool, options: PgOptions = {}): Database => {
  const { prepare = true, primary = false } = options
  const link: Link = {
    pool: suitable(pool),
    timeoutMs: timeoutOf(options),
    prepare,
    primary,
    plans: newPlans(),
    settings: settingsCheck(),
    leases: new Set(),
    silentSince: Number.NEGATIVE_INFINITY,
  }
  let closed: Outcome<void> | undefined
  const whileOpen =
    <L, A>(act: () => Outcome<A, L>) =>
    (): Outcome<A, L> =>
      closed === undefined ? act() : Promise.resolve(E.left(closedError()))
  const sending = { ...link, inTransaction: false, once: sendOnce(link) }
  return scopedDatabase({
    query: (query, params) => whileOpen(() => sendQuery(query, params, sending)),
    transaction: (body) => whileOpen(() => transact(link, body)),
    close: () => {
      closed ??= close(link)
      return closed
    },
  })
}

const suitable = (pool: PgPool): PgPool => {
  if (typeof pool.totalCount !== 'number')
    throw new TypeError('keyrow needs a pool of node-postgres, not a client: pass a new pg.Pool(…)')
  if (pool.options?.pipeline === true)
    throw new RangeError('a pool with the option pipeline runs no statements of keyrow; leave the option out')
  return pool
}

const close = async ({ pool, timeoutMs, leases }: Link): Outcome<void> => {
  const timer = setTimeout(() => {
    for (const lease of leases) lease.destroy()
  }, timeoutMs)
  const result = await withDeadline('close', 2 * timeoutMs, () => pool.end())
  clearTimeout(timer)
  return result
}

const connected = (link: Link): Promise<Lease> =>
  new Promise((resolve, reject) => {
    link.pool.connect((error, client, release) => {
      if (client === undefined) reject(unconnected(error, link.pool.ending === true))
      else resolve(leaseOf(link, client, release))
    })
  })

const leaseOf = ({ leases }: Link, client: PgClient, releaseClient: (destroy?: boolean) => void): Lease => {
  const state = stateOf(client)
  const end = (destroy: boolean): void => {
    if (leases.delete(lease)) releaseClient(destroy)
  }
  const lease: Lease = {
    client,
    state,
    release: () => end(state.status !== 'I'),
    destroy: () => end(true),
  }
  leases.add(lease)
  return lease
}

const LONGEST_PAUSE_MS = 250

// Takes a suitable client from the pool. A client is closed instead if its last answer is older than a statement that
// missed its deadline, or if the program wants a primary and the client is connected to a standby.
const leased = async (link: Link, { until }: Clock): Promise<Lease> => {
  for (let delayMs = 5; ; delayMs = Math.min(2 * delayMs, LONGEST_PAUSE_MS)) {
    try {
      const lease = await connected(link)
      const { state } = lease
      if (state.answeredAt < link.silentSince) {
        lease.destroy()
        continue
      }
      if (!link.primary || state.isChecked) return lease
      await checkRole(lease, until - performance.now())
      return lease
    } catch (error) {
      const mayTryAgain = link.primary && error instanceof DriverError && error.retryable
      if (!mayTryAgain || performance.now() + delayMs > until) throw error
      await delay(delayMs)
    }
  }
}

const ROLE: Query = {
  name: 'role',
  text: `select pg_is_in_recovery()::text as standby where ${ON_PRIMARY}`,
}

const checkRole = async ({ client, state, destroy }: Lease, timeoutMs: number): Promise<void> => {
  const answer = await withDeadline(ROLE.name, timeoutMs, () => sendOn(client, state, ROLE, [], UNPREPARED))
  if (E.isRight(answer) && answer.right.rows[0]?.[0] === 'false') {
    state.isChecked = true
    return
  }
  destroy()
  throw E.isLeft(answer)
    ? withEffect(answer.left, 'none')
    : new DriverError('the server that was reached is not a primary', {
        kind: 'unavailable',
        retryable: true,
        effect: 'none',
      })
}

const UNPREPARED = { prepare: false, generation: 0 }

/** The time of one statement. `until` is its deadline. */
interface Clock {
  readonly sentAt: number
  readonly until: number
  isOver: boolean
}

const clockOf = (timeoutMs: number): Clock => {
  const sentAt = performance.now()
  return { sentAt, until: sentAt + timeoutMs, isOver: false }
}

// Takes a client and sends the first statement on it. If the server does not answer before the deadline, the client is
// closed. If the pool provides a client only after the deadline, this client is given back unused.
const withLease = <A>(
  link: Link,
  name: string,
  timeoutMs: number,
  act: (lease: Lease) => Promise<A>,
): Outcome<A> => {
  const clock = clockOf(timeoutMs)
  let lease: Lease | undefined
  const start = async (): Promise<A> => {
    const taken = await leased(link, clock)
    if (clock.isOver) {
      taken.release()
      throw new Error('its deadline has passed')
    }
    lease = taken
    return act(taken)
  }
  const giveUp = (): Effect => {
    clock.isOver = true
    if (lease === undefined) return 'none'
    silent(link, lease, clock.sentAt)
    return 'unknown'
  }
  return withDeadline(name, timeoutMs, start, giveUp)
}

const silent = (link: Link, lease: Lease, sentAt: number): void => {
  link.silentSince = Math.max(link.silentSince, sentAt)
  lease.destroy()
}

const sendOnce =
  (link: Link): SendOnce =>
  (query, params, plan, onColumns) =>
    withLease(link, query.name, plan.timeoutMs, async (lease) => {
      try {
        const result = await sendOn(lease.client, lease.state, query, params, plan)
        lease.release()
        return rowsOf(result, onColumns)
      } catch (error) {
        if (isFatal(error)) lease.destroy()
        else lease.release()
        throw error
      }
    })

const rowsOf = ({ columns, rows }: Result, onColumns: OnColumns | undefined) => {
  onColumns?.(columns)
  return decodedRows(columns, rows)
}

/** A transaction. Once it is `lost`, nothing more is sent in it. */
interface Tx {
  readonly link: Link
  readonly lease: Lease
  lost: DriverError | undefined
  /** The last statement. The next statement waits for its end, since a client runs one statement at a time. */
  last: Promise<unknown>
}

const BEGIN: Query = { name: 'begin', text: 'begin isolation level read committed' }

const transact = async <L, A>(
  link: Link,
  body: (tx: DriverTransaction) => TaskEither<L, A>,
): Outcome<A, L> => {
  const opened = await withLease(link, 'begin', link.timeoutMs, async (lease) => {
    try {
      await sendOn(lease.client, lease.state, BEGIN, [], UNPREPARED)
      return lease
    } catch (error) {
      lease.destroy()
      throw error
    }
  })
  // After a failed BEGIN no statement is sent, so the transaction has no effect.
  if (E.isLeft(opened)) return E.left(withEffect(opened.left, 'none'))
  const tx: Tx = { link, lease: opened.right, lost: undefined, last: Promise.resolve() }
  let result: E.Either<L, A> | undefined
  try {
    result = await body(handleOf(tx))()
    return E.isLeft(result) ? result : await committed(tx, result)
  } finally {
    if (result === undefined || E.isLeft(result))
      await inTransaction(tx, { name: 'rollback', text: 'rollback' })
    tx.lease.release()
  }
}

// The server answers COMMIT with ROLLBACK if the transaction has failed.
const committed = async <A>(tx: Tx, result: E.Right<A>): Outcome<A> => {
  let command = ''
  const ended = await inTransaction(tx, { name: 'commit', text: 'commit' }, [], (result) => {
    command = result.command
  })
  if (E.isLeft(ended)) return ended
  return command === 'COMMIT'
    ? result
    : E.left(
        new DriverError('commit: the server has rolled the transaction back', {
          retryable: false,
          effect: 'none',
        }),
      )
}

const handleOf = (tx: Tx): DriverTransaction => {
  const query: DriverTransaction['query'] = (query, params) => () => inTransaction(tx, query, params)
  return { query, savepoint: savepoints(query) }
}

// Sends a statement of a transaction, after the statements before it.
const inTransaction = (
  tx: Tx,
  query: Query,
  params: Params = [],
  onResult?: (result: Result) => void,
): Rows => {
  const run = async (): Rows => {
    if (tx.lost !== undefined) return E.left(tx.lost)
    const once = sendOnceIn(tx, onResult)
    const result = await sendQuery(query, params, { ...tx.link, inTransaction: true, once })
    if (E.isLeft(result) && (result.left.sqlState === undefined || isFatal(result.left.cause))) {
      tx.lost = result.left
      tx.lease.destroy()
    }
    return result
  }
  const rows = tx.last.then(run)
  tx.last = rows
  return rows
}

const sendOnceIn =
  ({ link, lease }: Tx, onResult: ((result: Result) => void) | undefined): SendOnce =>
  (query, params, plan, onColumns) => {
    const sentAt = performance.now()
    const giveUp = (): Effect => {
      silent(link, lease, sentAt)
      return 'unknown'
    }
    const start = async (): Promise<readonly Row[]> => {
      const result = await sendOn(lease.client, lease.state, query, params, plan)
      onResult?.(result)
      return rowsOf(result, onColumns)
    }
    return withDeadline(query.name, plan.timeoutMs, start, giveUp)
  }
