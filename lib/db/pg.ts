// Makes a `Database` on a pool of node-postgres (`pg`), or on a pool of the same shape. Each statement and each
// transaction takes a client from the pool, and gives it back afterwards.

import type { TaskEither } from 'fp-ts/lib/TaskEither.js'
import { DriverError, type Effect, withEffect } from '../core/errors.js'
import { E } from '../core/prelude.cjs'
import { delay } from '../core/process.js'
import type { ClientGuard, Database, DriverTransaction, Outcome, Param, Query, Row } from './database.js'
import { closedError, driverError, timeoutOf, withDeadline } from './deadline.js'
import { endAfter, graceMs, type Lease, type Leasing, noteDeadline, withLease } from './pg-lease.js'
import {
  closeSocket,
  isFatal,
  type PgPool,
  type Result,
  sendOn,
  sentOn,
  suitable,
  UNPREPARED,
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
import { GUARD, rejectCommand, savepoints, scopedDatabase } from './transaction.js'

export interface PgOptions {
  /** The maximum time of one statement, including its wait for a client, in milliseconds. Default: 5,000. */
  readonly timeoutMs?: number
  /** Whether statements are prepared. A pooler in transaction mode may need `false`. Default: true. */
  readonly prepare?: boolean
  /**
   * Whether each new client must be connected to a primary. Set it to true if the pool's address may lead to a standby.
   * If true, a statement that reaches no primary tries again until its deadline. Default: false.
   */
  readonly primary?: boolean
}

type Params = readonly Param[]
type Rows = Outcome<readonly Row[]>

interface Link extends Leasing {
  readonly prepare: boolean
  readonly plans: Plans
  readonly settings: SettingsCheck
  /** The number of statements and transactions that have not ended. */
  running: number
}

/**
 * Makes a database on a pool of node-postgres. Closing the database ends the pool. keyrow sends and reads all values as
 * text, so type parsers have no effect, whether they belong to the pool or to the whole process.
 *
 * If a statement misses its deadline, keyrow cancels the statement on the server and closes the client. keyrow later
 * closes each idle client whose last answer is older than this statement. So connections that no longer answer do not
 * stay in the pool. Set the pool's option `connectionTimeoutMillis`, which by default is unlimited.
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
  const link = newLink(pool, options)
  let closed: Outcome<void> | undefined
  const done = (): void => {
    link.running -= 1
  }
  const whileOpen =
    <L, A>(act: () => Outcome<A, L>) =>
    (): Outcome<A, L> => {
      if (closed !== undefined) return Promise.resolve(E.left(closedError()))
      link.running += 1
      const result = act()
      result.then(done, done)
      return result
    }
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

const newLink = (pool: PgPool, options: PgOptions): Link => {
  const { prepare = true, primary = false } = options
  return {
    pool: suitable(pool),
    timeoutMs: timeoutOf(options),
    prepare,
    primary,
    plans: newPlans(),
    settings: settingsCheck(),
    leases: [],
    clients: new Set(),
    silentSince: Number.NEGATIVE_INFINITY,
    running: 0,
  }
}

const waitUntil = async (isSo: () => boolean, timeoutMs: number): Promise<void> => {
  const until = performance.now() + timeoutMs
  while (!isSo() && performance.now() < until) await delay(5)
}

// A statement that waits for a client gets none after `pool.end`. So `close` first waits for all statements.
const close = (link: Link): Outcome<void> => {
  const { pool, timeoutMs, leases, clients } = link
  const closeSockets = (): Effect => {
    for (const client of clients) closeSocket(client)
    return 'unknown'
  }
  const end = async (): Promise<void> => {
    await waitUntil(() => link.running === 0, timeoutMs)
    for (const lease of [...leases]) lease.cancel()
    if (pool.ending !== true) await pool.end()
    await waitUntil(() => clients.size === 0, graceMs(link))
    closeSockets()
  }
  return withDeadline('close', 2 * timeoutMs, end, closeSockets)
}

const sendOnce =
  (link: Link): SendOnce =>
  (query, params, plan, onColumns) =>
    withLease(link, query.name, plan.timeoutMs, (lease, settle) =>
      sendOn(lease.client, lease.state, query, params, plan, (error, result) => {
        if (error === undefined) lease.release()
        else endAfter(lease, error)
        settle(
          error === undefined ? decoded(query, result, onColumns) : E.left(driverError(query.name, error)),
        )
      }),
    )

/** A row that cannot be decoded is an error of the statement. */
const decoded = (
  { name }: Query,
  result: Result,
  onColumns: OnColumns | undefined,
): E.Either<DriverError, readonly Row[]> => {
  try {
    return E.right(rowsOf(result, onColumns))
  } catch (error) {
    return E.left(driverError(name, error))
  }
}

const rowsOf = ({ columns, rows }: Result, onColumns: OnColumns | undefined) => {
  onColumns?.(columns)
  return decodedRows(columns, rows)
}

/** A transaction. `lost` is the error that ended its connection. After this error no more statements are sent. */
interface Tx {
  readonly link: Link
  readonly lease: Lease
  lost: DriverError | undefined
  /** The latest statement. The next one waits for its end, since a client runs one statement at a time. */
  last: Promise<unknown>
  /** Whether another library has a client of the transaction. */
  isShared: boolean
}

const BEGIN: Query = { name: 'begin', text: 'begin isolation level read committed' }

const transact = async <L, A>(
  link: Link,
  body: (tx: DriverTransaction) => TaskEither<L, A>,
): Outcome<A, L> => {
  const opened = await withLease<Lease>(link, BEGIN.name, link.timeoutMs, (lease, settle) =>
    sendOn(lease.client, lease.state, BEGIN, [], UNPREPARED, (error) => {
      if (error !== undefined) endAfter(lease, error)
      settle(error === undefined ? E.right(lease) : E.left(driverError(BEGIN.name, error)))
    }),
  )
  // After a failed BEGIN no statement is sent, so the transaction has no effect.
  if (E.isLeft(opened)) return E.left(withEffect(opened.left, 'none'))
  const tx: Tx = { link, lease: opened.right, lost: undefined, last: Promise.resolve(), isShared: false }
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

// If a statement of the transaction has failed, PostgreSQL answers COMMIT with the command tag ROLLBACK.
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
  const client: DriverTransaction['client'] = (guard) => transactionClient(tx, guard)
  return { query, client, savepoint: savepoints(query, client) }
}

// Makes a client of node-postgres for another library, inside a transaction of keyrow. The client has all members of the
// transaction's client, but it cannot end or leave the transaction. It is also a pool with one client.
const transactionClient = (tx: Tx, guard: ClientGuard): unknown => {
  const { client: inner } = tx.lease as unknown as { readonly client: LibraryClient }
  const send = sendFor(tx, guard, inner)
  tx.isShared = true
  const members = {
    query: (statement: unknown, ...rest: readonly unknown[]): unknown => {
      if (isSubmittable(statement)) {
        refuse(tx, guard, statement)
        send(statement).catch((error: unknown) => tell(statement, error))
        return statement
      }
      const callback = rest.at(-1)
      if (!isCallback(callback)) return send(statement, ...rest)
      const succeed = (result: unknown): void => callback(undefined, result)
      send(statement, ...rest.slice(0, -1)).then(succeed, callback)
      return undefined
    },
    connect: (callback?: unknown) => called(callback, client, () => undefined),
    release: () => undefined,
    end: (callback?: unknown) => called(callback, undefined),
  }
  const client: unknown = Object.assign(Object.create(inner) as object, members)
  return client
}

interface LibraryClient {
  query(...input: readonly unknown[]): Promise<unknown>
}

/** Returns the function that sends a statement after all earlier statements of the transaction. */
const sendFor =
  (tx: Tx, guard: ClientGuard, inner: LibraryClient): LibraryClient['query'] =>
  (...input) => {
    const result = tx.last.then(async () => {
      refuse(tx, guard, input[0])
      if (guard.begin()) await inner.query(GUARD.set)
      // A cursor ends only when the library closes it, so later statements do not wait for it.
      return isSubmittable(input[0]) ? void inner.query(...input) : inner.query(...input)
    })
    tx.last = result.catch((error: unknown) => noteClientError(tx, guard, error))
    return tx.last.then(() => result)
  }

const isCallback = (value: unknown): value is (error: unknown, result?: unknown) => void =>
  typeof value === 'function'

/** Passes a result to the callback of node-postgres, or returns a promise of it. */
const called = (
  callback: unknown,
  result: unknown,
  release?: () => undefined,
): Promise<unknown> | undefined => {
  if (typeof callback !== 'function') return Promise.resolve(result)
  setImmediate(() => (callback as (...given: unknown[]) => void)(undefined, result, release))
  return undefined
}

/** A statement that sends its own messages, such as a cursor. */
interface Submittable {
  readonly submit: unknown
  handleError?(error: unknown): void
}

const isSubmittable = (statement: unknown): statement is Submittable =>
  typeof (statement as Partial<Submittable> | undefined)?.submit === 'function'

/** Tells a statement that it cannot be sent, for example because an earlier one has lost the connection. */
const tell = (statement: Submittable, error: unknown): void => statement.handleError?.(error)

const refuse = (tx: Tx, guard: ClientGuard, statement: unknown): void => {
  const misuse = guard.misuse() ?? tx.lost
  if (misuse !== undefined) throw misuse
  rejectCommand(typeof statement === 'string' ? statement : (statement as { readonly text?: unknown }).text)
}

// An error without a SQLSTATE may be the loss of the connection. In doubt, the transaction ends.
const noteClientError = (tx: Tx, guard: ClientGuard, error: unknown): void => {
  if (error instanceof DriverError) return
  const failure = withEffect(driverError('transaction client', error), 'none')
  guard.failed(failure)
  if (!hasEnded(failure)) return
  tx.lost ??= failure
  // After the `query_timeout` of the pool, the statement may still run on the server.
  tx.lease.cancel()
}

/** Whether an error ended the connection. The error of an invalid parameter (SQLSTATE without a cause) did not. */
const hasEnded = ({ sqlState, cause }: DriverError): boolean =>
  sqlState === undefined || (cause !== undefined && isFatal(cause))

// Sends a statement in a transaction after the earlier statements of the transaction have ended.
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
    if (E.isLeft(result) && hasEnded(result.left)) {
      tx.lost = result.left
      tx.lease.destroy()
    }
    return result
  }
  const rows = tx.isShared ? afterOthers(tx, query.name, run) : tx.last.then(run)
  tx.last = rows
  return rows
}

// The statement of another library may have no deadline of its own.
const afterOthers = async (tx: Tx, name: string, run: () => Rows): Rows => {
  const turn = await withDeadline(
    name,
    tx.link.timeoutMs,
    () => tx.last,
    () => 'none',
  )
  if (E.isRight(turn)) return run()
  tx.lost ??= turn.left
  tx.lease.cancel()
  return turn
}

const sendOnceIn =
  ({ link, lease }: Tx, onResult: ((result: Result) => void) | undefined): SendOnce =>
  async (query, params, plan, onColumns) => {
    const sentAt = performance.now()
    const start = async (): Promise<readonly Row[]> => {
      const result = await sentOn(lease.client, lease.state, query, params, plan)
      onResult?.(result)
      return rowsOf(result, onColumns)
    }
    const rows = await withDeadline(query.name, plan.timeoutMs, start)
    if (E.isLeft(rows)) noteDeadline(link, lease, sentAt, rows.left)
    return rows
  }
