// PostgreSQL through postgres.js: statements and transactions, each within its deadline. The pool is the program's
// own, or made by a function of its own; which one is in use is for postgres-pool.ts, which also names the few
// members that are used of it, since the library's own types have changed between patch releases.
import type { Socket } from 'node:net'
import * as E from 'fp-ts/lib/Either.js'
import type { TaskEither } from 'fp-ts/lib/TaskEither.js'
import { DriverError } from '../base/errors.js'
import type { Database, Param, Query, Queryable, Row } from '../port/database.js'
import { type Column, convertRows } from './columns.js'
import {
  closedError,
  DEFAULT_TIMEOUT_MS,
  driverError,
  isLostConnection,
  refusedParams,
  withDeadline,
} from './deadline.js'
import { type Pool, type PoolInUse, type PostgresJs, poolInUse, type Sender } from './postgres-pool.js'
import { openSocket, type PoolAddress } from './postgres-sockets.js'

export type { PostgresJs } from './postgres-pool.js'

/**
 * The options that a pool for keyrow should have. It does not ask for types, which in postgres.js 3.4.9 can end
 * the process when a connection is cut just then; it gives up a connection that cannot be made within 5 seconds;
 * and its sockets are closed for certain when it ends.
 *
 * @example
 * ```ts
 * import postgres from 'postgres'
 * import { poolOptions } from 'keyrow/postgres'
 *
 * const sql = postgres(process.env['DATABASE_URL'] ?? '', { ...poolOptions, max: 20 })
 * await sql.end()
 * ```
 */
export const poolOptions: {
  readonly fetch_types: false
  readonly connect_timeout: number
  readonly socket: (pool: PoolAddress) => Promise<Socket>
} = Object.freeze({ fetch_types: false, connect_timeout: 5, socket: openSocket })

export interface PostgresOptions {
  /** How long one statement may take, its wait for a connection included, in milliseconds. Default: 5,000. */
  readonly timeoutMs?: number
}

/**
 * A database on a postgres.js pool. Given as a function that makes the pool, it is made again when its
 * connections have fallen silent; given as the pool itself, that waits for the operating system. Statements are
 * prepared unless the pool says `prepare: false` (which pgbouncer in transaction mode needs). Closing the
 * database ends the pool.
 *
 * @example
 * ```ts
 * import postgres from 'postgres'
 * import { sessionStore } from 'keyrow'
 * import { poolOptions, postgresDatabase } from 'keyrow/postgres'
 *
 * const pool = () => postgres(process.env['DATABASE_URL'] ?? '', poolOptions)
 * const database = postgresDatabase(pool, { timeoutMs: 3000 })
 * const store = sessionStore(database)
 * console.log((await store.prepare())._tag) // Right
 * await database.close()
 * ```
 */
export const postgresDatabase = (
  pool: PostgresJs | (() => PostgresJs),
  options: PostgresOptions = {},
): Database => {
  const timeoutMs = options.timeoutMs ?? DEFAULT_TIMEOUT_MS
  const pools = poolInUse(pool, timeoutMs)
  let closed: Promise<E.Either<DriverError, void>> | undefined
  const whileOpen =
    <A>(act: (link: Link) => Promise<A>) =>
    async (): Promise<A | E.Left<DriverError>> =>
      closed === undefined ? act(linkTo(pools, timeoutMs)) : (E.left(closedError()) as E.Left<DriverError>)
  return {
    query: (query, params) => whileOpen((link) => send(link.pool.sql, query, params, link)),
    transaction: (body) => whileOpen((link) => begun(() => transact(body, link), link)),
    close: () => {
      closed ??= pools.close()
      return closed
    },
  }
}

/** How one statement or transaction is sent; `late` is told of each statement that was not answered in time. */
interface Link {
  readonly pool: Pool
  readonly timeoutMs: number
  readonly prepare: boolean
  readonly late: (sentAt: number) => void
}

const linkTo = (pools: PoolInUse, timeoutMs: number): Link => {
  const pool = pools.pool()
  return {
    pool,
    timeoutMs,
    prepare: pool.sql.options.prepare !== false,
    late: (sentAt) => pools.late(pool, sentAt),
  }
}

const send = async (
  sql: Sender,
  query: Query,
  params: readonly Param[],
  { pool, timeoutMs, prepare, late }: Link,
): Promise<E.Either<DriverError, readonly Row[]>> => {
  const refused = refusedParams(query, params)
  if (refused !== undefined) return E.left(refused)
  const sentAt = performance.now()
  let pending: PromiseLike<unknown> | undefined
  const start = (): PromiseLike<unknown> => {
    const sent = sql.unsafe(query.text, [...params] as never[], { prepare })
    pool.pending.add(sent)
    void sent.then(
      () => {
        pool.pending.delete(sent)
        pool.answeredAt = performance.now()
      },
      () => pool.pending.delete(sent),
    )
    pending = sent
    return sent
  }
  const giveUp = (): void => {
    forget(pending)
    late(sentAt)
  }
  return E.map(rowsOf)(await withDeadline(query.name, timeoutMs, start, giveUp))
}

