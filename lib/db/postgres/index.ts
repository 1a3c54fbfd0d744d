// Makes a `Database` on postgres.js. The program passes a pool, or a function that makes pools.

import type { Socket } from 'node:net'
import { E } from '../../core/prelude.cjs'
import type { Database, Outcome } from '../database.js'
import { closedError, timeoutOf } from '../deadline.js'
import { type SettingsCheck, settingsCheck } from '../sending.js'
import { scopedDatabase } from '../transaction.js'
import { type PoolInUse, type PostgresJs, poolInUse } from './pool.js'
import { independent, type Link, send } from './statement.js'
import { retryUnsafeBegin, transact } from './transaction.js'
import { openSocket, type PoolAddress, untilSent } from './workarounds.js'

export type { PostgresJs } from './pool.js'

/**
 * The options that a pool for keyrow needs. `fetch_types` is off, because postgres.js 3.4.9 can crash the process if a
 * connection is cut during the query of types. A connection attempt fails after 5 seconds. All sockets are closed when
 * the pool ends. Because `max_pipeline` is high, postgres.js always reserves a connection for a transaction.
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
  /** The maximum time of one statement, including the wait for a connection, in milliseconds. Default: 5,000. */
  readonly timeoutMs?: number
}

/**
 * Makes a database on a postgres.js pool. Closing the database ends the pool. Statements are prepared, unless the pool
 * has `prepare: false`. pgbouncer in transaction mode needs this option.
 *
 * If you pass a function that makes pools, keyrow replaces a pool whose connections no longer answer. If a pool has
 * several hosts or `target_session_attrs`, keyrow also replaces the pool after the loss of a connection. If you pass a
 * pool, a connection that no longer answers stays open until the operating system ends it.
 *
 * Two settings of the role or database would silently give wrong values: `extra_float_digits` below 1, and
 * `array_nulls` off. Statements that depend on such a setting fail with a `DriverError` of the kind `setting`.
 *
 * @throws `RangeError` for an invalid timeout, and for a pool without `poolOptions`, with a `DateStyle` other than ISO,
 * or with a `client_encoding` other than UTF8. Pass a pool with several hosts or `target_session_attrs` as a function.
 *
 * @example
 * ```ts
 * import postgres from 'postgres'
 * import { sessionStore } from 'keyrow/store'
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
  let closed: Outcome<void> | undefined
  const whileOpen =
    <L, A>(name: string, act: (link: Link) => Outcome<A, L>) =>
    (): Outcome<A, L> => {
      const attempt = (own?: Pick<Link, 'spentMs' | 'unsent'>) =>
        closed === undefined
          ? act(linkTo(pools, timeoutMs, settings, own))
          : Promise.resolve(E.left(closedError()))
      return pools.hasChoice ? untilSent({ name, timeoutMs, pool: pools.pool, attempt }) : attempt()
    }
  return scopedDatabase({
    query: (query, params) => whileOpen(query.name, (link) => send(link.pool.sql, query, params, link)),
    transaction: (body) => whileOpen('begin', (link) => retryUnsafeBegin(() => transact(body, link), link)),
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
    ...own,
    prepare: pool.sql.options.prepare !== false,
    late: (sentAt) => pools.late(pool, sentAt),
  }
}
