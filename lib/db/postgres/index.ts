// PostgreSQL through postgres.js: statements and transactions, each within its deadline. The pool is the program's
// own, or made by a function of its own; which one is in use is for postgres-pool.ts, which also names the few
// members that are used of it, since the library's own types have changed between patch releases.
import type { Socket } from 'node:net'
import * as E from 'fp-ts/lib/Either.js'
import type { DriverError } from '../../core/errors.js'
import type { Database } from '../database.js'
import { closedError, timeoutOf } from '../deadline.js'
import { scopedDatabase } from '../transaction.js'
import { type PoolInUse, type PostgresJs, poolInUse } from './pool.js'
import { independent, type SettingsCheck, settingsCheck } from './settings.js'
import { type Link, send } from './statement.js'
import { isBegun, transact } from './transaction.js'
import { untilSent } from './unsent.js'
import { openSocket, type PoolAddress } from './workarounds.js'

export type { PostgresJs } from './pool.js'

/**
 * The options that a pool for keyrow should have. It does not ask for types, which in postgres.js 3.4.9 can end
 * the process when a connection is cut just then; it gives up a connection that cannot be made within 5 seconds;
 * its sockets are closed for certain when it ends; and no connection is ever so full of statements that it cannot
 * be reserved for a transaction, which postgres.js would begin all the same.
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
  readonly max_pipeline: number
  readonly socket: (pool: PoolAddress) => Promise<Socket>
} = Object.freeze({ fetch_types: false, connect_timeout: 5, max_pipeline: 1_000_000, socket: openSocket })

export interface PostgresOptions {
  /** How long one statement may take, its wait for a connection included, in milliseconds. Default: 5,000. */
  readonly timeoutMs?: number
}

/**
 * A database on a postgres.js pool. Given as a function that makes the pool, it is made again when its connections
 * have fallen silent, or when one was lost that several servers may be behind; given as the pool itself, that waits for
 * the operating system. Statements are prepared unless the pool says `prepare: false` (which pgbouncer in transaction
 * mode needs). Closing the database ends the pool. Throws a `RangeError` for a pool made without `poolOptions`, and for
 * a pool itself that knows several hosts or `target_session_attrs`, and for a pool that asks for another `DateStyle` than
 * ISO, or another `client_encoding` than UTF8. Where the role or the database has settings that would give wrong values in
 * silence (`extra_float_digits` below 1, `array_nulls` off), a statement that they concern is a `DriverError` of the kind
 * `setting`.
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
  const timeoutMs = timeoutOf(options)
  const pools = poolInUse('begin' in pool ? independent(pool) : () => independent(pool()), timeoutMs)
  const settings = settingsCheck()
  let closed: Promise<E.Either<DriverError, void>> | undefined
  const whileOpen =
    <L, A>(name: string, act: (link: Link) => Promise<E.Either<L | DriverError, A>>) =>
    (): Promise<E.Either<L | DriverError, A>> => {
      const attempt = (own?: Pick<Link, 'spentMs' | 'unsent'>) =>
        closed === undefined
          ? act(linkTo(pools, timeoutMs, settings, own))
          : Promise.resolve(E.left(closedError()))
      return pools.hasChoice ? untilSent({ name, timeoutMs, pool: pools.pool, attempt }) : attempt()
    }
  return scopedDatabase({
    query: (query, params) => whileOpen(query.name, (link) => send(link.pool.sql, query, params, link)),
    transaction: (body) => whileOpen('begin', (link) => isBegun(() => transact(body, link), link)),
    close: () => {
      closed ??= pools.close()
      return closed
    },
  })
}

const linkTo = (
  pools: PoolInUse,
  timeoutMs: number,
  settings: SettingsCheck,
  own: Pick<Link, 'spentMs' | 'unsent'> = {},
): Link => {
  const pool = pools.pool()
  return {
    pool,
    timeoutMs,
    settings,
    spentMs: own.spentMs,
    unsent: own.unsent,
    prepare: pool.sql.options.prepare !== false,
    late: (sentAt) => pools.late(pool, sentAt),
  }
}
