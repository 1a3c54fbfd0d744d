// Opens a database with one of the server drivers, for processes of specs. These processes use the built package.

import { pgDatabase } from 'keyrow/pg'
import { poolOptions, postgresDatabase } from 'keyrow/postgres'
import pg from 'pg'
import postgres from 'postgres'

const drivers = {
  'postgres.js': (url, { max, timeoutMs }) =>
    postgresDatabase(
      () => postgres(url, { ...poolOptions, max, onnotice: () => undefined, backoff: () => 0.02 }),
      { timeoutMs },
    ),
  'node-postgres': (url, { max, timeoutMs, primary = false }) =>
    pgDatabase(new pg.Pool({ connectionString: url, connectionTimeoutMillis: 5_000, max }), {
      timeoutMs,
      primary,
    }),
}

/** Returns a database of the driver with this name, as in databases.ts. */
export const opened = (driver, url, options) => drivers[driver](url, options)
