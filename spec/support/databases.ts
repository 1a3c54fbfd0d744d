// Opens databases on both drivers, and a database that records its statements.

import postgres from 'postgres'
import { type Database, observedDatabase, type QueryEvent, type Row } from '../../lib/db/database.js'
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

export const drivers: readonly SpecDriver[] = [
  {
    name: 'postgres.js',
    open: async () => {
      const { url, stop } = await specDatabaseUrl()
      const database = postgresDatabase(quietPools(url))
      const close = async () => {
        // The database may already be closed.
        const own = postgresDatabase(quietPool(url))
        await dropSchemas(own)
        await right(own.close)
        await right(database.close)
        await stop()
      }
      return { database, close }
    },
  },
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
