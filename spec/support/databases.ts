// The drivers, for specs that must hold on each; and a database that counts its statements.

import pg from 'pg'
import postgres from 'postgres'
import { type Database, observedDatabase, type QueryEvent, type Row } from '../../lib/db/database.js'
import { pgDatabase } from '../../lib/db/pg.js'
import { pgliteDatabase } from '../../lib/db/pglite.js'
import { poolOptions, postgresDatabase } from '../../lib/db/postgres/index.js'
import './pglite.mjs'
import { specDatabaseUrl } from './postgres-server.js'
import { dropSchemas, right } from './stores.js'

export interface SpecDriver {
  readonly name: string
  readonly open: () => Promise<{ readonly database: Database; readonly close: () => Promise<void> }>
}

export const quietPool = (url: string, options: postgres.Options<Record<string, never>> = {}) =>
  postgres(url, { onnotice: () => undefined, ...poolOptions, ...options })

/** Returns a function that calls `quietPool` with these options. */
export const quietPools =
  (...options: Parameters<typeof quietPool>) =>
  () =>
    quietPool(...options)

export const pgPool = (url: string, options: pg.PoolConfig = {}): pg.Pool =>
  new pg.Pool({ connectionString: url, connectionTimeoutMillis: 5_000, ...options })

type Parse = (text: string) => unknown

/** Replaces node-postgres's type parsers of the whole process. Returns the function that restores the old parsers. */
export const replaceTypeParsers = (parse: Parse): (() => void) => {
  const types = Object.values(pg.types.builtins)
  const before = types.map((type) => pg.types.getTypeParser(type, 'text') as Parse)
  for (const type of types) pg.types.setTypeParser(type, parse)
  return () => {
    for (const [index, type] of types.entries()) pg.types.setTypeParser(type, before[index] ?? String)
  }
}

export interface ServerOptions {
  readonly max?: number
  readonly timeoutMs?: number
  readonly prepare?: boolean
  /** Whether the address may lead to a standby, and only a primary is wanted. */
  readonly primary?: boolean
  /** Whether the connections are encrypted. Certificates are not checked. */
  readonly tls?: boolean
  /** Whether the driver gets the pool itself. Otherwise postgres.js gets a function that makes pools. */
  readonly fixed?: boolean
}

/** A driver for a PostgreSQL server. */
export interface ServerDriver {
  readonly name: 'postgres.js' | 'node-postgres'
  readonly open: (url: string, options?: ServerOptions) => Database
}

export const serverDrivers: readonly ServerDriver[] = [
  {
    name: 'postgres.js',
    open: (url, { max = 10, prepare = true, timeoutMs = 5_000, ...others } = {}) => {
      const { primary = false, tls = false, fixed = false } = others
      const pools = quietPools(url, {
        max,
        prepare,
        ssl: tls && 'require',
        backoff: () => 0.001,
        ...(primary ? { target_session_attrs: 'primary' } : {}),
      })
      return postgresDatabase(fixed ? pools() : pools, { timeoutMs })
    },
  },
  {
    name: 'node-postgres',
    open: (url, { max = 10, prepare = true, timeoutMs = 5_000, primary = false, tls = false } = {}) =>
      pgDatabase(pgPool(url, { max, ssl: tls && { rejectUnauthorized: false } }), {
        timeoutMs,
        prepare,
        primary,
      }),
  },
]

const onServer = ({ name, open }: ServerDriver): SpecDriver => ({
  name,
  open: async () => {
    const { url, stop } = await specDatabaseUrl()
    const database = open(url)
    const close = async () => {
      // The database itself may be closed by now.
      const own = postgresDatabase(quietPool(url))
      await dropSchemas(own)
      await right(own.close)
      await right(database.close)
      await stop()
    }
    return { database, close }
  },
})

export const drivers: readonly SpecDriver[] = [
  ...serverDrivers.map(onServer),
  {
    name: 'PGlite',
    open: () => {
      const database = pgliteDatabase()
      return Promise.resolve({ database, close: () => right(database.close) })
    },
  },
]

export const counting = (database: Database) => {
  const events: QueryEvent[] = []
  return { database: observedDatabase(database, (event) => events.push(event)), events }
}

export const rowsOf = (database: Database, text: string): Promise<readonly Row[]> =>
  right(database.query({ name: 'spec', text }, []))
