// Opens the stores of the session libraries. The benchmarks with and without HTTP use the same stores.

import type { SessionStore } from 'keyrow'
import { pgDatabase } from 'keyrow/pg'
import type { Database } from 'keyrow/store'
import pg from 'pg'
import postgres from 'postgres'
import { createClient } from 'redis'
import { current, type Library } from './library.js'
import type { Servers } from './peer.js'

export const HALF_AN_HOUR = 30 * 60_000
export const SECRET = 'a secret of thirty-two characters or more'

export type Driver = 'postgres.js' | 'node-postgres'

export const databaseOf = (keyrow: Library, servers: Servers, driver: Driver = 'postgres.js'): Database => {
  if (driver === 'node-postgres') return pgDatabase(pgPool(servers))
  const { poolOptions, postgresDatabase } = keyrow.postgres
  return postgresDatabase(() =>
    postgres(servers.postgres, { ...poolOptions, max: 10, onnotice: () => undefined }),
  )
}

/** Adds the layers that `postgresStore` has. */
export const layered = ({ store: { batched, cached } }: Library, store: SessionStore): SessionStore =>
  batched(cached(store))

export const keyrowStore = async (servers: Servers, driver: Driver): Promise<SessionStore> => {
  const keyrow = await current()
  const store = layered(keyrow, keyrow.store.sessionStore(databaseOf(keyrow, servers, driver)))
  await keyrow.main.prepareStore(store)
  return store
}

export const pgPool = ({ postgres }: Servers): pg.Pool => new pg.Pool({ connectionString: postgres, max: 10 })

export const redisClient = async ({ redis }: Servers) => {
  if (redis === undefined)
    throw new Error('redis-server is not installed (Debian: apt-get install redis-server)')
  return createClient({ url: `redis://127.0.0.1:${String(redis)}` }).connect()
}