const rowsOf = (result: unknown): readonly Row[] => {
  const rows = result as readonly Row[] & { readonly columns?: readonly Column[] }
  // A plain array: the library's own carries the statement and the connection's state.
  return convertRows(rows.columns ?? [], [...rows])
}

// A statement still waiting for a connection becomes one that does nothing. (If a connection is just being made
// for it, cancelling it would cost the pool that connection for good, in postgres.js 3.4.9.) One that was sent is
// left alone: a cancel request names a connection, not a statement, and could end another request's.
const forget = (pending: unknown): void => {
  const query = pending as { readonly state?: unknown; strings: readonly string[]; args: readonly unknown[] }
  if (query.state === null) Object.assign(query, { strings: ['select'], args: [] })
}

/**
 * postgres.js 3.4.9 reserves a connection for a transaction only if it is not loaded with others' statements just
 * then. If it is, BEGIN is sent all the same and reported as UNSAFE_TRANSACTION, and the connection, free again, is
 * left in a transaction of nobody's. No body has run, so another attempt is safe; and a COMMIT for each free
 * connection ends that transaction with all that was sent in it. (Where there is none it is a mere warning.)
 */
const begun = async <L, A>(
  transact: () => Promise<E.Either<L | DriverError, A>>,
  { pool }: Link,
): Promise<E.Either<L | DriverError, A>> => {
  for (let attempt = 1; ; attempt += 1) {
    const result = await transact()
    if (E.isRight(result) || !isUnsafeBegin(result.left) || attempt >= 20) return result
    const commits = Array.from({ length: pool.sql.options.max ?? 10 }, () => pool.sql.unsafe('commit'))
    await Promise.allSettled(commits)
  }
}

const isUnsafeBegin = (error: unknown): boolean =>
  error instanceof DriverError &&
  (error.cause as { readonly code?: unknown } | undefined)?.code === 'UNSAFE_TRANSACTION'

/** How far a transaction's body has come; once it is `lost`, nothing more is sent in it. */
interface Course<L, A> {
  lost: DriverError | undefined
  /** Whether its connection has gone, and its place in the pool may serve another one. */
  gone: boolean
  result?: E.Either<L, A>
  thrown?: { readonly error: unknown }
}

const transact = async <L, A>(
  body: (tx: Queryable) => TaskEither<L, A>,
  link: Link,
): Promise<E.Either<L | DriverError, A>> => {
  const course: Course<L, A> = { lost: undefined, gone: false }
  let started = (): void => undefined
  let ended = (): void => undefined
  const start = new Promise<void>((resolve) => (started = resolve))
  const end = new Promise<void>((resolve) => (ended = resolve))
  const sentAt = performance.now()
  const late = (): void => link.late(sentAt)
  const run = link.pool.sql.begin(READ_COMMITTED, async (tx) => {
    started()
    if (course.lost === undefined) await follow(course, body(guarded(tx, course, link)))
    ended()
    return settled(course)
  })
  run.catch((error: unknown) => {
    course.gone = true
    course.lost ??= driverError('transaction', error)
  })
  const first = await withDeadline('begin', link.timeoutMs, () => Promise.race([start, run]), late)
  if (E.isLeft(first)) {
    course.lost ??= first.left
    return first
  }
  await end
  return outcome(course, await withDeadline('commit', link.timeoutMs, () => run, late))
}

// Whatever the role's default is: what looks before it writes must see what was committed before its lock.
const READ_COMMITTED = 'isolation level read committed'

const follow = async <L, A>(course: Course<L, A>, body: TaskEither<L, A>): Promise<void> => {
  try {
    course.result = await body()
  } catch (error) {
    course.thrown = { error }
  }
}

// postgres.js sends the rollback or commit on the connection's slot, which by then may serve somebody
// else's transaction: so once the connection has gone, the callback must not return at all.
const settled = async <L, A>(course: Course<L, A>): Promise<void> => {
  if (course.gone || (course.lost !== undefined && isLostConnection(course.lost)))
    await new Promise(() => undefined)
  if (course.result === undefined || E.isLeft(course.result)) throw new Error('rolled back')
}

const outcome = <L, A>(
  course: Course<L, A>,
  run: E.Either<DriverError, unknown>,
): E.Either<L | DriverError, A> => {
  if (course.thrown !== undefined) throw course.thrown.error
  if (course.result !== undefined && E.isLeft(course.result)) return course.result
  if (E.isLeft(run)) return run
  return course.result ?? E.left(course.lost ?? driverError('transaction', new Error('it has no result')))
}

const guarded = <L, A>(sql: Sender, course: Course<L, A>, link: Link): Queryable => ({
  query: (query, params) => async () => {
    if (course.lost !== undefined) return E.left(course.lost)
    const result = await send(sql, query, params, link)
    if (E.isLeft(result) && result.left.sqlState === undefined) course.lost = result.left
    return result
  },
})
